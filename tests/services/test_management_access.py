"""Every management route requires its permission, with and without a slash, alone and next to other services."""

import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from aiohttp import web

import services.authorization.app
import services.management.app
import services.revocation.app
from contracts.operators import Permission
from libs.bus.local import LocalBus
from libs.runtime import Deps, new_application, new_deps
from services.authorization.settings import AuthorizationSettings
from services.management.settings import ManagementSettings
from services.revocation.settings import RevocationSettings
from tests.builders import CALLBACK, Caller, make_api, make_client, make_operator, running, settings
from tests.services.management import Management, management

NOTHING_REVOKED = "nothing was revoked: there is no such token, or it had ended before"
READ, WRITE, ADMIN = Permission.READ, Permission.WRITE, Permission.ADMIN

ROUTES = {
    ("POST", "/api/apis"): WRITE,
    ("GET", "/api/apis"): READ,
    ("POST", "/api/apis/oas"): WRITE,
    ("GET", "/api/apis/oas"): READ,
    ("GET", "/api/apis/oas/{api_id}"): READ,
    ("PUT", "/api/apis/oas/{api_id}"): WRITE,
    ("DELETE", "/api/apis/oas/{api_id}"): WRITE,
    ("GET", "/api/apis/{api_id}"): READ,
    ("PUT", "/api/apis/{api_id}"): WRITE,
    ("DELETE", "/api/apis/{api_id}"): WRITE,
    ("POST", "/api/apis/oauth/{api_id}"): WRITE,
    ("GET", "/api/apis/oauth/{api_id}"): READ,
    ("GET", "/api/apis/oauth/{api_id}/{client_id}"): READ,
    ("PUT", "/api/apis/oauth/{api_id}/{client_id}"): WRITE,
    ("DELETE", "/api/apis/oauth/{api_id}/{client_id}"): WRITE,
    ("PUT", "/api/apis/oauth/{api_id}/{client_id}/rotate"): WRITE,
    ("GET", "/api/clients"): READ,
    ("GET", "/api/clients/{client_id}"): READ,
    ("POST", "/api/portal/policies"): WRITE,
    ("GET", "/api/portal/policies"): READ,
    ("GET", "/api/portal/policies/{policy_id}"): READ,
    ("PUT", "/api/portal/policies/{policy_id}"): WRITE,
    ("DELETE", "/api/portal/policies/{policy_id}"): WRITE,
    ("POST", "/api/portal/policies/preview"): READ,
    ("GET", "/api/portal/policies/{policy_id}/usage"): READ,
    ("GET", "/api/apis/keys/basic"): READ,
    ("POST", "/api/apis/keys/basic/{username}"): WRITE,
    ("GET", "/api/apis/keys/basic/{username}"): READ,
    ("PUT", "/api/apis/keys/basic/{username}"): WRITE,
    ("DELETE", "/api/apis/keys/basic/{username}"): WRITE,
    ("POST", "/api/operators"): ADMIN,
    ("GET", "/api/operators"): ADMIN,
    ("GET", "/api/operators/{operator_id}"): ADMIN,
    ("PUT", "/api/operators/{operator_id}"): ADMIN,
    ("DELETE", "/api/operators/{operator_id}"): ADMIN,
    ("GET", "/api/events/stream"): READ,
    ("GET", "/api/events/audit"): READ,
    ("GET", "/api/events"): READ,
    ("GET", "/api/operators/self"): READ,
    ("POST", "/api/operators/{operator_id}/rotate"): ADMIN,
    ("GET", "/api/apis/{api_id}/signing-secret"): WRITE,
    ("GET", "/api/apis/{api_id}/report"): READ,
    ("GET", "/api/apis/{api_id}/deletion"): READ,
    ("POST", "/api/apis/{api_id}/signing-secret/rotate"): WRITE,
    ("GET", "/api/grants"): READ,
    ("GET", "/api/grants/{grant_id}"): READ,
    ("POST", "/api/grants/lookup"): READ,
    ("GET", "/api/grants/{grant_id}/timeline"): READ,
    ("GET", "/api/analytics/clients"): READ,
    ("GET", "/api/analytics/usage"): READ,
    ("GET", "/api/analytics/summary"): READ,
    ("GET", "/api/audit"): READ,
    ("GET", "/api/config-lint"): ADMIN,
}


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


@pytest.fixture(scope="module", name="operators")
async def _operators(service: Management) -> dict[Permission, Caller]:
    """An operator for each permission."""
    return {
        permission: service.anybody.with_key(await make_operator(service.deps, permission)) for permission in Permission
    }


async def status(caller: Caller, method: str, path: str) -> int:
    """The status only, because a stream does not end."""
    async with caller.http.request(method, path, json={}, headers=caller.headers) as response:
        return response.status


def test_the_table_has_every_route(service: Management) -> None:
    """Every route is in the table; a new one, or one without its slash variant, fails here."""
    app = service.anybody.http.server.app  # type: ignore[attr-defined]
    routed = {
        (route.method, route.resource.canonical)
        for route in app.router.routes()
        if route.resource is not None and route.resource.canonical.startswith("/api/")
    }
    assert routed == {(method, path + slash) for method, path in ROUTES for slash in ("", "/")}


@pytest.mark.parametrize("slash", [pytest.param("", id="plain"), pytest.param("/", id="slash")])
@pytest.mark.parametrize(
    ("method", "path", "required"),
    [pytest.param(method, path, required, id=f"{method} {path}") for (method, path), required in ROUTES.items()],
)
async def test_permissions_are_enforced(
    service: Management, operators: dict[Permission, Caller], method: str, path: str, required: Permission, slash: str
) -> None:
    """401 without a key and 403 without the permission, before other checks; `admin` may do everything."""
    path = re.sub(r"\{\w+\}", "nothing-there", path) + slash
    assert await status(service.anybody, method, path) == 401
    for permission, operator in operators.items():
        answered = await status(operator, method, path)
        if permission in {required, ADMIN}:
            assert answered in {200, 400, 404}, permission
        else:
            assert answered == 403, permission


# Next to other services under /api/apis/oauth/


class Together(ManagementSettings, AuthorizationSettings, RevocationSettings):
    """Settings of three services in one process."""


Install = Callable[[web.Application, Any, Deps], None]
INSTALLS: dict[str, Install] = {
    "management": services.management.app.install,
    "authorization": services.authorization.app.install,
    "revocation": services.revocation.app.install,
}


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(("management", "authorization", "revocation"), id="management-first"),
        pytest.param(("authorization", "revocation", "management"), id="management-last"),
    ],
)
async def test_no_route_shadows_another(mongodb_url: str, database_name: str, order: tuple[str, ...]) -> None:
    """In one process, in any order, each service gets its own requests, by method or last path segment."""
    configured = settings(Together, mongodb_url, database_name)
    deps = new_deps(configured, "together", bus=LocalBus())
    app = new_application(configured, deps)
    for name in order:
        INSTALLS[name](app, configured, deps)
    async with running(app) as anybody:
        call = anybody.with_key(await make_operator(deps, ADMIN))
        api = await make_api(deps)
        client, secret = await make_client(deps, api)
        place = f"/api/apis/oauth/{api.api_id}"
        code = {"response_type": "code", "client_id": client.client_id, "redirect_uri": CALLBACK}
        for slash in ("", "/"):
            assert (await call("GET", f"{place}/{client.client_id}{slash}")).body["client_id"] == client.client_id
            assert (await call("GET", f"{place}/{client.client_id}/tokens{slash}")).body == []
            assert (await call("GET", f"/api/apis/oauth/{client.client_id}/tokens{slash}")).body == []
            for path in (place, f"/api/apis/{api.api_id}"):
                assert "code" in (await call("POST", f"{path}/authorize-client{slash}", data=code)).body
            revoke = {"token": "x", "client_id": client.client_id, "client_secret": secret}
            response = await call("POST", f"/api/apis/oauth/{client.client_id}/revoke{slash}", data=revoke)
            assert (response.status, response.message) == (200, NOTHING_REVOKED)
            path = f"/api/apis/oauth/{client.client_id}/revoke_all{slash}"
            response = await call("POST", path, data={"client_id": client.client_id, "client_secret": secret})
            assert (response.status, response.message) == (200, "tokens revoked successfully")
        for name in ("tokens", "revoke", "revoke_all", "authorize-client"):
            assert (await call("DELETE", f"{place}/{name}")).status == 405
            assert (await call("PUT", f"{place}/{name}")).status == 405
