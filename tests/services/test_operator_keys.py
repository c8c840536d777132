"""Keys of operators: rotation, overlap and expiry."""

from datetime import timedelta
from typing import Any

import pytest

from tests.builders import Caller, Response, settle
from tests.services.system import System

PLACE = "/api/operators"


async def made(system: System, **fields: Any) -> dict[str, Any]:
    """Create an operator that may read; return it with its key."""
    response = await system.operator("POST", PLACE, json={"name": "An operator", "permissions": ["read"], **fields})
    assert response.status == 200, response.body
    body: dict[str, Any] = response.body
    return body


async def rotate(system: System, operator: dict[str, Any], **body: Any) -> Response:
    return await system.operator("POST", f"{PLACE}/{operator['operator_id']}/rotate", json=body)


async def opens(system: System, key: str) -> bool:
    await settle(system.deps)
    caller: Caller = system.call.with_key(key)
    response = await caller("GET", "/api/apis")
    assert response.status in {200, 401}, response.body
    assert (await caller("POST", "/oauth/introspect", data={"token": "x"})).status == response.status
    return response.status == 200


def later(system: System, seconds: int) -> str:
    return (system.clock() + timedelta(seconds=seconds)).isoformat()


async def test_e2_a_rotated_key_replaces_the_old_one(system: System) -> None:
    """The new key is shown once; the old one is refused at once; event and audit log name the operator."""
    operator = await made(system)
    assert await opens(system, operator["key"])
    system.clock.advance(1)
    response = await system.operator("POST", f"{PLACE}/{operator['operator_id']}/rotate")
    assert response.status == 200, response.body
    key = response.body["key"]
    assert key != operator["key"]
    assert response.body["permissions"] == ["read"]
    assert not await opens(system, operator["key"])
    assert await opens(system, key)
    shown = await system.operator("GET", f"{PLACE}/{operator['operator_id']}")
    assert "key" not in shown.body
    document = await system.deps.store.mongo["operators"].find_one({"_id": operator["operator_id"]})
    assert key not in str(document)
    assert operator["key"] not in str(document)
    events = await system.heard.about(operator["operator_id"])
    assert events[-1]["type"] == "io.tokenwire.operator.key_rotated"
    assert events[-1]["data"]["actor"]["operator_id"] != operator["operator_id"]
    (entry, *_) = (await system.operator("GET", f"/api/audit?subject={operator['operator_id']}")).body["entries"]
    assert entry["action"] == "operator.key_rotated"


async def test_e2_the_old_key_works_during_the_overlap(system: System) -> None:
    """Both keys for that long, then only the new one; a second rotation ends the oldest key."""
    operator = await made(system)
    second = (await rotate(system, operator, overlap=60)).body
    assert second["previous_expires_at"] == later(system, 60).replace("+00:00", "Z")
    system.clock.advance(59)
    assert await opens(system, operator["key"])
    assert await opens(system, second["key"])
    third = (await rotate(system, operator, overlap=60)).body
    assert [await opens(system, each["key"]) for each in (operator, second, third)] == [False, True, True]
    system.clock.advance(60)
    assert [await opens(system, each["key"]) for each in (operator, second, third)] == [False, False, True]


async def test_e2_a_key_expires_and_can_be_renewed(system: System) -> None:
    """From that moment it is refused everywhere; rotation gives a key with the same lifetime again."""
    operator = await made(system, expires_at=later(system, 3600))
    system.clock.advance(3599)
    assert await opens(system, operator["key"])
    system.clock.advance(1)
    assert not await opens(system, operator["key"])
    renewed = (await rotate(system, operator, overlap=3600)).body
    assert renewed["expires_at"] == later(system, 3600).replace("+00:00", "Z")
    assert not await opens(system, operator["key"])
    assert await opens(system, renewed["key"])
    forever = (await rotate(system, operator, expires_at=None)).body
    assert "expires_at" not in forever
    system.clock.advance(10**8)
    assert await opens(system, forever["key"])


async def test_e2_an_overlap_does_not_outlive_the_expiry(system: System) -> None:
    """A replaced key is never accepted for longer than it would have been."""
    operator = await made(system, expires_at=later(system, 10))
    await rotate(system, operator, overlap=3600)
    system.clock.advance(10)
    assert not await opens(system, operator["key"])


async def test_e2_put_keeps_the_expiry_unless_it_names_one(system: System) -> None:
    """A client that does not know the field must not make a key live for ever."""
    operator = await made(system, expires_at=later(system, 3600))
    place = f"{PLACE}/{operator['operator_id']}"
    body = {"name": "Another", "permissions": ["read"]}
    assert (await system.operator("PUT", place, json=body)).body["expires_at"] == operator["expires_at"]
    moved = await system.operator("PUT", place, json=body | {"expires_at": later(system, 60)})
    assert moved.body["expires_at"] == later(system, 60).replace("+00:00", "Z")
    assert "expires_at" not in (await system.operator("PUT", place, json=body | {"expires_at": None})).body


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"overlap": -1}, "overlap"),
        ({"overlap": 90 * 86400 + 1}, "overlap"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "expires_at"),
        ({"expires_at": "tomorrow"}, "expires_at"),
        ({"until": 5}, "until"),
    ],
)
async def test_e2_wrong_rotations_are_refused(system: System, body: dict[str, Any], named: str) -> None:
    """400 with the name of the field, and the old key stays."""
    operator = await made(system)
    response = await rotate(system, operator, **body)
    assert (response.status, named in response.message) == (400, True), response.body
    assert await opens(system, operator["key"])
    assert (await rotate(system, {"operator_id": "nobody"})).status == 404


async def test_e2_an_operator_without_admin_cannot_rotate(system: System) -> None:
    """Not even its own key: whoever has found a key could lock its owner out."""
    operator = await made(system)
    caller = system.call.with_key(operator["key"])
    assert (await caller("POST", f"{PLACE}/{operator['operator_id']}/rotate")).status == 403


async def test_e2_the_operator_shows_its_last_change(system: System) -> None:
    """When it last changed something, from the audit log; absent if it never has."""
    operator = await made(system, permissions=["read", "write"])
    place = f"{PLACE}/{operator['operator_id']}"
    assert "last_change_at" not in (await system.operator("GET", place)).body
    policy = {"name": "A policy", "access_rights": {}}
    assert (await system.call.with_key(operator["key"])("POST", "/api/portal/policies", json=policy)).status == 200
    await settle(system.deps)
    assert "last_change_at" in (await system.operator("GET", place)).body
