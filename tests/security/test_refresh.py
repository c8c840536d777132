"""Refreshing (RFC 6749 §6; RFC 9700 §2.2.2, §4.14.2): rows 59 to 70."""

import base64
import time
from dataclasses import dataclass

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import SCHEME, Pair, issued
from tests.eventually import eventually
from tests.security.apps import (
    Api,
    App,
    User,
    has_ended,
    is_alive,
    is_over,
    new_api,
    passed,
    refused,
)

GRACE = 10.0
"""Seconds during which a lost response can be repeated."""


@pytest.fixture(scope="module", name="strict")
async def _strict(cluster: Stack) -> Api:
    """An API that never repeats a lost response."""
    return await new_api(cluster, {"refreshReuse": "strict"})


async def test_059_a_refresh_token_is_replaced(cluster: Stack, web: App) -> None:
    """A refresh returns a new refresh token and access token; the previous access token is revoked at once."""
    first = await web.pair()
    second = await web.refreshed(first.refresh)
    assert len({first.access, first.refresh, second.access, second.refresh}) == 4
    assert await is_over(cluster, web, first.access)
    assert await is_alive(cluster, web, second.access)


async def test_060_a_refresh_token_used_again_costs_the_grant(cluster: Stack, strict: Api) -> None:
    """A refresh token that is used twice revokes the whole grant, including the newest token, because the attacker
    cannot be told from the victim. Other grants stay.
    """
    app = await strict.app()
    sibling = await app.pair()
    first = await app.pair()
    second = await app.refreshed(first.refresh)
    third = await app.refreshed(second.refresh)
    assert refused(await app.refresh(first.refresh), "invalid_grant")
    assert await has_ended(cluster, app, third)
    assert await is_alive(cluster, app, sibling.access)
    assert (await app.refresh(sibling.refresh)).status == 200


async def test_061_an_older_ancestor_costs_the_grant_inside_the_grace(cluster: Stack, web: App) -> None:
    """An older refresh token revokes the grant even within the grace period; only the last one used may be retried."""
    first = await web.pair()
    second = await web.refreshed(first.refresh)
    third = await web.refreshed(second.refresh)
    assert refused(await web.refresh(first.refresh), "invalid_grant")
    assert await has_ended(cluster, web, third)


async def test_062_a_lost_response_is_given_again(cluster: Stack, web: App) -> None:
    """A retry of the last refresh returns the same pair, at any process, and no further token is issued."""
    first = await web.pair()
    second = await web.refreshed(first.refresh)
    for place in web.over(cluster, "token", 4):
        assert await place.refreshed(first.refresh) == second
    assert await is_alive(cluster, web, second.access)
    assert (await web.refresh(second.refresh)).status == 200


async def test_062_it_is_not_where_the_api_is_strict(cluster: Stack, strict: Api) -> None:
    """With `refreshReuse: strict` there is no grace period."""
    app = await strict.app()
    first = await app.pair()
    second = await app.refreshed(first.refresh)
    assert refused(await app.refresh(first.refresh), "invalid_grant")
    assert await has_ended(cluster, app, second)


async def test_063_a_response_that_was_used_was_not_lost(cluster: Stack, web: App) -> None:
    """Once the successor has been used, its predecessor revokes the grant: that response was not lost."""
    first = await web.pair()
    second = await web.refreshed(first.refresh)
    third = await web.refreshed(second.refresh)
    assert refused(await web.refresh(first.refresh), "invalid_grant")
    assert await has_ended(cluster, web, third)


async def test_064_the_grace_is_counted_from_the_first_use(cluster: Stack, web: App) -> None:
    """A lost response is repeated once within ten seconds of the first use; later or a second time revokes the
    grant.
    """
    late, once = await web.pair(), await web.pair()
    began = time.monotonic()
    newer = {first.refresh: await web.refreshed(first.refresh) for first in (late, once)}
    await passed(GRACE / 2)
    assert await web.refreshed(once.refresh) == newer[once.refresh]
    assert await is_alive(cluster, web, newer[once.refresh].access)
    await passed(began + GRACE + 0.5 - time.monotonic())
    for first in (late, once):
        assert refused(await web.refresh(first.refresh), "invalid_grant")
        assert await has_ended(cluster, web, newer[first.refresh])


async def test_065_an_unauthenticated_refresh_revokes_nothing(cluster: Stack, web: App, other: App, spa: App) -> None:
    """An unauthenticated request or another client's is refused and revokes nothing."""
    first = await web.pair()
    second = await web.refreshed(first.refresh)
    for token in (first.refresh, second.refresh):
        for outsider in (other, spa, await (await new_api(cluster)).app()):
            assert refused(await outsider.refresh(token), "invalid_grant")
        form = {"grant_type": "refresh_token", "refresh_token": token}
        assert refused(await web.post("token", form), "invalid_client", 401)
        assert refused(await web.post("token", form | {"client_id": web.client_id}), "invalid_client", 401)
    assert await is_alive(cluster, web, second.access)
    assert (await web.refresh(second.refresh)).status == 200


async def test_066_a_scope_may_be_narrowed_and_not_widened(web: App) -> None:
    """A refresh may narrow the scope and not widen it (§6). The next refresh may ask for the full scope again."""
    first = await web.pair(scope="a b")
    for wider in ("a b c", "c", "A"):
        assert refused(await web.refresh(first.refresh, scope=wider), "invalid_scope")
    narrowed = await web.refresh(first.refresh, scope="a")
    assert (narrowed.status, narrowed.body["scope"]) == (200, "a")
    assert (await web.introspect(narrowed.body["access_token"])).body["scope"] == "a"
    again = await web.refresh(narrowed.body["refresh_token"])
    assert (again.status, again.body["scope"]) == (200, "a b")


async def test_067_an_unused_refresh_token_ends_with_its_time(cluster: Stack) -> None:
    """An unused refresh token expires at every process; a lost response is not repeated after that."""
    api = await new_api(cluster, {"refreshTokenLifetime": 2})
    app = await api.app()
    idle, used = await app.pair(), await app.pair()
    newer = await app.refreshed(used.refresh)
    await passed(2.1)
    for token in (idle.refresh, newer.refresh, used.refresh):
        for place in app.over(cluster, "token", 2):
            assert refused(await place.refresh(token), "invalid_grant")


async def test_067_no_refresh_makes_a_grant_last_longer_than_it_may(cluster: Stack) -> None:
    """Neither refresh tokens nor access tokens outlive the grant's maximum lifetime, however often it is refreshed."""
    app = await (await new_api(cluster, {"grantLifetime": 3})).app()
    pairs = [await app.pair()]

    async def over() -> bool:
        response = await app.refresh(pairs[-1].refresh)
        if response.status == 200:
            assert response.body["expires_in"] <= 3
            pairs.append(issued(response))
            return False
        return refused(response, "invalid_grant")

    await eventually(over, every=0.25)
    assert len(pairs) > 2
    assert await is_over(cluster, app, pairs[-1].access)


@dataclass(frozen=True)
class _Held:
    """A password grant with its own client and user."""

    api: Api
    app: App
    user: User
    pair: Pair

    @classmethod
    async def new(cls, cluster: Stack) -> "_Held":
        api, user = await new_api(cluster), await User.new(cluster)
        app = await api.app()
        return cls(api, app, user, issued(await app.password(user)))

    async def is_refused(self, cluster: Stack, error: str, status: int = 400) -> bool:
        """Every process refuses it shortly after, whatever it has cached."""
        for place in self.app.over(cluster, "token", 2):

            async def there(place: App = place) -> bool:
                return refused(await place.refresh(self.pair.refresh), error, status)

            await eventually(there)
        return True


async def test_068_an_api_that_offers_no_refresh_any_more_gives_none(cluster: Stack) -> None:
    """If an API stops offering refresh, its refresh tokens are refused. Tokenwire's rule: grant types belong to the
    API.
    """
    held = await _Held.new(cluster)
    await held.api.change(f"{SCHEME}__refreshToken", False)
    for place in held.app.over(cluster, "token", 2):

        async def unsupported(place: App = place) -> bool:
            return refused(await place.refresh(held.pair.refresh), "unsupported_grant_type")

        await eventually(unsupported)


async def test_068_a_deleted_client_cannot_refresh(cluster: Stack) -> None:
    """A deleted client can not refresh, and its access tokens are revoked."""
    held = await _Held.new(cluster)
    await held.app.managed("DELETE")
    assert await held.is_refused(cluster, "invalid_client", 401)
    assert await is_over(cluster, held.app, held.pair.access)


@pytest.mark.parametrize("change", [{"active": False}, {"password": "another password of theirs"}, None])
async def test_068_a_disabled_or_deleted_user_cannot_refresh(cluster: Stack, change: dict[str, object] | None) -> None:
    """If the user is disabled or deleted, or the password changed since, refresh is refused."""
    held = await _Held.new(cluster)
    await held.user.managed("DELETE" if change is None else "PUT", **(change or {}))
    assert await held.is_refused(cluster, "invalid_grant")


async def test_069_neither_token_is_taken_for_the_other(cluster: Stack, web: App) -> None:
    """Access tokens, refresh tokens and codes are not accepted in place of each other."""
    pair, code = await web.pair(), await web.code()
    for value in (pair.access, code):
        assert refused(await web.refresh(value), "invalid_grant")
    for value in (pair.refresh, code):
        assert not any([await place.opens(value) for place in web.over(cluster, "gateway", 2)])
    for value in (pair.access, pair.refresh):
        assert refused(await web.exchange(value), "invalid_grant")
    assert await is_alive(cluster, web, pair.access)
    assert (await web.exchange(code)).status == 200


def spoilt(token: str) -> list[str]:
    """Damaged copies of the token."""
    prefix, body = token[:6], token[6:]
    raw = base64.urlsafe_b64decode(body)
    flipped = [raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :] for at in (0, 1, 16, 17, 20, 21, 40, 41, 56)]
    values = [prefix + base64.urlsafe_b64encode(each).decode() for each in flipped]
    values += [token[:-1], token[:-4], token[:20], prefix, body, f"{token}A", f"{token}=", f" {token}", token.upper()]
    values += [token.translate(str.maketrans("-_", "+/")) + "x", "x" * 60_000, prefix + "A" * 60_000, "\u00e4" * 100]
    return values


async def test_070_a_spoilt_token_is_just_wrong(web: App) -> None:
    """A truncated, altered or oversized token gets 400; the real one stays valid."""
    pair = await web.pair()
    for value in spoilt(pair.refresh):
        assert refused(await web.refresh(value), "invalid_grant"), value[:90]
    assert (await web.refresh("x" * 70_000)).status == 413
    assert (await web.refresh(pair.refresh)).status == 200
