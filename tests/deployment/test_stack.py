"""The stack of compose.yaml, run here without containers: commands, settings, secrets, users, health checks, edge."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deploy import make_secrets
from libs.processes import tied_to_us
from tests.deployment import stack
from tests.deployment.edge import Edge
from tests.deployment.guarded import GuardedMongo, GuardedRabbit
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually
from tests.ports import free_ports

INSIDE = {"PATH": os.environ.get("PATH", os.defpath)}
"""All that the processes get from this one's environment."""


def here(command: list[str]) -> list[str]:
    """A container's command, with the interpreter that runs the tests."""
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


@dataclass
class Stack:
    """Where the parts of the stack are on this machine."""

    home: Path
    secrets: Path
    mongod: GuardedMongo
    broker: GuardedRabbit
    ports: dict[str, int] = field(default_factory=lambda: dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True)))
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def prepare_mongodb(self) -> None:
        """What the container `mongodb-init` does; it ends well."""
        command = [
            argument.replace(make_secrets.MONGODB, self.mongod.address)
            for argument in here(stack.containers()["mongodb-init"]["command"])
        ]
        moved = ["--address", self.mongod.address, "--secrets", str(self.secrets)]
        subprocess.run([*command, *moved], cwd=stack.ROOT, env=INSIDE, check=True, timeout=60)

    def start(self, service: str) -> None:
        """The container's command, with its environment and its secrets."""
        with (self.home / f"{service}.log").open("ab") as log:
            self.running[service] = subprocess.Popen(
                tied_to_us(here(stack.containers()[service]["command"])),
                cwd=stack.ROOT,
                env={**INSIDE, **self._environment(service)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def is_well(self, service: str) -> bool:
        """What the container's health check says."""
        check = here(stack.containers()[service]["healthcheck"]["test"][1:])
        *program, url = check
        url = url.replace(":8080", f":{self.ports[service]}")
        asked = await asyncio.create_subprocess_exec(*program, url, cwd=stack.ROOT, env=INSIDE, stderr=subprocess.PIPE)
        _, complaint = await asked.communicate()
        assert asked.returncode == 0, f"{complaint.decode()}\n{self.log(service)}"
        return True

    def log(self, service: str) -> str:
        """What the service has printed."""
        return (self.home / f"{service}.log").read_text()

    def _environment(self, service: str) -> dict[str, str]:
        mounted = stack.secrets(service)
        values = {
            name: self._moved(mounted[value]) if name.endswith("_FILE") else value
            for name, value in stack.environment(service).items()
        }
        return {
            **values,
            "TOKENWIRE_HOST": "127.0.0.1",
            "TOKENWIRE_PORT": str(self.ports[service]),
            "TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS": "true",
        }

    def _moved(self, secret: Path) -> str:
        """The secret's file, with the addresses of the containers' networks replaced by those of here."""
        text = (self.secrets / secret.name).read_text()
        text = text.replace(make_secrets.MONGODB, self.mongod.address)
        text = text.replace(make_secrets.RABBITMQ, self.broker.address)
        copy = self.home / secret.name
        copy.write_text(text)
        return str(copy)


@pytest.fixture
def parts(tmp_path: Path, made: Path, broker: GuardedRabbit) -> Iterator[Stack]:
    mongod = GuardedMongo(tmp_path, (made / "mongodb_keyfile").read_text().strip())
    mongod.start()
    placed = Stack(tmp_path, made, mongod, broker)
    yield placed
    for process in placed.running.values():
        process.kill()
        process.wait()
    mongod.stop()


async def test_the_stack_tells_the_whole_story(parts: Stack, made: Path) -> None:
    """Started as compose.yaml says, in its order and with its least-privilege users, six services behind the edge serve
    everything from the first definition to the last refusal; then each ends in order when it is told to.
    """
    heard = len(parts.broker.log.read_text())
    await asyncio.to_thread(parts.prepare_mongodb)
    for service in SERVICES:
        parts.start(service)
    for service in SERVICES:
        await eventually(lambda service=service: parts.is_well(service), within=60, every=0.2)  # type: ignore[misc]
    with Edge({service: [port] for service, port in parts.ports.items()}) as edge:
        told = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.demo"),
            cwd=stack.ROOT,
            env={
                **INSIDE,
                "TOKENWIRE_URL": edge.url,
                "TOKENWIRE_OPERATOR_KEY": (made / "bootstrap_operator_key").read_text().strip(),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        async with asyncio.timeout(90):
            said, _ = await told.communicate()
        assert told.returncode == 0, said.decode()
    for process in parts.running.values():
        process.send_signal(signal.SIGTERM)
    for service, process in parts.running.items():
        assert await asyncio.to_thread(process.wait, timeout=15) == 0, parts.log(service)
    assert "access_refused" not in parts.broker.log.read_text()[heard:].lower()
