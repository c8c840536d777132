"""Several notifiers, and notifiers that stop: nothing is sent twice, nothing is left behind."""

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


async def test_two_notifiers_share_what_is_due(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """A backlog in MongoDB is sent by whoever is free, each delivery once."""
    async with (
        notifier(mongodb_url, database_name, per_endpoint_concurrency=8) as one,
        notifier(mongodb_url, database_name, per_endpoint_concurrency=8) as other,
    ):
        apis = [await api_to(one.deps, endpoint.url(f"/{number}")) for number in range(4)]
        backlog = [stored(apis[number % 4], utc_now()) for number in range(400)]
        await asyncio.gather(*(one.deps.store.deliveries.add(delivery) for delivery in backlog))
        await eventually(lambda: len(endpoint.webhooks) >= 400, within=20)
        for delivery in backlog:
            await other.reached(delivery.delivery_id, DeliveryState.DELIVERED)
    assert Counter(webhook.id for webhook in endpoint.webhooks) == Counter(delivery.delivery_id for delivery in backlog)


async def test_two_notifiers_share_a_queue(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """Commands go to whichever instance is free, and each of them is one webhook."""
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


async def test_a_notifier_that_stops_lets_what_it_sends_end(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """The attempt under way gets its answer, and the answer is recorded."""
    answer = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await answer.wait()
        return web.Response(status=204)

    endpoint.behave(slow)
    async with notifier(mongodb_url, database_name) as service:
        event = token_event(await api_to(service.deps, endpoint.url()))
        await service.publish(event)
        await eventually(lambda: endpoint.under_way == 1)
        asyncio.get_running_loop().call_later(0.3, answer.set)
    async with notifier(mongodb_url, database_name) as after:
        delivery = await after.delivery(event.id)
        assert (delivery.state, delivery.attempt_count) == (DeliveryState.DELIVERED, 1)
    assert endpoint.ids() == [event.id]


async def test_a_notifier_that_stops_gives_back_what_does_not_end(
    mongodb_url: str, database_name: str, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is cut off is nobody's, has used no rung, and is sent by the next notifier at once."""
    monkeypatch.setattr("services.notifier.lifespan.STOP_WITHIN", 0.1)
    endpoint.behave(hanging)
    async with notifier(mongodb_url, database_name) as service:
        event = token_event(await api_to(service.deps, endpoint.url()))
        await service.publish(event)
        await eventually(lambda: endpoint.under_way == 1)
        assert (await service.delivery(event.id)).lease_until is not None
    endpoint.behave(answering(204))
    async with notifier(mongodb_url, database_name) as after:
        delivery = await after.reached(event.id, DeliveryState.DELIVERED)
    assert (delivery.attempt_count, delivery.rung) == (1, 0)


async def test_mongodb_away_loses_nothing(
    mongodb: Database, mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """Commands that come while MongoDB is down, and results that cannot be recorded, wait until it is back."""
    answer = asyncio.Event()

    async def slow(_: web.Request) -> web.Response:
        await answer.wait()
        return web.Response(status=204)

    endpoint.behave(slow)
    async with notifier(mongodb_url, database_name) as service:
        api = await api_to(service.deps, endpoint.url())
        under_way, coming = token_event(api), token_event(api)
        await service.publish(under_way)
        await eventually(lambda: endpoint.under_way == 1)
        await mongodb.stop()
        try:
            answer.set()
            publishing = asyncio.create_task(service.deps.bus.publish([coming.message]))
            await eventually(lambda: endpoint.under_way == 0)
        finally:
            await mongodb.start()
        await publishing
        for event in (under_way, coming):
            await service.reached(event.id, DeliveryState.DELIVERED, within=30)
    assert sorted(endpoint.ids()) == sorted([under_way.id, coming.id])


async def test_what_is_due_later_is_found_without_being_told(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """MongoDB is the truth: what another process has put there is sent when it is due."""
    async with notifier(mongodb_url, database_name) as service:
        api = await api_to(service.deps, endpoint.url())
        due = utc_now() + timedelta(seconds=0.5)
        delivery = stored(api, utc_now(), next_attempt_at=due)
        await service.deps.store.deliveries.add(delivery)
        after = await service.reached(delivery.delivery_id, DeliveryState.DELIVERED, within=12)
        assert due <= after.attempts[0].at <= due + timedelta(seconds=10)
