"""Two processes of one service: they decide as one, either may go, and nobody who asks the edge notices."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.acceptance.stack import Stack, instances_of
from tests.acceptance.subscriber import subscribed
from tests.acceptance.tenants import CALLBACK, NewTenant, Pair, Tenant, issued
from tests.builders import Answer
from tests.eventually import eventually

RACERS = 16
CLIENTS = 8
PAUSE = 0.02
"""Seconds that each client waits between two requests."""


# They decide as one


async def raced(stack: Stack, tenant: Tenant, **form: str) -> list[Answer]:
    """The answers to one token request, sent many times at once to both processes."""
    processes = [stack.service(name) for name in instances_of("token")]
    return await asyncio.gather(*(tenant.token(by=by, **form) for by in processes * (RACERS // 2)))


def winners(answers: list[Answer]) -> list[Pair]:
    """The tokens of those who got any; the others were told that they came too late."""
    late = [answer for answer in answers if answer.status != 200]
    assert {(answer.status, answer.body["error"]) for answer in late} <= {(400, "invalid_grant")}
    return [issued(answer) for answer in answers if answer.status == 200]


async def test_one_of_many_exchanges_of_a_code_wins(stack: Stack, tenant_of: NewTenant) -> None:
    """And its tokens live: who was at once too late was no thief."""
    tenant = await tenant_of()
    code = await tenant.code()
    answers = await raced(stack, tenant, grant_type="authorization_code", code=code, redirect_uri=CALLBACK)
    (pair,) = winners(answers)
    assert (await tenant.verified(pair.access)).status == 200
    assert len((await tenant.listed()).body) == 1


@pytest.mark.parametrize("reuse", ["recover", "strict"])
async def test_a_refresh_token_has_one_successor(stack: Stack, tenant_of: NewTenant, reuse: str) -> None:
    """Whoever is answered gets the same pair; where the API is strict only one is, and then everybody loses."""
    tenant = await tenant_of(**{"x-tokenwire": {"refreshReuse": reuse}})
    async with subscribed(stack.servers.amqp_url, f"token.*.{tenant.api_id}", "grant.revoked.#") as subscriber:
        first = await tenant.pair()
        answers = await raced(stack, tenant, grant_type="refresh_token", refresh_token=first.refresh)
        pairs = winners(answers)
        await subscriber.hears("token.refresh", client_id=tenant.client_id)
        if reuse == "recover":
            assert len(pairs) == RACERS
            assert len(set(pairs)) == 1
            assert (await tenant.verified(pairs[0].access)).status == 200
        else:
            assert len(pairs) == 1
            await subscriber.hears("grant.revoked", client_id=tenant.client_id, reason="refresh_reuse")
            assert (await tenant.verified(pairs[0].access)).status == 403
        assert (await tenant.verified(first.access)).status == 403


# Either may go


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
