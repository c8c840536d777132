"""Introspection (RFC 7662): rows 79 to 85."""

import secrets
import time

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import issued
from tests.security.apps import Api, App, User, basic, is_over, new_api, passed, refused, together

INACTIVE = {"active": False}
PLACE = "/oauth/introspect"
INVENTED = 1000


async def test_079_introspection_requires_authentication(web: App, spa: App) -> None:
    """An unauthenticated caller gets 401, not `active: false` (§2.1 MUST); a public client cannot authenticate."""
    pair = await web.pair()
    form = {"token": pair.access}
    wrong = {"Authorization": basic(web.client_id, "nothing-but-wrong")}
    for headers in ({}, wrong, {"Authorization": "Bearer nobody-s-key"}, {"Authorization": f"Bearer {pair.access}"}):
        assert refused(await web.edge("POST", PLACE, data=form, headers=headers), "invalid_client", 401)
    for named in (spa.named, {"client_id": web.client_id}):
        assert refused(await web.edge("POST", PLACE, data=form | named), "invalid_client", 401)


async def test_080_an_active_token_is_described(web: App) -> None:
    """An active token is described with client, user, scope, expiry, issuer and audience, uncacheable (§2.2)."""
    pair, now = await web.pair(scope="a b"), time.time()
    response = await web.introspect(pair.access)
    assert response.headers["Cache-Control"] == "no-store"
    said = response.body
    assert (said["active"], said["client_id"], said["scope"], said["sub"]) == (True, web.client_id, "a b", "alice")
    assert (said["token_type"], said["token_use"]) == ("bearer", "access")
    assert said["iss"] == (await web.metadata())["issuer"]
    assert said["aud"] == [web.api_id]
    assert type(said["iat"]) is type(said["exp"]) is int
    assert abs(said["iat"] - now) < 60
    assert said["exp"] - said["iat"] == 3600
    machine = (await web.introspect(issued(await web.credentials()).access)).body
    assert (machine["active"], "sub" in machine) == (True, False)


async def test_081_an_inactive_token_is_described_as_inactive_only(cluster: Stack, web: App) -> None:
    """An unknown, expired or revoked token, or one of a deleted client or another API, yields exactly
    `{"active":false}`.
    """
    api = await new_api(cluster, {"accessTokenLifetime": 1})
    brief, gone, outsider = await api.app(), await (await new_api(cluster)).app(), await (await new_api(cluster)).app()
    expired, orphan, revoked = await brief.pair(), await gone.pair(), await web.pair()
    await web.revoke(revoked.refresh)
    await gone.managed("DELETE")
    await passed(1.1)
    for app, pair in ((brief, expired), (web, revoked), (web, orphan)):
        assert await is_over(cluster, app, pair.access)
    asked = [(brief, expired.access), (web, revoked.access), (web, revoked.refresh), (outsider, expired.access)]
    asked += [(web, orphan.refresh), (web, "x"), (web, "\u00e4" * 100), (web, await web.code())]
    asked += [(outsider, (await web.pair()).access), (outsider, (await web.pair()).refresh)]
    for app, token in asked:
        for place in app.over(cluster, "gateway", 2):
            response = await place.introspect(token)
            assert (response.status, response.body) == (200, INACTIVE), token[:6]


async def test_082_only_authorized_callers_learn_about_a_token(cluster: Stack, api: Api, web: App, other: App) -> None:
    """Only the token's own client and the resource server of its API learn about it; others get `active: false`."""
    pair = await web.pair()
    own, foreign = await api.app(resource_server=True), await (await new_api(cluster)).app(resource_server=True)
    assert (await own.introspect(pair.access)).body["active"] is True
    assert (await own.introspect(pair.refresh)).body == INACTIVE
    for outsider in (other, foreign):
        for token in (pair.access, pair.refresh):
            assert (await outsider.introspect(token)).body == INACTIVE


@pytest.mark.parametrize("hint", ["access_token", "refresh_token", "foo"])
async def test_083_a_hint_is_no_more_than_a_hint(web: App, hint: str) -> None:
    """A wrong hint does not matter. Methods other than POST get 405; a missing token gets 400."""
    pair = await web.pair()
    for token in (pair.access, pair.refresh):
        assert (await web.introspect(token, token_type_hint=hint)).body["active"] is True
    response = await web.edge("GET", f"{PLACE}?token={pair.access}", headers=web.basic)
    assert (response.status, response.headers["Allow"]) == (405, "POST")
    assert refused(await web.introspect("", token_type_hint=hint), "invalid_request")
    assert refused(await web.edge("POST", f"{PLACE}?token={pair.access}", headers=web.basic), "invalid_request")


async def test_084_guessing_finds_nothing(web: App) -> None:
    """Guessed tokens are inactive, and guessing requires a client; failed authentication is throttled
    (test_throttling.py).

    Timing is tested in test_timing.py.
    """
    real = (await web.pair()).access
    guesses = [real[:6] + secrets.token_urlsafe(57) for _ in range(INVENTED)]
    assert {len(guess) for guess in guesses} == {len(real)}
    for start in range(0, INVENTED, 100):
        responses = await together(*(web.introspect(guess) for guess in guesses[start : start + 100]))
        assert {(response.status, response.raw) for response in responses} == {(200, b'{"active":false}\n')}
    assert (await web.introspect(real)).body["active"] is True


async def test_085_a_refresh_token_is_not_an_access_token(web: App, alice: User) -> None:
    """`token_use` tells a refresh token from an access token. A refresh token has no audience, including one of the
    password grant.
    """
    for pair in (await web.pair(), issued(await web.password(alice))):
        said = (await web.introspect(pair.refresh)).body
        assert (said["active"], said["token_use"], "aud" in said) == (True, "refresh", False)
        assert not await web.opens(pair.refresh)
        assert (await web.introspect(pair.access)).body["token_use"] == "access"
