"""…/authorize-client: an identity server that has logged a user in requests a code."""

import json
import string
from typing import Any
from urllib.parse import urlsplit

import pytest

from contracts.grants import GrantState
from contracts.operators import Permission
from tests.builders import CALLBACK, Response, api_document, make_operator, make_policy
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


def refused_with_redirect(response: Response, party: Party, error: str, status: int = 400) -> dict[str, str]:
    """The parameters of `redirect_to`; the whole response must be this error."""
    assert (response.status, response.body["error"]) == (status, error), response.body
    assert set(response.body) - {"state"} == {"error", "error_description", "redirect_to"}
    sent = query_of(response.body["redirect_to"])
    assert response.body["redirect_to"].startswith(CALLBACK + "?")
    assert (sent["error"], sent["error_description"]) == (error, response.body["error_description"])
    assert (sent.get("state"), sent["iss"]) == (response.body.get("state"), issuer(party))
    assert response.headers["Cache-Control"] == "no-store"
    return sent


# The response


async def test_the_response_is_the_code_and_where_to_send_the_browser(system: System) -> None:
    """200 with exactly `code` and `redirect_to`, uncacheable; the URL names the issuer (RFC 9207)."""
    party = await system.party()
    response = await party.authorize_client()
    assert response.status == 200
    assert set(response.body) == {"code", "redirect_to"}
    assert response.headers["Content-Type"] == "application/json"
    assert (response.headers["Cache-Control"], response.headers["Pragma"]) == ("no-store", "no-cache")
    assert response.body["redirect_to"].startswith(CALLBACK + "?")
    assert query_of(response.body["redirect_to"]) == {"code": response.body["code"], "iss": issuer(party)}
    assert (await party.exchange(response.body["code"])).status == 200


STATE = string.printable.replace("\x0b", "").replace("\x0c", "") + "é漢🙂" + "~" * 1900


async def test_state_is_in_body_and_url_as_it_was(system: System) -> None:
    """Row 32: the state is returned byte for byte in body and URL, and left out if missing or empty."""
    party = await system.party()
    response = await party.authorize_client(state=STATE)
    assert response.body["state"] == STATE
    assert query_of(response.body["redirect_to"])["state"] == STATE
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
async def test_every_spelling_of_the_path_is_routed(system: System, path: str, body: str) -> None:
    """The Dashboard's two paths and Tyk's own, under listen path and API id, accept form and JSON."""
    party = await system.party()
    form: dict[str, Any] = {"response_type": "code", "client_id": party.id, "redirect_uri": CALLBACK}
    place = path.format(id=party.api.api_id, at=party.api.listen_path)
    response = await system.operator("POST", place, **{body: form})
    assert response.status == 200
    assert (await party.exchange(response.body["code"])).status == 200


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
    """The parameters are appended to the registered redirect URI, which is otherwise unchanged."""
    party = await system.party(redirect_uris=(uri,))
    response = await party.authorize_client(redirect_uri=uri)
    assert response.body["redirect_to"].startswith(expected)
    assert (await party.exchange(response.body["code"], redirect_uri=uri)).status == 200


async def test_codes_are_unique_and_fit_in_a_url(system: System) -> None:
    """Row 41: codes are unique and URL-safe, with 160 random bits after the grant's id."""
    party = await system.party()
    codes = [await party.code() for _ in range(50)]
    assert len({code[-56:] for code in codes}) == len(codes)
    allowed = set(string.ascii_letters + string.digits + "-_")
    assert all(code.startswith("tw_ac_") and set(code) <= allowed for code in codes)


async def test_the_grant_is_pending_and_knows_what_was_asked(system: System) -> None:
    """The pending grant stores what was consented to: subject, scope, redirect URI and challenge."""
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
    """The subject reaches the upstream in a header, escaped where necessary."""
    party = await system.party()
    response = await party.verify(tokens_of(await party.exchange(await party.code(subject=subject))).access)
    assert response.status == 200
    told = response.headers["X-Tokenwire-Subject"]
    assert told.isascii()
    assert urlsplit(f"x:{told}").path is not None
    assert told == subject if subject in {"alice", "x" * 256} else "%" in told


# Permissions


@pytest.mark.parametrize("permission", list(Permission))
async def test_only_authorize_may_request_codes(system: System, permission: Permission) -> None:
    """Only `authorize` and `admin` allow this request."""
    party = await system.party()
    key = await make_operator(system.deps, permission)
    form = {"response_type": "code", "client_id": party.id}
    allowed = permission in {Permission.AUTHORIZE, Permission.ADMIN}
    for prefix in ("", "Bearer "):
        asking = system.call.with_key(prefix + key)
        for path in (f"/api/apis/{party.api.api_id}/authorize-client", party.at("tyk/oauth/authorize-client")):
            response = await asking("POST", path, data=form)
            assert response.status == (200 if allowed else 403)
            if not allowed and path.startswith("/api/"):
                assert "authorize" in response.message


@pytest.mark.parametrize("key", ["", "wrong", "Bearer ", "Basic x", "\xff", "x" * 600])
async def test_without_a_key_nothing_is_revealed(system: System, key: str) -> None:
    """Without a key: 401 in the Dashboard's format, before anything about API or client is checked."""
    party = await system.party()
    for api_id in (party.api.api_id, "nowhere"):
        response = await system.call.with_key(key)("POST", f"/api/apis/{api_id}/authorize-client", data={})
        assert (response.status, response.message) == (401, "Not authorised")
    assert (await system.call("POST", party.at("tyk/oauth/authorize-client"))).status == 401


async def test_the_client_s_own_credentials_are_no_key(system: System) -> None:
    """Row 102: client tokens and secrets are not operator keys."""
    party = await system.party()
    tokens = await party.tokens()
    for key in (party.basic["Authorization"], f"Bearer {tokens.access}", tokens.access, party.secret):
        response = await system.call.with_key(key)("POST", f"/api/apis/{party.api.api_id}/authorize-client")
        assert response.status == 401


# Refusals


@pytest.mark.parametrize("client_id", [ABSENT, "", "nobody", "<other>"])
async def test_an_unknown_client_gets_no_redirect(system: System, client_id: str) -> None:
    """If client or redirect URI are not verified, the error has no `redirect_to`."""
    party, other = await system.party(), await system.party()
    response = await party.authorize_client(client_id=client_id.replace("<other>", other.id))
    assert refused(response, "invalid_request")


@pytest.mark.parametrize("path", ["/api/apis/{}/authorize-client", "/api/apis/oauth/{}/authorize-client"])
@pytest.mark.parametrize("api_id", ["nowhere", "a.b", "$ne", "%00", "x" * 300])
async def test_an_unknown_api_is_404(system: System, path: str, api_id: str) -> None:
    """An unknown API gets 404 with the Dashboard's text."""
    response = await system.operator("POST", path.format(api_id), data={"response_type": "code"})
    assert (response.status, response.message) == (404, "API reference not found.")


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
    """Later errors have Tyk's format and a `redirect_to` with error, description, state and issuer."""
    party = await system.party(scope="a b c")
    response = await party.authorize_client(state="s&t", **parameters)
    sent = refused_with_redirect(response, party, error, 403 if error == "access_denied" else 400)
    assert (response.body["state"], sent["state"]) == ("s&t", "s&t")
    assert await system.deps.store.mongo["grants"].count_documents({"client_id": party.id}) == 0


@pytest.mark.parametrize("kind", ["public", "required"])
async def test_a_challenge_that_is_required_is_asked_for(system: System, kind: str) -> None:
    """Rows 42 and 43: without a required challenge there is no code."""
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
    """A malformed body gets `invalid_request`, as at every OAuth endpoint."""
    party = await system.party()
    content_type = {"form": "application/x-www-form-urlencoded", "json": "application/json"}[kind]
    path = f"/api/apis/oauth/{party.api.api_id}/authorize-client"
    response = await system.operator("POST", path, data=body, headers={"Content-Type": content_type})
    assert refused(response, "invalid_request", status)


async def test_tyk_s_status_is_for_its_errors_too(mongodb_url: str) -> None:
    """`oauth_error_status=403` applies to all these errors; bodies are unchanged."""
    async with open_system(mongodb_url, oauth_error_status=403) as system:
        party = await system.party()
        assert refused(await party.authorize_client(client_id="nobody"), "invalid_request", 403)
        refused_with_redirect(await party.authorize_client(response_type="x"), party, "unsupported_response_type", 403)


# key_rules


def rights(*api_ids: str) -> dict[str, Any]:
    return {"access_rights": {api_id: {"api_id": api_id, "versions": ["Default"]} for api_id in api_ids}}


@pytest.mark.parametrize("as_json", [False, True], ids=["form", "json"])
async def test_key_rules_are_kept_with_the_grant(system: System, as_json: bool) -> None:
    """Key rules are stored with the grant: a session in Tyk's format, as a string in a form or an object in JSON;
    unknown fields are ignored.
    """
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
    response = await system.operator("POST", path, **{"json" if as_json else "data": form})
    assert response.status == 200, response.body
    kept = (await system.grant_of(response.body["code"])).key_rules
    assert kept is not None
    assert set(kept) == {"access_rights", "tags", "meta_data", "quota_max"}
    assert kept["meta_data"] == session["meta_data"]
    tokens = tokens_of(await party.exchange(response.body["code"], redirect_uri=ABSENT))
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
    """Empty rules change nothing."""
    party = await system.party()
    tokens = tokens_of(await party.exchange(await party.code(key_rules=key_rules)))
    assert (await party.verify(tokens.access)).status == 200


async def test_rules_narrow_what_the_policies_grant(system: System) -> None:
    """If the client's policy grants two APIs and the rules name one, the token is accepted by that one only."""
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
    """Rules never add an API, neither to the issuing API alone nor to the client's policies."""
    issuing, outsider = await system.party(), await system.party()
    granted = [(await system.party()).api.api_id for _ in range(policies)]
    made = [await make_policy(system.deps, issuing.api.api_id, api_id) for api_id in granted]
    party = await system.client_of(issuing.api, policy_ids=tuple(policy.policy_id for policy in made))
    inside = json.dumps(rights(issuing.api.api_id, *granted))
    assert (await party.authorize_client(key_rules=inside)).status == 200
    outside = json.dumps(rights(issuing.api.api_id, outsider.api.api_id))
    refused_with_redirect(await party.authorize_client(key_rules=outside), party, "access_denied", 403)


DEEPEST = 237
"""Deepest nesting of objects that can be stored."""

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
    """A rate or quota is accepted only if it is stricter than the policy's over every period."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id, **LIMITED)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    response = await party.authorize_client(key_rules=json.dumps(rules))
    assert response.status == 200 if status == 200 else refused_with_redirect(response, party, "access_denied", status)


@pytest.mark.parametrize("rules", [{"rate": 5, "per": 1}, {"quota_max": 5}, {"quota_max": 5, "quota_renewal_rate": 1}])
async def test_any_limit_narrows_what_has_none(system: System, rules: dict[str, float]) -> None:
    """Any limit is accepted if there is no policy, or one without limits."""
    issuing = await system.party()
    unlimited = await make_policy(system.deps, issuing.api.api_id)
    limited = await make_policy(system.deps, issuing.api.api_id, rate=1, per=1, quota_max=1)
    for policies in ((), (unlimited,), (limited, unlimited)):
        party = await system.client_of(issuing.api, policy_ids=tuple(policy.policy_id for policy in policies))
        assert (await party.authorize_client(key_rules=json.dumps(rules))).status == 200


async def test_a_quota_that_is_never_renewed_stays_one(system: System) -> None:
    """A quota that never renews cannot be given a renewal, which would widen it."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id, quota_max=10, quota_renewal_rate=-1)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    assert (await party.authorize_client(key_rules='{"quota_max": 5}')).status == 200
    response = await party.authorize_client(key_rules='{"quota_max": 1, "quota_renewal_rate": 86400}')
    refused_with_redirect(response, party, "access_denied", 403)


@pytest.mark.parametrize(("depth", "status"), [(10, 200), (DEEPEST, 200), (DEEPEST + 1, 400), (254, 400), (255, 400)])
async def test_rules_are_kept_or_refused_however_deep(system: System, depth: int, status: int) -> None:
    """Rules as deep as MongoDB can store work; deeper ones are refused at once."""
    party = await system.party()
    response = await party.authorize_client(key_rules='{"meta_data": ' + '{"a":' * depth + "1" + "}" * depth + "}")
    if status == 400:
        refused_with_redirect(response, party, "invalid_request")
        return
    tokens = tokens_of(await party.exchange(response.body["code"]))
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
    """Malformed rules get 400 `invalid_request` with the reason, and no code."""
    party = await system.party()
    response = await party.authorize_client(key_rules=key_rules)
    refused_with_redirect(response, party, "invalid_request")
    assert "key_rules" in response.body["error_description"]


# Codes without a user


@pytest.mark.parametrize(
    ("own", "status"),
    [
        pytest.param(None, 200, id="written-for-tyk"),
        pytest.param({"anonymousGrants": True}, 200, id="allowed"),
        pytest.param({"anonymousGrants": False}, 400, id="forbidden"),
        pytest.param({"codeLifetime": 60}, 400, id="not-allowed"),
        pytest.param({"acceptedUnsupported": []}, 200, id="written-for-tyk-and-imported-in-part"),
    ],
)
@pytest.mark.parametrize("subject", [None, ""])
async def test_e8_a_code_needs_a_user_unless_the_api_says_otherwise(
    system: System, own: dict[str, Any] | None, status: int, subject: str | None
) -> None:
    """A definition for Tyk alone takes Tyk's documented requests, which name no user; any other must say so."""
    party = await system.party(api_document(**({"x-tokenwire": own} if own is not None else {})))
    said = {"subject": subject} if subject is not None else {}
    response = await party.authorize_client(**said)
    assert response.status == status, response.body
    if status == 400:
        assert response.body["error"] == "invalid_request"
        assert "subject is missing" in response.body["error_description"]
        assert response.body["redirect_to"].startswith(CALLBACK)
    else:
        assert (await system.grant_of(response.body["code"])).subject is None
    assert (await party.authorize_client(subject="alice")).status == 200
