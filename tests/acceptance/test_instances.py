"""Two processes of one service act as one; either can stop without clients of the edge noticing."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest

from tests.acceptance.stack import Stack, instances_of
from tests.acceptance.subscriber import subscribed
from tests.acceptance.tenants import CALLBACK, NewTenant, Pair, Tenant, issued
from tests.builders import Response
from tests.eventually import eventually
from tests.stalls import undisturbed

RACERS = 16
CLIENTS = 8
PAUSE = 0.02
"""Seconds between two requests of a client."""


# Consistency


async def raced(stack: Stack, tenant: Tenant, **form: str) -> list[Response]:
    """The responses to one token request, sent many times concurrently to both processes."""
    processes = [stack.service(name) for name in instances_of("token")]
    return await asyncio.gather(*(tenant.token(by=by, **form) for by in processes * (RACERS // 2)))


def winners(responses: list[Response]) -> list[Pair]:
    """The tokens of the successful responses. All others must be `invalid_grant`."""
    late = [response for response in responses if response.status != 200]
    assert {(response.status, response.body["error"]) for response in late} <= {(400, "invalid_grant")}
    return [issued(response) for response in responses if response.status == 200]


async def test_one_of_many_exchanges_of_a_code_wins(stack: Stack, tenant_of: NewTenant) -> None:
    """Of concurrent exchanges one succeeds, and its tokens stay valid: concurrency is not theft."""

    async def race() -> None:
        tenant = await tenant_of()
        code = await tenant.code()
        responses = await raced(stack, tenant, grant_type="authorization_code", code=code, redirect_uri=CALLBACK)
        (pair,) = winners(responses)
        assert (await tenant.verified(pair.access)).status == 200
        assert len((await tenant.listed()).body) == 1

    await undisturbed(race)  # two seconds after the first exchange, another one is a theft


@pytest.mark.parametrize("reuse", ["recover", "strict"])
async def test_a_refresh_token_has_one_successor(stack: Stack, tenant_of: NewTenant, reuse: str) -> None:
    """All successful refreshes return the same pair. With strict refresh one succeeds, and then the grant is
    revoked.
    """
    tenant = await tenant_of(**{"x-tokenwire": {"refreshReuse": reuse}})
    async with subscribed(stack.servers.amqp_url, f"token.*.{tenant.api_id}", "grant.revoked.#") as subscriber:
        first = await tenant.pair()
        responses = await raced(stack, tenant, grant_type="refresh_token", refresh_token=first.refresh)
        pairs = winners(responses)
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


# Restarts


@asynccontextmanager
async def light_load(tenant: Tenant) -> AsyncIterator[Counter[int]]:
    """A few clients that request tokens in a loop; counts the statuses."""
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
    """Number of requests that the process has logged."""
    return stack.logs(name).count('"event":"request"')


def takes_part_again(stack: Stack, name: str, so_far: int) -> bool:
    """Whether the process has handled a request since then."""
    return requests_at(stack, name) > so_far + CLIENTS


async def test_a_rolling_restart_loses_no_request(stack: Stack, tenant_of: NewTenant) -> None:
    """Stopping and restarting each process in turn, under load, fails no request."""
    tenant = await tenant_of()

    async def restarts() -> None:
        async with light_load(tenant) as statuses:
            for name in instances_of("token"):
                await stack.restart(name)
                await eventually(partial(takes_part_again, stack, name, requests_at(stack, name)))
        assert set(statuses) == {200}, statuses

    await undisturbed(restarts)


async def test_a_killed_process_loses_only_what_it_held(stack: Stack, tenant_of: NewTenant) -> None:
    """After one process is killed, all further requests succeed at the other."""
    tenant = await tenant_of()
    first, _ = instances_of("token")

    async def dies() -> None:
        async with light_load(tenant) as statuses:
            stack.kill(first)
            before = statuses[200]
            await eventually(lambda: statuses[200] > before + 10 * CLIENTS)
        await stack.restart(first)
        held = sum(statuses.values()) - statuses[200]
        assert held <= CLIENTS, statuses
        assert set(statuses) <= {200, 502}, statuses

    await undisturbed(dies)
    assert stack.program(first).running
