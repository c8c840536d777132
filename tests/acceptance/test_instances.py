"""Two processes of one service: either may go, and nobody who asks the edge notices."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from tests.acceptance.stack import Stack, instances_of
from tests.acceptance.tenants import NewTenant, Tenant
from tests.eventually import eventually

CLIENTS = 8
PAUSE = 0.02
"""Seconds that each client waits between two requests."""


@asynccontextmanager
async def light_load(tenant: Tenant) -> AsyncIterator[Counter[int]]:
    """A few clients who ask for tokens again and again; how often they got which status."""
    statuses: Counter[int] = Counter()
    ending = asyncio.Event()

    async def client() -> None:
        while not ending.is_set():
            statuses[(await tenant.client_credentials()).status] += 1
            await asyncio.sleep(PAUSE)

    clients = [asyncio.create_task(client()) for _ in range(CLIENTS)]
    try:
        await eventually(lambda: statuses[200] > 10 * CLIENTS)
        yield statuses
    finally:
        ending.set()
        await asyncio.gather(*clients)


def requests_at(stack: Stack, name: str) -> int:
    """How many requests the process has logged."""
    return stack.logs(name).count('"event":"request"')


def takes_part_again(stack: Stack, name: str, so_far: int) -> bool:
    """Whether the process has answered a request of the load since then."""
    return requests_at(stack, name) > so_far + CLIENTS


async def test_a_rolling_restart_loses_no_request(stack: Stack, tenant_of: NewTenant) -> None:
    """Each process is stopped in order and started again while tokens are asked for: every answer is a token."""
    tenant = await tenant_of()
    first, second = instances_of("token")
    async with light_load(tenant) as statuses:
        for name in (first, second):
            await stack.restart(name)
            await eventually(partial(takes_part_again, stack, name, requests_at(stack, name)))
    assert set(statuses) == {200}, statuses


async def test_a_killed_process_loses_only_what_it_held(stack: Stack, tenant_of: NewTenant) -> None:
    """The other goes on alone: from the next moment on every answer is a token again."""
    tenant = await tenant_of()
    first, _ = instances_of("token")
    async with light_load(tenant) as statuses:
        stack.kill(first)
        before = statuses[200]
        await eventually(lambda: statuses[200] > before + 10 * CLIENTS)
    held = sum(statuses.values()) - statuses[200]
    assert held <= CLIENTS, statuses
    assert set(statuses) <= {200, 502}, statuses
    await stack.restart(first)
    assert stack.program(first).running
