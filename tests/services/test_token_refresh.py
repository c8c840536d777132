"""Refreshing (RFC 6749 §6, RFC 9700 §4.14): rotation, recovery of a lost response, reuse, scope, lifetimes."""

import pytest

from contracts.grants import GrantState, RevocationReason
from tests.builders import settle
from tests.services.system import Party, System, Tokens, document, refused, tokens_of

LIFETIME = 14 * 24 * 3600


async def admitted(party: Party, tokens: Tokens) -> bool:
    return (await party.verify(tokens.access)).status == 200


async def are_invalid(party: Party, *all_tokens: Tokens) -> bool:
    """Whether all these access and refresh tokens are invalid because the grant was revoked for reuse."""
    for tokens in all_tokens:
        assert not await admitted(party, tokens)
        assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    grant = await party.system.grant_of(all_tokens[0].access)
    return (grant.state, grant.ended_reason) == (GrantState.REVOKED, RevocationReason.REFRESH_REUSE)


# Rotation


async def test_a_refresh_gives_new_tokens_and_invalidates_the_access_token(system: System) -> None:
    """Row 59: both values are new, and the previous access token is invalid at once."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    third = await party.refreshed(second.refresh)
    assert len({first.access, second.access, third.access, first.refresh, second.refresh, third.refresh}) == 6
    assert [await admitted(party, tokens) for tokens in (first, second, third)] == [False, False, True]
    assert second.body["expires_in"] == 3600


async def test_refresh_tokens_work_after_the_access_token_expired(system: System) -> None:
    """Row 59: an expired access token does not keep the refresh token from being used."""
    party = await system.party()
    first = await party.tokens()
    system.clock.advance(3600)
    assert await admitted(party, await party.refreshed(first.refresh))


async def test_the_refresh_token_of_a_password_grant_rotates_too(system: System) -> None:
    """Refresh tokens of the password grant are used once, as those of the code grant."""
    party = await system.party()
    first = tokens_of(await party.password((await system.user()).username))
    second = await party.refreshed(first.refresh)
    assert [await admitted(party, first), await admitted(party, second)] == [False, True]


# Recovery of a lost response


async def test_a15_the_previous_refresh_token_recovers_its_response_once(system: System) -> None:
    """Row 62: within ten seconds and before its successor is used, it gets the same pair again, once."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    system.clock.advance(10)
    again = await party.refreshed(first.refresh)
    assert (again.access, again.refresh) == (second.access, second.refresh)
    assert again.body["expires_in"] == 3590
    assert await admitted(party, second)
    system.clock.advance(0.001)
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await are_invalid(party, second)


async def test_simultaneous_requests_recover_as_often_as_they_ask(system: System) -> None:
    """Within two seconds of the first use, repeated requests are taken for simultaneous ones; later ones are not."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    for _ in range(4):
        system.clock.advance(0.5)
        again = await party.refreshed(first.refresh)
        assert (again.access, again.refresh) == (second.access, second.refresh)
    assert await admitted(party, second)


async def test_the_window_is_counted_from_the_first_use(system: System) -> None:
    """Row 64: a recovery does not extend the ten seconds; after them the same token is reuse."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    system.clock.advance(9)
    assert (await party.refreshed(first.refresh)).access == second.access
    system.clock.advance(1.001)
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await are_invalid(party, second)


async def test_a_used_successor_ends_the_recovery(system: System) -> None:
    """Row 63: a used successor proves that the response arrived, so the old token is reuse, however soon."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    third = await party.refreshed(second.refresh)
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await are_invalid(party, second, third)


@pytest.mark.parametrize("older", [0, 1, 2])
async def test_the_window_never_reaches_an_older_generation(system: System, older: int) -> None:
    """Row 61: a token older than the previous one always revokes the grant, also within ten seconds."""
    party = await system.party()
    line = [await party.tokens()]
    for _ in range(4):
        line.append(await party.refreshed(line[-1].refresh))
    assert refused(await party.refresh(line[older].refresh), "invalid_grant")
    assert await are_invalid(party, line[4], line[3])


async def test_an_expired_token_recovers_nothing(system: System) -> None:
    """Row 67: the recovery window does not extend the lifetime of the refresh token."""
    party = await system.party(document(refreshTokenLifetime=5))
    first = await party.tokens()
    system.clock.advance(4)
    second = await party.refreshed(first.refresh)
    system.clock.advance(1)
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await are_invalid(party, second)


async def test_a_recovered_pair_is_in_the_database_for_its_holder_only(system: System) -> None:
    """The grant's document has the pair encrypted with a key that only the presented token yields."""
    party = await system.party()
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    await settle(system.deps)
    response = (await system.grant_of(second.access)).response
    assert response is not None
    assert response.box is not None
    assert second.access.encode() not in response.box
    assert second.refresh.encode() not in response.box


# Strict


async def test_strict_recovers_nothing(system: System) -> None:
    """Row 62 with `refreshReuse: strict`: a second use revokes the grant, however soon, and the pair is not stored."""
    party = await system.party(document(refreshReuse="strict"))
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    await settle(system.deps)
    response = (await system.grant_of(second.access)).response
    assert response is not None
    assert response.box is None
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await are_invalid(party, second)


# Reuse


async def test_reuse_of_a_refresh_token_revokes_the_grant_and_no_other(system: System) -> None:
    """Row 60: every token of the grant is invalid; other grants of the same user and client are not affected."""
    party = await system.party()
    first, other = await party.tokens(subject="alice"), await party.tokens(subject="alice")
    second = await party.refreshed(first.refresh)
    system.clock.advance(11)
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await are_invalid(party, second)
    assert await admitted(party, other)
    assert await admitted(party, await party.refreshed(other.refresh))


@pytest.mark.parametrize("which", ["live", "used"])
async def test_another_client_with_the_token_is_refused_and_revokes_nothing(system: System, which: str) -> None:
    """Row 65: another client, a wrong secret or no authentication gets no tokens and does not revoke the grant."""
    party = await system.party()
    first = await party.tokens()
    current = await party.refreshed(first.refresh)
    system.clock.advance(60)
    value = current.refresh if which == "live" else first.refresh
    form = {"grant_type": "refresh_token", "refresh_token": value}
    assert refused(await (await system.client_of(party.api)).refresh(value), "invalid_grant")
    assert refused(await (await system.party()).refresh(value), "invalid_grant")
    assert refused(await system.call("POST", party.at("oauth/token"), data=form), "invalid_client", 401)
    assert refused(await party.refresh(value, client_secret="wrong"), "invalid_request")
    assert await admitted(party, current)
    assert await admitted(party, await party.refreshed(current.refresh))


async def test_reuse_by_a_public_client_is_detected_too(system: System) -> None:
    """RFC 9700 §2.2.2: refresh tokens of public clients must be rotated, so that theft is detected."""
    party = await system.party(public=True)
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    system.clock.advance(11)
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await are_invalid(party, second)


@pytest.mark.parametrize("kind", ["access", "truncated", "flipped", "other-prefix"])
async def test_a_value_that_is_not_a_refresh_token_is_refused(system: System, kind: str) -> None:
    """Rows 69 and 70: an access token, a truncated or a changed value is `invalid_grant`; the grant stays as it was."""
    party = await system.party()
    tokens = await party.tokens()
    last = "A" if tokens.refresh[-1] != "A" else "B"
    wrong = {
        "access": tokens.access,
        "truncated": tokens.refresh[:-4],
        "flipped": tokens.refresh[:-1] + last,
        "other-prefix": "tw_ac_" + tokens.refresh[6:],
    }[kind]
    assert refused(await party.refresh(wrong), "invalid_grant")
    assert await admitted(party, tokens)
    assert await admitted(party, await party.refreshed(tokens.refresh))


async def test_a_forged_token_is_refused_without_the_database(system: System) -> None:
    """Row 70: a value with a wrong tag is refused without reading MongoDB."""
    party = await system.party()
    tokens = await party.tokens()
    await settle(system.deps)
    admin = system.deps.store.mongo["grants"].database.client.admin

    async def reads() -> int:
        status = await admin.command("serverStatus")
        return int(status["opcounters"]["query"])

    forged = tokens.refresh[:40] + ("A" if tokens.refresh[40] != "A" else "B") + tokens.refresh[41:]
    before = await reads()
    for _ in range(50):
        assert refused(await party.refresh(forged), "invalid_grant")
    # Sweepers and the server read now and then; fifty more reads would be this test's.
    assert await reads() - before < 50


# Scope


async def test_scope_can_be_narrowed_and_restored(system: System) -> None:
    """Row 66: a refresh may request less scope, and the next one again all that was granted."""
    party = await system.party()
    first = await party.tokens(scope="a b c")
    narrowed = await party.refreshed(first.refresh, scope="c a")
    assert narrowed.body["scope"] == "c a"
    returned = await party.refreshed(narrowed.refresh, scope="a b c")
    assert returned.body["scope"] == "a b c"
    silent = await party.refreshed(returned.refresh)
    assert silent.body["scope"] == "a b c"


@pytest.mark.parametrize(
    ("granted", "asked"),
    [
        pytest.param("a b", "a b c", id="one-more"),
        pytest.param("a b", "c", id="another"),
        pytest.param("a b", "A", id="other-case"),
        pytest.param("", "a", id="none-was-granted"),
    ],
)
async def test_scope_is_never_widened(system: System, granted: str, asked: str) -> None:
    """Row 66: `invalid_scope`, and the refresh token stays valid."""
    party = await system.party()
    tokens = await party.tokens(scope=granted)
    assert refused(await party.refresh(tokens.refresh, scope=asked), "invalid_scope")
    assert await admitted(party, await party.refreshed(tokens.refresh))


# Lifetimes


async def test_a_refresh_token_expires_when_it_is_not_used(system: System) -> None:
    """Row 67: after fourteen days by default. The grant is not revoked; it has no valid token left."""
    party = await system.party()
    kept, late = await party.tokens(), await party.tokens()
    system.clock.advance(LIFETIME - 0.001)
    kept = await party.refreshed(kept.refresh)
    system.clock.advance(0.001)
    assert refused(await party.refresh(late.refresh), "invalid_grant")
    system.clock.advance(LIFETIME - 1)
    assert await admitted(party, await party.refreshed(kept.refresh))


async def test_the_grant_ends_at_its_absolute_lifetime(system: System) -> None:
    """Row 67: ninety days after it began by default, however often it is refreshed; no token outlives it."""
    party = await system.party()
    tokens = await party.tokens()
    for _ in range(8):
        system.clock.advance(11 * 24 * 3600)
        tokens = await party.refreshed(tokens.refresh)
    system.clock.advance(2 * 24 * 3600 - 60)
    tokens = await party.refreshed(tokens.refresh)
    assert tokens.body["expires_in"] == 60
    system.clock.advance(60)
    assert (await party.verify(tokens.access)).status == 401
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")


async def test_the_refresh_token_lifetime_is_set_by_the_api(system: System) -> None:
    """`refreshTokenLifetime` of the definition starts anew with each rotation."""
    party = await system.party(document(refreshTokenLifetime=100))
    tokens = await party.tokens()
    for _ in range(3):
        system.clock.advance(99)
        tokens = await party.refreshed(tokens.refresh)
    system.clock.advance(100)
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")


# Users who are disabled or deleted


@pytest.mark.parametrize("how", ["inactive", "deleted"])
async def test_a_deleted_or_deactivated_user_gets_no_more_tokens(system: System, how: str) -> None:
    """Row 68: the refresh token of a password grant is refused while its user is inactive or deleted."""
    party, user, ctx = await system.party(), await system.user(), system.deps.event_context("tests")
    tokens = tokens_of(await party.password(user.username))
    owners = system.deps.store.resource_owners
    if how == "deleted":
        assert await owners.delete(user, ctx)
        assert refused(await party.refresh(tokens.refresh), "invalid_grant")
        return
    inactive = await owners.edit(user, {"active": False}, ctx)
    assert inactive is not None
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert await owners.edit(inactive, {"active": True}, ctx)
    assert await admitted(party, await party.refreshed(tokens.refresh))


async def test_a_changed_password_ends_the_refreshing_of_older_grants(system: System) -> None:
    """Row 68: a grant for the earlier password is not refreshed; one for the new password and one by code are."""
    party, user = await system.party(), await system.user()
    place = f"/api/apis/keys/basic/{user.username}"
    by_code, first = await party.tokens(subject=user.username), tokens_of(await party.password(user.username))
    system.clock.advance(1)
    assert (await system.operator("PUT", place, json={"meta_data": {"a": 1}})).status == 200
    first = await party.refreshed(first.refresh)
    assert (await system.operator("PUT", place, json={"password": "another password"})).status == 200
    second = tokens_of(await party.password(user.username, "another password"))
    assert refused(await party.refresh(first.refresh), "invalid_grant")
    assert await admitted(party, await party.refreshed(second.refresh))
    assert await admitted(party, await party.refreshed(by_code.refresh))
    system.clock.advance(1)
    assert (await system.operator("DELETE", place)).status == 200
    again = {"password": "another password"}
    assert (await system.operator("POST", place, json=again)).status == 200
    assert refused(await party.refresh(second.refresh), "invalid_grant"), "another user of the same name"
