"""Every service with two workers, behind the edge: they act as one, and are replaced while clients notice nothing."""

import asyncio
import os
import secrets
import signal
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.acceptance.stack import Servers, Stack, running
from tests.acceptance.subscriber import subscribed
from tests.acceptance.tenants import Tenant, new_tenant
from tests.acceptance.test_instances import light_load
from tests.deployment.wiring import EVERY_SERVICE
from tests.eventually import eventually
from tests.provision import rabbitmq
from tests.stalls import undisturbed

CALLS = 16
"""Calls, each on a connection of its own; that one of two workers gets none of them happens once in 32768 times."""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(name="stack", scope="module")
async def _stack(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """One instance of every service, with two workers each."""
    servers = Servers(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", rabbitmq.new_vhost())
    instances = {service: service for service in EVERY_SERVICE}
    settings = {"TOKENWIRE_WORKERS": "2", "TOKENWIRE_LINGER": "0.5"}
    async with running(servers, tmp_path_factory.mktemp("workers"), instances, settings) as stack:
        await asyncio.gather(*(all_up(stack, service) for service in EVERY_SERVICE))
        yield stack


async def all_up(stack: Stack, service: str) -> None:
    """Wait until both workers of the service are up."""

    async def up() -> bool:
        text = (await stack.service(service)("GET", "/metrics")).raw.decode()
        return all(f'tokenwire_worker_up{{worker="{number}"}} 1.0' in text for number in (1, 2))

    await eventually(up)


async def verified(stack: Stack, tenant: Tenant, token: str) -> Counter[int]:
    """The statuses of calls with this token, spread over the gateway's workers."""
    gateway = stack.service("gateway").with_header("Connection", "close")
    headers = {"X-Forwarded-Uri": f"{tenant.path}/things", "Authorization": f"Bearer {token}"}
    return Counter([(await gateway("GET", "/verify", headers=headers)).status for _ in range(CALLS)])


async def requests_of(stack: Stack, service: str) -> list[float]:
    """How many requests each worker has had."""
    lines = (await stack.service(service)("GET", "/metrics")).raw.decode().splitlines()
    name = "tokenwire_worker_http_requests_total{"
    return [float(line.rpartition(" ")[2]) for line in lines if line.startswith(name)]


async def test_a_revocation_reaches_every_worker(stack: Stack) -> None:
    """A token that all workers have cached is refused by all of them once it is revoked."""
    tenant = await new_tenant(stack.anybody, stack.operator)
    before = await requests_of(stack, "gateway")
    pair = await tenant.pair()
    assert await verified(stack, tenant, pair.access) == {200: CALLS}
    after = await requests_of(stack, "gateway")
    assert all(more > earlier for earlier, more in zip(before, after, strict=True)), (
        "both have the token in their cache"
    )
    response = await tenant.operator("POST", f"/api/apis/oauth/{tenant.client_id}/revoke_all")
    assert response.status == 200

    async def refused() -> bool:
        return await verified(stack, tenant, pair.access) == {403: CALLS}

    await eventually(refused, within=10)


async def test_every_service_replaces_its_workers_under_load(stack: Stack) -> None:
    """After SIGHUP to all services at once, no request of clients has failed, and events still arrive."""
    tenant = await new_tenant(stack.anybody, stack.operator)

    async def replaced() -> None:
        async with light_load(tenant) as statuses:
            done = {name: stack.logs(name).count('"event":"workers_restarted"') for name in EVERY_SERVICE}
            for name in EVERY_SERVICE:
                os.kill(stack.program(name).pid, signal.SIGHUP)
            await eventually(
                lambda: all(stack.logs(name).count('"event":"workers_restarted"') > done[name] for name in done), 300
            )
        assert set(statuses) == {200}, statuses

    await undisturbed(replaced)
    async with subscribed(stack.servers.amqp_url, f"token.new.{tenant.api_id}") as subscriber:
        await tenant.pair()
        await subscriber.hears("token.new", client_id=tenant.client_id)
