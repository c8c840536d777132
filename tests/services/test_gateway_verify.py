"""GET /verify: whether a call may pass, its identity, and the refusals."""

from typing import Any

import orjson
import pytest

from contracts.clients import ClientDeletion
from tests.builders import Response, make_api, make_policy, settle
from tests.services.system import SCHEME, Party, System, auth_token, document, keyless, raw


def denied(response: Response, status: int, message: str, error: str | None) -> bool:
    """Whether the response is this refusal of Tyk's, with RFC 6750 §3's header."""
    assert (response.status, response.body) == (status, {"error": message})
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    challenge = response.headers["WWW-Authenticate"]
    assert challenge == 'Bearer realm="tokenwire"' + (f', error="{error}"' if error else "")
    told = {name for name in response.headers if name.lower().startswith("x-tokenwire")}
    assert told == {"X-Tokenwire-Refusal"}
    assert orjson.loads(response.headers["X-Tokenwire-Refusal"]) == response.body
    return True


MISSING = (400, "Authorization field missing", None)
MALFORMED = (400, "Bearer token malformed", "invalid_request")
UNKNOWN = (403, "Key not authorised", "invalid_token")
CLIENT_GONE = (403, "Key not authorised. OAuth client access was revoked", "invalid_token")
INACTIVE = (403, "Key is inactive, please renew", "invalid_token")
EXPIRED = (401, "Key has expired, please renew", "invalid_token")
DISALLOWED = (403, "Access to this API has been disallowed", "insufficient_scope")


async def call(party: Party, query: str = "", **headers: str) -> Response:
    """Check a call of this API with these headers (underscores become hyphens)."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await party.system.verify(party.at("things") + query, **named)


# Admitted


async def test_an_admitted_call_has_identity_headers(system: System) -> None:
    """200 with API, client, grant, user and scope for the upstream."""
    party = await system.party()
    tokens = await party.tokens(subject="alice", scope="a b")
    response = await party.verify(tokens.access)
    assert (response.status, response.body) == (200, {"status": "ok"})
    told = {name: value for name, value in response.headers.items() if name.startswith("X-Tokenwire-")}
    assert told == {
        "X-Tokenwire-Api-Id": party.api.api_id,
        "X-Tokenwire-Client-Id": party.id,
        "X-Tokenwire-Grant-Id": (await system.grant_of(tokens.access)).grant_id,
        "X-Tokenwire-Subject": "alice",
        "X-Tokenwire-Scope": "a b",
    }
    assert response.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("path", ["/verify", "/verify/"])
@pytest.mark.parametrize("header", ["X-Forwarded-Uri", "X-Original-URI"])
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
async def test_the_call_is_named_by_either_header(system: System, path: str, header: str, method: str) -> None:
    """The call may be named by Traefik's and Envoy's headers, or nginx's."""
    party = await system.party()
    tokens = await party.tokens()
    beside = {"X-Forwarded-Uri": "X-Forwarded-Method", "X-Original-URI": "X-Original-Method"}[header]
    headers = {header: party.at("x?y=1"), beside: method, "Authorization": f"Bearer {tokens.access}"}
    assert (await system.call("GET", path, headers=headers)).status == 200


async def test_a_keyless_api_asks_for_nothing(system: System) -> None:
    """A keyless API ignores tokens, and no identity is set."""
    party = await system.party(keyless())
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic x"}):
        response = await call(party, **headers)
        assert response.status == 200
        assert response.headers["X-Tokenwire-Api-Id"] == party.api.api_id
        assert response.headers["X-Tokenwire-Client-Id"] == ""


# Where the token is


HEADER = document
SOURCES: dict[str, Any] = {
    "header": {"enabled": True, "name": "Authorization"},
    "query": {"enabled": True, "name": "access_token"},
    "cookie": {"enabled": True, "name": "session"},
}


async def with_sources(system: System, *names: str, **changes: Any) -> Party:
    """An API that reads tokens only from these places."""
    sources = {SCHEME + name: SOURCES[name] if name in names else {"enabled": False} for name in SOURCES}
    return await system.party(document(**sources | {SCHEME + name: value for name, value in changes.items()}))


@pytest.mark.parametrize("source", ["header", "query", "cookie"])
@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER  ", ""])
async def test_the_token_is_read_where_the_definition_says(system: System, source: str, scheme: str) -> None:
    """Header, query or cookie as the definition says. `Authorization` needs Bearer; the others may omit it."""
    party = await with_sources(system, source)
    value = scheme + (await party.tokens()).access
    places = {
        "header": await call(party, Authorization=value),
        "query": await call(party, "?x=1&access_token=" + value.replace(" ", "%20")),
        "cookie": await call(party, Cookie=f'a=b; session="{value}"; c=d'),
    }
    expected = {name: 200 if name == source else 400 for name in places}
    if source == "header" and not scheme:
        expected["header"] = 400
    assert {name: response.status for name, response in places.items()} == expected
    assert all(denied(response, *MISSING) for response in places.values() if response.status == 400)


async def test_a_configured_header_may_contain_the_bare_token(system: System) -> None:
    """With `X-Api-Token: <token>` enabled, `Authorization` is ignored."""
    party = await with_sources(system, header={"enabled": True, "name": "X-Api-Token"})
    token = (await party.tokens()).access
    assert (await call(party, X_Api_Token=token)).status == 200
    assert (await call(party, x_api_token=f"Bearer {token}")).status == 200
    assert denied(await call(party, Authorization=f"Bearer {token}"), *MISSING)


@pytest.mark.parametrize(
    ("given", "counts"),
    [
        pytest.param({"header", "query"}, "query", id="query-over-header"),
        pytest.param({"header", "cookie"}, "cookie", id="cookie-over-header"),
        pytest.param({"query", "cookie"}, "cookie", id="cookie-over-query"),
        pytest.param({"header", "query", "cookie"}, "cookie", id="cookie-over-both"),
    ],
)
async def test_cookie_counts_before_query_before_header(system: System, given: set[str], counts: str) -> None:
    """As in Tyk: cookie before query before header; a present value overrides the others even if it is
    wrong.
    """
    party = await with_sources(system, "header", "query", "cookie")
    right = (await party.tokens()).access

    async def with_right_in(place: str) -> Response:
        value = {name: right if name == place else "wrong" for name in given}
        query = f"?access_token={value['query']}" if "query" in given else ""
        headers = {}
        if "header" in given:
            headers["Authorization"] = f"Bearer {value['header']}"
        if "cookie" in given:
            headers["Cookie"] = f"session={value['cookie']}"
        return await call(party, query, **headers)

    assert (await with_right_in(counts)).status == 200
    for other in given - {counts}:
        assert denied(await with_right_in(other), *UNKNOWN)


@pytest.mark.parametrize("source", ["query", "cookie"])
async def test_a_value_of_nothing_but_space_is_no_token(system: System, source: str) -> None:
    """A value of spaces only is ignored."""
    party = await with_sources(system, source)
    response = await call(party, "?access_token=%20") if source == "query" else await call(party, Cookie='session=" "')
    assert denied(response, *MISSING)


async def test_an_empty_value_does_not_override(system: System) -> None:
    """An empty value overrides nothing."""
    party = await with_sources(system, "header", "query", "cookie")
    token = (await party.tokens()).access
    response = await call(party, "?access_token=", Authorization=f"Bearer {token}", Cookie="session=")
    assert response.status == 200


# Refused


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, MISSING, id="row-91-nothing"),
        pytest.param({"Authorization": "Bearer"}, MISSING, id="scheme-only"),
        pytest.param({"Authorization": "<token>"}, MISSING, id="token-only"),
        pytest.param({"Authorization": "Basic <token>"}, MALFORMED, id="other-scheme"),
        pytest.param({"Authorization": "Bearer: <token>"}, MALFORMED, id="scheme-with-a-colon"),
        pytest.param({"Authorization": "Bearer x"}, UNKNOWN, id="row-92-short"),
        pytest.param({"Authorization": "Bearer <token>x"}, UNKNOWN, id="longer"),
        pytest.param({"Authorization": "Bearer <token> x"}, UNKNOWN, id="two-tokens"),
        pytest.param({"Authorization": "Bearer <refresh>"}, UNKNOWN, id="row-69-refresh-token"),
        pytest.param({"Authorization": "Bearer <code>"}, UNKNOWN, id="code"),
        pytest.param({"Authorization": "Bearer tw_at_" + "A" * 76}, UNKNOWN, id="forged"),
        pytest.param({"Authorization": "Bearer " + "x" * 6000}, UNKNOWN, id="huge"),
        pytest.param({"Authorization": "Bearer é"}, UNKNOWN, id="non-ascii"),
        pytest.param({"Authorization": "Bearer $ne"}, UNKNOWN, id="operator"),
    ],
)
async def test_an_invalid_token_is_refused(
    system: System, headers: dict[str, str], expected: tuple[int, str, str | None]
) -> None:
    """Tyk's statuses and texts; RFC 6750 §3.1: no error code without credentials."""
    party = await system.party()
    tokens, code = await party.tokens(), await party.code()
    for name, value in {"<token>": tokens.access, "<refresh>": tokens.refresh, "<code>": code}.items():
        headers = {header: text.replace(name, value) for header, text in headers.items()}
    assert denied(await call(party, **headers), *expected)


async def test_bytes_that_are_no_text_are_no_token(system: System) -> None:
    """Arbitrary bytes are refused like any wrong token."""
    party = await system.party()
    request = f"GET /verify HTTP/1.1\r\nHost: x\r\nConnection: close\r\nX-Forwarded-Uri: {party.at('x')}\r\n".encode()
    response = await raw(system.call, request + b"Authorization: Bearer \xff\xfe\r\n\r\n")
    assert response.startswith(b"HTTP/1.1 403 ")


async def test_a_revoked_token_is_refused_at_once(system: System) -> None:
    """A revoked token is refused at once."""
    party = await system.party()
    tokens = await party.tokens()
    await party.revoke(tokens.access)
    assert denied(await party.verify(tokens.access), *UNKNOWN)


async def test_a_refreshed_token_is_refused_at_once(system: System) -> None:
    """A refreshed token's predecessor is refused at once."""
    party = await system.party()
    tokens = await party.tokens()
    await party.refreshed(tokens.refresh)
    assert denied(await party.verify(tokens.access), *UNKNOWN)


async def test_an_expired_token_is_refused_with_401(system: System) -> None:
    """At exactly its expiry a token gets 401."""
    party = await system.party()
    tokens = await party.tokens()
    system.clock.advance(3599.999)
    assert (await party.verify(tokens.access)).status == 200
    system.clock.advance(0.001)
    assert denied(await party.verify(tokens.access), *EXPIRED)


async def test_an_expired_token_that_was_revoked_too_is_unknown(system: System) -> None:
    """A revoked token that has also expired is reported as unknown, not as expired."""
    party = await system.party()
    tokens = await party.tokens()
    await party.revoke(tokens.access)
    system.clock.advance(3600)
    assert denied(await party.verify(tokens.access), *UNKNOWN)


@pytest.mark.parametrize("later", [0, 3600], ids=["live", "expired"])
async def test_tokens_of_a_deleted_client_are_refused_with_that_reason(system: System, later: float) -> None:
    """Tokens of a deleted client are refused at once, with that reason before any other."""
    party = await system.party()
    tokens = await party.tokens()
    ctx = system.deps.event_context("tests")
    assert await system.deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, ctx)
    system.clock.advance(later)
    assert denied(await party.verify(tokens.access), *CLIENT_GONE)
    await settle(system.deps)
    assert denied(await party.verify(tokens.access), *CLIENT_GONE)


async def test_another_api_s_token_is_refused(system: System) -> None:
    """A token is accepted by the API that issued it only."""
    party, other = await system.party(), await system.party()
    tokens = await party.tokens()
    assert denied(await other.verify(tokens.access), *DISALLOWED)


@pytest.mark.parametrize("kind", ["missing", "inactive", "deleted"])
async def test_where_no_api_is_is_404(system: System, kind: str) -> None:
    """Unknown, inactive and deleted APIs all get 404."""
    party = await system.party()
    tokens = await party.tokens()
    path = party.at("x")
    if kind == "missing":
        path = "/nowhere/x"
    elif kind == "deleted":
        assert await system.deps.store.apis.delete(party.api, system.deps.event_context("tests"))
    else:
        changed = party.api.model_copy(update={"active": False})
        assert await system.deps.store.apis.replace(party.api, changed, system.deps.event_context("tests"))
    response = await system.verify(path, Authorization=f"Bearer {tokens.access}")
    assert (response.status, response.body) == (404, {"error": "There is no such API"})


async def test_a_definition_that_changes_where_the_token_is_counts_at_once(system: System) -> None:
    """A definition that changes the token's place applies at once."""
    party = await system.party()
    token = (await party.tokens()).access
    assert (await call(party, Authorization=f"Bearer {token}")).status == 200
    location = party.api.token_location.model_copy(update={"header": "X-Other"})
    changed = party.api.model_copy(update={"token_location": location})
    assert await system.deps.store.apis.replace(party.api, changed, system.deps.event_context("tests"))
    assert denied(await call(party, Authorization=f"Bearer {token}"), *MISSING)
    assert (await call(party, X_Other=token)).status == 200


# Policies


async def under(system: System, api_ids: tuple[str, ...], issuing: Party, **fields: Any) -> Party:
    """A client of the issuing API under a policy that grants these."""
    policy = await make_policy(system.deps, *api_ids, **fields)
    return await system.client_of(issuing.api, policy_ids=(policy.policy_id,))


async def test_a_policy_opens_what_it_names(system: System) -> None:
    """If the client has policies, the issuing API must be among what they grant."""
    issuing, other = await system.party(), await system.party()
    inside = await under(system, (issuing.api.api_id,), issuing)
    outside = await under(system, (other.api.api_id,), issuing)
    nothing = await under(system, (), issuing)
    assert (await issuing.verify((await inside.tokens()).access)).status == 200
    assert denied(await issuing.verify((await outside.tokens()).access), *DISALLOWED)
    assert denied(await issuing.verify((await nothing.tokens()).access), *DISALLOWED)


@pytest.mark.parametrize("scheme", ["Bearer ", ""])
async def test_a_common_policy_opens_an_auth_token_api(system: System, scheme: str) -> None:
    """An Auth Token API accepts another API's token, bare or as Bearer, if a policy grants it."""
    issuing, accepting = await system.party(), await system.party(auth_token())
    party = await under(system, (issuing.api.api_id, accepting.api.api_id), issuing)
    tokens = await party.tokens()
    response = await call(accepting, Authorization=scheme + tokens.access)
    assert (response.status, response.headers["X-Tokenwire-Api-Id"]) == (200, accepting.api.api_id)
    await party.revoke(tokens.access)
    assert denied(await call(accepting, Authorization=scheme + tokens.access), *UNKNOWN)


async def test_without_a_common_policy_an_auth_token_api_is_closed(system: System) -> None:
    """Without such a policy the token is refused."""
    issuing, accepting = await system.party(), await system.party(auth_token())
    party = await under(system, (issuing.api.api_id,), issuing)
    for tokens in (await issuing.tokens(), await party.tokens()):
        assert denied(await accepting.verify(tokens.access), *DISALLOWED)


async def test_a_deleted_client_s_tokens_are_refused_by_every_api(system: System) -> None:
    """Tokens of a deleted client are refused by Auth Token APIs, too."""
    issuing, accepting = await system.party(), await system.party(auth_token())
    party = await under(system, (issuing.api.api_id, accepting.api.api_id), issuing)
    tokens = await party.tokens()
    ctx = system.deps.event_context("tests")
    assert await system.deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, ctx)
    assert denied(await accepting.verify(tokens.access), *CLIENT_GONE)


@pytest.mark.parametrize(
    ("edit", "expected"),
    [
        pytest.param({"is_inactive": True}, INACTIVE, id="inactive"),
        pytest.param({"active": False}, UNKNOWN, id="not-active"),
        pytest.param({"access_rights": {}}, DISALLOWED, id="no-rights"),
        pytest.param(None, UNKNOWN, id="deleted"),
    ],
)
async def test_an_edited_policy_counts_for_tokens_already_issued(
    system: System, edit: dict[str, Any] | None, expected: tuple[int, str, str]
) -> None:
    """An edited policy applies to existing tokens at the next request; a deleted one is a policy
    failure.
    """
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    tokens = await party.tokens()
    assert (await party.verify(tokens.access)).status == 200
    ctx, policies = system.deps.event_context("tests"), system.deps.store.policies
    if edit is None:
        assert await policies.delete(policy, ctx)
    else:
        assert await policies.replace(policy, policy.model_copy(update=edit), ctx)
    assert denied(await party.verify(tokens.access), *expected)


async def test_of_several_policies_any_may_open_and_any_may_lock(system: System) -> None:
    """As in Tyk, rights of several policies are combined, one `is_inactive` locks, and inactive policies are
    ignored.
    """
    issuing = await system.party()
    here = await make_policy(system.deps, issuing.api.api_id)
    elsewhere = await make_policy(system.deps, "elsewhere")
    locked = await make_policy(system.deps, is_inactive=True)
    gone = await make_policy(system.deps, issuing.api.api_id, active=False)

    async def outcome(*policies: Any) -> Response:
        party = await system.client_of(issuing.api, policy_ids=tuple(policy.policy_id for policy in policies))
        return await party.verify((await party.tokens()).access)

    assert (await outcome(elsewhere, here)).status == 200
    assert (await outcome(gone, here)).status == 200
    assert denied(await outcome(here, locked), *INACTIVE)
    assert denied(await outcome(elsewhere, gone), *DISALLOWED)
    assert denied(await outcome(gone), *UNKNOWN)


# The check request itself


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_only_get_is_answered(system: System, method: str) -> None:
    """Only GET: the checked call's method is in a header. Others get 405."""
    assert (await system.call(method, "/verify", headers={"X-Forwarded-Uri": "/x"})).status == 405


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="none"),
        pytest.param({"X-Forwarded-Uri": ""}, id="empty"),
        pytest.param({"X-Forwarded-Uri": "x"}, id="no-path"),
        pytest.param({"X-Forwarded-Uri": "https://x/y"}, id="absolute"),
        pytest.param({"X-Forwarded-Uri": "*"}, id="asterisk"),
        pytest.param({"X-Forwarded-Uri": "/a b"}, id="space"),
        pytest.param({"X-Forwarded-Uri": "/a#b"}, id="fragment"),
        pytest.param({"X-Forwarded-Uri": "/é"}, id="non-ascii"),
        pytest.param({"X-Forwarded-Uri": "/a", "X-Original-URI": "/b"}, id="two-that-differ"),
        pytest.param(
            {"X-Forwarded-Uri": "/a", "X-Forwarded-Method": "GET", "X-Original-Method": "POST"}, id="two-methods"
        ),
    ],
)
async def test_a_question_that_does_not_name_the_call_is_refused(system: System, headers: dict[str, str]) -> None:
    """A check that does not name the call gets 400, so that no caller-supplied name is used."""
    response = await system.call("GET", "/verify", headers=headers)
    assert (response.status, response.body["error"]) == (400, "invalid_request")


async def test_a_caller_cannot_name_another_call_beside_the_proxy(system: System) -> None:
    """nginx sets X-Original-URI but passes a caller's X-Forwarded-Uri: neither it nor a repeated header may decide."""
    closed, opened = await system.party(), await system.party(keyless())
    for headers in (
        {"X-Original-URI": closed.at("x"), "X-Forwarded-Uri": opened.at("x")},
        {"X-Original-URI": opened.at("x"), "X-Forwarded-Uri": closed.at("x")},
    ):
        assert (await system.call("GET", "/verify", headers=headers)).status == 400
    twice = [("X-Forwarded-Uri", opened.at("x")), ("X-Forwarded-Uri", closed.at("x"))]
    lines = "".join(f"{name}: {value}\r\n" for name, value in twice)
    response = await raw(system.call, f"GET /verify HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{lines}\r\n".encode())
    assert response.startswith(b"HTTP/1.1 400 ")
    same = {"X-Original-URI": opened.at("x"), "X-Forwarded-Uri": opened.at("x")}
    assert (await system.call("GET", "/verify", headers=same)).status == 200


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS", "PROPFIND"])
async def test_a_question_may_be_the_call_itself(system: System, method: str) -> None:
    """Envoy's form: the call's own method and headers, with `/verify` before its path."""
    party = await with_sources(system, "header", "query")
    token = (await party.tokens()).access
    asked = f"/verify{party.at('a%20b')}?x=1"
    admitted = await system.call(method, asked, headers={"Authorization": f"Bearer {token}"})
    assert (admitted.status, admitted.headers["X-Tokenwire-Client-Id"]) == (200, party.id)
    assert (await system.call(method, f"{asked}&access_token={token}")).status == 200
    assert denied(await system.call(method, asked), *MISSING)


async def test_a_question_that_is_the_call_itself_is_the_gateway_s(system: System) -> None:
    """Such a check belongs to the gateway, whatever the call's path means."""
    party = await system.party()
    for path in ("oauth/token", "oauth/revoke", "oauth/authorize", "tyk/oauth/authorize-client"):
        assert denied(await system.call("POST", f"/verify{party.at(path)}"), *MISSING)
    response = await system.call("GET", f"/verify/api/apis/{party.api.api_id}", headers=system.operator.headers)
    assert (response.status, response.body) == (404, {"error": "There is no such API"})


@pytest.mark.parametrize("path", ["/%76erify{at}", "//verify{at}", "http://x/verify{at}", "/verify{at}\xc3\xa9"])
async def test_a_question_with_a_line_of_another_spelling_is_refused(system: System, path: str) -> None:
    """If the request line could be read in another way, the check is refused."""
    opened = await system.party(keyless())
    line = f"GET {path.format(at=opened.at('x'))} HTTP/1.1\r\n".encode("latin-1")
    response = await raw(system.call, line + b"Host: x\r\nConnection: close\r\n\r\n")
    assert response[9:12] in {b"400", b"404"}


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"X-Forwarded-Uri": "{open}"}, id="forwarded-uri"),
        pytest.param({"X-Original-URI": "{open}"}, id="original-uri"),
        pytest.param({"X-Forwarded-Method": "POST"}, id="forwarded-method"),
        pytest.param({"X-Original-Method": "POST"}, id="original-method"),
    ],
)
async def test_a_caller_cannot_name_another_call_than_the_question_is(system: System, headers: dict[str, str]) -> None:
    """In this form a header that names another call is refused."""
    closed, opened = await system.party(), await system.party(keyless())
    said = {name: value.format(open=opened.at("x")) for name, value in headers.items()}
    token = (await closed.tokens()).access
    response = await system.call(
        "GET", f"/verify{closed.at('x')}", headers={**said, "Authorization": f"Bearer {token}"}
    )
    assert (response.status, response.body["error"]) == (400, "invalid_request")


async def test_the_uri_of_the_question_decides_nothing(system: System) -> None:
    """The check's own path and query decide nothing."""
    party = await with_sources(system, "query")
    token = (await party.tokens()).access
    response = await system.call("GET", f"/verify?access_token={token}", headers={"X-Forwarded-Uri": party.at("x")})
    assert denied(response, *MISSING)


async def test_a_fresh_api_is_known_at_once(system: System) -> None:
    """A new API is known at once: misses are not cached."""
    definition = document()
    path = definition["x-tyk-api-gateway"]["server"]["listenPath"]["value"]
    assert (await system.verify(path)).status == 404
    await make_api(system.deps, definition)
    assert denied(await system.verify(path), *MISSING)
