"""From the command on the bus to the endpoint, and what is recorded of it."""

import base64
import hashlib
import hmac
from collections.abc import AsyncIterator

import pytest

from contracts.webhooks import DeliveryState
from tests.eventually import eventually
from tests.notifications import (
    BODY,
    SECRET,
    Notifier,
    Receiver,
    answering,
    api_to,
    dripping,
    notifier,
    pouring,
    receiver,
    token_event,
)


@pytest.fixture(name="endpoint")
async def _endpoint() -> AsyncIterator[Receiver]:
    async with receiver() as endpoint:
        yield endpoint


@pytest.fixture(name="service")
async def _service(mongodb_url: str, database_name: str) -> AsyncIterator[Notifier]:
    async with notifier(mongodb_url, database_name) as service:
        yield service


async def test_the_body_arrives_as_it_was_sealed(service: Notifier, endpoint: Receiver) -> None:
    """What the token service sealed is what is posted, byte by byte, with the documented headers."""
    api = await api_to(service.deps, endpoint.url("/hook?tenant=7"))
    event = token_event(api)
    await service.publish(event)
    await service.reached(event.id, DeliveryState.DELIVERED)
    (webhook,) = endpoint.webhooks
    assert webhook.body == BODY
    assert webhook.headers["Content-Type"] == "application/json"
    assert webhook.headers["User-Agent"] == "tokenwire"
    assert webhook.headers["X-Tyk-Shared-Secret"] == SECRET
    assert webhook.id == event.id
    signed = f"{event.id}.{webhook.headers['webhook-timestamp']}.".encode() + BODY
    expected = base64.b64encode(hmac.new(SECRET.encode(), signed, hashlib.sha256).digest()).decode()
    assert webhook.headers["webhook-signature"] == f"v1,{expected}"


async def test_a_delivered_webhook_leaves_no_body(service: Notifier, endpoint: Receiver) -> None:
    """Once it has arrived, the sealed tokens are gone, and the attempt is kept."""
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    delivery = await service.reached(event.id, DeliveryState.DELIVERED)
    assert delivery.sealed is None
    assert delivery.lease_until is None
    (attempt,) = delivery.attempts
    assert (attempt.status, attempt.error, delivery.attempt_count) == (204, None, 1)


async def test_the_same_command_twice_is_one_webhook(service: Notifier, endpoint: Receiver) -> None:
    """Intake is idempotent on the event id."""
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    await service.publish(event)
    await service.reached(event.id, DeliveryState.DELIVERED)
    await service.publish(event)
    assert endpoint.ids() == [event.id]


@pytest.mark.parametrize("behaviour", [dripping, pouring])
async def test_a_2xx_counts_whatever_its_body_does(
    service: Notifier, endpoint: Receiver, behaviour: object
) -> None:
    """Any 2xx is success; a body that never ends is not waited for."""
    endpoint.behave(behaviour)  # type: ignore[arg-type]
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    delivery = await service.reached(event.id, DeliveryState.DELIVERED, within=5)
    assert delivery.attempts[0].status == 200
    await eventually(lambda: endpoint.under_way == 0)


async def test_a_failed_attempt_is_recorded(service: Notifier, endpoint: Receiver) -> None:
    endpoint.behave(answering(500))
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    delivery = await service.tried(event.id, 1)
    assert delivery.state is DeliveryState.PENDING
    assert delivery.attempts[0].status == 500
