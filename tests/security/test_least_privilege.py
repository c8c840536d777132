"""Every operation for operators against every permission: from the table of operations, so that none is forgotten."""

import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

import pytest

from contracts.http import Caller as Who
from contracts.http import Operation, Service
from contracts.operations import OPERATIONS
from contracts.operators import Permission
from libs.bus.local import LocalBroker, LocalBus
from services.gateway.proxy import TEMPLATE
from tests.builders import CALLBACK, Caller, make_operator, settle
from tests.notifications import Notifier, database_of_its_own, notifier
from tests.services.system import Party, System, open_system

GUARDED = [operation for operation in OPERATIONS if operation.caller is Who.OPERATOR]
OTHERS = [operation for operation in OPERATIONS if operation.caller not in {Who.OPERATOR, Who.ANYBODY}]
KEYS = ("nobody", "unknown", "dead", *Permission, *(f"all but {permission}" for permission in Permission))
"""Whose key a request carries: nobody's, nobody's any more, that of one permission, that of all but one and `admin`."""


@dataclass(frozen=True)
class World:
    """All six services, and callers with every kind of key."""

    system: System
    notifier: Notifier
    keys: Mapping[str, str]
    party: Party

    def caller(self, operation: Operation, whose: str) -> Caller:
        """Asks the service of the operation with this key."""
        caller = self.notifier.anybody if operation.service is Service.NOTIFIER else self.system.call
        return caller if whose == "nobody" else caller.with_key(self.keys[whose])

    async def status(self, operation: Operation, whose: str, slash: str = "") -> int:
        """The status only: a stream has no end. The API on whose paths it is asked exists, and nothing else."""
        caller = self.caller(operation, whose)
        path = operation.path.replace("{place}", self.party.api.listen_path.strip("/"))
        path = re.sub(r"\{\w+\}", "nothing-there", path) + slash
        body = {} if operation.method == "GET" else {"json": {}}
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
    """That of an operator who might do everything, and is gone."""
    key = await make_operator(system.deps, Permission.ADMIN)
    assert (await system.call.with_key(key)("GET", "/api/operators")).status == 200
    operator = await system.deps.catalog.operator(key)
    assert operator is not None
    assert await system.deps.store.operators.delete(operator, system.deps.origin("tests"))
    await settle(system.deps)
    return key


def opens(whose: str, permission: Permission) -> bool:
    """Whether this key has the permission, or all."""
    if whose.startswith("all but "):
        return permission not in {whose.removeprefix("all but "), Permission.ADMIN}
    return whose in {permission, Permission.ADMIN}


@pytest.mark.parametrize("whose", KEYS)
@pytest.mark.parametrize("operation", GUARDED, ids=lambda operation: operation.name)
async def test_who_may_do_what(world: World, operation: Operation, whose: str) -> None:
    """401 for whom nobody knows, 403 without the permission, before anything else is looked at; `admin` has all."""
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
    """The permission that an operation of this kind has to ask for."""
    last = operation.path.rpartition("/")[2]
    if last == "authorize-client":
        return Permission.AUTHORIZE
    if operation.path.startswith("/api/operators"):
        return Permission.ADMIN
    if last.startswith("revoke"):
        return Permission.REVOKE
    return Permission.READ if operation.method == "GET" else Permission.WRITE


@pytest.mark.parametrize("operation", GUARDED, ids=lambda operation: operation.name)
def test_an_operation_asks_for_the_permission_of_its_kind(operation: Operation) -> None:
    """Reading needs `read`, changing `write`, codes `authorize`, the end of tokens `revoke`, operators `admin`."""
    assert operation.permission is expected(operation)


def test_no_route_is_unlisted(world: World) -> None:
    """Whatever answers under /api/, or for operators elsewhere, is in the table and was asked above.

    All but the way to the protected APIs, which leaves out every path of the table.
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
    """With `authorize` alone nothing opens but the way to a code: nothing of operators, and nothing of clients."""
    status = await world.status(operation, Permission.AUTHORIZE)
    if operation.permission is Permission.AUTHORIZE:
        assert status in {400, 404}  # opened, and there is nothing
    else:
        assert 400 <= status < 500


async def test_the_identity_server_gets_codes(world: World) -> None:
    """On every path of it, with the key that opens nothing else."""
    api, call = world.party.api, world.system.call.with_key(world.keys[Permission.AUTHORIZE])
    form = {"response_type": "code", "client_id": world.party.id, "redirect_uri": CALLBACK}
    paths = ("/api/apis/oauth/{}/authorize-client", "/api/apis/{}/authorize-client", "/{}/tyk/oauth/authorize-client")
    for path in paths:
        answer = await call("POST", path.format(api.api_id), data=form)
        assert (answer.status, answer.body["code"][:6]) == (200, "tw_ac_"), path


async def test_the_identity_server_learns_nothing_of_tokens(world: World) -> None:
    """Introspection, which clients and operators share, is closed to a key for codes; with `read` it is open."""
    token = (await world.party.tokens()).access
    for permission, status in ((Permission.AUTHORIZE, 403), (Permission.READ, 200)):
        call = world.system.call.with_key(world.keys[permission])
        assert (await call("POST", "/oauth/introspect", data={"token": token})).status == status
