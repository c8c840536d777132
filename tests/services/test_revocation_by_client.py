"""POST /<listen-path>/oauth/revoke and /revoke_all: clients end what is theirs (RFC 7009)."""

import pytest

from contracts.grants import GrantState, RevocationReason
from tests.builders import Answer, settle
from tests.services.system import ABSENT, Party, System, basic, open_system, refused, tokens_of

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def admitted(party: Party, access_token: str) -> bool:
    return (await party.verify(access_token)).status == 200


def done(answer: Answer) -> bool:
    """Whether the answer is the one of every successful revocation."""
    assert answer.status == 200, answer.body
    assert set(answer.body) == {"status", "message"}
    assert (answer.headers["Cache-Control"], answer.headers["Content-Type"]) == ("no-store", "application/json")
    return bool(answer.body["status"] == "ok")


async def test_revoking_a_refresh_token_ends_the_grant(system: System) -> None:
    """Row 71: 200, and both tokens are dead at once."""
    party = await system.party()
    tokens = await party.tokens()
    assert done(await party.revoke(tokens.refresh))
    assert not await admitted(party, tokens.access)
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    grant = await system.grant_of(tokens.access)
    assert (grant.state, grant.ended_reason) == (GrantState.REVOKED, RevocationReason.CLIENT_REQUEST)


async def test_revoking_an_access_token_leaves_the_refresh_token(system: System) -> None:
    """Row 72: product.md section 4; the next access token is a good one."""
    party = await system.party()
    tokens = await party.tokens()
    assert done(await party.revoke(tokens.access))
    assert not await admitted(party, tokens.access)
    assert await admitted(party, (await party.refreshed(tokens.refresh)).access)


async def test_revoking_ends_one_grant_only(system: System) -> None:
    """The client's other grants do not notice."""
    party = await system.party()
    one, other = await party.tokens(subject="alice"), await party.tokens(subject="alice")
    assert done(await party.revoke(one.refresh))
    assert await admitted(party, other.access)


@pytest.mark.parametrize(
    "kind", ["unknown", "empty-looking", "malformed", "code", "public-id", "huge", "revoked", "used"]
)
async def test_what_is_not_alive_is_answered_with_200(system: System, kind: str) -> None:
    """Row 73, RFC 7009 §2.2: the client's purpose is already achieved, and nothing changes."""
    party = await system.party()
    code, tokens = await party.code(), await party.tokens()
    if kind in {"revoked", "used"}:
        over = await party.tokens()
        done(await party.revoke(over.access))
    value = {
        "unknown": "tw_at_" + "A" * 76,
        "empty-looking": "\t",
        "malformed": "é",
        "code": code,
        "public-id": f"{(await system.grant_of(tokens.access)).grant_id}.1",
        "huge": "x" * 60_000,
        "revoked": over.access if kind == "revoked" else "",
        "used": code,
    }[kind]
    assert done(await party.revoke(value))
    assert await admitted(party, tokens.access)
    assert (await party.exchange(code)).status == 200


async def test_an_expired_token_is_answered_with_200(system: System) -> None:
    """Row 73: its refresh token lives on."""
    party = await system.party()
    tokens = await party.tokens()
    system.clock.advance(3600)
    assert done(await party.revoke(tokens.access))
    assert (await party.refresh(tokens.refresh)).status == 200


async def test_revoking_twice_is_once(system: System) -> None:
    """The second time finds nothing to end, and no second event says that it did."""
    party = await system.party()
    tokens = await party.tokens()
    for value in (tokens.access, tokens.access, tokens.refresh, tokens.refresh, tokens.access):
        assert done(await party.revoke(value))
    grant = await system.grant_of(tokens.access)
    types = [event["type"].removeprefix("io.tokenwire.") for event in await system.heard.about(grant.grant_id)]
    assert types == ["code.issued", "token.new", "token.revoked", "grant.revoked"]


async def test_a_used_refresh_token_ends_the_grant_too(system: System) -> None:
    """Whoever logs out after a lost answer holds no newer one."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    assert done(await party.revoke(first.refresh))
    assert not await admitted(party, second.access)


async def test_an_old_access_token_does_not_take_the_new_one_with_it(system: System) -> None:
    """It is dead already, and the token that took its place is another."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    assert done(await party.revoke(first.access))
    assert await admitted(party, second.access)


@pytest.mark.parametrize("whose", ["same-api", "other-api"])
@pytest.mark.parametrize("kind", ["access", "refresh"])
async def test_another_client_s_token_stays_alive(system: System, whose: str, kind: str) -> None:
    """Row 74: the answer is the same silent 200, and the token is as good as before."""
    party = await system.party()
    other = await system.client_of(party.api) if whose == "same-api" else await system.party()
    tokens = await party.tokens()
    assert done(await other.revoke(tokens.access if kind == "access" else tokens.refresh))
    assert await admitted(party, tokens.access)
    assert (await party.refresh(tokens.refresh)).status == 200


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense", ABSENT, ""])
@pytest.mark.parametrize("kind", ["access", "refresh"])
async def test_a_hint_is_no_more_than_one(system: System, hint: str, kind: str) -> None:
    """Row 75: wrong or unknown, the token is found."""
    party = await system.party()
    tokens = await party.tokens()
    form = {} if hint == ABSENT else {"token_type_hint": hint}
    assert done(await party.revoke(tokens.access if kind == "access" else tokens.refresh, **form))
    assert not await admitted(party, tokens.access)


@pytest.mark.parametrize("path", ["oauth/revoke", "oauth/revoke/"])
@pytest.mark.parametrize("by", ["listen path", "api id"])
@pytest.mark.parametrize("body", ["data", "json"])
async def test_every_spelling_of_the_path_answers(system: System, path: str, by: str, body: str) -> None:
    """Under listen path and API id, with and without a slash, form or JSON."""
    party = await system.party()
    tokens = await party.tokens()
    place = party.api.listen_path if by == "listen path" else f"/{party.api.api_id}/"
    form = {body: {"token": tokens.refresh, "token_type_hint": "refresh_token"}}
    assert done(await system.call("POST", place + path, headers=party.basic, **form))
    assert not await admitted(party, tokens.access)


@pytest.mark.parametrize("where", ["body", "alias", "both"])
async def test_the_client_may_authenticate_as_at_the_token_endpoint(system: System, where: str) -> None:
    """RFC 7009 §2.1: in the header, in the body, or both where they agree."""
    party = await system.party()
    tokens = await party.tokens()
    form = {"token": tokens.access, "client_id": party.id}
    form["secret" if where == "alias" else "client_secret"] = party.secret
    headers = party.basic if where == "both" else {}
    assert done(await system.call("POST", party.at("oauth/revoke"), data=form, headers=headers))
    assert not await admitted(party, tokens.access)


@pytest.mark.parametrize("path", ["oauth/revoke", "oauth/revoke_all"])
@pytest.mark.parametrize("credentials", ["none", "wrong", "id-only", "other-api"])
async def test_without_authentication_nothing_is_revoked(system: System, path: str, credentials: str) -> None:
    """Row 76: 401, and the tokens live."""
    party, other = await system.party(), await system.party()
    tokens = await party.tokens()
    form = {"token": tokens.refresh} | ({"client_id": party.id} if credentials == "id-only" else {})
    headers = {
        "wrong": {"Authorization": basic(party.id, "wrong")},
        "other-api": other.basic,
    }.get(credentials, {})
    answer = await system.call("POST", party.at(path), data=form, headers=headers)
    assert refused(answer, "invalid_client", 401)
    assert await admitted(party, tokens.access)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="row-76-no-token"),
        pytest.param(b"token=", 400, id="row-76-empty-token"),
        pytest.param(b"token=a&token=b", 400, id="repeated"),
        pytest.param(b"token=%ff", 400, id="non-utf-8"),
        pytest.param(b"token=%00", 400, id="nul"),
        pytest.param(b"token[$ne]=x", 400, id="operator"),
        pytest.param(b"token=" + b"x" * 70_000, 413, id="too-large"),
    ],
)
async def test_a_malformed_request_is_an_invalid_one(system: System, body: bytes, status: int) -> None:
    """400 `invalid_request`, or 413; never a 5xx."""
    party = await system.party()
    answer = await system.call("POST", party.at("oauth/revoke"), data=body, headers=FORM | party.basic)
    assert refused(answer, "invalid_request", status)


async def test_a_token_in_the_query_is_refused(system: System) -> None:
    """It would be in logs; and it stays alive, so that nobody gets used to it."""
    party = await system.party()
    tokens = await party.tokens()
    answer = await system.call("POST", party.at(f"oauth/revoke?token={tokens.access}"), headers=party.basic)
    assert refused(answer, "invalid_request")
    assert await admitted(party, tokens.access)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["oauth/revoke", "oauth/revoke_all"])
async def test_only_post_is_answered(system: System, method: str, path: str) -> None:
    """Row 76: 405."""
    answer = await system.call(method, (await system.party()).at(path))
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["oauth/revoke", "oauth/revoke_all"])
async def test_where_no_api_is_nothing_is_revoked(system: System, path: str) -> None:
    """404."""
    party = await system.party()
    answer = await system.call("POST", f"/nowhere/{path}", data={"token": "x"}, headers=party.basic)
    assert refused(answer, "invalid_request", 404)


async def test_a_missing_token_is_said_to_who_is_authenticated(system: System) -> None:
    """Two things wrong: the client is checked first."""
    party = await system.party()
    answer = await system.call("POST", party.at("oauth/revoke"), data={"a": "b"})
    assert refused(answer, "invalid_client", 401)


# Public clients


async def test_a_public_client_revokes_its_own_by_naming_itself(system: System) -> None:
    """Row 78: its id and the token are all it has."""
    party = await system.party(public=True)
    tokens = await party.tokens()
    assert done(await party.revoke(tokens.refresh))
    assert not await admitted(party, tokens.access)


async def test_a_public_client_with_another_s_token_changes_nothing(system: System) -> None:
    """Row 78: as row 74."""
    party = await system.party(public=True)
    other = await system.client_of(party.api, public=True)
    tokens = await party.tokens()
    assert done(await other.revoke(tokens.refresh))
    assert await admitted(party, tokens.access)


async def test_a_public_client_may_not_revoke_all(system: System) -> None:
    """Anybody can say its id, and would log everybody out."""
    party = await system.party(public=True)
    tokens = await party.tokens()
    answer = await system.call("POST", party.at("oauth/revoke_all"), data={"client_id": party.id})
    assert refused(answer, "unauthorized_client")
    assert await admitted(party, tokens.access)


# revoke_all


@pytest.mark.parametrize("path", ["oauth/revoke_all", "oauth/revoke_all/"])
async def test_revoke_all_ends_every_grant_and_starts_anew(system: System, path: str) -> None:
    """Codes, tokens, expired access tokens with a live refresh token: all dead; what comes after is not."""
    party = await system.party()
    expired = await party.tokens()
    system.clock.advance(3600)
    code, tokens = await party.code(), await party.tokens()
    credentials = tokens_of(await party.token({"grant_type": "client_credentials"}))
    assert done(await system.call("POST", party.at(path), headers=party.basic))
    assert not await admitted(party, tokens.access)
    assert not await admitted(party, credentials.access)
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert refused(await party.refresh(expired.refresh), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")
    await settle(system.deps)
    for value in (expired.access, code, tokens.access, credentials.access):
        grant = await system.grant_of(value)
        assert (grant.state, grant.ended_reason) == (GrantState.REVOKED, RevocationReason.REVOKE_ALL)
    system.clock.advance(0.001)
    assert await admitted(party, (await party.tokens()).access)


async def test_revoke_all_is_of_this_client(system: System) -> None:
    """The API's other clients do not notice."""
    party = await system.party()
    other = await system.client_of(party.api)
    tokens = await other.tokens()
    assert done(await system.call("POST", party.at("oauth/revoke_all"), headers=party.basic))
    await settle(system.deps)
    assert await admitted(other, tokens.access)
    assert (await other.refresh(tokens.refresh)).status == 200


async def test_tyk_s_status_is_for_revocation_too(mongodb_url: str) -> None:
    """`oauth_error_status=403` at both endpoints."""
    async with open_system(mongodb_url, oauth_error_status=403) as system:
        party = await system.party()
        wrong = {"Authorization": basic(party.id, "wrong")}
        for path in ("oauth/revoke", "oauth/revoke_all"):
            answer = await system.call("POST", party.at(path), data={"token": "x"}, headers=wrong)
            assert refused(answer, "invalid_client", 403)
        assert refused(await party.revoke(""), "invalid_request", 403)
