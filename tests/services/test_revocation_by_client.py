"""POST /<listen-path>/oauth/revoke and /revoke_all: a client revokes its own tokens (RFC 7009)."""

import pytest

from contracts.grants import GrantState, RevocationReason
from tests.builders import Response, settle
from tests.services.system import ABSENT, Party, System, basic, open_system, refused, tokens_of

FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def admitted(party: Party, access_token: str) -> bool:
    return (await party.verify(access_token)).status == 200


def done(response: Response) -> bool:
    """Whether the response is that of a successful revocation."""
    assert response.status == 200, response.body
    assert set(response.body) == {"status", "message"}
    assert (response.headers["Cache-Control"], response.headers["Content-Type"]) == ("no-store", "application/json")
    return bool(response.body["status"] == "ok")


async def test_revoking_a_refresh_token_revokes_the_grant(system: System) -> None:
    """Row 71: 200, and both tokens are invalid at once."""
    party = await system.party()
    tokens = await party.tokens()
    assert done(await party.revoke(tokens.refresh))
    assert not await admitted(party, tokens.access)
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    grant = await system.grant_of(tokens.access)
    assert (grant.state, grant.ended_reason) == (GrantState.REVOKED, RevocationReason.CLIENT_REQUEST)


async def test_revoking_an_access_token_leaves_the_refresh_token(system: System) -> None:
    """Row 72: the refresh token stays valid and gets another access token."""
    party = await system.party()
    tokens = await party.tokens()
    assert done(await party.revoke(tokens.access))
    assert not await admitted(party, tokens.access)
    assert await admitted(party, (await party.refreshed(tokens.refresh)).access)


async def test_revoking_affects_one_grant_only(system: System) -> None:
    """The client's other grants stay active."""
    party = await system.party()
    one, other = await party.tokens(subject="alice"), await party.tokens(subject="alice")
    assert done(await party.revoke(one.refresh))
    assert await admitted(party, other.access)


@pytest.mark.parametrize(
    "kind", ["unknown", "empty-looking", "malformed", "code", "public-id", "huge", "revoked", "used"]
)
async def test_an_invalid_token_is_answered_with_200(system: System, kind: str) -> None:
    """Row 73, RFC 7009 §2.2: 200, and nothing changes."""
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
    """Row 73: 200, and the refresh token stays valid."""
    party = await system.party()
    tokens = await party.tokens()
    system.clock.advance(3600)
    assert done(await party.revoke(tokens.access))
    assert (await party.refresh(tokens.refresh)).status == 200


async def test_revoking_twice_is_once(system: System) -> None:
    """The second request changes nothing and writes no second event."""
    party = await system.party()
    tokens = await party.tokens()
    for value in (tokens.access, tokens.access, tokens.refresh, tokens.refresh, tokens.access):
        assert done(await party.revoke(value))
    grant = await system.grant_of(tokens.access)
    types = [event["type"].removeprefix("io.tokenwire.") for event in await system.heard.about(grant.grant_id)]
    assert types == ["code.issued", "token.new", "token.revoked", "grant.revoked"]


async def test_a_used_refresh_token_revokes_the_grant_too(system: System) -> None:
    """A client that logs out after a lost response has no newer refresh token."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    assert done(await party.revoke(first.refresh))
    assert not await admitted(party, second.access)


async def test_revoking_an_old_access_token_leaves_the_new_one(system: System) -> None:
    """The old access token is already invalid; the current one is not affected."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    assert done(await party.revoke(first.access))
    assert await admitted(party, second.access)


@pytest.mark.parametrize("whose", ["same-api", "other-api"])
@pytest.mark.parametrize("kind", ["access", "refresh"])
async def test_another_client_s_token_stays_valid(system: System, whose: str, kind: str) -> None:
    """Row 74: the same 200, and the token stays valid."""
    party = await system.party()
    other = await system.client_of(party.api) if whose == "same-api" else await system.party()
    tokens = await party.tokens()
    assert done(await other.revoke(tokens.access if kind == "access" else tokens.refresh))
    assert await admitted(party, tokens.access)
    assert (await party.refresh(tokens.refresh)).status == 200


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "nonsense", ABSENT, ""])
@pytest.mark.parametrize("kind", ["access", "refresh"])
async def test_a_wrong_token_type_hint_is_ignored(system: System, hint: str, kind: str) -> None:
    """Row 75: with a wrong or unknown hint the token is still found."""
    party = await system.party()
    tokens = await party.tokens()
    form = {} if hint == ABSENT else {"token_type_hint": hint}
    assert done(await party.revoke(tokens.access if kind == "access" else tokens.refresh, **form))
    assert not await admitted(party, tokens.access)


@pytest.mark.parametrize("path", ["oauth/revoke", "oauth/revoke/"])
@pytest.mark.parametrize("by", ["listen path", "api id"])
@pytest.mark.parametrize("body", ["data", "json"])
async def test_every_spelling_of_the_path_is_routed(system: System, path: str, by: str, body: str) -> None:
    """Listen path and API id, with and without a slash, form or JSON."""
    party = await system.party()
    tokens = await party.tokens()
    place = party.api.listen_path if by == "listen path" else f"/{party.api.api_id}/"
    form = {body: {"token": tokens.refresh, "token_type_hint": "refresh_token"}}
    assert done(await system.call("POST", place + path, headers=party.basic, **form))
    assert not await admitted(party, tokens.access)


@pytest.mark.parametrize("where", ["body", "alias", "both"])
async def test_the_client_may_authenticate_as_at_the_token_endpoint(system: System, where: str) -> None:
    """RFC 7009 §2.1: in the header, in the body, or in both if they are equal."""
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
    """Row 76: 401, and the tokens stay valid."""
    party, other = await system.party(), await system.party()
    tokens = await party.tokens()
    form = {"token": tokens.refresh} | ({"client_id": party.id} if credentials == "id-only" else {})
    headers = {
        "wrong": {"Authorization": basic(party.id, "wrong")},
        "other-api": other.basic,
    }.get(credentials, {})
    response = await system.call("POST", party.at(path), data=form, headers=headers)
    assert refused(response, "invalid_client", 401)
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
    """400 `invalid_request` or 413; never a 5xx."""
    party = await system.party()
    response = await system.call("POST", party.at("oauth/revoke"), data=body, headers=FORM | party.basic)
    assert refused(response, "invalid_request", status)


async def test_a_token_in_the_query_is_refused(system: System) -> None:
    """400, since URLs are logged. The token stays valid, so that no client comes to rely on it."""
    party = await system.party()
    tokens = await party.tokens()
    response = await system.call("POST", party.at(f"oauth/revoke?token={tokens.access}"), headers=party.basic)
    assert refused(response, "invalid_request")
    assert await admitted(party, tokens.access)


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
@pytest.mark.parametrize("path", ["oauth/revoke", "oauth/revoke_all"])
async def test_only_post_is_answered(system: System, method: str, path: str) -> None:
    """Row 76: other methods get 405."""
    response = await system.call(method, (await system.party()).at(path))
    assert (response.status, response.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize("path", ["oauth/revoke", "oauth/revoke_all"])
async def test_an_unknown_api_is_404(system: System, path: str) -> None:
    """A path that names no API is answered with 404."""
    party = await system.party()
    response = await system.call("POST", f"/nowhere/{path}", data={"token": "x"}, headers=party.basic)
    assert refused(response, "invalid_request", 404)


async def test_a_missing_token_is_reported_to_authenticated_clients(system: System) -> None:
    """The client is authenticated first: without credentials a missing token is 401."""
    party = await system.party()
    response = await system.call("POST", party.at("oauth/revoke"), data={"a": "b"})
    assert refused(response, "invalid_client", 401)


# Public clients


async def test_a_public_client_revokes_its_own_tokens_with_its_id(system: System) -> None:
    """Row 78: a public client has no secret, so its id and the token are enough."""
    party = await system.party(public=True)
    tokens = await party.tokens()
    assert done(await party.revoke(tokens.refresh))
    assert not await admitted(party, tokens.access)


async def test_a_public_client_with_another_s_token_changes_nothing(system: System) -> None:
    """Row 78: 200, and the token stays valid, as for confidential clients."""
    party = await system.party(public=True)
    other = await system.client_of(party.api, public=True)
    tokens = await party.tokens()
    assert done(await other.revoke(tokens.refresh))
    assert await admitted(party, tokens.access)


async def test_a_public_client_may_not_revoke_all(system: System) -> None:
    """Its id is public, so anybody could log out all users of the app."""
    party = await system.party(public=True)
    tokens = await party.tokens()
    response = await system.call("POST", party.at("oauth/revoke_all"), data={"client_id": party.id})
    assert refused(response, "unauthorized_client")
    assert await admitted(party, tokens.access)


# revoke_all


@pytest.mark.parametrize("path", ["oauth/revoke_all", "oauth/revoke_all/"])
async def test_revoke_all_revokes_every_grant_and_allows_new_ones(system: System, path: str) -> None:
    """Codes, tokens, and refresh tokens with an expired access token are invalid; later grants work."""
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


async def test_revoke_all_affects_this_client_only(system: System) -> None:
    """Tokens of the API's other clients stay valid."""
    party = await system.party()
    other = await system.client_of(party.api)
    tokens = await other.tokens()
    assert done(await system.call("POST", party.at("oauth/revoke_all"), headers=party.basic))
    await settle(system.deps)
    assert await admitted(other, tokens.access)
    assert (await other.refresh(tokens.refresh)).status == 200


async def test_oauth_error_status_applies_to_revocation_too(mongodb_url: str) -> None:
    """With `oauth_error_status=403` both endpoints answer errors with 403."""
    async with open_system(mongodb_url, oauth_error_status=403) as system:
        party = await system.party()
        wrong = {"Authorization": basic(party.id, "wrong")}
        for path in ("oauth/revoke", "oauth/revoke_all"):
            response = await system.call("POST", party.at(path), data={"token": "x"}, headers=wrong)
            assert refused(response, "invalid_client", 403)
        assert refused(await party.revoke(""), "invalid_request", 403)
