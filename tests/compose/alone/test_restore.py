"""The commands of docs/operations.md for backups, run against the containers of compose.yaml under load."""

import asyncio
import logging
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.acceptance.tenants import SCHEME, Tenant, new_tenant
from tests.eventually import eventually
from tests.faults.containers import USUAL, Containers, ContainerWorld, container_world
from tests.faults.holders import Held, Holder, Holdings, Load
from tests.faults.judge import Evidence, Verdict, judge
from tests.notifications import answering

PATH = "/undelivered"
FEW = 20
"""Tokens of before the backup that are tried at the gateway."""


class KeepingHolder(Holder):
    """A client that revokes nothing."""

    async def _revoke(self, token: str) -> None:
        """Keep the token."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Connections to RabbitMQ break on purpose, which libraries log as errors."""
    for name in ("aiormq", "aio_pika"):
        caplog.set_level(logging.CRITICAL, name)


async def run(containers: Containers, command: str, *, given: Path | None = None, into: Path | None = None) -> str:
    """Run `docker compose run --rm -T <command>` with these files as standard input and output; what it says."""
    source = given.open("rb") if given is not None else None
    target = into.open("wb") if into is not None else None
    try:
        process = await asyncio.create_subprocess_exec(
            *("docker", "compose", "--progress", "quiet", "run", "--rm", "-T", command),
            env=containers.environment,
            stdin=source if source is not None else asyncio.subprocess.DEVNULL,
            stdout=target if target is not None else asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
        _, said = await process.communicate()
    finally:
        for file in (source, target):
            if file is not None:
                file.close()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_a_backup_made_under_load_restores_everything_that_it_has(image: str, tmp_path: Path) -> None:
    """After the loss of every volume, tokens issued before the backup are valid, and their webhooks, none of which had
    been delivered, are delivered once each. Nothing appears that the backup does not have.
    """
    archive = tmp_path / "tokenwire.backup"
    async with container_world(f"{image}-restore", image) as world:
        world.receiver.behave(PATH, answering(503), seconds=3600)
        notified = {f"{SCHEME}__notifications__onKeyChangeUrl": world.receiver.url(PATH)}
        tenant = await new_tenant(world.system.anybody, world.system.operator, **notified)
        load = Load([tenant], 4, 0.1, "backup", KeepingHolder)
        load.start()
        await load.held(60, within=120)
        before = dict(load.holdings.tokens)
        said = await run(world.containers, "backup", into=archive)
        assert "backed up: " in said
        await load.held(len(load.holdings.tokens) + 20, within=120)
        await load.stop()
        after = dict(load.holdings.tokens)

        await world.containers.down()
        assert "restored: " in await run(world.containers, "restore", given=archive)
        world.receiver.take_everything()
        world.receiver.webhooks.clear()  # none of them was accepted
        await world.containers.compose("up", "-d", *_scaled(USUAL))
        await world.containers.ready()

        await eventually(lambda: _all_there(world, tenant, before, after), within=180, every=1)
        await _try_tokens(world, tenant, before, after)


def _scaled(instances: Mapping[str, int]) -> list[str]:
    return [word for name, number in instances.items() for word in ("--scale", f"{name}={number}")]


async def _all_there(
    world: ContainerWorld, tenant: Tenant, before: Mapping[str, Held], after: Mapping[str, Held]
) -> bool:
    """Nothing that the backup has is lost, and its webhooks have the tokens that clients hold."""
    verdict = await _judged(world, tenant, before, after)
    assert (verdict.lost, verdict.phantom, verdict.doubled) == ([], [], [])
    return True


async def _judged(
    world: ContainerWorld, tenant: Tenant, before: Mapping[str, Held], after: Mapping[str, Held]
) -> Verdict:
    grants = await world.committed([tenant.client_id])
    restored = {
        value: token
        for value, token in after.items()
        if value in before or (token.grant_id in grants and token.generation <= grants[token.grant_id].generation)
    }
    return judge(Evidence(Holdings(tokens=restored), grants, world.receiver.webhooks, heard=None))


async def _try_tokens(
    world: ContainerWorld, tenant: Tenant, before: Mapping[str, Held], after: Mapping[str, Held]
) -> None:
    """A token is valid if it is the newest of its grant according to the backup; a later one is unknown."""
    grants = await world.committed([tenant.client_id])
    later = [token for value, token in after.items() if value not in before]
    valid = 0
    for token in [*list(before.values())[-FEW:], *later]:
        grant = grants.get(token.grant_id)
        newest = grant is not None and token.generation == grant.generation
        response = await tenant.verified(token.access)
        assert response.status == (200 if newest else 403), (token.generation, grant, response.raw)
        valid += newest
    assert valid
