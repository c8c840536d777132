"""A deletion at one service takes effect at the others, with an event for each revoked grant."""

from collections.abc import AsyncIterator

import pytest

from tests.acceptance.stack import Stack
from tests.acceptance.subscriber import Subscriber, subscribed
from tests.acceptance.tenants import CALLBACK, NewTenant, Pair, Tenant, issued
from tests.eventually import eventually


@pytest.fixture
async def subscriber(stack: Stack) -> AsyncIterator[Subscriber]:
    """A subscriber to revocations."""
    async with subscribed(stack.servers.amqp_url, "grant.revoked.#", "client.#", "api.deleted.#") as subscriber:
        yield subscriber


async def three_grants(tenant: Tenant) -> list[Pair]:
    """A grant of each kind, each used once everywhere, so that every process has cached client and API."""
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
    """Exactly one event for each grant, with the reason."""
    events = await subscriber.hears("grant.revoked", count, client_id=tenant.client_id)
    assert {event["data"]["reason"] for event in events} == {reason}
    assert {event["data"]["api_id"] for event in events} == {tenant.api_id}
    assert len({event["data"]["grant_id"] for event in events}) == count


async def assert_refused_everywhere(tenant: Tenant, pairs: list[Pair]) -> None:
    """Wait until every process refuses all these tokens."""

    async def refused() -> bool:
        for pair in pairs:
            assert (await tenant.verified(pair.access)).status == 403
        for pair in pairs:
            if pair.refresh:
                assert (await tenant.refreshed(pair.refresh)).status in {400, 401, 404}
        return True

    await eventually(refused)


async def test_a_deleted_client_revokes_its_grants(stack: Stack, subscriber: Subscriber, tenant_of: NewTenant) -> None:
    """All tokens and codes of a deleted client are refused, even if a client with the same id is registered later."""
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


async def test_a_deleted_api_deletes_its_clients(stack: Stack, subscriber: Subscriber, tenant_of: NewTenant) -> None:
    """A deleted API's clients and their grants end with it; its listen path returns 404."""
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

    await eventually(gone)
    assert (await tenant.listed()).status == 404


async def test_revoke_all_ends_existing_grants_only(stack: Stack, subscriber: Subscriber, tenant_of: NewTenant) -> None:
    """revoke_all ends the client's existing grants; the client stays, and new grants work."""
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
