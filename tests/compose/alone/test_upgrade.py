"""An upgrade from an earlier version, with its data and under load, as docs/operations.md says."""

import io
import logging
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import make_secrets
from tests.deployment import stack as files
from tests.deployment.wiring import SERVICES
from tests.faults.cluster import SCALE, Plain
from tests.faults.container_rows import containers_of
from tests.faults.containers import container_world, docker
from tests.faults.rows import Row, Scene, play

PREVIOUS_TAG = "-previous"
"""Added to the tag of today's image."""
PREVIOUS = "64bb06b"
"""The last commit in which all services had one MongoDB user, and the dead letters' user another name."""
CODE = ("contracts", "libs", "services", "deploy")
DOCKERFILE = f"""
FROM {{image}}
USER 0:0
RUN rm -rf {" ".join(CODE)}
{"".join(f"COPY {name} {name}{chr(10)}" for name in CODE)}
RUN python -m compileall -q .
USER 10001:10001
"""
"""The earlier code on the dependencies of today's image, so that the build needs no package index."""
SETTLED_WITHIN = 120.0


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Connections to RabbitMQ break on purpose, which libraries log as errors."""
    for name in ("aiormq", "aio_pika"):
        caplog.set_level(logging.CRITICAL, name)


class Upgraded(Plain):
    """First the earlier version with its own compose.yaml and secrets; `upgrade` puts today's in their place."""

    def _write_files(self) -> None:
        extract(PREVIOUS, ("compose.yaml", "edge", "deploy"), self._home)
        command = [sys.executable, "-m", "deploy.make_secrets", str(self._home / ".secrets")]
        subprocess.run(command, cwd=self._home, check=True, capture_output=True)
        (self._home / "faults.yaml").write_text(yaml.safe_dump(self._additions()))
        self.environment["TOKENWIRE_VERSION"] += PREVIOUS_TAG

    def _additions(self) -> dict[str, Any]:
        """Also fewer open files, since the earlier compose.yaml wants more than some engines allow, and health checks
        that a busy machine passes.
        """
        found = super()._additions()
        for name in (*SERVICES, "edge", "mongodb", "mongodb-init", "rabbitmq"):
            limits = {"nofile": {"soft": 16384, "hard": 16384}}
            found["services"].setdefault(name, {})["ulimits"] = limits
        for name in (*SERVICES, "edge", "mongodb", "rabbitmq"):
            found["services"][name]["healthcheck"] = {"timeout": "30s", "retries": 10, "start_period": "180s"}
        return found

    async def upgrade(self) -> None:
        """The commands of docs/operations.md, with today's files and image."""
        for name in ("edge", "deploy"):  # in place, as git does: containers have the directories mounted
            shutil.copytree(files.ROOT / name, self._home / name, dirs_exist_ok=True)
        shutil.copy(files.ROOT / "compose.yaml", self._home)
        make_secrets.make(self._home / ".secrets")
        self.environment["TOKENWIRE_VERSION"] = self.environment["TOKENWIRE_VERSION"].removesuffix(PREVIOUS_TAG)
        imported = ("rabbitmqctl", "import_definitions", "/run/secrets/rabbitmq_definitions")
        await self.compose("exec", "-T", "rabbitmq", *imported)
        await self.compose("run", "--rm", "-T", "--no-deps", "mongodb-init")
        # The edge's own settings differ, so it cannot be rolled; but it must handle instances that go as today's does.
        (edge,) = await self.containers("edge")
        await docker("kill", "--signal", "HUP", edge)
        await self.roll(*SERVICES)
        await self.compose("run", "--rm", "-T", "--no-deps", "mongodb-init")


def extract(commit: str, paths: tuple[str, ...], into: Path, repository: Path = files.ROOT) -> None:
    """These files of an earlier commit. Fails the test where the history is not there."""
    done = subprocess.run(["git", "archive", commit, *paths], cwd=repository, capture_output=True, check=False)
    if done.returncode != 0:
        pytest.fail(
            f"the upgrade starts from commit {commit}, which this clone lacks: `git fetch --unshallow`", pytrace=False
        )
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as archive:
        archive.extractall(into, filter="data")


async def upgraded(scene: Scene) -> None:
    """Upgrade; afterwards every service runs today's image."""
    containers = containers_of(scene)
    assert isinstance(containers, Upgraded)
    before = {each["Image"] for each in await containers.inspected() if _is_service(each)}
    await scene.more(scene.scale.tokens // 2)
    await containers.upgrade()
    after = {each["Image"] for each in await containers.inspected() if _is_service(each)}
    assert (len(before), len(after)) == (1, 1)
    assert before != after
    await containers.ready()
    await scene.more(scene.scale.tokens // 2)


def _is_service(facts: dict[str, Any]) -> bool:
    return facts["Config"]["Labels"]["com.docker.compose.service"] in SERVICES


async def test_an_upgrade_fails_no_request_and_loses_nothing(image: str, tmp_path: Path) -> None:
    """Both versions work side by side on the same data while one service after the other is replaced. Clients use
    their tokens before, meanwhile and afterwards.
    """
    extract(PREVIOUS, CODE, tmp_path)
    (tmp_path / "Dockerfile").write_text(DOCKERFILE.format(image=f"tokenwire:{image}"))
    await docker("build", "--quiet", "--tag", f"tokenwire:{image}{PREVIOUS_TAG}", str(tmp_path))
    row = Row("upgraded", "every service is replaced by its next version", during=upgraded, processes=(), flawless=True)
    async with container_world(f"{image}-upgrade", image, Upgraded) as world:
        played = await play(world, row, SCALE, "upgrade")
        await played.settled(SETTLED_WITHIN)
        assert (await played.judged()).complaints == []
        assert await played.unbalanced() == []
    await docker("image", "rm", f"tokenwire:{image}{PREVIOUS_TAG}")
