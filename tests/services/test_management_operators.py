"""/api/operators and the first operator: access to the management API."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from typing import Any

import pytest

from contracts.operators import Operator, Permission
from libs.bus.local import LocalBus
from libs.runtime import Deps, new_deps
from libs.settings import WrongSetting, load
from libs.store.operators import key_digest
from services.management.__main__ import create_app
from services.management.settings import ManagementSettings
from tests.builders import KEYS, Caller, make_operator, running, settings
from tests.eventually import eventually
from tests.services.management import Management, management

PLACE = "/api/operators"
KEY = "the-first-key-of-24-char"


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


async def made(service: Management, *permissions: str) -> dict[str, Any]:
    """Create an operator; return it with its key, as in the response."""
    response = await service.admin("POST", PLACE, json={"name": "An operator", "permissions": list(permissions)})
    assert response.status == 200, response.body
    body: dict[str, Any] = response.body
    return body


async def opens(caller: Caller, method: str = "GET", path: str = "/api/apis") -> int:
    return (await caller(method, path, json={})).status


# /api/operators


async def test_a_key_is_shown_once_and_has_its_permissions(service: Management) -> None:
    """A key is `tw_ok_` and 256 random bits, shown once; only its digest is stored."""
    operator = await made(service, "read")
    key, place = operator.pop("key"), f"{PLACE}/{operator['operator_id']}"
    assert key.startswith("tw_ok_")
    assert len(key) == len("tw_ok_") + 43
    assert operator["permissions"] == ["read"]
    assert await opens(service.anybody.with_key(key)) == 200
    assert await opens(service.anybody.with_key(f"Bearer {key}")) == 200
    assert (await service.admin("GET", place)).body == operator
    for path in (place, f"{PLACE}?p=-1"):
        assert key.encode() not in (await service.admin("GET", path)).raw
    document = await service.deps.store.mongo["operators"].find_one({"_id": operator["operator_id"]})
    assert key not in str(document)
    (created,) = await service.heard.about(operator["operator_id"])
    assert (created["type"], created["data"]["name"]) == ("io.tokenwire.operator.created", "An operator")


async def test_permissions_are_a_set(service: Management) -> None:
    """Permissions are stored once each, in a fixed order."""
    assert (await made(service, "revoke", "read", "revoke"))["permissions"] == ["read", "revoke"]


async def test_put_replaces_name_and_permissions_and_keeps_the_key(service: Management) -> None:
    """PUT changes name and permissions from the next request on; the key stays."""
    operator = await made(service, "read")
    caller = service.anybody.with_key(operator.pop("key"))
    said = {"name": "Renamed", "permissions": ["authorize"]}
    response = await service.admin("PUT", f"{PLACE}/{operator['operator_id']}", json=said)
    assert response.body == operator | said | {"updated_at": response.body["updated_at"]}
    assert await opens(caller) == 403


async def test_a_deleted_operator_has_no_key(service: Management) -> None:
    """A deleted operator's key is refused from the next request on."""
    operator = await made(service, "read")
    caller, place = service.anybody.with_key(operator["key"]), f"{PLACE}/{operator['operator_id']}"
    assert await opens(caller) == 200
    assert (await service.admin("DELETE", place)).message == "Operator deleted"
    assert await opens(caller) == 401
    for method in ("GET", "PUT", "DELETE"):
        response = await service.admin(method, place, json={"name": "x", "permissions": ["read"]})
        assert (response.status, response.message) == (404, "operator not found")


async def test_an_operator_cannot_shut_itself_out(service: Management) -> None:
    """An operator can neither delete itself nor drop its own `admin`; another admin can."""
    first, second = await made(service, "admin"), await made(service, "admin")
    caller, place = service.anybody.with_key(first["key"]), f"{PLACE}/{first['operator_id']}"
    less = {"name": "less", "permissions": ["read", "write"]}
    for method in ("DELETE", "PUT"):
        response = await caller(method, place, json=less)
        assert (response.status, "itself" in response.message) == (400, True)
    assert (await caller("PUT", place, json={"name": "more", "permissions": ["read", "admin"]})).status == 200
    other = service.anybody.with_key(second["key"])
    assert (await other("PUT", place, json=less)).status == 200
    assert (await other("DELETE", place)).status == 200


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        pytest.param({"name": "x"}, "permissions", id="no-permissions"),
        pytest.param({"name": "x", "permissions": []}, "permissions", id="empty-permissions"),
        pytest.param({"name": "x", "permissions": ["root"]}, "permissions", id="unknown-permission"),
        pytest.param({"name": "x", "permissions": "read"}, "permissions", id="string-for-list"),
        pytest.param({"name": "x", "permissions": [{"$ne": 1}]}, "permissions", id="operator-for-permission"),
        pytest.param({"permissions": ["read"]}, "name", id="no-name"),
        pytest.param({"name": "  ", "permissions": ["read"]}, "name", id="blank-name"),
        pytest.param({"name": "x", "permissions": ["read"], "key": "mine"}, "key", id="a-key-of-ones-own"),
        pytest.param({"name": "x", "permissions": ["read"], "operator_id": "me"}, "operator_id", id="an-id"),
    ],
)
async def test_a_faulty_operator_is_refused(service: Management, said: dict[str, Any], complaint: str) -> None:
    """400 names the fault; nothing is created or changed."""
    operator = await made(service, "read")
    before = (await service.admin("GET", f"{PLACE}?p=-1")).body
    for method, path in (("POST", PLACE), ("PUT", f"{PLACE}/{operator['operator_id']}")):
        response = await service.admin(method, path, json=said)
        assert response.status == 400, response.body
        assert complaint in response.message
    assert (await service.admin("GET", f"{PLACE}?p=-1")).body == before


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("", id="empty"),
        pytest.param("Bearer ", id="empty-bearer"),
        pytest.param("Basic YTpi", id="basic"),
        pytest.param("tw_ok_" + "A" * 43, id="unknown"),
        pytest.param("x" * 5000, id="long"),
        pytest.param("ключ", id="not-ascii"),
    ],
)
async def test_without_a_known_key_nothing_opens(service: Management, key: str) -> None:
    """A missing or unknown key gets 401 with Tyk's text."""
    response = await service.anybody.with_key(key)("GET", "/api/apis")
    assert (response.status, response.body) == (401, {"Status": "Error", "Message": "Not authorised", "Meta": None})


async def test_the_list_has_pages(mongodb_url: str) -> None:
    """100 operators per page, by id."""
    async with management(mongodb_url) as service:
        await asyncio.gather(*(make_operator(service.deps, Permission.READ) for _ in range(100)))
        first, second, every = [(await service.admin("GET", PLACE + query)).body for query in ("", "?p=2", "?p=-1")]
        assert [body["pages"] for body in (first, second, every)] == [2, 2, 1]
        assert first["operators"] + second["operators"] == every["operators"]
        assert len(every["operators"]) == 103


# The first operator


def service_of(mongodb_url: str, database_name: str, key: str | None) -> tuple[Deps, ManagementSettings]:
    configured = settings(ManagementSettings, mongodb_url, database_name, bootstrap_operator_key=key)
    return new_deps(configured, "management", bus=LocalBus()), configured


async def bootstrap_operator(deps: Deps) -> Operator:
    operator = await deps.store.operators.get("bootstrap")
    assert operator is not None
    return operator


async def test_the_bootstrap_key_opens_everything(mongodb_url: str, database_name: str) -> None:
    """On an empty database the operator `bootstrap` has `admin` as soon as the service is ready."""
    deps, configured = service_of(mongodb_url, database_name, KEY)
    async with running(create_app(configured, deps)) as anybody:
        assert await opens(anybody.with_key(KEY), path=PLACE) == 200
        operator = await bootstrap_operator(deps)
        assert (operator.permissions, operator.version) == ((Permission.ADMIN,), 1)
        document = await deps.store.mongo["operators"].find_one({"_id": "bootstrap"})
        assert KEY not in str(document)


async def test_a_restart_changes_nothing_and_another_key_replaces_the_first(
    mongodb_url: str, database_name: str
) -> None:
    """At a restart the same key changes nothing, a new one replaces it, and a missing one keeps the last."""
    versions = []
    for key in (KEY, KEY, f"another-{KEY}", None):
        deps, configured = service_of(mongodb_url, database_name, key)
        async with running(create_app(configured, deps)) as anybody:
            versions.append((await bootstrap_operator(deps)).version)
            opened = [await opens(anybody.with_key(one)) for one in (KEY, f"another-{KEY}")]
            assert opened == ([200, 401] if key == KEY else [401, 200])
    assert versions == [1, 1, 2, 2]


async def test_several_instances_at_once_make_one(mongodb_url: str, database_name: str) -> None:
    """Several instances starting at once create one bootstrap operator, and all become ready."""
    several = [service_of(mongodb_url, database_name, KEY) for _ in range(5)]

    async def version(deps: Deps, configured: ManagementSettings) -> int:
        async with running(create_app(configured, deps)) as anybody:
            assert await opens(anybody.with_key(KEY)) == 200
            return (await bootstrap_operator(deps)).version

    assert await asyncio.gather(*(version(*one) for one in several)) == [1] * 5


async def test_the_bootstrap_operator_is_restored(mongodb_url: str, database_name: str) -> None:
    """At every start the bootstrap operator is restored with `admin`."""
    deps, configured = service_of(mongodb_url, database_name, KEY)
    async with running(create_app(configured, deps)):
        operator = await bootstrap_operator(deps)
        await deps.store.operators.edit(operator, {"permissions": (Permission.READ,)}, deps.event_context("tests"))
    deps, configured = service_of(mongodb_url, database_name, KEY)
    async with running(create_app(configured, deps)):
        operator = await bootstrap_operator(deps)
        assert operator.permissions == (Permission.ADMIN,)
        await deps.store.operators.delete(operator, deps.event_context("tests"))
    deps, configured = service_of(mongodb_url, database_name, KEY)
    async with running(create_app(configured, deps)) as anybody:
        assert await opens(anybody.with_key(KEY), path=PLACE) == 200


async def test_the_key_of_another_operator_is_not_taken_over(mongodb_url: str, database_name: str) -> None:
    """If another operator has the same key, the service is not ready, until one of the keys changes."""
    deps, configured = service_of(mongodb_url, database_name, None)
    async with running(create_app(configured, deps)):
        key = await make_operator(deps, Permission.READ)
    deps, configured = service_of(mongodb_url, database_name, key)
    starting = running(create_app(configured, deps))
    opening = asyncio.ensure_future(starting.__aenter__())

    async def taken() -> bool:
        return "another operator" in await state(deps)

    await eventually(taken)
    other = await deps.store.operators.with_digest(key_digest(key))
    assert other is not None
    assert other.permissions == (Permission.READ,)
    await deps.store.operators.delete(other, deps.event_context("tests"))
    anybody = await opening
    assert await opens(anybody.with_key(key), path=PLACE) == 200
    await starting.__aexit__(None, None, None)


async def state(deps: Deps) -> str:
    """The readiness text."""
    response = await deps.health.readyz(None)  # type: ignore[arg-type]
    assert isinstance(response.body, bytes)
    return response.body.decode()


@pytest.mark.parametrize(
    "key",
    [
        pytest.param("x" * 23, id="too-short"),
        pytest.param("x" * 513, id="too-long"),
        pytest.param("x" * 24 + " ", id="space"),
        pytest.param("ключ" * 6, id="not-ascii"),
    ],
)
def test_a_wrong_bootstrap_key_stops_the_start(key: str) -> None:
    """A bad bootstrap key stops the start with one line that names the setting and not the key."""
    with pytest.raises(WrongSetting) as refusal:
        load(ManagementSettings, mongodb_url="mongodb://x", amqp_url="amqp://x", keys=KEYS, bootstrap_operator_key=key)
    line = str(refusal.value)
    assert line.startswith("TOKENWIRE_BOOTSTRAP_OPERATOR_KEY: ")
    assert "24" in line
    assert key not in line
    assert "\n" not in line


def test_an_empty_bootstrap_key_is_none() -> None:
    """An empty bootstrap key counts as missing, as compose files write it."""
    loaded = load(ManagementSettings, mongodb_url="mongodb://x", amqp_url="x", keys=KEYS, bootstrap_operator_key="")
    assert loaded.bootstrap_operator_key is None


async def test_the_shortest_key_is_taken(mongodb_url: str, database_name: str) -> None:
    """A key of 24 characters is accepted."""
    key = secrets.token_hex(12)
    deps, configured = service_of(mongodb_url, database_name, key)
    async with running(create_app(configured, deps)) as anybody:
        assert await opens(anybody.with_key(key)) == 200


async def test_e2_the_key_of_the_bootstrap_operator_is_a_setting(mongodb_url: str) -> None:
    """It is neither rotated nor given an expiry here, since the next start would undo that."""
    async with management(mongodb_url, bootstrap_operator_key=KEY) as service:
        first = service.anybody.with_key(KEY)
        rotated = await first("POST", f"{PLACE}/bootstrap/rotate")
        assert (rotated.status, "TOKENWIRE_BOOTSTRAP_OPERATOR_KEY" in rotated.message) == (400, True)
        body = {"name": "bootstrap", "permissions": ["admin"], "expires_at": "2999-01-01T00:00:00Z"}
        assert (await first("PUT", f"{PLACE}/bootstrap", json=body)).status == 400
        assert await opens(first) == 200
