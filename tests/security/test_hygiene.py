"""CORS, forged hosts, webhooks and the management API: rows 98, 99, 101 and 102. Row 97 is in test_metadata.py, row 100
in test_no_secret_in_clear.py.
"""

import re
import secrets
import socket
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest

from contracts.operations import Caller
from services.operation_catalog import OPERATIONS
from tests.acceptance.stack import Stack
from tests.acceptance.tenants import SCHEME, issued
from tests.acceptance.webhooks import Receiver
from tests.builders import unique
from tests.security.apps import App, new_api, query_of
from tests.security.extra_process import ExtraProcess, extra_process

NOTIFICATIONS = f"{SCHEME}__notifications"
KEYS = {"auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type"}


@pytest.mark.parametrize("place", ["oauth/token", "oauth/authorize", "oauth/revoke", "introspect", "metadata", "api"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1"])
async def test_098_no_script_of_another_origin_may_read_a_response(web: App, place: str, origin: str) -> None:
    """Responses and preflights allow nothing to an origin that no API definition names."""
    elsewhere = {
        "introspect": "/oauth/introspect",
        "metadata": f"/.well-known/oauth-authorization-server{web.path}",
        "api": "/api/apis",
    }
    path = elsewhere.get(place, f"{web.path}/{place}")
    asked = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
    for method, headers in (("OPTIONS", asked), ("GET", {}), ("POST", web.basic)):
        response = await web.edge(method, path, headers={"Origin": origin, **headers})
        assert not [name for name in response.headers if name.lower().startswith("access-control-allow")], method


FORGED = {
    "Host": "evil.example",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Prefix": "/evil",
    "Forwarded": "host=evil.example;proto=https",
    "X-Original-URL": "/evil",
}


@pytest.mark.parametrize("past_the_edge", [False, True])
async def test_099_the_issuer_cannot_be_forged(cluster: Stack, web: App, past_the_edge: bool) -> None:
    """The issuer comes from the settings, whatever Host a request claims. Trust in X-Forwarded-For is tested in
    test_throttling.py.
    """
    issuer = (await web.metadata())["issuer"]
    asked = web.over(cluster, "authorization", 1)[0] if past_the_edge else web
    place = f"/.well-known/oauth-authorization-server{web.path}"
    assert (await asked.edge("GET", place, headers=FORGED)).body["issuer"] == issuer == f"{cluster.url}{web.path}"
    query = urlencode(web.request(scope='"'))
    response = await asked.edge("GET", f"{web.path}/oauth/authorize?{query}", headers=FORGED)
    assert query_of(response.headers["Location"])["iss"] == issuer
    assert b"evil.example" not in response.raw


async def test_101_a_webhook_proves_where_it_comes_from(cluster: Stack, receiver: Receiver) -> None:
    """Webhooks have Tyk's five keys, including tokens, and go to the API's own URL with signature, id and time.
    Tokenwire's own rule.

    The event on the bus carries no token (row 100).
    """
    path, shared = f"/hooks/{unique('signed')}", secrets.token_urlsafe(24)
    app = await (
        await new_api(cluster, **{NOTIFICATIONS: {"onKeyChangeUrl": receiver.url(path), "sharedSecret": shared}})
    ).app()
    code = await app.code()
    first = issued(await app.exchange(code))
    second = await app.refreshed(first.refresh)
    for pair, sent in ((first, {"auth_code": code}), (second, {"old_refresh_token": first.refresh})):
        webhook = await receiver.hears(path, new_oauth_token=pair.access)
        assert set(webhook.body) == KEYS
        assert sent.items() <= webhook.body.items()
        assert webhook.headers["x-tyk-shared-secret"] == shared
        assert webhook.is_signed_with(shared)
        assert not webhook.is_signed_with(f"{shared}x")
    ids = {webhook.headers["webhook-id"] for webhook in receiver.saying(path)}
    assert len(ids) == 2


@pytest.fixture(scope="module", name="strict")
async def _strict(cluster: Stack, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[ExtraProcess]:
    """A notifier with the default setting."""
    setting = {"TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS": "false"}
    async with extra_process(
        cluster, tmp_path_factory.mktemp("strict"), service="notifier", settings=setting
    ) as process:
        yield process


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f.0.0.1",
        "017700000001",
        "0.0.0.0",  # noqa: S104 - not bound to
        "localhost",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "100.64.0.1",
        "[fd00::1]",
        "[fe80::1]",
        socket.gethostname(),
    ],
)
async def test_101_a_webhook_cannot_reach_internal_addresses(
    cluster: Stack, receiver: Receiver, strict: ExtraProcess, host: str
) -> None:
    """Webhooks are not sent to private, loopback or link-local addresses, however they are written, nor to names that
    resolve to them (SSRF).
    """
    url = receiver.url("/inside").replace("127.0.0.1", host)
    api = await new_api(cluster, **{NOTIFICATIONS: {"onKeyChangeUrl": url, "sharedSecret": ""}})
    notifier = strict.call.with_key(cluster.operator_key)
    response = await notifier("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert response.status == 200, response.raw
    assert response.body["Status"] == "Error"
    assert response.body["Meta"]["status"] is None
    assert receiver.saying("/inside") == []


def operator_paths() -> list[tuple[str, str]]:
    """Every route that requires an operator key, with its parameters filled in."""
    found = [(each.method, each.path) for each in OPERATIONS if each.caller is Caller.OPERATOR]
    return [(method, re.sub(r"{[^}]*}", "x", path)) for method, path in found]


@pytest.mark.parametrize(("method", "path"), operator_paths())
async def test_102_a_client_is_no_operator(web: App, method: str, path: str) -> None:
    """A client's token or secret is not accepted at any route of the management API."""
    pair = await web.pair()
    for authorization in (f"Bearer {pair.access}", pair.access, pair.refresh, web.basic["Authorization"], web.secret):
        response = await web.edge(method, path, headers={"Authorization": authorization})
        assert response.status == 401, response.raw
        assert response.message == "Not authorised"


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/healthz/", "/x/../metrics", "//metrics"])
async def test_102_operations_are_not_for_the_public(cluster: Stack, path: str) -> None:
    """The edge exposes only routes for clients and operators; health and metrics are internal."""
    assert (await cluster.anybody("GET", path)).status == 404
    assert (await cluster.operator("GET", path)).status == 404
