"""The services as the code builds them, to compare with the deployment."""

import base64
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import cast

from aiohttp import web

from libs.bus.local import LocalBus
from libs.bus.outbox import Outbox
from libs.bus.port import Subscription
from libs.runtime import new_deps
from libs.settings import ServerSettings, Settings, load

SERVICES = ("authorization", "token", "revocation", "notifier", "management", "gateway")
"""The services with records and events."""
CONSOLE = "console"
EVERY_SERVICE = (*SERVICES, CONSOLE)
_VALUES = {
    "mongodb_url": "mongodb://127.0.0.1/?replicaSet=rs0",
    "amqp_url": "amqp://127.0.0.1/",
    "keys": "1:" + base64.b64encode(bytes(32)).decode(),
    "notifier_public_key": base64.b64encode(bytes(range(32))).decode(),
    "notifier_private_keys": base64.b64encode(bytes(range(32))).decode(),
    "console_keys": "1:" + base64.b64encode(bytes(32)).decode(),
    "bootstrap_operator_key": "an-operator-key-of-forty-characters-here",
}


@dataclass(frozen=True)
class Wired:
    """A service that is built and not started."""

    app: web.Application
    subscriptions: Sequence[Subscription]
    publishes_from: frozenset[str]
    """The collections whose events it publishes."""


class _Bus(LocalBus):
    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: list[Subscription] = []

    def subscribe(self, subscription: Subscription) -> None:
        self.subscriptions.append(subscription)


@dataclass
class _Outbox:
    watched: set[str] = field(default_factory=set)

    def watch(self, source: object) -> None:
        self.watched.add(source.name)  # type: ignore[attr-defined]


def settings_class(service: str) -> type[ServerSettings]:
    """The Settings class of a service."""
    module = import_module(f"services.{service}.settings")
    (found,) = [
        member
        for _, member in inspect.getmembers(module, inspect.isclass)
        if issubclass(member, ServerSettings) and member.__module__ == module.__name__
    ]
    return found


def wired(service: str) -> Wired:
    """The service as its `create_app` builds it."""
    wanted = settings_class(service)
    settings = load(wanted, **{name: value for name, value in _VALUES.items() if name in wanted.model_fields})
    if not isinstance(settings, Settings):
        return Wired(import_module(f"services.{service}.__main__").create_app(settings), (), frozenset())
    bus, outbox = _Bus(), _Outbox()
    deps = replace(new_deps(settings, service, bus=bus), outbox=cast(Outbox, outbox))
    app = import_module(f"services.{service}.__main__").create_app(settings, deps)
    return Wired(app, tuple(bus.subscriptions), frozenset(outbox.watched))
