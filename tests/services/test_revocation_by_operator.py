"""/api/apis/oauth/{client_id}/revoke, /revoke_all and …/tokens: what operators end, and what they see."""

import asyncio
from typing import Any

import pytest

from contracts.clients import ClientDeletion
from contracts.grants import GrantState, RevocationReason
from contracts.operators import Permission
from tests.builders import Answer, make_operator, settle
from tests.services.system import Party, System, refused, tokens_of

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def revoke(party: Party, token: str, path: str = "revoke", **form: str) -> Answer:
    return await party.system.operator("POST", f"/api/apis/oauth/{party.id}/{path}", data={"token": token, **form})


async def listed(party: Party, query: str = "") -> Any:
    path = f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens{query}"
    answer = await party.system.operator("GET", path)
    assert answer.status == 200, answer.body
    return answer.body


async def public_ids(party: Party) -> list[str]:
    return [token["code"] for token in await listed(party)]


async def admitted(party: Party, access_token: str) -> bool:
    return (await party.verify(access_token)).status == 200


def done(answer: Answer, message: str = "token revoked successfully") -> bool:
    assert answer.status == 200, answer.body
    assert answer.body == {"Status": "OK", "Message": message, "Meta": None}
    return True


# Revoke


@pytest.mark.parametrize("path", ["revoke", "revoke/"])
@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense"])
async def test_an_access_token_is_revoked_alone(system: System, path: str, hint: str) -> None:
    """As the documented request does it, with the client's credentials beside; the refresh token lives on."""
    party = await system.party()
    tokens = await party.tokens()
    credentials = {"client_id": party.id, "client_secret": party.secret}
    assert done(await revoke(party, tokens.access, path, token_type_hint=hint, **credentials))
    assert not await admitted(party, tokens.access)
    assert await admitted(party, (await party.refreshed(tokens.refresh)).access)


async def test_a_refresh_token_ends_the_grant(system: System) -> None:
    """For the reason `operator`."""
    party = await system.party()
    tokens = await party.tokens()
    assert done(await revoke(party, tokens.refresh))
    assert not await admitted(party, tokens.access)
    grant = await system.grant_of(tokens.access)
    assert (grant.state, grant.ended_reason) == (GrantState.REVOKED, RevocationReason.OPERATOR)


async def test_the_id_of_a_listed_token_revokes_it(system: System) -> None:
    """Operators never see tokens: `code` of the list is what they have."""
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


async def test_the_id_of_a_token_that_was_refreshed_away_ends_nothing(system: System) -> None:
    """The generation is part of the id; its successor is another token."""
    party = await system.party()
    first = await party.tokens()
    (code,) = await public_ids(party)
    second = await party.refreshed(first.refresh)
    assert done(await revoke(party, code))
    assert await admitted(party, second.access)


@pytest.mark.parametrize("by", ["access", "refresh", "id"])
async def test_another_client_s_token_is_refused(system: System, by: str) -> None:
    """tyk-compat.md, defect 2: the token must be the named client's; 400 says so, and it lives."""
    party = await system.party()
    other = await system.client_of(party.api)
    tokens = await party.tokens()
    (code,) = await public_ids(party)
    value = {"access": tokens.access, "refresh": tokens.refresh, "id": code}[by]
    answer = await revoke(other, value)
    assert (answer.status, answer.message) == (400, "this token belongs to another client")
    assert await admitted(party, tokens.access)
    assert (await party.refresh(tokens.refresh)).status == 200


@pytest.mark.parametrize(
    "token", ["x", "tw_at_" + "A" * 76, "A" * 22 + ".1", "A" * 22 + ".99999999999", "é", "..", "$ne"]
)
async def test_what_never_was_is_answered_with_200(system: System, token: str) -> None:
    """Its purpose is achieved."""
    assert done(await revoke(await system.party(), token))


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
    """tyk-compat.md, defect 2: they may be left out, and must be right where they are not."""
    party = await system.party()
    tokens = await party.tokens()
    answer = await revoke(party, tokens.access, path, **form)
    assert (answer.status, answer.message) == (400, message)
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
    """What cannot be read may contradict the path; the answer is in the Dashboard's envelope."""
    party = await system.party()
    tokens = await party.tokens()
    answer = await system.operator("POST", f"/api/apis/oauth/{party.id}/{path}", data=body, headers=headers)
    assert answer.status == status
    assert answer.message
    assert await admitted(party, tokens.access)


async def test_a_token_in_the_query_is_refused(system: System) -> None:
    """It would be in logs."""
    party = await system.party()
    answer = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke?token=x")
    assert (answer.status, "query" in answer.message) == (400, True)


@pytest.mark.parametrize("body", [None, b"", b"token="])
async def test_a_missing_token_is_said(system: System, body: bytes | None) -> None:
    """In Tyk's words."""
    party = await system.party()
    answer = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke", data=body, headers=FORM)
    assert (answer.status, answer.message) == (400, "token is required")


@pytest.mark.parametrize("client_id", ["nobody", "$ne", "a.b", "x" * 500, "%00", "%ff"])
@pytest.mark.parametrize(("method", "path"), [("POST", "revoke"), ("POST", "revoke_all"), ("GET", "tokens")])
async def test_an_unknown_client_is_404(system: System, method: str, path: str, client_id: str) -> None:
    """Also where the id could be none."""
    answer = await system.operator(method, f"/api/apis/oauth/{client_id}/{path}")
    assert (answer.status, answer.message) == (404, "OAuth Client ID not found")


# revoke_all


@pytest.mark.parametrize("path", ["revoke_all", "revoke_all/"])
@pytest.mark.parametrize("with_body", [True, False])
async def test_revoke_all_ends_every_grant_and_starts_anew(system: System, path: str, with_body: bool) -> None:
    """A body is not needed; codes and tokens are dead at once, and the list is empty before the sweep is through."""
    party = await system.party()
    tokens, code = await party.tokens(), await party.code()
    form = {"client_id": party.id, "client_secret": party.secret} if with_body else None
    answer = await system.operator("POST", f"/api/apis/oauth/{party.id}/{path}", data=form)
    assert done(answer, "tokens revoked successfully")
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


# Who may


@pytest.mark.parametrize("permission", list(Permission))
async def test_only_revoke_lets_an_operator_revoke_and_only_read_lets_one_list(
    system: System, permission: Permission
) -> None:
    """Issue 2, item 3; `admin` includes both."""
    party = await system.party()
    tokens = await party.tokens()
    caller = system.call.with_key(await make_operator(system.deps, permission))
    base = f"/api/apis/oauth/{party.id}"
    may_list = permission in {Permission.READ, Permission.ADMIN}
    may_revoke = permission in {Permission.REVOKE, Permission.ADMIN}
    for path in (f"{base}/tokens", f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens"):
        assert (await caller("GET", path)).status == (200 if may_list else 403)
    for path in ("revoke", "revoke_all"):
        answer = await caller("POST", f"{base}/{path}", data={"token": tokens.access})
        assert answer.status == (200 if may_revoke else 403)
    assert await admitted(party, tokens.access) is not may_revoke


@pytest.mark.parametrize(("method", "path"), [("POST", "revoke"), ("POST", "revoke_all"), ("GET", "tokens")])
async def test_without_a_key_nothing_is_said(system: System, method: str, path: str) -> None:
    """401, for a known and for an unknown client alike; the client's own credentials are no key."""
    party = await system.party()
    for client_id in (party.id, "nobody"):
        for headers in ({}, party.basic, {"Authorization": "wrong"}):
            answer = await system.call(method, f"/api/apis/oauth/{client_id}/{path}", headers=headers)
            assert (answer.status, answer.message) == (401, "Not authorised")


# The list


async def test_a_listed_token_is_an_id_and_when_it_expires(system: System) -> None:
    """`code` and `expires` in Unix seconds, and whose it is; never a token."""
    party = await system.party()
    tokens = await party.tokens(subject="alice", scope="a b")
    grant = await system.grant_of(tokens.access)
    (token,) = await listed(party)
    assert token == {
        "code": f"{grant.grant_id}.1",
        "expires": int(system.clock().timestamp()) + 3600,
        "grant_id": grant.grant_id,
        "subject": "alice",
        "scope": "a b",
    }
    assert type(token["expires"]) is int
    refreshed = await party.refreshed(tokens.refresh)
    assert await public_ids(party) == [f"{grant.grant_id}.2"]
    assert tokens.access not in str(await listed(party))
    assert refreshed.access not in str(await listed(party))


async def test_only_live_access_tokens_are_listed(system: System) -> None:
    """Not codes, not what was revoked or has expired, not other clients'; a grant with a dead one has none to list."""
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
async def test_every_spelling_of_the_path_answers(system: System, path: str) -> None:
    """With the API's id and without."""
    party = await system.party()
    await party.tokens()
    answer = await system.operator("GET", "/api/apis/oauth" + path.format(api=party.api.api_id, client=party.id))
    assert len(answer.body) == 1


async def test_the_api_of_the_path_must_be_the_client_s(system: System) -> None:
    """404 under another one."""
    party, other = await system.party(), await system.party()
    for api_id in (other.api.api_id, "nowhere"):
        answer = await system.operator("GET", f"/api/apis/oauth/{api_id}/{party.id}/tokens")
        assert (answer.status, answer.message) == (404, "OAuth Client ID not found")


async def test_a_client_without_tokens_has_an_empty_list(system: System) -> None:
    """As an array, and as no pages."""
    party = await system.party()
    assert await listed(party) == []
    page = {"page_num": 1, "page_total": 0, "page_size": 100}
    assert await listed(party, "?page=1") == {"Pagination": page, "Tokens": []}


async def test_pages_are_a_hundred_by_expiry(system: System) -> None:
    """Tyk's words; every token on exactly one page, the soonest to expire first; a number that is none is page 1."""
    party = await system.party()
    form = {"grant_type": "client_credentials"}
    for _ in range(3):
        for answer in await asyncio.gather(*(party.token(form) for _ in range(35))):
            assert tokens_of(answer)
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
    """404, as for one that never was."""
    party = await system.party()
    at = system.deps.origin("tests")
    assert await system.deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, at)
    answer = await system.operator("GET", f"/api/apis/oauth/{party.id}/tokens")
    assert (answer.status, answer.message) == (404, "OAuth Client ID not found")
