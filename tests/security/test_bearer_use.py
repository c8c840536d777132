"""Bearer tokens at the protected API (RFC 6750): rows 91 to 96. Statuses are Tyk's; the challenge header follows RFC
6750 §3.
"""

import base64
import json
from typing import Any

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import SCHEME
from tests.builders import Response
from tests.eventually import eventually
from tests.security.apps import App, new_api, passed

REALM = 'Bearer realm="tokenwire"'
PLACES: dict[str, Any] = {
    "header": {"enabled": True, "name": "Authorization"},
    "query": {"enabled": True, "name": "access_token"},
    "cookie": {"enabled": True, "name": "session"},
}


def denied(response: Response, status: int, error: str = "") -> bool:
    """Whether the call is refused with this status and this error of RFC 6750 §3.1 (no error code if no token was
    sent).
    """
    challenge = f'{REALM}, error="{error}"' if error else REALM
    assert (response.status, response.headers["WWW-Authenticate"]) == (status, challenge), response.raw
    assert response.headers["Cache-Control"] == "no-store"
    return True


async def test_091_a_call_without_a_token_gets_a_challenge(web: App) -> None:
    """A call without a token gets 400, as in Tyk, and a challenge without an error code (§3.1)."""
    assert denied(await web.call(""), 400)
    assert denied(await web.call("", Authorization="Bearer"), 400)
    assert denied(await web.call("", Authorization="Basic x y"), 400, "invalid_request")


async def test_092_a_bad_or_expired_token_is_invalid(cluster: Stack, web: App) -> None:
    """`invalid_token`: 403 for what is not a token and 401 for an expired or revoked token, as in Tyk."""
    pair = await web.pair()
    for token in ("x", pair.access[:-1], pair.access.upper(), pair.refresh, await web.code(), "tw_at_" + "A" * 76):
        assert denied(await web.call(token), 403, "invalid_token")
    brief = await (await new_api(cluster, {"accessTokenLifetime": 1})).app()
    expired = (await brief.pair()).access
    assert await brief.opens(expired)
    await passed(1.1)
    for place in brief.over(cluster, "gateway", 2):
        assert denied(await place.call(expired), 401, "invalid_token")


async def test_093_a_token_opens_no_more_than_it_was_given(cluster: Stack) -> None:
    """403 `insufficient_scope` for a URL or an API that the client's policy does not allow; policy edits apply at
    once.
    """
    api = await new_api(cluster)
    allowed = {"api_id": api.api_id, "allowed_urls": [{"url": "/open", "methods": ["GET"]}]}
    policy = {"name": "one way", "access_rights": {api.api_id: allowed}, "active": True}
    response = await cluster.operator("POST", "/api/portal/policies", json=policy)
    assert response.status == 200, response.raw
    policy_id = response.body["Message"]
    app = await api.app(policy_id=policy_id)
    token = (await app.pair()).access
    asked = {"Authorization": f"Bearer {token}"}
    for place in app.over(cluster, "gateway", 2):
        assert denied(await place.call(token), 403, "insufficient_scope")
        opened = {"X-Forwarded-Uri": f"{app.path}/open", **asked}
        assert (await place.edge("GET", "/verify", headers=opened)).status == 200
    other = await (await new_api(cluster)).app()
    assert denied(await other.call(token), 403, "insufficient_scope")


async def with_places(cluster: Stack, *names: str) -> App:
    """A client of an API that accepts tokens only in these places."""
    changes = {f"{SCHEME}__{name}": PLACES[name] if name in names else {"enabled": False} for name in PLACES}
    return await (await new_api(cluster, **changes)).app()


async def test_094_a_token_in_the_query_is_not_looked_at(cluster: Stack, web: App) -> None:
    """A token in the query is ignored (RFC 9700 §4.3.2) unless the API's definition enables it. Our own rule."""
    token = (await web.pair()).access
    for query in (f"?access_token={token}", f"?Authorization={token}", f"?token={token}"):
        assert denied(await web.call("", query), 400)
    asked = await with_places(cluster, "query")
    token = (await asked.pair()).access
    assert (await asked.call("", f"?access_token={token}")).status == 200
    assert denied(await asked.call(token), 400)


async def test_095_of_several_places_one_counts(cluster: Stack, web: App) -> None:
    """If tokens are sent in several enabled places, exactly one is used, as in Tyk; disabled places are ignored.
    Tokenwire's own rule.

    The order is cookie, query, header. The first one present decides, and no other is tried after it.
    """
    token = (await web.pair()).access
    assert (await web.call(token, "?access_token=wrong", Cookie="Authorization=wrong")).status == 200
    several = await with_places(cluster, *PLACES)
    token = (await several.pair()).access
    for right, query, cookie in ((token, token, "wrong"), (token, "wrong", ""), ("", token, "wrong")):
        response = await several.call(right, f"?access_token={query}", Cookie=f"session={cookie}")
        assert denied(response, 403, "invalid_token")
    assert (await several.call("wrong", "?access_token=wrong", Cookie=f"session={token}")).status == 200


def jwt(header: dict[str, Any], claims: dict[str, Any], signature: bytes = b"") -> str:
    """Build a JWT (RFC 7519)."""
    parts = [json.dumps(header).encode(), json.dumps(claims).encode(), signature]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none", "typ": "at+jwt"},
        {"alg": "HS256", "typ": "at+jwt"},
        {"alg": "RS256", "typ": "at+jwt", "kid": "../../dev/null", "jku": "https://evil.example/jwks"},
        {"alg": "RS256", "typ": "JWT"},
    ],
)
async def test_096_no_jwt_is_a_token(web: App, header: dict[str, Any]) -> None:
    """No JWT is accepted, whatever its claims and signature, because tokens are opaque."""
    claims = {"iss": (await web.metadata())["issuer"], "aud": web.api_id, "client_id": web.client_id, "sub": "alice"}
    for signature in (b"", b"x" * 32):
        assert denied(await web.call(jwt(header, claims, signature)), 403, "invalid_token")


async def test_096_a_token_of_another_audience_is_refused(cluster: Stack, web: App) -> None:
    """An API accepts only tokens that it issued itself."""
    outsider = await (await new_api(cluster)).app()
    token = (await outsider.pair()).access

    async def opens_its_own() -> bool:
        return await outsider.opens(token)

    await eventually(opens_its_own)
    for place in web.over(cluster, "gateway", 2):
        assert denied(await place.call(token), 403, "insufficient_scope")
