"""Revocation (RFC 7009): rows 71 to 78. Row 77, a store that is down, is in test_races_and_crashes.py."""

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import Pair
from tests.security.apps import (
    Api,
    App,
    has_ended,
    is_alive,
    is_over,
    new_api,
    passed,
    refused,
)

DONE = {"status": "ok", "message": "token revoked successfully"}


async def test_071_a_refresh_token_ends_its_grant(cluster: Stack, web: App) -> None:
    """Revoking a refresh token, even one already used, revokes the grant and its access token at every process."""
    for revoked in ("current", "used"):
        pair, other_grant = await web.pair(), await web.pair()
        used, pair = pair.refresh, await web.refreshed(pair.refresh)
        assert await is_alive(cluster, web, pair.access)
        response = await web.revoke(pair.refresh if revoked == "current" else used)
        assert (response.status, response.body) == (200, DONE)
        assert await has_ended(cluster, web, pair)
        assert await is_alive(cluster, web, other_grant.access)


async def test_072_an_access_token_is_revoked_alone(cluster: Stack, web: App) -> None:
    """Revoking an access token leaves the grant's refresh token valid. Tokenwire's own rule."""
    pair = await web.pair()
    assert (await web.revoke(pair.access)).status == 200
    assert await is_over(cluster, web, pair.access)
    assert await is_alive(cluster, web, (await web.refreshed(pair.refresh)).access)


async def test_073_revoking_an_invalid_token_succeeds(cluster: Stack, web: App) -> None:
    """An unknown, malformed, revoked, expired or replaced token, or a code, gets 200: the client's purpose is achieved
    (§2.2).
    """
    pair = await web.pair()
    newer = await web.refreshed(pair.refresh)
    for value in (newer.refresh, newer.refresh, newer.access, pair.access, pair.refresh):
        assert (await web.revoke(value)).status == 200
    for value in ("x", "tw_at_", "tw_rt_" + "A" * 76, "\u00e4$ne", "x" * 60_000, await web.code()):
        response = await web.revoke(value)
        assert (response.status, response.body) == (200, DONE)
    brief = await (await new_api(cluster, {"accessTokenLifetime": 1})).app()
    expired = await brief.pair()
    await passed(1.1)
    assert (await brief.revoke(expired.access)).status == 200


async def test_074_another_client_s_token_stays_active(cluster: Stack, web: App, other: App) -> None:
    """Revoking another client's token gets 200 and has no effect, so that nothing reveals whether it exists."""
    pair = await web.pair()
    for outsider in (other, await (await new_api(cluster)).app()):
        for value in (pair.access, pair.refresh):
            response = await outsider.revoke(value)
            assert (response.status, response.body) == (200, DONE)
    assert await is_alive(cluster, web, pair.access)
    assert (await web.refresh(pair.refresh)).status == 200


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "foo", ""])
async def test_075_a_hint_is_no_more_than_a_hint(cluster: Stack, web: App, hint: str) -> None:
    """With a wrong or unknown hint the token is still found (§2.1)."""
    first, second = await web.pair(), await web.pair()
    assert (await web.revoke(first.access, token_type_hint=hint)).status == 200
    assert (await web.revoke(second.refresh, token_type_hint=hint)).status == 200
    assert await is_over(cluster, web, first.access, second.access)


async def test_076_revocation_requires_authentication_and_a_token(cluster: Stack, web: App) -> None:
    """400 without a token, 401 without the client's secret, 405 for methods other than POST; the token stays active."""
    pair = await web.pair()
    assert refused(await web.post("revoke", {}, headers=web.basic), "invalid_request")
    assert refused(await web.post("revoke", {"token": ""}, headers=web.basic), "invalid_request")
    unproven = [{"token": pair.refresh}, {"token": pair.refresh, "client_id": web.client_id}]
    unproven.append({"token": pair.refresh, "client_id": web.client_id, "client_secret": "nothing-but-wrong"})
    for form in unproven:
        assert refused(await web.post("revoke", form), "invalid_client", 401)
    for method in ("GET", "PUT", "DELETE"):
        response = await web.edge(method, f"{web.path}/oauth/revoke?token={pair.refresh}", headers=web.basic)
        assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert refused(await web.post(f"revoke?token={pair.refresh}", {}, headers=web.basic), "invalid_request")
    assert await is_alive(cluster, web, pair.access)


async def test_078_a_client_without_a_secret_revokes_its_own(cluster: Stack, api: Api, spa: App, web: App) -> None:
    """A public client revokes its own tokens by client id; another id has no effect, and it may not revoke all its
    grants.
    """
    pair: Pair = await spa.pair()
    another = await api.app(public=True)
    assert (await another.revoke(pair.refresh)).status == 200
    assert refused(await web.post("revoke", {"token": pair.refresh, "client_id": web.client_id}), "invalid_client", 401)
    assert refused(await spa.post("revoke_all", spa.named), "unauthorized_client")
    assert await is_alive(cluster, spa, pair.access)
    assert (await spa.revoke(pair.refresh)).status == 200
    assert await has_ended(cluster, spa, pair)
