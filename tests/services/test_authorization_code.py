"""…/authorize-client: an identity server has logged somebody in, and gets a code for the browser to carry."""

import json
import string
from typing import Any
from urllib.parse import urlsplit

import pytest

from contracts.grants import GrantState
from contracts.operators import Permission
from tests.builders import CALLBACK, Answer, make_operator, make_policy
from tests.services.system import (
    ABSENT,
    CHALLENGE,
    Party,
    System,
    auth_token,
    document,
    open_system,
    query_of,
    refused,
    tokens_of,
)

PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}


def issuer(party: Party) -> str:
    return f"http://127.0.0.1:8080{party.api.listen_path.rstrip('/')}"


def refused_with_redirect(answer: Answer, party: Party, error: str, status: int = 400) -> dict[str, str]:
    """The parameters of `redirect_to`; the whole answer is asserted to be this error's."""
    assert (answer.status, answer.body["error"]) == (status, error), answer.body
    assert set(answer.body) - {"state"} == {"error", "error_description", "redirect_to"}
    sent = query_of(answer.body["redirect_to"])
    assert answer.body["redirect_to"].startswith(CALLBACK + "?")
    assert (sent["error"], sent["error_description"]) == (error, answer.body["error_description"])
    assert (sent.get("state"), sent["iss"]) == (answer.body.get("state"), issuer(party))
    assert answer.headers["Cache-Control"] == "no-store"
    return sent


# The answer


async def test_the_answer_is_the_code_and_where_to_send_the_browser(system: System) -> None:
    """200 with exactly `code` and `redirect_to`, as JSON that nobody may keep; the URL names the issuer (RFC 9207)."""
    party = await system.party()
    answer = await party.authorize_client()
    assert answer.status == 200
    assert set(answer.body) == {"code", "redirect_to"}
    assert answer.headers["Content-Type"] == "application/json"
    assert (answer.headers["Cache-Control"], answer.headers["Pragma"]) == ("no-store", "no-cache")
    assert answer.body["redirect_to"].startswith(CALLBACK + "?")
    assert query_of(answer.body["redirect_to"]) == {"code": answer.body["code"], "iss": issuer(party)}
    assert (await party.exchange(answer.body["code"])).status == 200


STATE = string.printable.replace("\x0b", "").replace("\x0c", "") + "é漢🙂" + "~" * 1900


async def test_state_is_in_body_and_url_as_it_was(system: System) -> None:
    """Row 32: byte for byte, and absent where none was sent or an empty one."""
    party = await system.party()
    answer = await party.authorize_client(state=STATE)
    assert answer.body["state"] == STATE
    assert query_of(answer.body["redirect_to"])["state"] == STATE
    empty = await party.authorize_client(state="")
    assert set(empty.body) == {"code", "redirect_to"}


@pytest.mark.parametrize(
    "path",
    [
        "/api/apis/oauth/{id}/authorize-client",
        "/api/apis/oauth/{id}/authorize-client/",
        "/api/apis/{id}/authorize-client",
        "/api/apis/{id}/authorize-client/",
        "{at}tyk/oauth/authorize-client",
        "{at}tyk/oauth/authorize-client/",
        "/{id}/tyk/oauth/authorize-client",
        "/{id}/tyk/oauth/authorize-client/",
    ],
)
@pytest.mark.parametrize("body", ["data", "json"])
async def test_every_spelling_of_the_path_answers(system: System, path: str, body: str) -> None:
    """The Dashboard's two, and Tyk's own under listen path and API id; as a form and as JSON."""
    party = await system.party()
    form: dict[str, Any] = {"response_type": "code", "client_id": party.id, "redirect_uri": CALLBACK}
    place = path.format(id=party.api.api_id, at=party.api.listen_path)
    answer = await system.operator("POST", place, **{body: form})
    assert answer.status == 200
    assert (await party.exchange(answer.body["code"])).status == 200


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        pytest.param(CALLBACK + "?tenant=a%20b&x", CALLBACK + "?tenant=a%20b&x&code=", id="query"),
        pytest.param(CALLBACK + "?", CALLBACK + "?code=", id="empty-query"),
        pytest.param("https://app.example.test", "https://app.example.test?code=", id="no-path"),
        pytest.param("com.example.app:/cb", "com.example.app:/cb?code=", id="private-use-scheme"),
        pytest.param("com.example.app:///cb", "com.example.app:///cb?code=", id="three-slashes"),
        pytest.param("com.example.app://cb", "com.example.app://cb?code=", id="two-slashes"),
    ],
)
async def test_the_redirect_uri_stays_what_was_registered(system: System, uri: str, expected: str) -> None:
    """The parameters are added to it, and no character of it changes."""
    party = await system.party(redirect_uris=(uri,))
    answer = await party.authorize_client(redirect_uri=uri)
    assert answer.body["redirect_to"].startswith(expected)
    assert (await party.exchange(answer.body["code"], redirect_uri=uri)).status == 200


async def test_codes_are_unique_and_fit_in_a_url(system: System) -> None:
    """Row 41: 160 random bits under the grant's id, of letters that need no escaping."""
    party = await system.party()
    codes = [await party.code() for _ in range(50)]
    assert len({code[-56:] for code in codes}) == len(codes)
    allowed = set(string.ascii_letters + string.digits + "-_")
    assert all(code.startswith("tw_ac_") and set(code) <= allowed for code in codes)


async def test_the_grant_is_pending_and_knows_what_was_asked(system: System) -> None:
    """What was consented to is bound to the code: who, what scope, which redirect URI, which challenge."""
    party = await system.party()
    code = await party.code(subject="alice@example.test", scope="b a", **PKCE)
    grant = await system.grant_of(code)
    assert (grant.state, grant.generation, grant.access, grant.refresh) == (GrantState.PENDING, 0, None, None)
    assert (grant.subject, grant.scope, grant.redirect_uri) == ("alice@example.test", "b a", CALLBACK)
    assert (grant.code_challenge, grant.client_id, grant.api_id) == (CHALLENGE, party.id, party.api.api_id)
    assert grant.code is not None
    assert (grant.code.expires_at - system.clock()).total_seconds() == 60


@pytest.mark.parametrize("subject", ["alice", "ü漢", "a b", "x" * 256, "with\nbreak", "100%"])
async def test_the_subject_reaches_the_protected_api(system: System, subject: str) -> None:
    """Who logged in is told to the upstream in a header, escaped where a header could not carry it."""
    party = await system.party()
    answer = await party.verify(tokens_of(await party.exchange(await party.code(subject=subject))).access)
    assert answer.status == 200
    told = answer.headers["X-Tokenwire-Subject"]
    assert told.isascii()
    assert urlsplit(f"x:{told}").path is not None
    assert told == subject if subject in {"alice", "a b", "x" * 256} else "%" in told


# Who may ask


@pytest.mark.parametrize("permission", list(Permission))
async def test_only_authorize_lets_an_operator_ask(system: System, permission: Permission) -> None:
    """Issue 2, item 3: the identity server's key has `authorize`; of the others only `admin` includes it."""
    party = await system.party()
    key = await make_operator(system.deps, permission)
    form = {"response_type": "code", "client_id": party.id}
    allowed = permission in {Permission.AUTHORIZE, Permission.ADMIN}
    for prefix in ("", "Bearer "):
        asking = system.call.with_key(prefix + key)
        for path in (f"/api/apis/{party.api.api_id}/authorize-client", party.at("tyk/oauth/authorize-client")):
            answer = await asking("POST", path, data=form)
            assert answer.status == (200 if allowed else 403)
            if not allowed and path.startswith("/api/"):
                assert "authorize" in answer.message


@pytest.mark.parametrize("key", ["", "wrong", "Bearer ", "Basic x", "\xff", "x" * 600])
async def test_without_a_key_nothing_is_said(system: System, key: str) -> None:
    """401 in the Dashboard's envelope, before anything about API or client."""
    party = await system.party()
    for api_id in (party.api.api_id, "nowhere"):
        answer = await system.call.with_key(key)("POST", f"/api/apis/{api_id}/authorize-client", data={})
        assert (answer.status, answer.message) == (401, "Not authorised")
    assert (await system.call("POST", party.at("tyk/oauth/authorize-client"))).status == 401


async def test_the_client_s_own_credentials_are_no_key(system: System) -> None:
    """Row 102: the management API refuses client tokens and secrets."""
    party = await system.party()
    tokens = await party.tokens()
    for key in (party.basic["Authorization"], f"Bearer {tokens.access}", tokens.access, party.secret):
        answer = await system.call.with_key(key)("POST", f"/api/apis/{party.api.api_id}/authorize-client")
        assert answer.status == 401


# What is refused


@pytest.mark.parametrize("client_id", [ABSENT, "", "nobody", "<other>"])
async def test_an_unknown_client_gets_no_redirect(system: System, client_id: str) -> None:
    """Before client and redirect URI are proven there is no `redirect_to`."""
    party, other = await system.party(), await system.party()
    answer = await party.authorize_client(client_id=client_id.replace("<other>", other.id))
    assert refused(answer, "invalid_request")


@pytest.mark.parametrize("path", ["/api/apis/{}/authorize-client", "/api/apis/oauth/{}/authorize-client"])
@pytest.mark.parametrize("api_id", ["nowhere", "a.b", "$ne", "%00", "x" * 300])
async def test_an_unknown_api_is_404(system: System, path: str, api_id: str) -> None:
    """In the Dashboard's words."""
    answer = await system.operator("POST", path.format(api_id), data={"response_type": "code"})
    assert (answer.status, answer.message) == (404, "API reference not found.")


@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        pytest.param({"response_type": ABSENT}, "invalid_request", id="no-response-type"),
        pytest.param({"response_type": "token"}, "unsupported_response_type", id="implicit"),
        pytest.param({"scope": "d"}, "invalid_scope", id="scope-not-registered"),
        pytest.param({"scope": 'a"'}, "invalid_scope", id="malformed-scope"),
        pytest.param({"code_challenge": CHALLENGE}, "invalid_request", id="row-44-no-method"),
        pytest.param({**PKCE, "code_challenge_method": "plain"}, "invalid_request", id="row-44-plain"),
        pytest.param({**PKCE, "code_challenge": "short"}, "invalid_request", id="row-45"),
        pytest.param({"key_rules": "{"}, "invalid_request", id="key-rules-half-json"),
        pytest.param({"key_rules": '{"rate": "inf"}'}, "invalid_request", id="key-rules-infinite-rate"),
        pytest.param({"key_rules": '{"quota_max": 9223372036854775808}'}, "invalid_request", id="key-rules-64-bits"),
        pytest.param(
            {"key_rules": '{"access_rights": {"other": {"api_id": "other"}}}'}, "access_denied", id="widening"
        ),
    ],
)
async def test_afterwards_the_error_comes_with_where_to_send_the_browser(
    system: System, parameters: dict[str, str], error: str
) -> None:
    """Tyk's shape: the error, and beside it `redirect_to` with error, description, state and issuer."""
    party = await system.party(scope="a b c")
    answer = await party.authorize_client(state="s&t", **parameters)
    sent = refused_with_redirect(answer, party, error, 403 if error == "access_denied" else 400)
    assert (answer.body["state"], sent["state"]) == ("s&t", "s&t")
    assert await system.deps.store.mongo["grants"].count_documents({"client_id": party.id}) == 0


@pytest.mark.parametrize("kind", ["public", "required"])
async def test_a_challenge_that_is_required_is_asked_for(system: System, kind: str) -> None:
    """Rows 42 and 43: no code without it."""
    party = await system.party(document(pkceRequired=kind == "required"), public=kind == "public")
    refused_with_redirect(await party.authorize_client(), party, "invalid_request")
    assert (await party.authorize_client(**PKCE)).status == 200


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        pytest.param(b"subject=" + b"x" * 257, "form", 400, id="long-subject"),
        pytest.param(b"state=1&state=2", "form", 400, id="repeated"),
        pytest.param(b"state=%ff", "form", 400, id="non-utf-8"),
        pytest.param(b"state=%00", "form", 400, id="nul"),
        pytest.param(b"state=" + b"x" * 70_000, "form", 413, id="too-large"),
        pytest.param(b"{", "json", 400, id="half-json"),
        pytest.param(b'{"state": 1}', "json", 400, id="number"),
        pytest.param(b'{"state": {"a": 1}}', "json", 400, id="object"),
        pytest.param(b'{"key_rules": [1]}', "json", 400, id="key-rules-array"),
        pytest.param(b'{"key_rules": {"a": "\\ud800"}}', "json", 400, id="surrogate-in-key-rules"),
        pytest.param(b'{"key_rules": {"a": 1, "a": 2}}', "json", 400, id="repeated-in-key-rules"),
    ],
)
async def test_a_malformed_body_is_an_invalid_request(system: System, body: bytes, kind: str, status: int) -> None:
    """As at every OAuth endpoint, although the path is management's."""
    party = await system.party()
    content_type = {"form": "application/x-www-form-urlencoded", "json": "application/json"}[kind]
    path = f"/api/apis/oauth/{party.api.api_id}/authorize-client"
    answer = await system.operator("POST", path, data=body, headers={"Content-Type": content_type})
    assert refused(answer, "invalid_request", status)


async def test_tyk_s_status_is_for_its_errors_too(mongodb_url: str) -> None:
    """`oauth_error_status=403`, with the same body, wherever the error is found."""
    async with open_system(mongodb_url, oauth_error_status=403) as system:
        party = await system.party()
        assert refused(await party.authorize_client(client_id="nobody"), "invalid_request", 403)
        refused_with_redirect(await party.authorize_client(response_type="x"), party, "unsupported_response_type", 403)


# key_rules


def rights(*api_ids: str) -> dict[str, Any]:
    return {"access_rights": {api_id: {"api_id": api_id, "versions": ["Default"]} for api_id in api_ids}}


@pytest.mark.parametrize("as_json", [False, True], ids=["form", "json"])
async def test_key_rules_are_kept_with_the_grant(system: System, as_json: bool) -> None:
    """A session as Tyk writes it, as a string in a form or as an object in JSON; what means nothing here is ignored."""
    party = await system.party()
    session = {
        **rights(party.api.api_id),
        "alias": "x",
        "allowance": 5,
        "tags": ["gold"],
        "meta_data": {"a.b": {"$ne": [1, 2.5, None]}},
        "quota_max": 10,
    }
    form: dict[str, Any] = {"response_type": "code", "client_id": party.id}
    form["key_rules"] = session if as_json else json.dumps(session)
    path = f"/api/apis/oauth/{party.api.api_id}/authorize-client"
    answer = await system.operator("POST", path, **{"json" if as_json else "data": form})
    assert answer.status == 200, answer.body
    kept = (await system.grant_of(answer.body["code"])).key_rules
    assert kept is not None
    assert set(kept) == {"access_rights", "tags", "meta_data", "quota_max"}
    assert kept["meta_data"] == session["meta_data"]
    tokens = tokens_of(await party.exchange(answer.body["code"], redirect_uri=ABSENT))
    assert (await party.verify(tokens.access)).status == 200


@pytest.mark.parametrize(
    "key_rules",
    [
        pytest.param("", id="none"),
        pytest.param("{}", id="empty"),
        pytest.param('{"access_rights": null}', id="null"),
    ],
)
async def test_rules_that_say_nothing_change_nothing(system: System, key_rules: str) -> None:
    """The tokens may do what the client's policies allow."""
    party = await system.party()
    tokens = tokens_of(await party.exchange(await party.code(key_rules=key_rules)))
    assert (await party.verify(tokens.access)).status == 200


async def test_rules_narrow_what_the_policies_grant(system: System) -> None:
    """Of two APIs that the client's policy grants, a token opens only the one that its rules name."""
    issuing, other = await system.party(), await system.party(auth_token())
    policy = await make_policy(system.deps, issuing.api.api_id, other.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    wide = tokens_of(await party.exchange(await party.code()))
    narrow = tokens_of(await party.exchange(await party.code(key_rules=json.dumps(rights(party.api.api_id)))))
    none = tokens_of(await party.exchange(await party.code(key_rules='{"access_rights": {}}')))
    outcomes = [
        [(await api.verify(tokens.access)).status for api in (issuing, other)] for tokens in (wide, narrow, none)
    ]
    assert outcomes == [[200, 200], [200, 403], [403, 403]]


@pytest.mark.parametrize("policies", [0, 1, 2])
async def test_rules_never_add_an_api(system: System, policies: int) -> None:
    """Neither to the issuing API alone, nor to what the client's policies grant together."""
    issuing, stranger = await system.party(), await system.party()
    granted = [(await system.party()).api.api_id for _ in range(policies)]
    made = [await make_policy(system.deps, issuing.api.api_id, api_id) for api_id in granted]
    party = await system.client_of(issuing.api, policy_ids=tuple(policy.policy_id for policy in made))
    inside = json.dumps(rights(issuing.api.api_id, *granted))
    assert (await party.authorize_client(key_rules=inside)).status == 200
    outside = json.dumps(rights(issuing.api.api_id, stranger.api.api_id))
    refused_with_redirect(await party.authorize_client(key_rules=outside), party, "access_denied", 403)


DEEPEST = 237
"""Levels of objects that can be kept."""

LIMITED = {"rate": 60, "per": 60, "quota_max": 100, "quota_renewal_rate": 3600}


@pytest.mark.parametrize(
    ("rules", "status"),
    [
        pytest.param({"rate": 60, "per": 60}, 200, id="the-same-rate"),
        pytest.param({"rate": 30}, 200, id="less-in-the-same-time"),
        pytest.param({"rate": 1, "per": 1}, 200, id="the-same-rate-more-evenly"),
        pytest.param({"rate": 60, "per": 120}, 200, id="the-same-in-more-time"),
        pytest.param({"rate": 61, "per": 60}, 403, id="more"),
        pytest.param({"rate": 120, "per": 120}, 403, id="a-larger-burst"),
        pytest.param({"rate": 60, "per": 30}, 403, id="in-less-time"),
        pytest.param({"per": 30}, 403, id="only-less-time"),
        pytest.param({"rate": 0, "per": 60}, 403, id="no-rate"),
        pytest.param({"rate": -1}, 403, id="minus-one"),
        pytest.param({"rate": 1, "per": 0}, 403, id="no-time"),
        pytest.param({"rate": 1, "per": 1e-320}, 403, id="next-to-no-time"),
        pytest.param({"quota_max": 100}, 200, id="the-same-quota"),
        pytest.param({"quota_max": 50, "quota_renewal_rate": 1800}, 200, id="half-in-half-the-time"),
        pytest.param({"quota_max": 100, "quota_renewal_rate": 0}, 200, id="never-renewed"),
        pytest.param({"quota_renewal_rate": 7200}, 200, id="only-more-time"),
        pytest.param({"quota_max": 101}, 403, id="more-quota"),
        pytest.param({"quota_max": -1}, 403, id="no-quota"),
        pytest.param({"quota_max": 0}, 403, id="zero-is-no-quota"),
        pytest.param({"quota_max": 100, "quota_renewal_rate": 60}, 403, id="renewed-sooner"),
        pytest.param({"quota_renewal_rate": 60}, 403, id="only-renewed-sooner"),
    ],
)
async def test_rules_never_loosen_a_limit(system: System, rules: dict[str, float], status: int) -> None:
    """A rate or quota passes only where it admits no more than the policy's, in any of its periods."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id, **LIMITED)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    answer = await party.authorize_client(key_rules=json.dumps(rules))
    assert answer.status == 200 if status == 200 else refused_with_redirect(answer, party, "access_denied", status)


@pytest.mark.parametrize("rules", [{"rate": 5, "per": 1}, {"quota_max": 5}, {"quota_max": 5, "quota_renewal_rate": 1}])
async def test_any_limit_narrows_what_has_none(system: System, rules: dict[str, float]) -> None:
    """Without a policy, or under one without limits, or where one of several has none."""
    issuing = await system.party()
    unlimited = await make_policy(system.deps, issuing.api.api_id)
    limited = await make_policy(system.deps, issuing.api.api_id, rate=1, per=1, quota_max=1)
    for policies in ((), (unlimited,), (limited, unlimited)):
        party = await system.client_of(issuing.api, policy_ids=tuple(policy.policy_id for policy in policies))
        assert (await party.authorize_client(key_rules=json.dumps(rules))).status == 200


async def test_a_quota_that_is_never_renewed_stays_one(system: System) -> None:
    """Any renewal would widen it."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id, quota_max=10, quota_renewal_rate=-1)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    assert (await party.authorize_client(key_rules='{"quota_max": 5}')).status == 200
    answer = await party.authorize_client(key_rules='{"quota_max": 1, "quota_renewal_rate": 86400}')
    refused_with_redirect(answer, party, "access_denied", 403)


@pytest.mark.parametrize(("depth", "status"), [(10, 200), (DEEPEST, 200), (DEEPEST + 1, 400), (254, 400), (255, 400)])
async def test_rules_are_kept_or_refused_however_deep(system: System, depth: int, status: int) -> None:
    """What can be written with the grant gives a code that works; what is nested deeper is refused at once."""
    party = await system.party()
    answer = await party.authorize_client(key_rules='{"meta_data": ' + '{"a":' * depth + "1" + "}" * depth + "}")
    if status == 400:
        refused_with_redirect(answer, party, "invalid_request")
        return
    tokens = tokens_of(await party.exchange(answer.body["code"]))
    assert (await party.verify((await party.refreshed(tokens.refresh)).access)).status == 200


@pytest.mark.parametrize(
    "key_rules",
    [
        pytest.param("{", id="half-json"),
        pytest.param("[]", id="array"),
        pytest.param('"x"', id="string"),
        pytest.param("null", id="null"),
        pytest.param('{"access_rights": []}', id="rights-array"),
        pytest.param('{"access_rights": {"a b": {"api_id": "a b"}}}', id="bad-id"),
        pytest.param('{"access_rights": {"a": 1}}', id="right-is-a-number"),
        pytest.param('{"rate": "many"}', id="rate-is-text"),
        pytest.param('{"rate": -2}', id="negative-rate"),
        pytest.param('{"rate": 1e999}', id="infinite-rate"),
        pytest.param('{"quota_max": 1.5}', id="half-a-quota"),
        pytest.param('{"tags": "gold"}', id="tags-are-text"),
        pytest.param('{"meta_data": ' + '{"a":' * 400 + "1" + "}" * 400 + "}", id="deep"),
        pytest.param('{"meta_data": ' + "[" * 2000 + "]" * 2000 + "}", id="deeper"),
        pytest.param('{"meta_data": {"a": "\\ud800"}}', id="surrogate"),
    ],
)
async def test_malformed_rules_are_refused(system: System, key_rules: str) -> None:
    """400 `invalid_request` that says what is wrong with them, and no code."""
    party = await system.party()
    answer = await party.authorize_client(key_rules=key_rules)
    refused_with_redirect(answer, party, "invalid_request")
    assert "key_rules" in answer.body["error_description"]
