"""POST /oauth/introspect (RFC 7662): who may learn what about which token."""

from dataclasses import replace
from typing import Any

import pytest

from contracts.apis import GrantType
from contracts.clients import ClientDeletion
from contracts.operators import Permission
from tests.builders import Response, make_api, make_operator, make_policy, settle
from tests.eventually import eventually
from tests.services.system import (
    ABSENT,
    Party,
    System,
    Tokens,
    auth_token,
    basic,
    document,
    keyless,
    raw,
    refused,
    tokens_of,
)

PATH = "/oauth/introspect"
NOTHING: dict[str, Any] = {"active": False}
CREDENTIALS = {"grant_type": "client_credentials"}


async def asked(system: System, token: str, authorization: str = "", **form: str) -> Response:
    """Introspect with these credentials."""
    headers = {"Authorization": authorization} if authorization else {}
    return await system.call("POST", PATH, data={"token": token, **form}, headers=headers)


async def told(system: System, token: str, authorization: str, **form: str) -> dict[str, Any]:
    """The description of the token for an authenticated caller; must be uncacheable."""
    response = await asked(system, token, authorization, **form)
    assert response.status == 200, response.body
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-store"
    body: dict[str, Any] = response.body
    return body


async def to_its_client(party: Party, token: str, **form: str) -> dict[str, Any]:
    return await told(party.system, token, basic(party.id, party.secret), **form)


async def to_an_operator(system: System, token: str, **form: str) -> dict[str, Any]:
    return await told(system, token, await make_operator(system.deps, Permission.READ), **form)


async def sharing(system: System, *parties: Party) -> Party:
    """A client of the first API whose policy grants all of them."""
    policy = await make_policy(system.deps, *(party.api.api_id for party in parties))
    return await system.client_of(parties[0].api, policy_ids=(policy.policy_id,))


# Active tokens


async def test_an_access_token_is_described_completely(system: System) -> None:
    """Row 80: times are integers, `iss` is the metadata's issuer, and an operator can revoke by `jti`."""
    party = await system.party()
    tokens = await party.tokens(subject="alice", scope="read write")
    grant = await system.grant_of(tokens.access)
    assert grant.access is not None
    body = await to_its_client(party, tokens.access)
    assert body == {
        "active": True,
        "token_use": "access",
        "token_type": "bearer",
        "client_id": party.id,
        "sub": "alice",
        "username": "alice",
        "scope": "read write",
        "iss": "http://127.0.0.1:8080" + party.api.listen_path.rstrip("/"),
        "aud": [party.api.api_id],
        "iat": int(grant.access.issued_at.timestamp()),
        "exp": int(grant.access.expires_at.timestamp()),
        "jti": f"{grant.grant_id}.1",
        "grant_id": grant.grant_id,
    }
    assert body["exp"] - body["iat"] == 3600
    metadata = await system.call("GET", f"/.well-known/oauth-authorization-server/{party.api.api_id}")
    assert metadata.body["issuer"] == body["iss"]
    revoked = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke", data={"token": body["jti"]})
    assert revoked.status == 200
    assert await to_its_client(party, tokens.access) == NOTHING


async def test_a_refresh_token_is_recognized(system: System) -> None:
    """Row 85: `token_use` names the kind; a refresh token has no audience or public id."""
    party = await system.party()
    tokens = await party.tokens(subject="alice", scope="a b")
    grant = await system.grant_of(tokens.refresh)
    assert grant.refresh is not None
    expected = {
        "active": True,
        "token_use": "refresh",
        "token_type": "bearer",
        "client_id": party.id,
        "sub": "alice",
        "username": "alice",
        "scope": "a b",
        "iss": "http://127.0.0.1:8080" + party.api.listen_path.rstrip("/"),
        "iat": int(system.clock().timestamp()),
        "exp": int(grant.refresh.expires_at.timestamp()),
        "grant_id": grant.grant_id,
    }
    assert await to_its_client(party, tokens.refresh) == expected
    assert await to_an_operator(system, tokens.refresh) == expected
    response = await party.verify(tokens.refresh)
    assert (response.status, response.body) == (403, {"error": "Key not authorised"})


async def test_a_client_s_own_grant_has_no_subject(system: System) -> None:
    """A client_credentials token has no subject and no scope limit."""
    party = await system.party()
    body = await to_its_client(party, tokens_of(await party.token(CREDENTIALS)).access)
    assert body["active"] is True
    assert body.keys().isdisjoint({"sub", "username", "scope"})


async def test_a_narrowed_access_token_has_its_own_scope(system: System) -> None:
    """A narrowed access token has its own scope; the grant's refresh token has the full one."""
    party = await system.party()
    first = await party.tokens(scope="a b c")
    narrowed = await party.refreshed(first.refresh, scope="b")
    assert (await to_its_client(party, narrowed.access))["scope"] == "b"
    assert (await to_its_client(party, narrowed.refresh))["scope"] == "a b c"


# Permissions


@pytest.mark.parametrize("permission", [Permission.READ, Permission.ADMIN])
@pytest.mark.parametrize("prefix", ["", "Bearer "])
async def test_an_operator_learns_of_every_token(system: System, permission: Permission, prefix: str) -> None:
    """Operators with `read` learn about every token, with the key alone or as Bearer."""
    key = prefix + await make_operator(system.deps, permission)
    for party in (await system.party(), await system.party()):
        tokens = await party.tokens()
        assert (await told(system, tokens.access, key))["client_id"] == party.id
        assert (await told(system, tokens.refresh, key))["client_id"] == party.id


async def test_a_client_learns_of_its_own_tokens_only(system: System) -> None:
    """Row 82: a client learns only about its own tokens."""
    party = await system.party()
    sibling, outsider = await system.client_of(party.api), await system.party()
    tokens = await party.tokens()
    for token in (tokens.access, tokens.refresh):
        assert (await to_its_client(party, token))["active"] is True
        assert await to_its_client(sibling, token) == NOTHING
        assert await to_its_client(outsider, token) == NOTHING


async def test_a_resource_server_learns_of_every_access_token_of_its_api(system: System) -> None:
    """A resource server learns about every access token of its API, and nothing else."""
    party, other = await system.party(), await system.party()
    server = await system.client_of(party.api, resource_server=True)
    tokens, foreign = await party.tokens(), await other.tokens()
    assert await to_its_client(server, tokens.access) == await to_its_client(party, tokens.access)
    assert await to_its_client(server, tokens.refresh) == NOTHING
    assert await to_its_client(server, foreign.access) == NOTHING


async def test_a_resource_server_is_a_client_too(system: System) -> None:
    """It also learns about its own tokens, including refresh tokens."""
    party = await system.party(resource_server=True)
    tokens = await party.tokens()
    assert (await to_its_client(party, tokens.access))["token_use"] == "access"
    assert (await to_its_client(party, tokens.refresh))["token_use"] == "refresh"


async def test_a_common_policy_lets_a_resource_server_know(system: System) -> None:
    """If a policy grants a second API, its resource server learns about the token too; `aud` names both, the issuing
    API first.
    """
    issuing, accepting = await system.party(), await system.party(auth_token())
    server = await system.client_of(accepting.api, resource_server=True)
    party = await sharing(system, issuing, accepting)
    tokens = await party.tokens()
    body = await to_its_client(server, tokens.access)
    assert body["aud"] == [issuing.api.api_id, accepting.api.api_id]
    assert body["iss"].endswith(issuing.api.listen_path.rstrip("/"))
    assert await to_its_client(server, tokens.refresh) == NOTHING
    assert await to_its_client(server, (await issuing.tokens()).access) == NOTHING


async def test_c4_a_policy_reaches_another_oauth_api(system: System) -> None:
    """Its resource server may introspect tokens that a common policy opens it to, and no others."""
    issuing, other = await system.party(), await system.party()
    server = await system.client_of(other.api, resource_server=True)
    tokens = await (await sharing(system, issuing, other)).tokens()
    assert (await to_its_client(server, tokens.access))["active"] is True
    assert (await to_an_operator(system, tokens.access))["aud"] == [issuing.api.api_id, other.api.api_id]
    assert await to_its_client(server, (await issuing.tokens()).access) == NOTHING


async def test_an_api_without_authentication_ignores_tokens(system: System) -> None:
    """A keyless API's resource server learns nothing."""
    issuing, opened = await system.party(), await system.party(keyless())
    server = await system.client_of(opened.api, resource_server=True)
    tokens = await (await sharing(system, issuing, opened)).tokens()
    assert await to_its_client(server, tokens.access) == NOTHING
    assert (await to_an_operator(system, tokens.access))["aud"] == [issuing.api.api_id]


async def test_a_token_that_opens_only_another_api_is_active_there(system: System) -> None:
    """If the policy excludes the issuing API, the token is active at the other API only."""
    issuing, accepting = await system.party(), await system.party(auth_token())
    policy = await make_policy(system.deps, accepting.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    tokens = await party.tokens()
    assert (await to_its_client(party, tokens.access))["aud"] == [accepting.api.api_id]
    here, there = [await system.client_of(api, resource_server=True) for api in (issuing.api, accepting.api)]
    assert await to_its_client(here, tokens.access) == NOTHING
    assert (await to_its_client(there, tokens.access))["active"] is True


async def test_key_rules_narrow_what_a_resource_server_learns(system: System) -> None:
    """If key rules exclude an API, its resource server learns nothing."""
    issuing, accepting = await system.party(), await system.party(auth_token())
    server = await system.client_of(accepting.api, resource_server=True)
    party = await sharing(system, issuing, accepting)
    rules = f'{{"access_rights": {{"{issuing.api.api_id}": {{"api_id": "{issuing.api.api_id}"}}}}}}'
    tokens = await party.tokens(key_rules=rules)
    assert await to_its_client(server, tokens.access) == NOTHING
    assert (await to_its_client(party, tokens.access))["aud"] == [issuing.api.api_id]


async def test_a_client_that_becomes_a_resource_server_is_one_at_once(system: System) -> None:
    """Becoming a resource server, and ceasing to be one, takes effect at once."""
    party = await system.party()
    sibling = await system.client_of(party.api)
    tokens = await party.tokens()
    path = f"/api/apis/oauth/{party.api.api_id}/{sibling.id}"
    for flag in (True, False):
        response = await system.operator("PUT", path, json={"resource_server": flag})
        assert (response.status, response.body["resource_server"]) == (200, flag)
        assert (await to_its_client(sibling, tokens.access))["active"] is flag


# Inactive tokens


async def revoked(party: Party, tokens: Tokens) -> None:
    assert (await party.revoke(tokens.access)).status == 200


async def grant_revoked(party: Party, tokens: Tokens) -> None:
    assert (await party.revoke(tokens.refresh)).status == 200


async def refreshed_away(party: Party, tokens: Tokens) -> None:
    await party.refreshed(tokens.refresh)


async def all_revoked(party: Party, tokens: Tokens) -> None:
    response = await party.system.call("POST", party.at("oauth/revoke_all"), headers=party.basic)
    assert response.status == 200


async def client_deleted(party: Party, tokens: Tokens) -> None:
    ctx = party.system.deps.event_context("tests")
    assert await party.system.deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, ctx)


async def api_deactivated(party: Party, tokens: Tokens) -> None:
    changed = party.api.model_copy(update={"active": False})
    assert await party.system.deps.store.apis.replace(party.api, changed, party.system.deps.event_context("tests"))


async def api_deleted(party: Party, tokens: Tokens) -> None:
    assert await party.system.deps.store.apis.delete(party.api, party.system.deps.event_context("tests"))


@pytest.mark.parametrize(
    ("happens", "dead"),
    [
        pytest.param(revoked, {"access"}, id="revoked"),
        pytest.param(grant_revoked, {"access", "refresh"}, id="grant-revoked"),
        pytest.param(refreshed_away, {"access", "refresh"}, id="refreshed-away"),
        pytest.param(all_revoked, {"access", "refresh"}, id="all-revoked"),
        pytest.param(client_deleted, {"access", "refresh"}, id="client-deleted"),
        pytest.param(api_deactivated, {"access", "refresh"}, id="api-deactivated"),
        pytest.param(api_deleted, {"access", "refresh"}, id="api-deleted"),
    ],
)
async def test_an_ended_token_is_inactive(system: System, happens: Any, dead: set[str]) -> None:
    """Row 81: an ended token yields exactly `{"active": false}` at once, to operators too."""
    party = await system.party()
    tokens = await party.tokens()
    assert (await to_an_operator(system, tokens.access))["active"] is True
    await happens(party, tokens)
    for use, token in (("access", tokens.access), ("refresh", tokens.refresh)):
        body = await to_an_operator(system, token)
        assert (body == NOTHING) is (use in dead), use
    await settle(system.deps)
    assert await to_an_operator(system, tokens.access) == NOTHING


async def test_a_resource_server_hears_at_once_that_a_token_ended(system: System) -> None:
    """A resource server sees at once that a token was revoked or refreshed."""
    party = await system.party()
    server = await system.client_of(party.api, resource_server=True)
    for happens in (revoked, refreshed_away, all_revoked):
        tokens = await party.tokens()
        assert (await to_its_client(server, tokens.access))["active"] is True
        await happens(party, tokens)
        assert await to_its_client(server, tokens.access) == NOTHING
        system.clock.advance(1)


async def test_a_token_is_active_until_the_moment_at_which_it_expires(system: System) -> None:
    """A token is active until exactly `exp`."""
    party = await system.party()
    tokens = await party.tokens()
    day = 24 * 3600
    for token, lifetime in ((tokens.access, 3600), (tokens.refresh, 14 * day - 3600)):
        system.clock.advance(lifetime - 0.001)
        assert (await to_its_client(party, token))["active"] is True
        system.clock.advance(0.001)
        assert await to_its_client(party, token) == NOTHING


@pytest.mark.parametrize(
    "edit",
    [
        pytest.param({"is_inactive": True}, id="inactive"),
        pytest.param({"active": False}, id="not-active"),
        pytest.param({"access_rights": {}}, id="no-rights"),
        pytest.param(None, id="deleted"),
    ],
)
async def test_a_token_of_a_policy_that_opens_nothing_is_not_active(
    system: System, edit: dict[str, Any] | None
) -> None:
    """A token that /verify refuses everywhere is inactive."""
    issuing = await system.party()
    server = await system.client_of(issuing.api, resource_server=True)
    policy = await make_policy(system.deps, issuing.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    tokens = await party.tokens()
    assert (await to_its_client(server, tokens.access))["active"] is True
    ctx, policies = system.deps.event_context("tests"), system.deps.store.policies
    if edit is None:
        assert await policies.delete(policy, ctx)
    else:
        assert await policies.replace(policy, policy.model_copy(update=edit), ctx)
    assert (await party.verify(tokens.access)).status == 403
    for body in (
        await to_its_client(server, tokens.access),
        await to_its_client(party, tokens.access),
        await to_an_operator(system, tokens.access),
    ):
        assert body == NOTHING


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("x", id="short"),
        pytest.param("<access>x", id="longer"),
        pytest.param("<forged>", id="forged"),
        pytest.param("tw_at_" + "A" * 76, id="forged-whole"),
        pytest.param("tw_rt_" + "A" * 76, id="forged-refresh"),
        pytest.param("<code>", id="code"),
        pytest.param("<as refresh>", id="row-69-access-as-refresh"),
        pytest.param("<as access>", id="row-69-refresh-as-access"),
        pytest.param("é\U0001f511", id="non-ascii"),
        pytest.param("$ne", id="operator"),
        pytest.param("x" * 60_000, id="row-70-huge"),
        pytest.param("Bearer <access>", id="with-scheme"),
    ],
)
async def test_an_invalid_token_is_inactive(system: System, token: str) -> None:
    """Rows 70 and 81: malformed and forged tokens and codes are inactive."""
    party = await system.party()
    tokens = await party.tokens()
    last = "A" if tokens.access[-1] != "A" else "B"
    values = {
        "<access>": tokens.access,
        "<forged>": tokens.access[:-1] + last,
        "<code>": await party.code(),
        "<as refresh>": tokens.access.replace("tw_at_", "tw_rt_"),
        "<as access>": tokens.refresh.replace("tw_rt_", "tw_at_"),
    }
    for name, value in values.items():
        token = token.replace(name, value)
    assert await to_an_operator(system, token) == NOTHING
    assert await to_its_client(party, token) == NOTHING


# The request


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "pat", "$gt", ABSENT])
async def test_a_hint_is_only_a_hint(system: System, hint: str) -> None:
    """Row 83: the token is found with any hint or none (RFC 7662 §2.1)."""
    party = await system.party()
    tokens = await party.tokens()
    form = {} if hint == ABSENT else {"token_type_hint": hint}
    assert (await to_its_client(party, tokens.access, **form))["token_use"] == "access"
    assert (await to_its_client(party, tokens.refresh, **form))["token_use"] == "refresh"


@pytest.mark.parametrize("path", [PATH, f"{PATH}/"])
async def test_form_and_json_are_one_question(system: System, path: str) -> None:
    """Form and JSON, credentials in header or body or both, with and without a slash."""
    party = await system.party()
    token = (await party.tokens()).access
    in_body = {"token": token, "client_id": party.id, "client_secret": party.secret}
    alias = {"token": token, "client_id": party.id, "secret": party.secret}
    for request in (
        {"data": {"token": token}, "headers": party.basic},
        {"json": {"token": token}, "headers": party.basic},
        {"data": in_body},
        {"json": in_body},
        {"data": alias},
        {"data": in_body, "headers": party.basic},
        {"data": {**in_body, "unknown": "ignored"}},
    ):
        response = await system.call("POST", path, **request)
        assert (response.status, response.body["active"]) == (200, True)


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(lambda party, tokens: None, id="row-79-nothing"),
        pytest.param(lambda party, tokens: "", id="empty"),
        pytest.param(lambda party, tokens: basic("nobody", party.secret), id="unknown-client"),
        pytest.param(lambda party, tokens: basic(party.id, "wrong"), id="row-79-wrong-secret"),
        pytest.param(lambda party, tokens: basic(party.id, ""), id="no-secret"),
        pytest.param(lambda party, tokens: "Basic !!!", id="not-base64"),
        pytest.param(lambda party, tokens: "Basic", id="scheme-only"),
        pytest.param(lambda party, tokens: "Bearer", id="bearer-only"),
        pytest.param(lambda party, tokens: "Bearer no-such-key-of-an-operator", id="unknown-key"),
        pytest.param(lambda party, tokens: f"Bearer {tokens.access}", id="access-token"),
        pytest.param(lambda party, tokens: f"Bearer {party.secret}", id="secret-as-key"),
        pytest.param(lambda party, tokens: "x" * 5000, id="long-key"),
    ],
)
async def test_introspection_requires_authentication(system: System, header: Any) -> None:
    """Row 79, RFC 7662 §2.1: 401 `invalid_client` with a challenge."""
    party = await system.party()
    tokens = await party.tokens()
    value = header(party, tokens)
    headers = {} if value is None else {"Authorization": value}
    response = await system.call("POST", PATH, data={"token": tokens.access}, headers=headers)
    assert refused(response, "invalid_client", 401)


async def test_a_public_client_has_no_credentials(system: System) -> None:
    """A public client cannot authenticate, so it cannot introspect even its own tokens."""
    public = await system.party(public=True)
    tokens = await public.tokens()
    assert refused(await asked(system, tokens.access, client_id=public.id), "invalid_client", 401)
    assert refused(await asked(system, tokens.access, basic(public.id, "")), "invalid_client", 401)


@pytest.mark.parametrize("permission", [Permission.WRITE, Permission.AUTHORIZE, Permission.REVOKE])
async def test_an_operator_needs_the_permission_to_read(system: System, permission: Permission) -> None:
    """An operator without `read` gets 403."""
    party = await system.party()
    key = await make_operator(system.deps, permission)
    assert refused(await asked(system, (await party.tokens()).access, key), "access_denied", 403)


async def test_two_ways_of_authentication_are_one_too_many(system: System) -> None:
    """RFC 6749 §2.3: two kinds of credentials or two clients in one request are refused."""
    party, other = await system.party(), await system.party()
    token = (await party.tokens()).access
    key = await make_operator(system.deps, Permission.READ)
    secret = {"client_id": party.id, "client_secret": party.secret}
    assert refused(await asked(system, token, key, **secret), "invalid_request")
    assert refused(await asked(system, token, basic(other.id, other.secret), **secret), "invalid_request")


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param({"data": {}}, id="row-83-no-token"),
        pytest.param({"data": {"token": ""}}, id="empty-token"),
        pytest.param({}, id="no-body"),
        pytest.param({"data": "token=a&token=b", "headers": {"Content-Type": "<form>"}}, id="repeated"),
        pytest.param({"data": '{"token":"a","token":"b"}', "headers": {"Content-Type": "<json>"}}, id="repeated-json"),
        pytest.param({"json": {"token": {"$ne": ""}}}, id="operator"),
        pytest.param({"json": ["token"]}, id="not-an-object"),
        pytest.param({"data": "token=a", "headers": {"Content-Type": "text/plain"}}, id="other-type"),
        pytest.param({"data": b"token=\xff", "headers": {"Content-Type": "<form>"}}, id="not-utf-8"),
        pytest.param({"data": {"token": "a\0"}}, id="nul"),
        pytest.param({"params": {"token": "a"}, "data": {"x": "y"}}, id="in-the-query"),
    ],
)
async def test_a_malformed_question_is_refused(system: System, request_: dict[str, Any]) -> None:
    """400 `invalid_request`: `token` is required (RFC 7662 §2.1) and parameters must not repeat (RFC 6749 §3.2)."""
    party = await system.party()
    types = {"<form>": "application/x-www-form-urlencoded", "<json>": "application/json"}
    headers = {name: types.get(value, value) for name, value in request_.get("headers", {}).items()}
    response = await system.call("POST", PATH, **request_ | {"headers": headers | party.basic})
    assert refused(response, "invalid_request")


async def test_a_body_over_the_limit_is_refused(system: System) -> None:
    """A body over 64 KiB is refused before it is parsed."""
    assert refused(await asked(system, "x" * 70_000), "invalid_request", 413)


async def test_the_first_thing_that_is_wrong_is_said(system: System) -> None:
    """Order of checks: malformed, unauthenticated, incomplete."""
    twice = {"data": "token=a&token=b", "headers": {"Content-Type": "application/x-www-form-urlencoded"}}
    assert refused(await system.call("POST", PATH, **twice), "invalid_request")
    assert refused(await system.call("POST", PATH, data={}), "invalid_client", 401)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_is_answered(system: System, method: str) -> None:
    """Row 83: other methods get 405."""
    party = await system.party()
    response = await system.call(method, PATH, headers=party.basic)
    assert (response.status, response.headers["Allow"]) == (405, "POST")


async def test_no_response_repeats_a_secret(system: System) -> None:
    """Row 23: errors contain neither token nor credentials."""
    party = await system.party()
    token = (await party.tokens()).access
    request = f"token={token}&token={party.secret}".encode()
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(request)}\r\n".encode()
    response = await raw(system.call, head + b"Content-Type: application/x-www-form-urlencoded\r\n\r\n" + request)
    assert response.startswith(b"HTTP/1.1 400 ")
    assert token.encode() not in response
    assert party.secret.encode() not in response


async def test_many_questions_change_nothing(system: System) -> None:
    """Introspection changes neither the grant nor any counter, and has no event."""
    party = await system.party()
    tokens = await party.tokens()

    async def response_noted() -> bool:
        response = (await system.grant_of(tokens.access)).response
        return response is not None and response.written_at is not None and response.box is None

    await eventually(response_noted)  # the exchange's own last write
    before = await system.grant_of(tokens.access)
    for _ in range(5):
        await to_its_client(party, tokens.access)
        await to_its_client(party, tokens.refresh)
    after = await system.grant_of(tokens.access)
    # The note that the token response was written comes a moment after it.
    assert after.model_copy(update={"response": before.response}) == before
    assert len(await system.heard.about(before.grant_id)) == before.sequence


# Registration of resource servers


async def registered(system: System, document_: dict[str, Any], **said: Any) -> Response:
    api = await make_api(system.deps, document_)
    return await system.operator("POST", f"/api/apis/oauth/{api.api_id}", json=said)


async def test_a_resource_server_of_an_api_that_only_accepts_is_registered(system: System) -> None:
    """An Auth Token API issues no tokens, so it accepts resource servers as clients only."""
    issuing = await system.party()
    response = await registered(system, auth_token(), resource_server=True)
    assert (response.status, response.body["resource_server"]) == (200, True)
    server = replace(issuing, client=issuing.client.model_copy(update={"client_id": response.body["client_id"]}))
    server = replace(server, secret=response.body["secret"])
    policy = await make_policy(system.deps, issuing.api.api_id, response.body["api_id"])
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,))
    assert (await to_its_client(server, (await party.tokens()).access))["client_id"] == party.id


@pytest.mark.parametrize(
    ("definition", "said", "complaint"),
    [
        pytest.param(auth_token, {}, "this API issues no tokens", id="client-of-an-accepting-api"),
        pytest.param(keyless, {"resource_server": True}, "this API issues no tokens", id="keyless"),
        pytest.param(document, {"resource_server": True, "public": True}, "resource_server", id="public"),
        pytest.param(document, {"resource_server": "perhaps"}, "resource_server", id="no-flag"),
    ],
)
async def test_a_resource_server_that_could_be_none_is_refused(
    system: System, definition: Any, said: dict[str, Any], complaint: str
) -> None:
    """A resource server needs a secret and an API that accepts tokens."""
    response = await registered(system, definition(), **said)
    assert response.status == 400
    assert complaint in response.message


async def test_a_public_client_does_not_become_a_resource_server(system: System) -> None:
    """A public client cannot become a resource server."""
    public = await system.party(public=True)
    path = f"/api/apis/oauth/{public.api.api_id}/{public.id}"
    response = await system.operator("PUT", path, json={"resource_server": True})
    says = "resource_server: a public client cannot authenticate, so it cannot be a resource server"
    assert (response.status, response.message) == (400, says)
    assert (await system.operator("PUT", path, json={"resource_server": False})).status == 200


def test_every_grant_type_is_introspected() -> None:
    """Every grant type is in the table below."""
    assert {grant for grant, _ in GRANTS} == set(GrantType) - {GrantType.REFRESH_TOKEN}


async def by_code(system: System, party: Party) -> Tokens:
    return await party.tokens(subject="alice")


async def by_credentials(system: System, party: Party) -> Tokens:
    return tokens_of(await party.token(CREDENTIALS))


async def by_password(system: System, party: Party) -> Tokens:
    return tokens_of(await party.password((await system.user()).username))


GRANTS: list[tuple[GrantType, Any]] = [
    (GrantType.AUTHORIZATION_CODE, by_code),
    (GrantType.CLIENT_CREDENTIALS, by_credentials),
    (GrantType.PASSWORD, by_password),
]


@pytest.mark.parametrize(("grant", "issued"), GRANTS, ids=[str(grant) for grant, _ in GRANTS])
async def test_tokens_of_every_grant_are_introspected(system: System, grant: GrantType, issued: Any) -> None:
    """Row 117: tokens of every grant type name their own client and user."""
    party = await system.party()
    tokens = await issued(system, party)
    body = await to_its_client(party, tokens.access)
    stored = await system.grant_of(tokens.access)
    assert stored.grant_type is grant
    assert (body["client_id"], body.get("sub")) == (party.id, stored.subject)
