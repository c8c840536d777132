"""The exchange of a code (RFC 6749 §4.1.2, §4.1.3, §10.5): rows 51 to 58."""

import time
from dataclasses import replace

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, Pair, issued
from tests.eventually import eventually
from tests.security.apps import PKCE, VERIFIER, Api, App, has_ended, is_alive, new_api, passed, refused

RETRY = 2.0
"""Seconds after its use during which a repeated code counts as a retry of the same request."""


async def test_051_a_code_yields_tokens_once(cluster: Stack, web: App) -> None:
    """A code yields an access token, and a refresh token if the definition says so; then it is used up."""
    code = await web.code()
    response = await web.exchange(code)
    pair = issued(response)
    assert set(response.body) == {"access_token", "token_type", "expires_in", "refresh_token"}
    assert response.headers["Cache-Control"] == "no-store"
    assert await is_alive(cluster, web, pair.access)
    assert refused(await web.exchange(code), "invalid_grant")


async def replayed(cluster: Stack, app: App, code: str, pair: Pair, **changes: str) -> None:
    """Replay the code, refused each time, until the grant is revoked."""

    async def ended() -> bool:
        assert refused(await app.exchange(code, **changes), "invalid_grant")
        return not await app.opens(pair.access)

    await eventually(ended, RETRY + 5, every=0.2)
    assert await has_ended(cluster, app, pair)


async def test_052_a_replayed_code_ends_its_grant(cluster: Stack, web: App, spa: App) -> None:
    """A replayed code revokes the whole grant (§4.1.2). Within two seconds it is a retry, which is refused but revokes
    nothing (Tokenwire's rule).
    """
    for app in (web, spa):
        code = await app.code()
        pair, began = issued(await app.exchange(code)), time.monotonic()
        assert refused(await app.exchange(code), "invalid_grant")
        assert time.monotonic() - began > RETRY or await is_alive(cluster, app, pair.access)
        await replayed(cluster, app, code, pair)
        assert time.monotonic() - began > RETRY


async def test_053_an_unauthenticated_replay_revokes_nothing(cluster: Stack, web: App, other: App, spa: App) -> None:
    """A replay by another client, without the verifier or with another redirect URI revokes nothing."""
    code, theirs = await web.code(**PKCE), await spa.code()
    pair, public = issued(await web.exchange(code, code_verifier=VERIFIER)), issued(await spa.exchange(theirs))
    await passed(RETRY + 0.1)
    for response in (
        await other.exchange(code, code_verifier=VERIFIER),
        await web.exchange(code),
        await web.exchange(code, code_verifier="w" * 43),
        await web.exchange(code, code_verifier=VERIFIER, redirect_uri=f"{CALLBACK}/x"),
        await spa.exchange(theirs, code_verifier="w" * 43),
    ):
        assert refused(response, "invalid_grant")
    wrong = replace(web, secret="nothing-but-wrong")
    assert refused(await wrong.exchange(code, code_verifier=VERIFIER), "invalid_client", 401)
    assert await is_alive(cluster, web, pair.access)
    assert await is_alive(cluster, spa, public.access)
    assert (await web.refresh(pair.refresh)).status == 200


async def test_054_another_client_s_code_is_refused_and_stays_valid(cluster: Stack, web: App, other: App) -> None:
    """A code of another client is refused, and stays valid for its own; of the same API or another."""
    code = await web.code()
    elsewhere = await (await new_api(cluster)).app()
    for outsider in (other, elsewhere):
        assert refused(await outsider.exchange(code), "invalid_grant")
    assert (await web.exchange(code)).status == 200


async def test_055_the_redirect_uri_must_be_repeated(api: Api) -> None:
    """If the authorization request had a redirect URI, the token request must repeat it exactly (§4.1.3)."""
    app = await api.app(redirect_uris=[CALLBACK, f"{CALLBACK}/2"])
    code = await app.code()
    for redirect_uri in ("", f"{CALLBACK}/2", f"{CALLBACK}/", CALLBACK.upper(), f"{CALLBACK}?x"):
        assert refused(await app.exchange(code, redirect_uri=redirect_uri), "invalid_grant")
    assert (await app.exchange(code)).status == 200


async def test_056_a_code_ends_with_its_time(cluster: Stack) -> None:
    """A code expires at the same time in every process."""
    app = await (await new_api(cluster, {"codeLifetime": 1})).app()
    assert (await app.exchange(await app.code())).status == 200
    code = await app.code()
    await passed(1.1)
    for place in app.over(cluster, "token", 2):
        assert refused(await place.exchange(code), "invalid_grant")


async def test_057_the_scope_is_the_consented_one(web: App) -> None:
    """The scope is what the user consented to; a `scope` parameter in the token request is ignored (§4.1.3
    has none).
    """
    response = await web.exchange(await web.code(scope="read"), scope="read write admin")
    assert (response.status, response.body["scope"]) == (200, "read")
    inactive = await web.introspect(response.body["access_token"])
    assert inactive.body["scope"] == "read"


async def test_058_revocation_or_deletion_before_the_exchange_ends_the_code(cluster: Stack) -> None:
    """If the grants are revoked, or the client or API is deleted or disabled before the exchange, every process refuses
    the code.
    """
    api = await new_api(cluster)
    revoked, deleted, orphan = await api.app(), await api.app(), await api.app()
    codes = [await app.code() for app in (revoked, deleted, orphan)]
    response = await cluster.operator("POST", f"/api/apis/oauth/{revoked.client_id}/revoke_all")
    assert response.status == 200
    await deleted.managed("DELETE")
    for place in (*revoked.over(cluster, "token", 2),):

        async def is_refused(place: App = place) -> bool:
            gone = replace(place, client_id=deleted.client_id, secret=deleted.secret)
            return refused(await gone.exchange(codes[1]), "invalid_client", 401)

        await eventually(is_refused)
        assert refused(await place.exchange(codes[0]), "invalid_grant")
    await api.change("x-tyk-api-gateway__info__state__active", False)
    for place in orphan.over(cluster, "token", 2):

        async def is_unknown(place: App = place) -> bool:
            return refused(await place.exchange(codes[2]), "invalid_request", 404)

        await eventually(is_unknown)
