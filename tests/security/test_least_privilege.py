"""Every operator operation is tried with every permission, taken from the table of operations so that none is
missed.
"""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from contracts.operations import Caller as Who
from contracts.operations import Operation, Service
from contracts.operators import Permission
from libs.bus.local import LocalBroker, LocalBus
from services.gateway.proxy import TEMPLATE
from services.operation_catalog import OPERATIONS
from tests.builders import CALLBACK, Caller, make_operator, settle
from tests.notifications import Notifier, database_of_its_own, notifier
from tests.services.system import Party, System, open_system

GUARDED = [operation for operation in OPERATIONS if operation.caller is Who.OPERATOR]
OTHERS = [operation for operation in OPERATIONS if operation.caller not in {Who.OPERATOR, Who.ANYBODY}]
KEYS = ("nobody", "unknown", "dead", *Permission, *(f"all but {permission}" for permission in Permission))
"""The key of a request: none, an unknown or deleted one, one with a single permission, or with all but one and `admin`.
"""


@dataclass(frozen=True)
class World:
    """All six services, and callers with every kind of key."""

    system: System
    notifier: Notifier
    keys: Mapping[str, str]
    party: Party

    def caller(self, operation: Operation, whose: str) -> Caller:
        """A caller of the operation's service with this key."""
        caller = self.notifier.anybody if operation.service is Service.NOTIFIER else self.system.call
        return caller if whose == "nobody" else caller.with_key(self.keys[whose])

    async def status(self, operation: Operation, whose: str, slash: str = "") -> int:
        """The status only, because a stream does not end. The API in the path exists, but no other record does."""
        caller = self.caller(operation, whose)
        path = operation.path.replace("{api_ref}", self.party.api.listen_path.strip("/"))
        path = re.sub(r"\{\w+\}", "nothing-there", path) + slash
        body: dict[str, Any] = {} if operation.method == "GET" else {"json": {}}
        request = caller.http.request(operation.method, path, headers=caller.headers, allow_redirects=False, **body)
        async with request as response:
            return response.status


@pytest.fixture(name="world", scope="module")
async def _world(mongodb_url: str) -> AsyncIterator[World]:
    broker, database = LocalBroker(), database_of_its_own()
    async with (
        open_system(mongodb_url, database, bus=LocalBus(broker), notifier=False) as system,
        notifier(mongodb_url, database, broker=broker) as sender,
    ):
        keys = {"unknown": "a-key-that-nobody-ever-was-given", "dead": await dead_key(system)}
        for permission in Permission:
            others = [other for other in Permission if other not in {permission, Permission.ADMIN}]
            keys[permission] = await make_operator(system.deps, permission)
            keys[f"all but {permission}"] = await make_operator(system.deps, *others)
        yield World(system, sender, keys, await system.party())


async def dead_key(system: System) -> str:
    """The key of a deleted operator that had all permissions."""
    key = await make_operator(system.deps, Permission.ADMIN)
    assert (await system.call.with_key(key)("GET", "/api/operators")).status == 200
    operator = await system.deps.catalog.operator(key)
    assert operator is not None
    assert await system.deps.store.operators.delete(operator, system.deps.event_context("tests"))
    await settle(system.deps)
    return key


def opens(whose: str, permission: Permission) -> bool:
    """Whether this key has the permission, or `admin`."""
    if whose.startswith("all but "):
        return permission not in {whose.removeprefix("all but "), Permission.ADMIN}
    return whose in {permission, Permission.ADMIN}


@pytest.mark.parametrize("whose", KEYS)
@pytest.mark.parametrize("operation", GUARDED, ids=lambda operation: operation.name)
async def test_permissions_are_enforced(world: World, operation: Operation, whose: str) -> None:
    """401 for an unknown key and 403 without the permission, before anything else is checked; `admin` may do
    everything.
    """
    assert operation.permission is not None
    for slash in ("", "/"):
        status = await world.status(operation, whose, slash)
        if whose in {"nobody", "unknown", "dead"}:
            assert status == 401
        elif opens(whose, operation.permission):
            assert status in {200, 400, 404}
        else:
            assert status == 403


def expected(operation: Operation) -> Permission:
    """The permission that an operation of this kind must require."""
    last = operation.path.rpartition("/")[2]
    if last == "authorize-client":
        return Permission.AUTHORIZE
    if operation.name == "getOwnOperator":  # an operator may see what its own key is for
        return Permission.READ
    if operation.path.startswith("/api/operators") or operation.name == "lintConfig":  # it tells of operators, too
        return Permission.ADMIN
    if last.startswith("revoke"):
        return Permission.REVOKE
    if operation.name == "previewPolicies":  # a POST because it asks with a document; it changes nothing
        return Permission.READ
    if operation.name == "lookUpGrant":  # a POST because the value must not be in a URL
        return Permission.READ
    if operation.name == "getSigningSecret":  # who may change an API may see its secrets
        return Permission.WRITE
    return Permission.READ if operation.method == "GET" else Permission.WRITE


@pytest.mark.parametrize("operation", GUARDED, ids=lambda operation: operation.name)
def test_an_operation_asks_for_the_permission_of_its_kind(operation: Operation) -> None:
    """Reads need `read`, changes `write`, codes `authorize`, revocation `revoke`, operators `admin`."""
    assert operation.permission is expected(operation)


def test_no_route_is_unlisted(world: World) -> None:
    """Every route under /api/ and every other operator route is in the table and was tried above.

    Except the proxy to protected APIs, which excludes every path in the table.
    """
    routed = {
        (route.method, route.resource.canonical.rstrip("/"))
        for caller in (world.system.call, world.notifier.anybody)
        for route in caller.http.server.app.router.routes()  # type: ignore[attr-defined]
        if route.resource is not None and route.method != "HEAD"
    }
    assert routed == {(operation.method, operation.path) for operation in OPERATIONS} | {("*", TEMPLATE)}
    under_api = {(method, path) for method, path in routed if path.startswith("/api/")}
    assert under_api <= {(operation.method, operation.path) for operation in GUARDED}


@pytest.mark.parametrize("operation", [*GUARDED, *OTHERS], ids=lambda operation: operation.name)
async def test_the_identity_servers_key_does_one_thing(world: World, operation: Operation) -> None:
    """With `authorize` alone only the code request is allowed: no other operator route, and no client route."""
    status = await world.status(operation, Permission.AUTHORIZE)
    if operation.permission is Permission.AUTHORIZE:
        assert status in {400, 404}  # allowed, but there is no such record
    else:
        assert 400 <= status < 500


async def test_the_identity_server_gets_codes(world: World) -> None:
    """A key with only `authorize` gets codes at every path for them."""
    api, call = world.party.api, world.system.call.with_key(world.keys[Permission.AUTHORIZE])
    form = {"response_type": "code", "client_id": world.party.id, "redirect_uri": CALLBACK}
    paths = ("/api/apis/oauth/{}/authorize-client", "/api/apis/{}/authorize-client", "/{}/tyk/oauth/authorize-client")
    for path in paths:
        response = await call("POST", path.format(api.api_id), data=form)
        assert (response.status, response.body["code"][:6]) == (200, "tw_ac_"), path


async def test_the_identity_server_learns_nothing_of_tokens(world: World) -> None:
    """Introspection is refused to a key with only `authorize`, and allowed with `read`."""
    token = (await world.party.tokens()).access
    for permission, status in ((Permission.AUTHORIZE, 403), (Permission.READ, 200)):
        call = world.system.call.with_key(world.keys[permission])
        assert (await call("POST", "/oauth/introspect", data={"token": token})).status == status
