"""Retries of failed webhooks: the retry schedule, on a clock that the tests control."""

from collections.abc import AsyncIterator
from datetime import timedelta
from email.utils import format_datetime

import pytest

from contracts.webhooks import Delivery, DeliveryState
from services.notifier.retry import DELAYS, RetrySchedule
from services.notifier.scheduler import MIN_POLL_INTERVAL
from tests.clock import Clock
from tests.eventually import eventually
from tests.notifications import (
    BODY,
    Behaviour,
    Notifier,
    Receiver,
    answering,
    api_to,
    hanging,
    notifier,
    resetting,
    stored,
    token_event,
)
from tests.ports import free_port

MOMENT = timedelta(milliseconds=1)


@pytest.fixture(name="clock")
def _clock() -> Clock:
    return Clock()


@pytest.fixture(name="service")
async def _service(mongodb_url: str, database_name: str, clock: Clock) -> AsyncIterator[Notifier]:
    async with notifier(mongodb_url, database_name, now=clock.now, sleep=clock.sleep) as service:
        yield service


async def tried_once(service: Notifier, url: str, clock: Clock) -> Delivery:
    """A new delivery to this URL after its first attempt."""
    event = token_event(await api_to(service.deps, url), clock.now())
    await service.publish(event)
    return await service.tried(event.id, 1)


async def test_a_failing_endpoint_gets_every_scheduled_attempt(
    service: Notifier, endpoint: Receiver, clock: Clock
) -> None:
    """Nine attempts over more than a day, each with an event and the same id and body; then exhausted."""
    endpoint.behave(answering(500))
    delivery = await tried_once(service, endpoint.url(), clock)
    for attempts, delay in enumerate(DELAYS, start=2):
        assert delivery.state is DeliveryState.PENDING
        assert delivery.next_attempt_at is not None
        pause = delivery.next_attempt_at - clock.now()
        assert delay * 0.8 <= pause <= delay * 1.2
        await clock.move_to(delivery.next_attempt_at)
        delivery = await service.tried(delivery.delivery_id, attempts)
        assert delivery.attempts[-1].at == clock.now()
    assert (delivery.state, delivery.next_attempt_at) == (DeliveryState.EXHAUSTED, None)
    assert delivery.sealed is not None
    assert endpoint.ids() == [delivery.delivery_id] * 9
    assert {webhook.body for webhook in endpoint.webhooks} == {BODY}
    stamps = [int(webhook.headers["webhook-timestamp"]) for webhook in endpoint.webhooks]
    assert stamps == sorted(set(stamps))
    types = [event["type"].rpartition(".")[2] for event in await service.heard.about(delivery)]
    assert types == ["failed"] * 8 + ["exhausted"]


async def test_nothing_is_tried_before_its_time(service: Notifier, endpoint: Receiver, clock: Clock) -> None:
    """No attempt is a millisecond early; a delivery to another endpoint shows that the notifier did look."""
    endpoint.behave(answering(500), "/a")
    early = await tried_once(service, endpoint.url("/a"), clock)
    assert early.next_attempt_at is not None
    await clock.move_to(early.next_attempt_at - MOMENT)
    await tried_once(service, endpoint.url("/a"), clock)
    assert (await service.delivery(early.delivery_id)).attempt_count == 1
    await clock.move(MIN_POLL_INTERVAL)
    await service.tried(early.delivery_id, 2)


async def test_an_endpoint_that_recovers_gets_its_webhook(service: Notifier, endpoint: Receiver, clock: Clock) -> None:
    """After a failure the next attempt delivers, and all attempts are recorded."""
    endpoint.behave(answering(503))
    delivery = await tried_once(service, endpoint.url(), clock)
    endpoint.behave(answering(200))
    assert delivery.next_attempt_at is not None
    await clock.move_to(delivery.next_attempt_at)
    delivery = await service.reached(delivery.delivery_id, DeliveryState.DELIVERED)
    assert [attempt.status for attempt in delivery.attempts] == [503, 200]
    types = [event["type"].rpartition(".")[2] for event in await service.heard.about(delivery)]
    assert types == ["failed", "delivered"]


@pytest.mark.parametrize(
    ("behaviour", "status", "error"),
    [
        pytest.param(answering(302, Location="/elsewhere"), 302, "redirects are not followed", id="redirect"),
        pytest.param(answering(308, Location="/elsewhere"), 308, "redirects are not followed", id="permanent-redirect"),
        pytest.param(answering(400), 400, None, id="refusal"),
        pytest.param(answering(500), 500, None, id="failure"),
        pytest.param(resetting, None, "the connection was closed before a response", id="reset"),
    ],
)
async def test_whatever_is_no_2xx_is_a_failure(
    service: Notifier, endpoint: Receiver, clock: Clock, behaviour: Behaviour, status: int | None, error: str | None
) -> None:
    """Any other status is a failure, without following redirects, and recorded."""
    endpoint.behave(behaviour)
    delivery = await tried_once(service, endpoint.url(), clock)
    assert delivery.state is DeliveryState.PENDING
    (attempt,) = delivery.attempts
    assert (attempt.status, attempt.error) == (status, error)
    assert [webhook.path for webhook in endpoint.webhooks] == ["/hook"]
    (event,) = await service.heard.about(delivery)
    assert (event["data"].get("status"), event["data"].get("error")) == (status, error)


async def test_silence_is_a_failure(mongodb_url: str, database_name: str, endpoint: Receiver, clock: Clock) -> None:
    """No response within the time-out is a failure."""
    endpoint.behave(hanging)
    async with notifier(mongodb_url, database_name, now=clock.now, sleep=clock.sleep, webhook_timeout=0.4) as service:
        delivery = await tried_once(service, endpoint.url(), clock)
        (attempt,) = delivery.attempts
        assert (attempt.status, attempt.error) == (None, "no response within 0.4 s")
        assert attempt.latency_ms >= 400
        (event,) = await service.heard.about(delivery)
        assert event["data"]["error"] == "no response within 0.4 s"


@pytest.mark.parametrize(
    ("url", "error"),
    [
        pytest.param("http://127.0.0.1:{closed}/", "no connection: ", id="nobody-listens"),
        pytest.param("http://nobody.invalid/", "the name of the endpoint cannot be resolved", id="no-such-name"),
        pytest.param("https://127.0.0.1:{open}/", "no trustworthy TLS connection", id="no-tls"),
    ],
)
async def test_an_endpoint_that_cannot_be_reached_is_a_failure(
    service: Notifier, endpoint: Receiver, clock: Clock, url: str, error: str
) -> None:
    """A connection error is recorded without status and with a readable error."""
    delivery = await tried_once(service, url.format(closed=free_port(), open=endpoint.port), clock)
    (attempt,) = delivery.attempts
    assert attempt.status is None
    assert (attempt.error or "").startswith(error)


async def test_410_stops(service: Notifier, endpoint: Receiver, clock: Clock) -> None:
    """After 410 there is no automatic retry; the body is kept for a manual one."""
    endpoint.behave(answering(410))
    delivery = await tried_once(service, endpoint.url(), clock)
    assert (delivery.state, delivery.next_attempt_at) == (DeliveryState.EXHAUSTED, None)
    assert delivery.sealed is not None
    (event,) = await service.heard.about(delivery)
    assert event["type"] == "io.tokenwire.notification.exhausted"


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_honoured(service: Notifier, endpoint: Receiver, clock: Clock, form: str) -> None:
    """Retry-After in seconds or as a date delays the next attempt."""
    asked = clock.now() + timedelta(minutes=20)
    value = "1200" if form == "seconds" else format_datetime(asked, usegmt=True)
    endpoint.behave(answering(429, Retry_After=value))
    delivery = await tried_once(service, endpoint.url(), clock)
    assert delivery.next_attempt_at == asked


async def test_retry_after_cannot_hurry_or_stop_us(service: Notifier, endpoint: Receiver, clock: Clock) -> None:
    """Retry-After cannot shorten the delay, or extend it beyond the longest one."""
    endpoint.behave(answering(503, Retry_After="1"), "/soon")
    delivery = await tried_once(service, endpoint.url("/soon"), clock)
    assert delivery.next_attempt_at is not None
    assert delivery.next_attempt_at - clock.now() >= DELAYS[0] * 0.8
    endpoint.behave(answering(503, Retry_After="999999999"), "/never")
    delivery = await tried_once(service, endpoint.url("/never"), clock)
    assert delivery.next_attempt_at == clock.now() + max(DELAYS)


async def test_retries_follow_a_changed_url(service: Notifier, endpoint: Receiver, clock: Clock) -> None:
    """A retry uses the API's current URL and secret."""
    endpoint.behave(answering(500), "/old")
    api = await api_to(service.deps, endpoint.url("/old"))
    event = token_event(api, clock.now())
    await service.publish(event)
    delivery = await service.tried(event.id, 1)
    moved = api.model_copy(update={"oauth": (await api_to(service.deps, endpoint.url("/new"), "new secret")).oauth})
    assert await service.deps.store.apis.replace(api, moved, service.deps.event_context("tests"))
    assert delivery.next_attempt_at is not None
    await clock.move_to(delivery.next_attempt_at)
    await service.reached(event.id, DeliveryState.DELIVERED)
    assert endpoint.ids("/new") == [event.id]
    assert endpoint.webhooks[-1].headers["X-Tyk-Shared-Secret"] == "new secret"


async def test_retries_end_when_their_api_is_deleted(service: Notifier, endpoint: Receiver, clock: Clock) -> None:
    """Retries of a deleted API are discarded when due."""
    endpoint.behave(answering(500))
    api = await api_to(service.deps, endpoint.url())
    event = token_event(api, clock.now())
    await service.publish(event)
    delivery = await service.tried(event.id, 1)
    await service.deps.store.apis.delete(api, service.deps.event_context("tests"))
    assert delivery.next_attempt_at is not None
    await clock.move_to(delivery.next_attempt_at)
    delivery = await service.reached(event.id, DeliveryState.DISCARDED)
    assert delivery.sealed is None
    assert len(endpoint.webhooks) == 1


async def test_a_lease_that_ran_out_is_taken_over(service: Notifier, endpoint: Receiver, clock: Clock) -> None:
    """When a killed notifier's lease ends, another notifier sends the delivery."""
    api = await api_to(service.deps, endpoint.url())
    lease = clock.now() + timedelta(seconds=30)
    left = stored(api, clock.now(), lease_until=lease)
    await service.deps.store.deliveries.add(left)
    await clock.move_to(lease - MOMENT)
    await tried_once(service, endpoint.url("/other"), clock)
    assert endpoint.ids() == []
    await clock.move(MIN_POLL_INTERVAL)
    delivery = await service.reached(left.delivery_id, DeliveryState.DELIVERED)
    assert (delivery.attempt_count, delivery.retries) == (1, 0)


async def test_a_delivery_held_back_too_long_is_exhausted(
    mongodb_url: str, database_name: str, endpoint: Receiver, clock: Clock
) -> None:
    """A delivery held back by the circuit breaker beyond its maximum age is exhausted, and kept."""
    schedule = RetrySchedule((timedelta(hours=1),))
    async with notifier(mongodb_url, database_name, now=clock.now, sleep=clock.sleep, schedule=schedule) as service:
        api = await api_to(service.deps, endpoint.url())
        end = clock.now() + schedule.max_age
        held = stored(api, clock.now(), lease_until=end, give_up_at=end)
        await service.deps.store.deliveries.add(held)
        await clock.move_to(end)
        exhausted = await service.reached(held.delivery_id, DeliveryState.EXHAUSTED)
        assert (exhausted.attempts, exhausted.sealed) == ((), held.sealed)
        (event,) = await service.heard.about(exhausted)
        assert event["type"] == "io.tokenwire.notification.exhausted"
    assert endpoint.webhooks == []


async def test_an_endpoint_that_was_down_is_probed_and_then_served(
    service: Notifier, endpoint: Receiver, clock: Clock
) -> None:
    """While an endpoint is down its deliveries wait without using up attempts; then all arrive."""
    endpoint.behave(answering(500))
    api = await api_to(service.deps, endpoint.url())
    events = [token_event(api, clock.now()) for _ in range(40)]
    for event in events[:5]:
        await service.publish(event)
        await service.tried(event.id, 1)
    await service.publish(*events[5:])
    assert len(endpoint.webhooks) == 5
    untouched = [await service.delivery(event.id) for event in events[5:]]
    assert {(delivery.attempt_count, delivery.lease_until) for delivery in untouched} == {(0, None)}
    await clock.move(timedelta(seconds=2))
    await eventually(lambda: len(endpoint.webhooks) == 6)
    endpoint.behave(answering(204))

    async def all_arrived() -> bool:
        await clock.move(timedelta(seconds=4))
        states = [(await service.delivery(event.id)).state for event in events]
        return set(states) == {DeliveryState.DELIVERED}

    await eventually(all_arrived, within=30, every=0.1)
