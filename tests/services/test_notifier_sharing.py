"""Several notifiers, and stopping ones: nothing is sent twice or left behind."""

import asyncio
from collections import Counter
from datetime import timedelta

import pytest
from aiohttp import web

from contracts.webhooks import DeliveryState
from libs.bus.local import LocalBroker
from libs.runtime import utc_now
from tests.eventually import eventually
from tests.notifications import Receiver, answering, api_to, hanging, notifier, stored, token_event
from tests.provision.mongodb import Database


async def test_two_notifiers_share_due_deliveries(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """Two notifiers share the due deliveries; each is sent once."""
    async with (
        notifier(mongodb_url, database_name, per_endpoint_concurrency=8) as one,
        notifier(mongodb_url, database_name, per_endpoint_concurrency=8) as other,
    ):
        apis = [await api_to(one.deps, endpoint.url(f"/{number}")) for number in range(4)]
        backlog = [stored(apis[number % 4], utc_now()) for number in range(400)]
        await asyncio.gather(*(one.deps.store.deliveries.add(delivery) for delivery in backlog))
        await eventually(lambda: len(endpoint.webhooks) >= 400)
        for delivery in backlog:
            await other.reached(delivery.delivery_id, DeliveryState.DELIVERED)
    assert Counter(webhook.id for webhook in endpoint.webhooks) == Counter(delivery.delivery_id for delivery in backlog)


async def test_two_notifiers_share_a_queue(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """Two notifiers share the queue; each command is one webhook."""
    broker = LocalBroker()
    async with (
        notifier(mongodb_url, database_name, broker=broker) as one,
        notifier(mongodb_url, database_name, broker=broker),
    ):
        api = await api_to(one.deps, endpoint.url())
        events = [token_event(api) for _ in range(100)]
        await one.publish(*events)
        for event in events:
            await one.reached(event.id, DeliveryState.DELIVERED)
    assert sorted(endpoint.ids()) == sorted(event.id for event in events)


async def test_a_stopping_notifier_finishes_attempts(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """A stopping notifier waits for its attempt and records the result."""
    response = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await response.wait()
        return web.Response(status=204)

    endpoint.behave(slow)
    async with notifier(mongodb_url, database_name) as service:
        event = token_event(await api_to(service.deps, endpoint.url()))
        await service.publish(event)
        await eventually(lambda: endpoint.under_way == 1)
        asyncio.get_running_loop().call_later(0.3, response.set)
    async with notifier(mongodb_url, database_name) as after:
        delivery = await after.delivery(event.id)
        assert (delivery.state, delivery.attempt_count) == (DeliveryState.DELIVERED, 1)
    assert endpoint.ids() == [event.id]


async def test_a_stopping_notifier_releases_unfinished_attempts(
    mongodb_url: str, database_name: str, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An attempt that does not finish is released without counting, and sent by the next notifier at once."""
    monkeypatch.setattr("services.notifier.app.STOP_SECONDS", 0.1)
    endpoint.behave(hanging)
    async with notifier(mongodb_url, database_name) as service:
        event = token_event(await api_to(service.deps, endpoint.url()))
        await service.publish(event)
        await eventually(lambda: endpoint.under_way == 1)
        assert (await service.delivery(event.id)).lease_until is not None
    endpoint.behave(answering(204))
    async with notifier(mongodb_url, database_name) as after:
        delivery = await after.reached(event.id, DeliveryState.DELIVERED)
    assert (delivery.attempt_count, delivery.retries) == (1, 0)


async def test_mongodb_away_loses_nothing(
    mongodb: Database, mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """While MongoDB is down, commands and results wait; nothing is lost."""
    response = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await response.wait()
        return web.Response(status=204)

    endpoint.behave(slow)
    async with notifier(mongodb_url, database_name) as service:
        api = await api_to(service.deps, endpoint.url())
        under_way, coming = token_event(api), token_event(api)
        await service.publish(under_way)
        await eventually(lambda: endpoint.under_way == 1)
        await mongodb.stop()
        try:
            response.set()
            publishing = asyncio.create_task(service.deps.bus.publish([coming.message]))
            await eventually(lambda: endpoint.under_way == 0)
        finally:
            await mongodb.start()
        await publishing
        for event in (under_way, coming):
            await service.reached(event.id, DeliveryState.DELIVERED, within=30)
    assert sorted(endpoint.ids()) == sorted([under_way.id, coming.id])


async def test_a_later_delivery_is_found_without_a_message(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """A delivery stored by another process is sent when due, without any message."""
    async with notifier(mongodb_url, database_name) as service:
        api = await api_to(service.deps, endpoint.url())
        due = utc_now() + timedelta(seconds=0.5)
        delivery = stored(api, utc_now(), next_attempt_at=due)
        await service.deps.store.deliveries.add(delivery)
        after = await service.reached(delivery.delivery_id, DeliveryState.DELIVERED, within=12)
        assert due <= after.attempts[0].at <= due + timedelta(seconds=10)
