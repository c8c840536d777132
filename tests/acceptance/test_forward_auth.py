"""nginx in front of a protected API, checking every call with two gateways, as in `edge/examples/nginx.conf`."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.acceptance.caller import Caller
from tests.acceptance.stack import Stack, instances_of
from tests.acceptance.tenants import NewTenant, Pair, Tenant, basic, register_client
from tests.builders import Response
from tests.deployment.edge import ForwardAuth
from tests.eventually import eventually

GATEWAYS = instances_of("gateway")


@dataclass
class Guarded:
    """The protected API behind nginx, and the requests that reached it."""

    stack: Stack
    caller: Caller
    reached: list[web.Request]

    async def call(self, tenant: Tenant, access_token: str, method: str = "POST") -> Response:
        """Call the tenant's API."""
        headers = {"Authorization": f"Bearer {access_token}"}
        return await self.caller(method, f"{tenant.path}/things/1?x=y", headers=headers)

    async def admitted(self, tenant: Tenant, access_token: str) -> bool:
        return (await self.call(tenant, access_token)).status == 200

    async def refused_by_all(self, tenant: Tenant, access_token: str) -> bool:
        """Whether further calls are refused, until every gateway has been asked."""
        before = self.questions()
        responses = [await self.call(tenant, access_token) for _ in range(2 * len(GATEWAYS))]
        await self.all_were_asked_since(before)
        return {response.status for response in responses} == {403}

    async def all_were_asked_since(self, before: list[int]) -> None:
        """Whether every gateway has been asked since, by its own log."""
        await eventually(lambda: all(now > then for now, then in zip(self.questions(), before, strict=True)))

    def questions(self) -> list[int]:
        """Number of checks that each gateway has logged."""
        return [self.stack.logs(name).count('"path":"/verify"') for name in GATEWAYS]


@pytest.fixture(scope="module")
async def guarded(stack: Stack) -> AsyncIterator[Guarded]:
    reached: list[web.Request] = []

    async def api(request: web.Request) -> web.Response:
        reached.append(request)
        return web.json_response({name: value for name, value in request.headers.items() if "Tokenwire" in name})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", api)
    ports = [urlsplit(stack.urls[name]).port or 0 for name in GATEWAYS]
    async with TestServer(app) as server:
        with ForwardAuth(ports, server.port or 0) as nginx:
            yield Guarded(stack, stack.anybody.at(nginx.url), reached)


async def test_an_admitted_call_reaches_the_api_with_its_identity(guarded: Guarded, tenant_of: NewTenant) -> None:
    """The API receives the gateway's identity headers, and not the caller's."""
    tenant = await tenant_of()
    pair = await tenant.pair()
    headers = {"Authorization": f"Bearer {pair.access}", "X-Tokenwire-Subject": "root", "X-Tokenwire-Scope": "all"}
    response = await guarded.caller("PUT", f"{tenant.path}/things/1?x=y", headers=headers, data=b"body")
    assert response.status == 200
    (token,) = (await tenant.listed()).body
    assert response.body == {
        "X-Tokenwire-Api-Id": tenant.api_id,
        "X-Tokenwire-Client-Id": tenant.client_id,
        "X-Tokenwire-Grant-Id": token["grant_id"],
        "X-Tokenwire-Subject": tenant.username,
    }
    assert (guarded.reached[-1].method, guarded.reached[-1].path_qs) == ("PUT", f"{tenant.path}/things/1?x=y")


def no_token(pair: Pair) -> dict[str, str]:
    return {}


def other_scheme(pair: Pair) -> dict[str, str]:
    return {"Authorization": "Basic x"}


def unknown(pair: Pair) -> dict[str, str]:
    return {"Authorization": "Bearer x"}


def refresh_token(pair: Pair) -> dict[str, str]:
    return {"Authorization": f"Bearer {pair.refresh}"}


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [
        pytest.param("{at}/x", no_token, 400, id="missing"),
        pytest.param("{at}/x", other_scheme, 400, id="malformed"),
        pytest.param("{at}/x", unknown, 403, id="unknown"),
        pytest.param("{at}/x", refresh_token, 403, id="refresh-token"),
        pytest.param("/nowhere/x", unknown, 404, id="no-api"),
    ],
)
async def test_a_refusal_reaches_the_caller_as_the_gateway_gave_it(
    guarded: Guarded,
    tenant_of: NewTenant,
    path: str,
    headers: Callable[[Pair], dict[str, str]],
    status: int,
) -> None:
    """Status, body and challenge pass unchanged, although nginx's auth_request knows only 401 and 403; the API is not
    called.
    """
    tenant = await tenant_of()
    said, path = headers(await tenant.pair()), path.format(at=tenant.path)
    before = len(guarded.reached)
    response = await guarded.caller("GET", path, headers=said)
    verdict = await guarded.stack.anybody("GET", "/verify", headers={"X-Original-URI": path, **said})
    assert (response.status, response.body) == (status, verdict.body)
    assert response.headers["WWW-Authenticate"] == verdict.headers["WWW-Authenticate"]
    assert len(guarded.reached) == before


async def test_an_expired_token_is_refused_with_401(guarded: Guarded, tenant_of: NewTenant) -> None:
    """An expired token gets 401, so that the client refreshes."""
    tenant = await tenant_of(**{"x-tokenwire": {"accessTokenLifetime": 1}})
    pair = await tenant.pair()

    async def expired() -> Any:
        response = await guarded.call(tenant, pair.access)
        return response if response.status == 401 else None

    response = await eventually(expired)
    assert response.body == {"error": "Key has expired, please renew"}
    assert response.headers.getall("WWW-Authenticate") == ['Bearer realm="tokenwire", error="invalid_token"']


@pytest.mark.parametrize("ended", ["revoked", "refreshed", "client deleted"])
async def test_a_token_that_ended_is_refused_through_every_gateway(
    guarded: Guarded, tenant_of: NewTenant, ended: str
) -> None:
    """Every gateway refuses a revoked token although it had just accepted it, and keeps what it knows for minutes."""
    tenant = await tenant_of()
    pair = await tenant.pair()
    before = guarded.questions()
    assert all([await guarded.admitted(tenant, pair.access) for _ in range(2 * len(GATEWAYS))])
    await guarded.all_were_asked_since(before)
    if ended == "revoked":
        form, credentials = {"token": pair.access}, basic(tenant.client_id, tenant.secret)
        response = await tenant.edge("POST", f"{tenant.path}/oauth/revoke", data=form, headers=credentials)
    elif ended == "refreshed":
        response = await tenant.refreshed(pair.refresh)
    else:
        response = await tenant.operator("DELETE", f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}")
    assert response.status == 200
    await eventually(partial(guarded.refused_by_all, tenant, pair.access))


async def test_every_gateway_introspects_the_token(stack: Stack, tenant_of: NewTenant) -> None:
    """A resource server can introspect its API's tokens at every gateway and the edge; after a revocation they become
    inactive.
    """
    tenant = await tenant_of()
    server = basic(*await register_client(stack.operator, tenant.api_id, resource_server=True))
    pair = await tenant.pair()
    doors = [stack.anybody, *(stack.service(name) for name in GATEWAYS)]

    async def told() -> list[Any]:
        form = {"token": pair.access}
        return [(await door("POST", "/oauth/introspect", data=form, headers=server)).body for door in doors]

    first, *others = await told()
    assert (first["client_id"], first["sub"], first["aud"]) == (tenant.client_id, tenant.username, [tenant.api_id])
    assert all(other == first for other in others)
    credentials = basic(tenant.client_id, tenant.secret)
    await tenant.edge("POST", f"{tenant.path}/oauth/revoke", data={"token": pair.access}, headers=credentials)

    async def inactive_everywhere() -> bool:
        return await told() == [{"active": False}] * len(doors)

    await eventually(inactive_everywhere)
