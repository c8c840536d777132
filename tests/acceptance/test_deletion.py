"""What is deleted at one service ends at the others, each end told on the bus with its reason."""

from collections.abc import AsyncIterator

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.subscriber import Subscriber, subscribed
from tests.acceptance.tenants import CALLBACK, NewTenant, Pair, Tenant, issued
from tests.eventually import eventually

FELT_WITHIN = 2.0
"""Seconds; a process that had to wait for its cache to expire would take five."""


@pytest.fixture
async def subscriber(stack: Stack) -> AsyncIterator[Subscriber]:
    """A downstream system that wants to know what ended."""
    async with subscribed(stack.servers.amqp_url, "grant.revoked.#", "client.#", "api.deleted.#") as subscriber:
        yield subscriber


async def three_grants(tenant: Tenant) -> list[Pair]:
    """One of each kind, used everywhere once, so that every process knows client and API."""
    pairs = [
        await tenant.pair(),
        issued(await tenant.exchanged(await tenant.code())),
        issued(await tenant.client_credentials()),
    ]
    for pair in pairs:
        assert (await tenant.verified(pair.access)).status == 200
    assert len((await tenant.listed()).body) == len(pairs)
    return pairs


async def assert_all_ended(subscriber: Subscriber, tenant: Tenant, reason: str, count: int = 3) -> None:
    """One event for each grant, no more, and each says why."""
    events = await subscriber.hears("grant.revoked", count, client_id=tenant.client_id)
    assert {event["data"]["reason"] for event in events} == {reason}
    assert {event["data"]["api_id"] for event in events} == {tenant.api_id}
    assert len({event["data"]["grant_id"] for event in events}) == count


async def assert_refused_everywhere(tenant: Tenant, pairs: list[Pair]) -> None:
    """Soon no process takes any of the tokens."""

    async def refused() -> bool:
        for pair in pairs:
            assert (await tenant.verified(pair.access)).status == 403
        for pair in pairs:
            if pair.refresh:
                assert (await tenant.refreshed(pair.refresh)).status in {400, 401, 404}
        return True

    await eventually(refused, FELT_WITHIN)


async def test_a_deleted_client_takes_its_grants_along(
    stack: Stack, subscriber: Subscriber, tenant_of: NewTenant
) -> None:
    """Tokens, refresh tokens and codes are dead, also for a client that is registered under the same id afterwards."""
    tenant = await tenant_of()
    pairs = await three_grants(tenant)
    code = await tenant.code()
    place = f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}"
    assert (await stack.operator("DELETE", place)).status == 200
    await assert_refused_everywhere(tenant, pairs)
    assert (await tenant.client_credentials()).status == 401
    assert (await tenant.listed()).status == 404
    await subscriber.hears("client.deleted", client_id=tenant.client_id, reason="client_deleted")
    await assert_all_ended(subscriber, tenant, "client_deleted", count=4)

    again = {"client_id": tenant.client_id, "secret": tenant.secret, "redirect_uri": CALLBACK}
    assert (await stack.operator("POST", f"/api/apis/oauth/{tenant.api_id}", json=again)).status == 200
    assert (await tenant.listed()).body == []
    refresh = await tenant.refreshed(pairs[0].refresh)
    assert (refresh.status, refresh.body["error"]) == (400, "invalid_grant")
    exchange = await tenant.exchanged(code)
    assert (exchange.status, exchange.body["error"]) == (400, "invalid_grant")
    assert (await tenant.verified(pairs[0].access)).status == 403
    assert (await tenant.client_credentials()).status == 200


async def test_a_deleted_api_takes_its_clients_along(
    stack: Stack, subscriber: Subscriber, tenant_of: NewTenant
) -> None:
    """And with each of them its grants; nothing answers on its listen path any more."""
    tenant = await tenant_of()
    pairs = await three_grants(tenant)
    assert (await stack.operator("DELETE", f"/api/apis/{tenant.api_id}")).status == 200
    await subscriber.hears("api.deleted", api_id=tenant.api_id)
    await subscriber.hears("client.deleted", client_id=tenant.client_id, reason="api_deleted")
    await assert_all_ended(subscriber, tenant, "api_deleted")

    async def gone() -> bool:
        assert (await tenant.client_credentials()).status == 404
        assert (await tenant.refreshed(pairs[0].refresh)).status == 404
        assert (await tenant.verified(pairs[0].access)).status == 404
        return True

    await eventually(gone, FELT_WITHIN)
    assert (await tenant.listed()).status == 404


async def test_revoking_all_ends_what_was_and_not_what_comes(
    stack: Stack, subscriber: Subscriber, tenant_of: NewTenant
) -> None:
    """The client stays: what it had is dead, what it gets is good."""
    tenant = await tenant_of()
    pairs = await three_grants(tenant)
    revoked = await stack.operator("POST", f"/api/apis/oauth/{tenant.client_id}/revoke_all/")
    assert (revoked.status, revoked.message) == (200, "tokens revoked successfully")
    await assert_refused_everywhere(tenant, pairs)
    await assert_all_ended(subscriber, tenant, "revoke_all")
    assert (await tenant.listed()).body == []

    pair = await tenant.pair()
    assert (await tenant.verified(pair.access)).status == 200
    assert len((await tenant.listed()).body) == 1
