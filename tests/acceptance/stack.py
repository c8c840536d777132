"""The whole system: a process for every service, the edge in front, MongoDB and RabbitMQ behind."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp

from libs.encryption import public_key_of
from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.programs import Program
from tests.deployment.edge import Edge
from tests.deployment.wiring import CONSOLE, EVERY_SERVICE, SERVICES
from tests.eventually import eventually
from tests.ports import free_ports

INSTANCES = {service: service for service in EVERY_SERVICE} | {"token-2": "token", "gateway-2": "gateway"}
"""Process name to service: one of every service, and two of the two busiest."""
TWO_OF_EACH = {f"{service}-{number}": service for service in SERVICES for number in (1, 2)}
"""Two processes of every service with records, for tests of disagreement between processes."""
BROKER_AWAY = ("AMQPConnectionError", "CONNECTION_FORCED")
"""Errors that libraries log when a test has stopped the broker."""
READY_WITHIN = 180.0
"""Seconds until every process is ready; on two idle cores it takes about six."""


@dataclass(frozen=True)
class Servers:
    """MongoDB and RabbitMQ of a stack."""

    mongodb_url: str
    database: str
    amqp_url: str


class Stack:
    """A running system. `with` starts every process, and stops all at the end."""

    def __init__(
        self,
        servers: Servers,
        home: Path,
        caller: Caller,
        instances: Mapping[str, str] = INSTANCES,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.servers = servers
        self.instances = instances
        self.operator_key = f"tw_ok_{secrets.token_urlsafe(32)}"
        self.secrets = caller.secrets
        self.secrets.add(self.operator_key)
        self.keys = keys = Keys.made_in(home, self.secrets)
        ports = dict(zip(instances, free_ports(len(instances)), strict=True))
        self.urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
        self._edge = Edge(
            {
                service: [ports[name] for name in self.instances_of(service)]
                for service in sorted(set(instances.values()))
            },
            forwards=False,  # the gateways' own proxy is what is tested
        )
        self._environments = {
            service: {**self._environment(service, keys), **(settings or {})} for service in set(instances.values())
        }
        self._programs = {
            name: Program(
                f"services.{service}",
                own_environment=self._environments[service] | {"TOKENWIRE_PORT": str(ports[name])},
                output=home / f"{name}.log",
            )
            for name, service in instances.items()
        }
        self._running = ExitStack()
        self.anybody = caller.at(self.url)
        """Calls the edge without a key."""
        self.operator = self.anybody.with_key(self.operator_key)
        """Calls the edge with every permission."""

    @property
    def url(self) -> str:
        """The edge's URL."""
        return self._edge.url

    def instances_of(self, service: str) -> Sequence[str]:
        """The processes that run the service."""
        return instances_of(service, self.instances)

    def environment(self, service: str) -> Mapping[str, str]:
        """The settings of this service, except its port."""
        return self._environments[service]

    def service(self, name: str) -> Caller:
        """Calls this process directly, past the edge."""
        return self.anybody.at(self.urls[name])

    def program(self, name: str) -> Program:
        """The process of this name."""
        return self._programs[name]

    def logs(self, name: str) -> str:
        """The output of this process, or of the `edge`, since the tests began."""
        return self._edge.output if name == "edge" else self._programs[name].output

    def leaks(self) -> dict[str, set[str]]:
        """Secrets found in logs, by process."""
        found = {name: self.secrets.found_in(self.logs(name)) for name in (*self.instances, "edge")}
        return {name: leaked for name, leaked in found.items() if leaked}

    def errors(self) -> list[str]:
        """Log lines that report an unexpected error. Errors about a stopped broker are left out."""
        lines = (line for name in self.instances for line in self.logs(name).splitlines())
        errors = (line for line in lines if '"level":"error"' in line or '"level":"critical"' in line)
        return [line for line in errors if not any(sign in line for sign in BROKER_AWAY)]

    def kill(self, name: str) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        self._programs[name].kill()

    async def restart(self, name: str) -> None:
        """Stop the process gracefully if it runs, start it again, and wait until it is ready."""
        program = self._programs[name]
        if program.running:
            assert await program.stop() == 0
        program.start()
        await self.ready(name)

    async def stopped(self) -> dict[str, int]:
        """Send SIGTERM to all at once; return the exit status of each."""
        self._tell_all_to_stop()
        return {name: await program.ended() for name, program in self._programs.items()}

    async def ready(self, *names: str) -> None:
        """Wait until these processes (by default all) are ready."""
        await asyncio.gather(*(self._ready(name) for name in names or self.instances))

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.push(self._edge)  # creates its files before it runs
            for program in self._programs.values():
                starting.callback(program.close)
                program.start()
            starting.callback(self._tell_all_to_stop)
            self._edge.__enter__()
            self._running = starting.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._running.close()

    def _tell_all_to_stop(self) -> None:
        for program in self._programs.values():
            if program.running:
                program.tell_to_stop()

    async def _ready(self, name: str) -> None:
        async def responses() -> bool:
            if not self._programs[name].running:
                raise RuntimeError(f"{name} ended:\n{self.logs(name)[-2000:]}")
            try:
                response = await self.service(name)("GET", "/readyz")
            except OSError:
                return False
            assert (response.status, response.body.get("status")) == (200, "ok"), f"{name}: {response.raw.decode()}"
            return True

        await eventually(responses, READY_WITHIN, every=0.1)

    def _environment(self, service: str, keys: "Keys") -> dict[str, str]:
        common = {
            "TOKENWIRE_MONGODB_URL": self.servers.mongodb_url,
            "TOKENWIRE_MONGODB_DATABASE": self.servers.database,
            "TOKENWIRE_AMQP_URL": self.servers.amqp_url,
            "TOKENWIRE_PUBLIC_URL": self.url,
            "TOKENWIRE_KEYS_FILE": str(keys.ring),
            "TOKENWIRE_TRUSTED_PROXIES": "127.0.0.1",
            "TOKENWIRE_LOG_LEVEL": "debug",
            # So that a test which waits for a change sees what the bus does, not a cache that has expired.
            "TOKENWIRE_CACHE_TTL": "300",
        }
        own = {
            "token": {"TOKENWIRE_NOTIFIER_PUBLIC_KEY_FILE": str(keys.notifier_public)},
            "notifier": {
                "TOKENWIRE_NOTIFIER_PRIVATE_KEYS_FILE": str(keys.notifier_private),
                "TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS": "true",
            },
            CONSOLE: {"TOKENWIRE_CONSOLE_KEYS_FILE": str(keys.ring), "TOKENWIRE_SERVICES_URL": self.url},
            "management": {"TOKENWIRE_BOOTSTRAP_OPERATOR_KEY": self.operator_key},
        }
        return common | own.get(service, {})


@dataclass(frozen=True)
class Keys:
    """The keys of a stack. Those that must not be in the environment are in files, as in a deployment."""

    ring: Path
    notifier_private: Path
    notifier_public: Path

    @classmethod
    def made_in(cls, home: Path, remembered: Secrets) -> Self:
        """Create keys in files in this directory."""
        keys = cls(home / "keys", home / "notifier-private-keys", home / "notifier-public-key")
        ring, private = random_key(), random_key()
        remembered.add(ring, private)
        keys.ring.write_text(f"1:{ring}\n")
        keys.notifier_private.write_text(f"{private}\n")
        keys.seal_to(private)
        return keys

    def seal_to(self, private: str) -> None:
        """Processes started from now on encrypt notifications to this public key."""
        public = public_key_of(base64.b64decode(private))
        self.notifier_public.write_text(f"{base64.b64encode(public).decode()}\n")


def instances_of(service: str, instances: Mapping[str, str] = INSTANCES) -> Sequence[str]:
    """The processes that run the service."""
    return [name for name, runs in instances.items() if runs == service]


@asynccontextmanager
async def running(
    servers: Servers,
    home: Path,
    instances: Mapping[str, str] = INSTANCES,
    settings: Mapping[str, str] | None = None,
) -> AsyncIterator[Stack]:
    """Run a stack until the block ends. Then every process must stop gracefully, with no secret or error in any log."""
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http:
        with Stack(servers, home, Caller(http, "", Secrets()), instances, settings) as stack:
            await stack.ready()
            yield stack
            assert await stack.stopped() == dict.fromkeys(instances, 0)
            leaks = stack.leaks()
            assert not leaks, f"what the tests sent and got is in logs: {leaks}"
            assert stack.errors() == []


def random_key() -> str:
    """A random key in the form of the settings."""
    return base64.b64encode(secrets.token_bytes(32)).decode()
