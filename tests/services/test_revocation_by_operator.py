"""/api/apis/oauth/{client_id}/revoke, /revoke_all and …/tokens: what operators can revoke and list."""

import asyncio
from typing import Any

import pytest

from contracts.clients import ClientDeletion
from contracts.grants import GrantState, RevocationReason
from contracts.operators import Permission
from tests.builders import Response, make_operator, settle
from tests.services.system import Party, System, refused, tokens_of

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def revoke(party: Party, token: str, path: str = "revoke", **form: str) -> Response:
    return await party.system.operator("POST", f"/api/apis/oauth/{party.id}/{path}", data={"token": token, **form})


async def listed(party: Party, query: str = "") -> Any:
    path = f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens{query}"
    response = await party.system.operator("GET", path)
    assert response.status == 200, response.body
    return response.body


async def public_ids(party: Party) -> list[str]:
    return [token["code"] for token in await listed(party)]


async def admitted(party: Party, access_token: str) -> bool:
    return (await party.verify(access_token)).status == 200


NOTHING = "nothing was revoked: there is no such token, or it had ended before"


def done(response: Response, message: str = "token revoked successfully", ended: int | None = None) -> bool:
    """Whether the response says this, and in `Meta` how many grants were ended if it was a request for all."""
    assert response.status == 200, response.body
    assert response.body == {"Status": "OK", "Message": message, "Meta": None if ended is None else {"ended": ended}}
    return True


# Revoke


@pytest.mark.parametrize("path", ["revoke", "revoke/"])
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense"])
async def test_an_access_token_is_revoked_alone(system: System, path: str, hint: str) -> None:
    """Tyk's documented request, which has the client's credentials too; the refresh token stays valid."""
    party = await system.party()
    tokens = await party.tokens()
    credentials = {"client_id": party.id, "client_secret": party.secret}
    assert done(await revoke(party, tokens.access, path, token_type_hint=hint, **credentials))
    assert not await admitted(party, tokens.access)
    assert await admitted(party, (await party.refreshed(tokens.refresh)).access)


async def test_a_refresh_token_revokes_the_grant(system: System) -> None:
    """The grant is revoked for the reason `operator`."""
    party = await system.party()
    tokens = await party.tokens()
    assert done(await revoke(party, tokens.refresh))
    assert not await admitted(party, tokens.access)
    grant = await system.grant_of(tokens.access)
    assert (grant.state, grant.ended_reason) == (GrantState.REVOKED, RevocationReason.OPERATOR)


async def test_the_public_id_of_a_listed_token_revokes_it(system: System) -> None:
    """Operators never see token values; `code` of the list is the public id."""
    party = await system.party()
    tokens, spared = await party.tokens(), await party.tokens()
    grant = await system.grant_of(tokens.access)
    (code,) = [token["code"] for token in await listed(party) if token["grant_id"] == grant.grant_id]
    assert done(await revoke(party, code))
    assert not await admitted(party, tokens.access)
    assert await admitted(party, spared.access)
    assert code not in await public_ids(party)
    assert await admitted(party, (await party.refreshed(tokens.refresh)).access)
    events = await system.heard.about(grant.grant_id)
    (revoked,) = [event for event in events if event["type"] == "io.tokenwire.token.revoked"]
    assert (revoked["data"]["token_id"], revoked["data"]["reason"]) == (code, "operator")


async def test_the_public_id_of_a_superseded_token_revokes_nothing(system: System) -> None:
    """The id contains the generation, so it does not name the token's successor."""
    party = await system.party()
    first = await party.tokens()
    (code,) = await public_ids(party)
    second = await party.refreshed(first.refresh)
    assert done(await revoke(party, code), NOTHING)
    assert await admitted(party, second.access)


@pytest.mark.parametrize("by", ["access", "refresh", "id"])
async def test_another_client_s_token_is_refused(system: System, by: str) -> None:
    """400, unlike Tyk: the token must belong to the client in the path; it stays valid."""
    party = await system.party()
    other = await system.client_of(party.api)
    tokens = await party.tokens()
    (code,) = await public_ids(party)
    value = {"access": tokens.access, "refresh": tokens.refresh, "id": code}[by]
    response = await revoke(other, value)
    assert (response.status, response.message) == (400, "this token belongs to another client")
    assert await admitted(party, tokens.access)
    assert (await party.refresh(tokens.refresh)).status == 200


@pytest.mark.parametrize(
    "token", ["x", "tw_at_" + "A" * 76, "A" * 22 + ".1", "A" * 22 + ".99999999999", "é", "..", "$ne"]
)
async def test_an_unknown_token_is_answered_with_200(system: System, token: str) -> None:
    """The purpose of the request is already achieved; the response says that nothing was revoked (e8)."""
    assert done(await revoke(await system.party(), token), NOTHING)


@pytest.mark.parametrize("path", ["revoke", "revoke_all"])
@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"client_id": "other"}, "client_id differs from the one in the path"),
        ({"client_secret": "wrong"}, "client_secret is wrong; an operator may leave it out"),
        ({"secret": "wrong"}, "client_secret is wrong; an operator may leave it out"),
    ],
)
async def test_credentials_that_contradict_the_path_are_refused(
    system: System, path: str, form: dict[str, str], message: str
) -> None:
    """The client's credentials may be omitted, unlike in Tyk; if they are sent, they must be right."""
    party = await system.party()
    tokens = await party.tokens()
    response = await revoke(party, tokens.access, path, **form)
    assert (response.status, response.message) == (400, message)
    assert await admitted(party, tokens.access)


@pytest.mark.parametrize("path", ["revoke", "revoke_all"])
@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"token=a&token=b", FORM, 400, id="repeated"),
        pytest.param(b"token=%ff", FORM, 400, id="non-utf-8"),
        pytest.param(b"token=%00", FORM, 400, id="nul"),
        pytest.param(b"{", {"Content-Type": "application/json"}, 400, id="half-json"),
        pytest.param(b'{"token": {"$ne": ""}}', {"Content-Type": "application/json"}, 400, id="operator"),
        pytest.param(b"token=x", {"Content-Type": "text/plain"}, 400, id="text"),
        pytest.param(b"token=" + b"x" * 70_000, FORM, 413, id="too-large"),
    ],
)
async def test_a_malformed_body_revokes_nothing(
    system: System, path: str, body: bytes, headers: dict[str, str], status: int
) -> None:
    """400 in the Dashboard's envelope: an unreadable body might contradict the path."""
    party = await system.party()
    tokens = await party.tokens()
    response = await system.operator("POST", f"/api/apis/oauth/{party.id}/{path}", data=body, headers=headers)
    assert response.status == status
    assert response.message
    assert await admitted(party, tokens.access)


async def test_a_token_in_the_query_is_refused(system: System) -> None:
    """400, since URLs are logged."""
    party = await system.party()
    response = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke?token=x")
    assert (response.status, "query" in response.message) == (400, True)


@pytest.mark.parametrize("body", [None, b"", b"token="])
async def test_a_missing_token_is_400(system: System, body: bytes | None) -> None:
    """With the message that Tyk sends."""
    party = await system.party()
    response = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke", data=body, headers=FORM)
    assert (response.status, response.message) == (400, "token is required")


@pytest.mark.parametrize("client_id", ["nobody", "$ne", "a.b", "x" * 500, "%00", "%ff"])
@pytest.mark.parametrize(("method", "path"), [("POST", "revoke"), ("POST", "revoke_all"), ("GET", "tokens")])
async def test_an_unknown_client_is_404(system: System, method: str, path: str, client_id: str) -> None:
    """Also for an id with characters that no client id has."""
    response = await system.operator(method, f"/api/apis/oauth/{client_id}/{path}")
    assert (response.status, response.message) == (404, "OAuth Client ID not found")


# revoke_all


@pytest.mark.parametrize("path", ["revoke_all", "revoke_all/"])
@pytest.mark.parametrize("with_body", [True, False])
async def test_revoke_all_revokes_every_grant_and_allows_new_ones(system: System, path: str, with_body: bool) -> None:
    """Without a body. Codes and tokens are invalid, and the list empty, before the grants are revoked one by one."""
    party = await system.party()
    tokens, code = await party.tokens(), await party.code()
    form = {"client_id": party.id, "client_secret": party.secret} if with_body else None
    response = await system.operator("POST", f"/api/apis/oauth/{party.id}/{path}", data=form)
    assert done(response, "tokens revoked successfully", 2)
    assert await listed(party) == []
    assert not await admitted(party, tokens.access)
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")
    system.clock.advance(0.001)
    fresh = await party.tokens()
    await settle(system.deps)
    assert await admitted(party, fresh.access)
    assert len(await listed(party)) == 1
    assert (await system.grant_of(tokens.access)).ended_reason is RevocationReason.REVOKE_ALL


# Permissions


@pytest.mark.parametrize("permission", list(Permission))
async def test_revoking_needs_the_permission_revoke_and_listing_needs_read(
    system: System, permission: Permission
) -> None:
    """`admin` includes both permissions."""
    party = await system.party()
    tokens = await party.tokens()
    caller = system.call.with_key(await make_operator(system.deps, permission))
    base = f"/api/apis/oauth/{party.id}"
    may_list = permission in {Permission.READ, Permission.ADMIN}
    may_revoke = permission in {Permission.REVOKE, Permission.ADMIN}
    for path in (f"{base}/tokens", f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens"):
        assert (await caller("GET", path)).status == (200 if may_list else 403)
    for path in ("revoke", "revoke_all"):
        response = await caller("POST", f"{base}/{path}", data={"token": tokens.access})
        assert response.status == (200 if may_revoke else 403)
    assert await admitted(party, tokens.access) is not may_revoke


@pytest.mark.parametrize(("method", "path"), [("POST", "revoke"), ("POST", "revoke_all"), ("GET", "tokens")])
async def test_without_an_operator_key_it_is_401(system: System, method: str, path: str) -> None:
    """For known and unknown clients; the client's own credentials are not an operator key."""
    party = await system.party()
    for client_id in (party.id, "nobody"):
        for headers in ({}, party.basic, {"Authorization": "wrong"}):
            response = await system.call(method, f"/api/apis/oauth/{client_id}/{path}", headers=headers)
            assert (response.status, response.message) == (401, "Not authorised")


# Token lists


async def test_the_list_has_public_ids_and_expiry(system: System) -> None:
    """`code` is the public id, `expires` is in Unix seconds; token values are never listed."""
    party = await system.party()
    tokens = await party.tokens(subject="alice", scope="a b")
    grant = await system.grant_of(tokens.access)
    (token,) = await listed(party)
    assert token == {
        "code": f"{grant.grant_id}.1",
        "expires": int(system.clock().timestamp()) + 3600,
        "grant_id": grant.grant_id,
        "api_id": party.api.api_id,
        "subject": "alice",
        "scope": "a b",
    }
    assert type(token["expires"]) is int
    refreshed = await party.refreshed(tokens.refresh)
    assert await public_ids(party) == [f"{grant.grant_id}.2"]
    assert tokens.access not in str(await listed(party))
    assert refreshed.access not in str(await listed(party))


async def test_only_valid_access_tokens_are_listed(system: System) -> None:
    """No codes, no revoked or expired tokens, and none of other clients."""
    party = await system.party()
    other = await system.client_of(party.api)
    await party.code()
    await other.tokens()
    expired = await party.tokens()
    system.clock.advance(3600)
    revoked, ended, live = await party.tokens(), await party.tokens(), await party.tokens()
    await revoke(party, revoked.access)
    await revoke(party, ended.refresh)
    assert await public_ids(party) == [f"{(await system.grant_of(live.access)).grant_id}.1"]
    renewed = await party.refreshed(expired.refresh)
    assert f"{(await system.grant_of(renewed.access)).grant_id}.2" in await public_ids(party)


@pytest.mark.parametrize("path", ["/{api}/{client}/tokens", "/{api}/{client}/tokens/", "/{client}/tokens"])
async def test_every_spelling_of_the_path_is_routed(system: System, path: str) -> None:
    """The path works with and without the API's id."""
    party = await system.party()
    await party.tokens()
    response = await system.operator("GET", "/api/apis/oauth" + path.format(api=party.api.api_id, client=party.id))
    assert len(response.body) == 1


async def test_the_api_of_the_path_must_be_the_client_s(system: System) -> None:
    """404 if the path names another API than the client's."""
    party, other = await system.party(), await system.party()
    for api_id in (other.api.api_id, "nowhere"):
        response = await system.operator("GET", f"/api/apis/oauth/{api_id}/{party.id}/tokens")
        assert (response.status, response.message) == (404, "OAuth Client ID not found")


async def test_a_client_without_tokens_has_an_empty_list(system: System) -> None:
    """An empty array, and with `page` zero pages."""
    party = await system.party()
    assert await listed(party) == []
    page = {"page_num": 1, "page_total": 0, "page_size": 100}
    assert await listed(party, "?page=1") == {"Pagination": page, "Tokens": []}


async def test_pages_are_a_hundred_by_expiry(system: System) -> None:
    """Tyk's paging: every token on one page, first to expire first; an invalid page number means page 1."""
    party = await system.party()
    form = {"grant_type": "client_credentials"}
    for _ in range(3):
        for response in await asyncio.gather(*(party.token(form) for _ in range(35))):
            assert tokens_of(response)
        system.clock.advance(1)
    everything = await listed(party)
    assert [token["expires"] for token in everything] == sorted(token["expires"] for token in everything)
    first, second, third = [await listed(party, f"?page={number}") for number in (1, 2, 3)]
    assert [page["Pagination"] for page in (first, second, third)] == [
        {"page_num": number, "page_total": 2, "page_size": 100} for number in (1, 2, 3)
    ]
    assert (len(first["Tokens"]), len(second["Tokens"]), third["Tokens"]) == (100, 5, [])
    assert first["Tokens"] + second["Tokens"] == everything
    for number in ("0", "-1", "x", "", "1.5", "²", "9" * 30):
        assert (await listed(party, f"?page={number}")) == first
    assert (await listed(party, "?page=99999999"))["Tokens"] == []


async def test_a_deleted_client_has_no_list(system: System) -> None:
    """404, as for a client that never existed."""
    party = await system.party()
    ctx = system.deps.event_context("tests")
    assert await system.deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, ctx)
    response = await system.operator("GET", f"/api/apis/oauth/{party.id}/tokens")
    assert (response.status, response.message) == (404, "OAuth Client ID not found")
