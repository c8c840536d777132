"""Revocation (RFC 7009): rows 71 to 78. Row 77, a store that is down, is in test_races_and_crashes.py."""

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import Pair
from tests.security.apps import (
    HEARD_WITHIN,
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
    """The access token, too, at every process; one that was used before ends the grant as well."""
    assert HEARD_WITHIN <= 5
    for revoked in ("current", "used"):
        pair, other_grant = await web.pair(), await web.pair()
        used, pair = pair.refresh, await web.refreshed(pair.refresh)
        assert await is_alive(cluster, web, pair.access)
        answer = await web.revoke(pair.refresh if revoked == "current" else used)
        assert (answer.status, answer.body) == (200, DONE)
        assert await has_ended(cluster, web, pair)
        assert await is_alive(cluster, web, other_grant.access)


async def test_072_an_access_token_ends_alone(cluster: Stack, web: App) -> None:
    """The product's rule: the refresh token of its grant stays usable."""
    pair = await web.pair()
    assert (await web.revoke(pair.access)).status == 200
    assert await is_over(cluster, web, pair.access)
    assert await is_alive(cluster, web, (await web.refreshed(pair.refresh)).access)


async def test_073_what_is_no_token_any_more_is_revoked_already(cluster: Stack, web: App) -> None:
    """Unknown, malformed, revoked, expired, replaced, or a code: 200, for the client has what it wants (§2.2)."""
    pair = await web.pair()
    newer = await web.refreshed(pair.refresh)
    for value in (newer.refresh, newer.refresh, newer.access, pair.access, pair.refresh):
        assert (await web.revoke(value)).status == 200
    for value in ("x", "tw_at_", "tw_rt_" + "A" * 76, "\u00e4$ne", "x" * 60_000, await web.code()):
        answer = await web.revoke(value)
        assert (answer.status, answer.body) == (200, DONE)
    brief = await (await new_api(cluster, {"accessTokenLifetime": 1})).app()
    expired = await brief.pair()
    await passed(1.1)
    assert (await brief.revoke(expired.access)).status == 200


async def test_074_another_client_s_token_stays_active(cluster: Stack, web: App, other: App) -> None:
    """A silent 200: nobody learns whether it is a token of somebody."""
    pair = await web.pair()
    for stranger in (other, await (await new_api(cluster)).app()):
        for value in (pair.access, pair.refresh):
            answer = await stranger.revoke(value)
            assert (answer.status, answer.body) == (200, DONE)
    assert await is_alive(cluster, web, pair.access)
    assert (await web.refresh(pair.refresh)).status == 200


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "foo", ""])
async def test_075_a_hint_is_no_more_than_a_hint(cluster: Stack, web: App, hint: str) -> None:
    """Wrong or unknown: the token is found all the same (§2.1)."""
    first, second = await web.pair(), await web.pair()
    assert (await web.revoke(first.access, token_type_hint=hint)).status == 200
    assert (await web.revoke(second.refresh, token_type_hint=hint)).status == 200
    assert await is_over(cluster, web, first.access, second.access)


async def test_076_who_asks_must_prove_it_and_name_a_token(cluster: Stack, web: App) -> None:
    """400 without a token, 401 without the client's secret, 405 for anything but POST; the token stays active."""
    pair = await web.pair()
    assert refused(await web.post("revoke", {}, headers=web.basic), "invalid_request")
    assert refused(await web.post("revoke", {"token": ""}, headers=web.basic), "invalid_request")
    unproven = [{"token": pair.refresh}, {"token": pair.refresh, "client_id": web.client_id}]
    unproven.append({"token": pair.refresh, "client_id": web.client_id, "client_secret": "nothing-but-wrong"})
    for form in unproven:
        assert refused(await web.post("revoke", form), "invalid_client", 401)
    for method in ("GET", "PUT", "DELETE"):
        answer = await web.edge(method, f"{web.path}/oauth/revoke?token={pair.refresh}", headers=web.basic)
        assert (answer.status, answer.headers["Allow"]) == (405, "POST")
    assert refused(await web.post(f"revoke?token={pair.refresh}", {}, headers=web.basic), "invalid_request")
    assert await is_alive(cluster, web, pair.access)


async def test_078_a_client_without_a_secret_revokes_its_own(cluster: Stack, api: Api, spa: App, web: App) -> None:
    """By its id alone; with another's id nothing happens, as above; and it may not end all of its grants."""
    pair: Pair = await spa.pair()
    another = await api.app(public=True)
    assert (await another.revoke(pair.refresh)).status == 200
    assert refused(await web.post("revoke", {"token": pair.refresh, "client_id": web.client_id}), "invalid_client", 401)
    assert refused(await spa.post("revoke_all", spa.named), "unauthorized_client")
    assert await is_alive(cluster, spa, pair.access)
    assert (await spa.revoke(pair.refresh)).status == 200
    assert await has_ended(cluster, spa, pair)
