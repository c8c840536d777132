"""One webhook endpoint never delays another."""

import asyncio
from datetime import datetime, timedelta

import pytest
from aiohttp import web

from contracts.apis import Api
from contracts.webhooks import Delivery, DeliveryState
from libs.encryption import Sealer, public_key_of
from libs.event_encoding import new_event_id
from libs.outbound.signing import WebhookSecrets
from services.notifier.consumer import PREFETCH
from services.notifier.endpoints import Endpoint
from services.notifier.worker import DeliveryWorker, InFlight
from tests.builders import NOTIFIER_KEY
from tests.eventually import eventually
from tests.notifications import BODY, Receiver, api_to, hanging, notifier, token_event


@pytest.fixture(autouse=True)
def _stop_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.notifier.app.STOP_SECONDS", 0.1)


async def test_a_black_hole_delays_no_other_endpoint(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """With more webhooks for a silent endpoint than may be in progress, another endpoint's are not delayed."""
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


async def test_deliveries_over_the_share_wait_in_mongodb(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """Deliveries above an endpoint's share wait in MongoDB, due and free for any notifier."""
    endpoint.behave(hanging)
    async with notifier(mongodb_url, database_name, webhook_timeout=30, per_endpoint_concurrency=3) as service:
        api = await api_to(service.deps, endpoint.url())
        events = [token_event(api) for _ in range(30)]
        await service.publish(*events)
        await eventually(lambda: endpoint.under_way == 3)
        deliveries = [await service.delivery(event.id) for event in events]
        assert sum(delivery.lease_until is not None for delivery in deliveries) == 3


async def test_the_metrics_say_how_many_are_under_way(mongodb_url: str, database_name: str, endpoint: Receiver) -> None:
    """Metrics count deliveries in progress, and their results."""
    released = asyncio.Event()

    async def held(_: web.Request) -> web.Response:
        await released.wait()
        return web.Response(status=204)

    endpoint.behave(held)
    async with notifier(mongodb_url, database_name) as service:

        async def metric(name: str) -> float:
            lines = (await service.anybody("GET", "/metrics")).raw.decode().splitlines()
            return float(next(line for line in lines if line.startswith(name)).rsplit(" ", 1)[1])

        delivered = 'tokenwire_webhook_attempts_total{outcome="delivered"}'
        api, before = await api_to(service.deps, endpoint.url()), await metric(delivered)
        events = [token_event(api) for _ in range(3)]
        await service.publish(*events)
        await eventually(lambda: endpoint.under_way == 3)
        assert await metric("tokenwire_webhooks_in_flight") == 3
        released.set()
        for event in events:
            await service.reached(event.id, DeliveryState.DELIVERED)

        async def none_is_left() -> bool:
            return await metric("tokenwire_webhooks_in_flight") == 0 and await metric(delivered) == before + 3

        await eventually(none_is_left)


async def test_webhooks_of_a_fast_endpoint_are_sent_directly(
    mongodb_url: str, database_name: str, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a fast endpoint commands are sent directly: none has to be stored as waiting and claimed later."""
    monkeypatch.setattr("services.notifier.consumer.MAX_ACK_DELAY_SECONDS", 60.0)  # however busy the machine is
    monkeypatch.setattr("services.notifier.endpoints.FAST_RESPONSE_MS", 60_000)
    async with notifier(mongodb_url, database_name) as service:
        api = await api_to(service.deps, endpoint.url())
        events = [token_event(api) for _ in range(3 * PREFETCH)]
        await service.publish(*events)
        deliveries = [await service.reached(event.id, DeliveryState.DELIVERED) for event in events]
    stored_and_delivered = 2
    assert {delivery.version for delivery in deliveries} == {stored_and_delivered}


@pytest.mark.parametrize("attempt_ended", [True, False])
async def test_a_command_is_held_while_only_mongodb_is_slow(
    mongodb_url: str, database_name: str, monkeypatch: pytest.MonkeyPatch, *, attempt_ended: bool
) -> None:
    """It is acknowledged early if the endpoint is slow. If MongoDB is, another command would not help it."""
    monkeypatch.setattr("services.notifier.consumer.MAX_ACK_DELAY_SECONDS", 0.01)
    monkeypatch.setattr("services.notifier.consumer.MAX_RECORD_DELAY_SECONDS", 60.0)
    recorded = asyncio.Event()

    def start(_: DeliveryWorker, delivery: Delivery, endpoint: Endpoint, secrets: WebhookSecrets) -> InFlight:
        in_flight = InFlight(endpoint, attempt_ended=attempt_ended)
        in_flight.task = asyncio.create_task(_until(recorded))
        return in_flight

    monkeypatch.setattr(DeliveryWorker, "start", start)
    async with notifier(mongodb_url, database_name) as service:
        api = await api_to(service.deps, "http://127.0.0.1:9/hook")
        event = token_event(api)
        acknowledged = asyncio.create_task(service.publish(event))
        if attempt_ended:
            await asyncio.wait((acknowledged,), timeout=0.3)
            assert not acknowledged.done()
            recorded.set()
        await acknowledged
        recorded.set()


async def _until(event: asyncio.Event) -> None:
    await event.wait()


async def test_an_endpoint_that_stops_responding_delays_others_only_briefly(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """If an endpoint turns silent, other webhooks are delayed for a moment at most."""
    async with notifier(mongodb_url, database_name, webhook_timeout=30) as service:
        silent = await api_to(service.deps, endpoint.url("/silent"))
        well = await api_to(service.deps, endpoint.url("/well"))
        endpoint.behave(hanging, "/silent")
        await service.publish(*[token_event(silent) for _ in range(2 * PREFETCH)])
        event = token_event(well)
        await service.publish(event)
        await service.reached(event.id, DeliveryState.DELIVERED)
        assert endpoint.under_way > 0


async def test_an_endpoint_that_is_down_gets_no_attempts(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """After timed-out attempts a dead endpoint gets single probes only (circuit breaker)."""
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
    """An endpoint gets no more than its share of concurrent requests; all webhooks arrive."""

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


async def test_an_api_that_cannot_be_decrypted_delays_only_its_own_webhooks(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """If an API's key is missing, only its webhooks wait, and are sent when the key is back."""
    async with notifier(mongodb_url, database_name) as service:
        deps = service.deps
        closed, well = await api_to(deps, endpoint.url("/closed")), await api_to(deps, endpoint.url("/well"))
        apis = deps.store.mongo["apis"]
        kept = (await apis.find_one({"_id": closed.api_id}))["definition"]  # type: ignore[index]
        key, _, box = kept.partition(".")
        await apis.update_one({"_id": closed.api_id}, {"$set": {"definition": f"{int(key) + 7}.{box}"}})
        deps.catalog.forget()
        due = {api.api_id: delivery_of(api, deps.now()) for api in (closed, well)}
        for delivery in due.values():
            await deps.store.deliveries.add(delivery)
        await service.reached(due[well.api_id].delivery_id, DeliveryState.DELIVERED)
        assert (await service.delivery(due[closed.api_id].delivery_id)).state is DeliveryState.PENDING
        await apis.update_one({"_id": closed.api_id}, {"$set": {"definition": kept}})
        deps.catalog.forget()
        await service.reached(due[closed.api_id].delivery_id, DeliveryState.DELIVERED)


def delivery_of(api: Api, now: datetime) -> Delivery:
    """A delivery that is due now, with a body that the notifier can decrypt."""
    event_id = new_event_id(now)
    return Delivery(
        delivery_id=event_id,
        state=DeliveryState.PENDING,
        api_id=api.api_id,
        client_id="client-of-the-tests",
        grant_id="grant-of-the-tests",
        event_type="token.new",
        event_at=now,
        sealed=Sealer(public_key_of(NOTIFIER_KEY)).seal(BODY),
        next_attempt_at=now,
        give_up_at=now + timedelta(days=1),
        created_at=now,
        updated_at=now,
    )
