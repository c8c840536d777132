"""One endpoint never stands in the way of another."""

import asyncio

import pytest
from aiohttp import web

from contracts.webhooks import DeliveryState
from services.notifier.intake import PREFETCH
from tests.eventually import eventually
from tests.notifications import Receiver, api_to, hanging, notifier, token_event


@pytest.fixture(autouse=True)
def _stop_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.notifier.lifespan.STOP_WITHIN", 0.1)


async def test_a_black_hole_delays_nobody(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """With far more for a silent endpoint than may be under way, another's webhooks go out as ever."""
    endpoint.behave(hanging, "/hole")
    async with notifier(mongodb_url, database_name, webhook_timeout=30, total_concurrency=64) as service:
        hole = await api_to(service.deps, endpoint.url("/hole"))
        well = await api_to(service.deps, endpoint.url("/well"))
        lost = [token_event(hole) for _ in range(300)]
        await service.publish(*lost)
        await eventually(lambda: endpoint.under_way == 16)
        for _ in range(20):
            event = token_event(well)
            await service.publish(event)
            await service.reached(event.id, DeliveryState.DELIVERED)
        assert endpoint.under_way == 16
        assert len(endpoint.ids("/well")) == 20


async def test_what_is_over_its_share_waits_in_mongodb(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """Not in memory: it is due and free, so that any other notifier may take it."""
    endpoint.behave(hanging)
    async with notifier(mongodb_url, database_name, webhook_timeout=30, per_endpoint_concurrency=3) as service:
        api = await api_to(service.deps, endpoint.url())
        events = [token_event(api) for _ in range(30)]
        await service.publish(*events)
        await eventually(lambda: endpoint.under_way == 3)
        deliveries = [await service.delivery(event.id) for event in events]
        assert sum(delivery.lease_until is not None for delivery in deliveries) == 3


async def test_what_a_quick_endpoint_gets_needs_no_place_in_mongodb(
    mongodb_url: str, database_name: str, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commands come as fast as their webhooks go: however many there are, none is put aside and claimed later."""
    monkeypatch.setattr("services.notifier.intake.HELD", 60.0)  # however busy the machine is
    monkeypatch.setattr("services.notifier.lanes.QUICK_MS", 60_000)
    async with notifier(mongodb_url, database_name) as service:
        api = await api_to(service.deps, endpoint.url())
        events = [token_event(api) for _ in range(3 * PREFETCH)]
        await service.publish(*events)
        deliveries = [await service.reached(event.id, DeliveryState.DELIVERED) for event in events]
    stored_and_delivered = 2
    assert {delivery.version for delivery in deliveries} == {stored_and_delivered}


async def test_an_endpoint_that_is_silent_from_now_on_holds_up_others_for_a_moment(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """With more commands for it than are handled at once, none of which waits any longer than that; the next get by."""
    async with notifier(mongodb_url, database_name, webhook_timeout=30) as service:
        silent = await api_to(service.deps, endpoint.url("/silent"))
        well = await api_to(service.deps, endpoint.url("/well"))
        endpoint.behave(hanging, "/silent")
        await service.publish(*[token_event(silent) for _ in range(2 * PREFETCH)])
        event = token_event(well)
        await service.publish(event)
        await service.reached(event.id, DeliveryState.DELIVERED)
        assert endpoint.under_way > 0


async def test_a_dead_endpoint_is_left_alone(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """After the first attempts have timed out, only single probes reach it."""
    endpoint.behave(hanging)
    async with notifier(mongodb_url, database_name, webhook_timeout=0.3, per_endpoint_concurrency=8) as service:
        api = await api_to(service.deps, endpoint.url())
        await service.publish(*[token_event(api) for _ in range(100)])
        await eventually(lambda: len(endpoint.webhooks) == 8)
        await eventually(lambda: endpoint.under_way == 0)
        await eventually(lambda: len(endpoint.webhooks) == 9)
        assert endpoint.under_way <= 1


async def test_an_endpoint_has_no_more_than_its_share_at_once(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """Everything arrives, so many at a time."""

    async def slow(_: web.Request) -> web.Response:
        await asyncio.sleep(0.01)
        return web.Response(status=204)

    endpoint.behave(slow)
    async with notifier(mongodb_url, database_name, per_endpoint_concurrency=4) as service:
        apis = [await api_to(service.deps, endpoint.url()) for _ in range(2)]
        events = [token_event(apis[number % 2]) for number in range(200)]
        await service.publish(*events)
        for event in events:
            await service.reached(event.id, DeliveryState.DELIVERED, within=20)
    assert sorted(endpoint.ids()) == sorted(event.id for event in events)
    assert endpoint.most_under_way == 4
