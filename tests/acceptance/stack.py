"""The whole system: every service a process of its own, the edge in front, MongoDB and RabbitMQ behind."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import aiohttp

from libs.sealing import public_key_of
from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.programs import Program
from tests.deployment.edge import Edge
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually
from tests.ports import free_ports

INSTANCES = {service: service for service in SERVICES} | {"token-2": "token", "gateway-2": "gateway"}
"""What each process runs: one of every service, and two of the busiest two."""
TWO_OF_EACH = {f"{service}-{number}": service for service in SERVICES for number in (1, 2)}
"""The same, for who looks for what two processes of any service could disagree about."""
BROKER_AWAY = ("AMQPConnectionError", "CONNECTION_FORCED")
"""What libraries call an error where a test has taken the broker away."""
READY_WITHIN = 90.0
"""Seconds until every process is ready; on two idle cores they take about six."""


@dataclass(frozen=True)
class Servers:
    """What a stack stands on."""

    mongodb_url: str
    database: str
    amqp_url: str


class Stack:
    """A running system. `with` starts every process of it and ends every one."""

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
        self._edge = Edge({service: [ports[name] for name in self.instances_of(service)] for service in SERVICES})
        self._environments = {service: self._environment(service, keys) | (settings or {}) for service in SERVICES}
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
        """Calls the edge."""
        self.operator = self.anybody.with_key(self.operator_key)
        """Calls the edge, and may do everything."""

    @property
    def url(self) -> str:
        """Of the edge."""
        return self._edge.url

    def instances_of(self, service: str) -> Sequence[str]:
        """The processes that run the service."""
        return instances_of(service, self.instances)

    def environment(self, service: str) -> Mapping[str, str]:
        """The settings of this service, but for its port."""
        return self._environments[service]

    def service(self, name: str) -> Caller:
        """Calls this process itself, past the edge."""
        return self.anybody.at(self.urls[name])

    def program(self, name: str) -> Program:
        """The process of this name."""
        return self._programs[name]

    def logs(self, name: str) -> str:
        """What the process, or the `edge`, has printed since the tests began."""
        return self._edge.output if name == "edge" else self._programs[name].output

    def leaks(self) -> dict[str, set[str]]:
        """The secrets that are in logs, by whose log it is."""
        found = {name: self.secrets.found_in(self.logs(name)) for name in (*self.instances, "edge")}
        return {name: leaked for name, leaked in found.items() if leaked}

    def errors(self) -> list[str]:
        """The lines in logs by which a service says that it did not foresee something; a broker may be away."""
        lines = (line for name in self.instances for line in self.logs(name).splitlines())
        errors = (line for line in lines if '"level":"error"' in line or '"level":"critical"' in line)
        return [line for line in errors if not any(sign in line for sign in BROKER_AWAY)]

    def kill(self, name: str) -> None:
        """SIGKILL; gone when this returns."""
        self._programs[name].kill()

    async def restart(self, name: str) -> None:
        """Stopped in order, if it runs, and started again; ready when this returns."""
        program = self._programs[name]
        if program.running:
            assert await program.stop() == 0
        program.start()
        await self.ready(name)

    async def stopped(self) -> dict[str, int]:
        """The exit status of each process after SIGTERM, which comes to all at once."""
        self._tell_all_to_stop()
        return {name: await program.ended() for name, program in self._programs.items()}

    async def ready(self, *names: str) -> None:
        """These processes, all if none is named, are ready for requests."""
        await asyncio.gather(*(self._ready(name) for name in names or self.instances))

    def __enter__(self) -> Self:
        with ExitStack() as starting:
            starting.push(self._edge)  # its files are there before it runs
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
        async def answers() -> bool:
            if not self._programs[name].running:
                raise RuntimeError(f"{name} ended:\n{self.logs(name)[-2000:]}")
            try:
                answer = await self.service(name)("GET", "/readyz")
            except OSError:
                return False
            assert answer.status == 200, f"{name}: {answer.raw.decode()}"
            return True

        await eventually(answers, READY_WITHIN, every=0.1)

    def _environment(self, service: str, keys: "Keys") -> dict[str, str]:
        common = {
            "TOKENWIRE_MONGODB_URL": self.servers.mongodb_url,
            "TOKENWIRE_MONGODB_DATABASE": self.servers.database,
            "TOKENWIRE_AMQP_URL": self.servers.amqp_url,
            "TOKENWIRE_PUBLIC_URL": self.url,
            "TOKENWIRE_KEYS_FILE": str(keys.ring),
            "TOKENWIRE_TRUSTED_PROXIES": "127.0.0.1",
            "TOKENWIRE_LOG_LEVEL": "debug",
        }
        own = {
            "token": {"TOKENWIRE_NOTIFIER_PUBLIC_KEY_FILE": str(keys.notifier_public)},
            "notifier": {
                "TOKENWIRE_NOTIFIER_PRIVATE_KEYS_FILE": str(keys.notifier_private),
                "TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS": "true",
            },
            "management": {"TOKENWIRE_BOOTSTRAP_OPERATOR_KEY": self.operator_key},
        }
        return common | own.get(service, {})


@dataclass(frozen=True)
class Keys:
    """The keys of a stack; what must not be in an environment is in files, as in a deployment."""

    ring: Path
    notifier_private: Path
    notifier_public: Path

    @classmethod
    def made_in(cls, home: Path, remembered: Secrets) -> Self:
        """New keys, in files of this directory."""
        keys = cls(home / "keys", home / "notifier-private-keys", home / "notifier-public-key")
        ring, private = random_key(), random_key()
        remembered.add(ring, private)
        keys.ring.write_text(f"1:{ring}\n")
        keys.notifier_private.write_text(f"{private}\n")
        keys.seal_to(private)
        return keys

    def seal_to(self, private: str) -> None:
        """Whoever is started from now on seals webhooks to this key of the notifier's."""
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
    """A stack, ready. At its end every process stops in order, and no log has said a secret or an error."""
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
    """A key for the ring, or for the notifier, as a setting has it."""
    return base64.b64encode(secrets.token_bytes(32)).decode()
