"""A copy of the project started with `make up` under a Compose project name of its own, and removed again."""

import asyncio
import json
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.images import CannotProvide as NoImages
from deploy.images.__main__ import require_engine
from tests.ports import free_port
from tests.provision import CannotProvide

ROOT = Path(__file__).parents[2]
PROJECTS = os.environ.get("TOKENWIRE_TEST_PROJECTS", "tokenwire-test-")
"""How the names of the tests' Compose projects begin, and of everything that belongs to them."""
LABEL = "tokenwire.test"
"""The label of containers beside the stack; its value is the project."""
UP_WITHIN = 1200.0
DOWN_WITHIN = 400.0
RUN_WITHIN = 240.0


@dataclass(frozen=True)
class Container:
    """A container of the stack at one moment."""

    id: str
    name: str
    service: str
    state: str
    """`running`, `exited`, …"""
    health: str
    """`healthy`, `unhealthy`, `starting`, or empty without a health check."""


@dataclass(frozen=True)
class Beside:
    """A container of the tests on the stack's network `outside`, such as an upstream or a webhook receiver."""

    name: str
    address: str
    """Its address on the network, reachable from here too. Containers of the stack may use its name."""


@dataclass
class ComposeStack:
    """A copy of the project and its containers. Every call runs Docker's commands; nothing is remembered."""

    directory: Path
    project: str
    port: int
    settings: Mapping[str, str] = field(default_factory=dict)
    """Additional environment variables for Compose, such as settings that .env may have."""

    @property
    def url(self) -> str:
        """The edge, from here."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def operator_key(self) -> str:
        """The first operator's key."""
        return self.secret("bootstrap_operator_key")

    @property
    def image(self) -> str:
        """The application image of this run."""
        return f"tokenwire:{self.project}"

    def secret(self, name: str) -> str:
        """The content of a file in .secrets/."""
        return (self.directory / ".secrets" / name).read_text().strip()

    @property
    def environment(self) -> dict[str, str]:
        """The environment of every command."""
        rest = {name: value for name, value in os.environ.items() if not name.startswith(("TOKENWIRE_", "COMPOSE_"))}
        return {
            **rest,
            "COMPOSE_PROJECT_NAME": self.project,
            "EDGE_PORT": str(self.port),
            "TOKENWIRE_VERSION": self.project,
            **self.settings,
        }

    # Commands

    def make(self, *words: str, within: float = UP_WITHIN, check: bool = True) -> str:
        """Run `make …` in the copy, with this project's virtual environment; the output of both streams."""
        return self._run(["make", *words, f"VENV={Path(sys.prefix)}"], within, check=check)

    def compose(self, *words: str, within: float = UP_WITHIN, check: bool = True) -> str:
        """Run `docker compose …` in the copy; the output of both streams."""
        return self._run(["docker", "compose", *words], within, check=check)

    def exec(self, service: str, *command: str, index: int = 1, user: str | None = None) -> tuple[int, str]:
        """Run a command in a container of the stack; its exit status and the output of both streams."""
        as_user = ("--user", user) if user else ()
        done = self._done(["docker", "exec", *as_user, f"{self.project}-{service}-{index}", *command], RUN_WITHIN)
        return done.returncode, done.stdout

    def scale(self, **instances: int) -> None:
        """Have this many instances of services, all healthy when this returns: `scale(token=3, gateway=2)`."""
        wanted = [f"--scale={service}={number}" for service, number in instances.items()]
        self.compose("up", "--detach", "--wait", "--no-recreate", *wanted)

    # What is there

    def containers(self, *services: str) -> list[Container]:
        """The containers of these services, or of all, stopped ones too, ordered by name."""
        lines = self.compose("ps", "--all", "--format", "json", *services, within=RUN_WITHIN).splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        listed = [Container(each["ID"], each["Name"], each["Service"], each["State"], each["Health"]) for each in found]
        return sorted(listed, key=lambda container: container.name)

    def inspect(self, container: str) -> dict[str, Any]:
        """What Docker knows about a container, by name or id."""
        inspected: dict[str, Any] = json.loads(self._run(["docker", "inspect", container], RUN_WITHIN))[0]
        return inspected

    def logs(self, *services: str) -> str:
        """What these services, or all, have logged; lines without a prefix."""
        logged = self.compose("logs", "--no-color", "--no-log-prefix", *services, within=RUN_WITHIN)
        return logged.replace("\x1b[2K", "")  # Compose erases each line before it writes it

    def beside(
        self, name: str, *command: str, environment: Mapping[str, str] | None = None, mounts: Sequence[str] = ()
    ) -> Beside:
        """Run a command in the application image on the network `outside`, where the stack knows it by this name.

        The project's directories examples/ and tests/ are there too. It is removed with the stack.
        """
        variables = [f"--env={key}={value}" for key, value in (environment or {}).items()]
        shared = [f"{self.directory / part}:/opt/tokenwire/{part}:ro" for part in ("examples", "tests")]
        network = f"{self.project}_outside"
        self._run(
            [
                *(
                    "docker",
                    "run",
                    "--detach",
                    "--init",
                    f"--name={self.project}-{name}",
                    f"--label={LABEL}={self.project}",
                ),
                *(f"--network={network}", f"--network-alias={name}", *variables),
                *(f"--volume={mount}" for mount in (*shared, *mounts)),
                *(self.image, *command),
            ],
            RUN_WITHIN,
        )
        networks = self.inspect(f"{self.project}-{name}")["NetworkSettings"]["Networks"]
        return Beside(name, networks[network]["IPAddress"])

    async def serving(self, beside: Beside, port: int, within: float = 240.0) -> str:
        """Wait until it listens; its URL from here."""
        deadline = time.monotonic() + within
        while True:
            try:
                _, writer = await asyncio.open_connection(beside.address, port)
                writer.close()
                return f"http://{beside.address}:{port}"
            except OSError:
                if time.monotonic() > deadline:
                    raise AssertionError(
                        self._run(["docker", "logs", f"{self.project}-{beside.name}"], RUN_WITHIN)
                    ) from None
            await asyncio.sleep(0.2)

    # The end

    def remove(self) -> None:
        """Remove every container, network, volume and image of this project, whatever state they are in."""
        beside = self._done(["docker", "ps", "--all", "--quiet", f"--filter=label={LABEL}={self.project}"], RUN_WITHIN)
        if ids := beside.stdout.split():
            self._done(["docker", "rm", "--force", "--volumes", *ids], DOWN_WITHIN)
        self._done(
            ["docker", "compose", "--profile=*", "down", "--volumes", "--remove-orphans", "--timeout=1"], DOWN_WITHIN
        )
        self._done(["docker", "image", "rm", "--force", self.image], RUN_WITHIN)

    def _run(self, command: Sequence[str], within: float, *, check: bool = True) -> str:
        done = self._done(command, within)
        assert not check or done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        return done.stdout

    def _done(self, command: Sequence[str], within: float) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            command,
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=within,
        )


@contextmanager
def copied(directory: Path, **settings: str) -> Iterator[ComposeStack]:
    """A stack in a fresh copy of the project, not started; removed at the end. Raises CannotProvide."""
    try:
        require_engine()
    except NoImages as reason:
        raise CannotProvide(str(reason)) from None
    checkout(directory)
    stack = ComposeStack(directory, f"{PROJECTS}{secrets.token_hex(4)}", free_port(), settings)
    try:
        yield stack
    finally:
        stack.remove()


def checkout(directory: Path) -> None:
    """Copy what a fresh clone would have, with changes that are not committed, and the fetched wheels if any."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        source, target = ROOT / name, directory / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    if (wheels := ROOT / ".wheels").exists():
        shutil.copytree(wheels, directory / ".wheels")


def image_size(image: str) -> int:
    """The size of an image in bytes."""
    inspected = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{.Size}}", image], stdout=subprocess.PIPE, text=True, check=True
    )
    return int(inspected.stdout)


def curl_command(said: str) -> str:
    """The command that `make up` suggests."""
    found = re.search(r"^  (curl .*)$", said, re.MULTILINE)
    assert found, said
    return found[1]
