"""The system in separate processes, each of which can be started armed, killed and started again."""

import asyncio
import secrets
import signal
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.stack import READY_WITHIN, Keys, Servers
from tests.deployment.edge import Edge
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually
from tests.faults.fork_server import Child, ForkServer
from tests.ports import free_ports

INSTANCES = {f"{service}-{number}": service for service in SERVICES for number in (1, 2)}
"""Every process that the edge has an address for."""
USUAL = (
    "token-1",
    "token-2",
    "authorization-1",
    "revocation-1",
    "notifier-1",
    "notifier-2",
    "management-1",
    "gateway-1",
)
"""The processes that run unless a row wants more."""
WEBHOOK_TIMEOUT = 2
LEASE = 2.0
RETRY_DELAYS = "0.5,0.5,1,1,2,2,4,4,8,8"


@dataclass(frozen=True)
class Arming:
    """Kills the process at the nth passage of a labelled point."""

    instance: str
    label: str
    nth: int = 1

    def __str__(self) -> str:
        return f"{self.label}:{self.nth}"


class Stack:
    """The processes behind the edge. `with` starts the edge, and stops everything at the end."""

    def __init__(self, servers: Servers, home: Path, caller: Caller, fork_server: ForkServer) -> None:
        self.servers = servers
        self._fork_server = fork_server
        self.operator_key = f"tw_ok_{secrets.token_urlsafe(32)}"
        self._home = home
        self._keys = Keys.made_in(home, Secrets())
        ports = dict(zip(INSTANCES, free_ports(len(INSTANCES)), strict=True))
        self._ports: Mapping[str, int] = ports
        self._edge = Edge(
            {service: [ports[name] for name in _instances_of(service)] for service in SERVICES},
            forwards=False,  # the gateways' own proxy is what is tested
        )
        self._programs: dict[str, Child] = {}
        self._armed: dict[str, str] = {}
        self._running = ExitStack()
        self._caller = caller
        self.anybody = caller.at(self._edge.url)
        self.operator = self.anybody.with_key(self.operator_key)

    def __enter__(self) -> Self:
        self._running.enter_context(self._edge)
        return self

    def __exit__(self, *_: object) -> None:
        for program in self._programs.values():
            if program.running:
                program.kill()
        self._running.close()

    def running(self, name: str) -> bool:
        """Whether the process is running."""
        return name in self._programs and self._programs[name].running

    def log(self, name: str) -> str:
        """The output of this process over all its restarts."""
        file = self._home / f"{name}.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def launch(self, name: str, at: str = "") -> None:
        """Start the process, armed or not; do not wait until it is ready."""
        service = INSTANCES[name]
        arguments = [f"services.{service}", *(["--at", at] if at else [])]
        if service == "notifier":
            arguments += ["--lease", str(LEASE), "--retry-delays", RETRY_DELAYS]
        environment = self._environment(service) | {"TOKENWIRE_PORT": str(self._ports[name])}
        self._programs[name] = self._fork_server.start(arguments, environment, self._home / f"{name}.log")
        self._armed[name] = at

    async def have(self, names: tuple[str, ...], armings: tuple[Arming, ...] = ()) -> None:
        """Make exactly these processes run, armed as given, and wait until they are ready."""
        wanted = dict.fromkeys(names, "") | {arming.instance: str(arming) for arming in armings}
        for name in self._programs:
            if name not in wanted and self.running(name):
                self.kill(name)
        for name, at in wanted.items():
            # An armed process may have passed its point already, so it is started again.
            if self.running(name) and not at and not self._armed[name]:
                continue
            if self.running(name):
                self.kill(name)
            self.launch(name, at)
        await self.ready(*wanted)

    def kill(self, name: str) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        self._programs[name].kill()

    async def died(self, name: str, within: float) -> None:
        """Wait until the process has killed itself. Raises AssertionError if it does not in time."""
        status = await self._programs[name].ended(within)
        if status != -signal.SIGKILL:
            raise AssertionError(f"{name} ended with {status}:\n{self.log(name)[-2000:]}")

    async def restart(self, name: str, stops_within: float) -> None:
        """Stop the process by SIGTERM, start it again, and wait until it is ready. Raises AssertionError for a non-zero
        exit, and if it takes longer to stop.
        """
        told = time.monotonic()
        status = await self._programs[name].stop()
        took = time.monotonic() - told
        if status != 0 or took > stops_within:
            raise AssertionError(f"{name} ended with {status} after {took:.1f} s:\n{self.log(name)[-2000:]}")
        self.launch(name)
        await self.ready(name)

    async def ready(self, *names: str) -> None:
        """Wait until these processes are ready for requests."""
        await asyncio.gather(*(self._ready(name) for name in names))

    async def _ready(self, name: str) -> None:
        service = self._caller.at(f"http://127.0.0.1:{self._ports[name]}")

        async def responses() -> bool:
            if not self.running(name):
                raise RuntimeError(f"{name} ended:\n{self.log(name)[-2000:]}")
            try:
                response = await service("GET", "/readyz")
            except OSError:
                return False
            assert (response.status, response.body.get("status")) == (200, "ok"), f"{name}: {response.raw.decode()}"
            return True

        await eventually(responses, READY_WITHIN, every=0.05)

    def _environment(self, service: str) -> dict[str, str]:
        common = {
            "TOKENWIRE_MONGODB_URL": self.servers.mongodb_url,
            "TOKENWIRE_MONGODB_DATABASE": self.servers.database,
            "TOKENWIRE_AMQP_URL": self.servers.amqp_url,
            "TOKENWIRE_PUBLIC_URL": self.anybody.url,
            "TOKENWIRE_KEYS_FILE": str(self._keys.ring),
            "TOKENWIRE_ACCESS_LOG_SAMPLE": "0",
        }
        own = {
            "token": {"TOKENWIRE_NOTIFIER_PUBLIC_KEY_FILE": str(self._keys.notifier_public)},
            "notifier": {
                "TOKENWIRE_NOTIFIER_PRIVATE_KEYS_FILE": str(self._keys.notifier_private),
                "TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS": "true",
                "TOKENWIRE_WEBHOOK_TIMEOUT": str(WEBHOOK_TIMEOUT),
            },
            "management": {"TOKENWIRE_BOOTSTRAP_OPERATOR_KEY": self.operator_key},
        }
        return common | own.get(service, {})


def _instances_of(service: str) -> tuple[str, ...]:
    return tuple(name for name, runs in INSTANCES.items() if runs == service)
