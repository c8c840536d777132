"""The management service for its tests: running, with an operator for each permission."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import orjson

from contracts.operators import Permission
from libs.bus.local import LocalBus
from libs.bus.port import Delivery, Exchange, Mode, Subscription
from libs.runtime import Deps, new_deps
from services.management.__main__ import create_app
from services.management.settings import ManagementSettings
from tests.builders import Caller, make_operator, running, settings, settle


@dataclass(frozen=True)
class Management:
    """A running management service, with callers of each permission."""

    deps: Deps
    anybody: Caller
    reader: Caller
    writer: Caller
    """Has `read` and `write`."""
    admin: Caller
    heard: "Heard"


@asynccontextmanager
async def management(mongodb_url: str, **own: Any) -> AsyncIterator[Management]:
    """The service with its own database and an in-process bus."""
    configured = settings(ManagementSettings, mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", **own)
    deps = new_deps(configured, "management", bus=LocalBus())
    heard = Heard(deps)
    async with running(create_app(configured, deps)) as anybody:
        yield Management(
            deps,
            anybody,
            anybody.with_key(await make_operator(deps, Permission.READ)),
            anybody.with_key(await make_operator(deps, Permission.READ, Permission.WRITE)),
            anybody.with_key(await make_operator(deps, Permission.ADMIN)),
            heard,
        )


class Heard:
    """The events of a process, in the order in which its bus received them."""

    def __init__(self, deps: Deps) -> None:
        self.events: list[dict[str, Any]] = []
        self._deps = deps
        deps.bus.subscribe(Subscription("heard", Exchange.EVENTS, ("#",), self._hear, Mode.BROADCAST))

    async def _hear(self, delivery: Delivery) -> None:
        self.events.append(orjson.loads(delivery.message.body))

    async def about(self, subject: str) -> list[dict[str, Any]]:
        """The events of a record, after everything announced has arrived."""
        await settle(self._deps)
        return [event for event in self.events if event["subject"] == subject]


def facts(event: dict[str, Any]) -> dict[str, Any]:
    """The event's data about the record, without the operator, who belongs to the audit log
    (tests/services/test_audit_log.py).
    """
    return {name: value for name, value in event["data"].items() if name not in {"actor", "changed"}}
