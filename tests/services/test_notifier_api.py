"""The deliveries API: what operators see and do."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import orjson
import pytest

from contracts.webhooks import Attempt, DeliveryState
from libs.events import new_event_id
from libs.runtime import utc_now
from tests.builders import unique
from tests.notifications import (
    BODY,
    NOTIFICATION,
    SECRET,
    Notifier,
    Receiver,
    answering,
    api_to,
    database_of_its_own,
    hanging,
    notifier,
    stored,
    token_event,
)

DELIVERIES = "/api/notifications/deliveries"


@pytest.fixture(name="service", scope="module")
async def _service(mongodb_url: str) -> AsyncIterator[Notifier]:
    async with notifier(mongodb_url, database_of_its_own(), webhook_timeout=1) as service:
        yield service


async def put(service: Notifier, url: str, **fields: Any) -> tuple[str, str]:
    """A delivery in MongoDB that is over, unless it is said what it is: its id and its API's."""
    api = await api_to(service.deps, url)
    given = {"state": DeliveryState.EXHAUSTED, "next_attempt_at": None}
    delivery = stored(api, utc_now(), **given | fields)
    await service.deps.store.deliveries.add(delivery)
    return delivery.delivery_id, api.api_id


@pytest.mark.parametrize(
    ("method", "path", "permission"),
    [
        ("GET", DELIVERIES, "read"),
        ("GET", f"{DELIVERIES}/evt_1", "read"),
        ("POST", f"{DELIVERIES}/evt_1/redeliver", "write"),
        ("POST", "/api/notifications/redeliver", "write"),
        ("POST", "/api/apis/api-1/notifications/test", "write"),
    ],
)
async def test_each_call_needs_its_permission(service: Notifier, method: str, path: str, permission: str) -> None:
    """Without a key 401, with a key for something else 403, with and without a trailing slash."""
    other = service.writer if permission == "read" else service.reader
    for spelling in (path, f"{path}/"):
        assert (await service.anybody(method, spelling)).status == 401
        refused = await other(method, spelling)
        assert refused.status == 403
        assert permission in refused.message


async def test_a_delivery_is_shown_with_its_attempts(service: Notifier, endpoint: Receiver) -> None:
    """State, endpoint, every attempt with status, latency and error; never the body."""
    endpoint.behave(answering(503))
    api = await api_to(service.deps, endpoint.url())
    event = token_event(api)
    await service.publish(event)
    await service.tried(event.id, 1)
    answer = await service.reader("GET", f"{DELIVERIES}/{event.id}")
    assert answer.status == 200
    shown = answer.body
    (attempt,) = shown.pop("attempts")
    assert attempt.keys() == {"at", "latency_ms", "status", "error"}
    assert (attempt["status"], attempt["error"]) == (503, None)
    assert shown.keys() == {
        "id", "state", "api_id", "client_id", "grant_id", "event_type", "event_at", "url", "attempt_count",
        "next_attempt_at", "created_at", "updated_at",
    }  # fmt: skip
    assert (shown["id"], shown["state"], shown["api_id"]) == (event.id, "pending", api.api_id)
    assert (shown["event_type"], shown["url"], shown["attempt_count"]) == ("token.new", endpoint.url(), 1)
    assert not [secret for secret in (SECRET, "sealed", NOTIFICATION.new_oauth_token) if secret in answer.raw.decode()]


async def test_an_unknown_delivery_is_404(service: Notifier) -> None:
    """Also for ids that could not be one."""
    for name in ("evt_1", "a%00b", "%C3%A9", "%FF", "$where"):
        answer = await service.reader("GET", f"{DELIVERIES}/{name}")
        assert (answer.status, answer.message) == (404, "Delivery not found")


async def test_deliveries_are_listed_page_by_page(service: Notifier, endpoint: Receiver) -> None:
    """The latest first; `next` leads on until there is nothing more."""
    api, now = await api_to(service.deps, endpoint.url()), utc_now()
    moments = [now - timedelta(seconds=seconds) for seconds in range(5)]
    added = [stored(api, at, state=DeliveryState.EXHAUSTED) for at in moments]
    for delivery in added:
        await service.deps.store.deliveries.add(delivery)
    seen: list[str] = []
    after = ""
    for size in (2, 2, 1):
        answer = (await service.reader("GET", f"{DELIVERIES}?api_id={api.api_id}&limit=2{after}")).body
        assert len(answer["deliveries"]) == size
        seen += [delivery["id"] for delivery in answer["deliveries"]]
        after = f"&after={answer['next']}"
    assert answer["next"] is None
    assert seen == [delivery.delivery_id for delivery in added]


async def test_deliveries_are_found_by_every_filter(service: Notifier, endpoint: Receiver) -> None:
    """API, client, state, and the time of the event."""
    at = utc_now() - timedelta(hours=1)
    client = unique("client")
    wanted, api_id = await put(service, endpoint.url(), client_id=client, delivery_id=new_event_id(at))
    await put(service, endpoint.url())
    before, later = (at - timedelta(seconds=1)).isoformat(), (at + timedelta(seconds=1)).isoformat()
    query = {"api_id": api_id, "client_id": client, "state": "exhausted", "from": before, "to": later}
    for names in ({"api_id"}, {"client_id"}, {"from", "to"}, set(query)):
        parameters = {name: query[name] for name in names}
        found = (await service.reader("GET", DELIVERIES, params=parameters)).body["deliveries"]
        assert [delivery["id"] for delivery in found] == [wanted], names


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "limit=many",
        "state=lost",
        "from=yesterday",
        "from=2026-03-01T12:00:00",
        "to=2026-13-01T12:00:00Z",
        "api_id=a/b",
        "api_id[$ne]=x",
        "client_id=%00",
        "after=%24gt",
        "page=2",
        "state=pending&state=exhausted",
    ],
)
async def test_a_filter_that_makes_no_sense_is_400(service: Notifier, query: str) -> None:
    """Said in the envelope, and not taken for no filter."""
    answer = await service.reader("GET", f"{DELIVERIES}?{query}")
    assert answer.status == 400
    assert answer.message


async def test_an_exhausted_delivery_is_redelivered(service: Notifier, endpoint: Receiver) -> None:
    """It goes out at once, under the same id, and keeps its history."""
    history = (Attempt(at=utc_now(), latency_ms=3, status=500),)
    delivery_id, _ = await put(service, endpoint.url(), attempts=history, attempt_count=9, rung=8)
    answer = await service.writer("POST", f"{DELIVERIES}/{delivery_id}/redeliver")
    assert (answer.status, answer.message) == (200, "the delivery is due now")
    delivery = await service.reached(delivery_id, DeliveryState.DELIVERED)
    assert (delivery.attempt_count, delivery.attempts[0]) == (10, history[0])
    assert [(webhook.id, webhook.body) for webhook in endpoint.webhooks] == [(delivery_id, BODY)]


async def test_a_waiting_delivery_is_redelivered(service: Notifier, endpoint: Receiver) -> None:
    """An operator who knows that the endpoint is back need not wait for the rung."""
    later = utc_now() + timedelta(hours=10)
    delivery_id, _ = await put(service, endpoint.url(), state=DeliveryState.PENDING, next_attempt_at=later, rung=7)
    assert (await service.writer("POST", f"{DELIVERIES}/{delivery_id}/redeliver")).status == 200
    await service.reached(delivery_id, DeliveryState.DELIVERED)


async def test_what_is_under_way_is_not_sent_a_second_time(service: Notifier, endpoint: Receiver) -> None:
    """Redelivering what is being attempted at this moment changes nothing."""
    endpoint.behave(hanging)
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    answer = await service.writer("POST", f"{DELIVERIES}/{event.id}/redeliver")
    assert (answer.status, answer.message) == (200, "the delivery is being attempted now")
    assert (await service.tried(event.id, 1)).rung == 1
    assert endpoint.ids() == [event.id]


@pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.DISCARDED])
async def test_what_has_no_body_cannot_be_redelivered(
    service: Notifier, endpoint: Receiver, state: DeliveryState
) -> None:
    """409: the tokens are gone, which is the point."""
    delivery_id, _ = await put(service, endpoint.url(), state=state, sealed=None)
    answer = await service.writer("POST", f"{DELIVERIES}/{delivery_id}/redeliver")
    assert answer.status == 409
    assert "nothing left to send" in answer.message
    assert (await service.writer("POST", f"{DELIVERIES}/evt_1/redeliver")).status == 404


async def test_everything_exhausted_of_an_api_is_redelivered(service: Notifier, endpoint: Receiver) -> None:
    """After an outage of the endpoint one call sends what was lost to it, and says how much."""
    api, now = await api_to(service.deps, endpoint.url()), utc_now()
    lost = [stored(api, now - timedelta(minutes=minutes), state=DeliveryState.EXHAUSTED) for minutes in range(5)]
    for delivery in lost:
        await service.deps.store.deliveries.add(delivery)
    await put(service, endpoint.url("/other"))
    since = (now - timedelta(minutes=3)).isoformat()
    answer = await service.writer("POST", "/api/notifications/redeliver", json={"api_id": api.api_id, "since": since})
    assert (answer.status, answer.body["Meta"]) == (200, {"count": 4})
    for delivery in lost[:4]:
        await service.reached(delivery.delivery_id, DeliveryState.DELIVERED)
    assert (await service.delivery(lost[4].delivery_id)).state is DeliveryState.EXHAUSTED
    assert endpoint.ids("/other") == []


@pytest.mark.parametrize(
    ("body", "status"),
    [
        pytest.param(b"", 400, id="empty"),
        pytest.param(b"[", 400, id="not-json"),
        pytest.param(b"[]", 400, id="no-object"),
        pytest.param(b'{"api_id":"api-1"}', 400, id="no-since"),
        pytest.param(b'{"since":"2026-03-01T12:00:00Z"}', 400, id="no-api"),
        pytest.param(b'{"api_id":{"$ne":1},"since":"2026-03-01T12:00:00Z"}', 400, id="operator"),
        pytest.param(b'{"api_id":"api-1","since":"2026-03-01T12:00:00"}', 400, id="no-zone"),
        pytest.param(b'{"api_id":"api-1","since":"2026-03-01T12:00:00Z","state":"delivered"}', 400, id="delivered"),
        pytest.param(b'{"api_id":"api-1","since":"2026-03-01T12:00:00Z","all":true}', 400, id="unknown-field"),
        pytest.param(b'{"api_id":"\xff","since":"2026-03-01T12:00:00Z"}', 400, id="not-utf-8"),
        pytest.param(b" " * 70_000, 413, id="too-large"),
    ],
)
async def test_a_redelivery_that_makes_no_sense_is_refused(service: Notifier, body: bytes, status: int) -> None:
    """With a status and an envelope, and nothing is sent."""
    answer = await service.writer("POST", "/api/notifications/redeliver", data=body)
    assert answer.status == status
    assert answer.message


async def test_a_test_notification_shows_what_the_endpoint_does(service: Notifier, endpoint: Receiver) -> None:
    """Once, now, with headers and signature as ever, and values that nobody can take for tokens."""
    api = await api_to(service.deps, endpoint.url())
    endpoint.behave(answering(418))
    answer = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert (answer.status, answer.message) == (200, "the test notification failed")
    assert answer.body["Meta"]["status"] == 418
    assert answer.body["Meta"]["latency_ms"] >= 0
    (webhook,) = endpoint.webhooks
    body = orjson.loads(webhook.body)
    assert list(body) == ["auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type"]
    assert set(body.values()) == {"test", "", "new"}
    assert webhook.headers["X-Tyk-Shared-Secret"] == SECRET
    assert webhook.headers["webhook-signature"].startswith("v1,")
    endpoint.behave(answering(204))
    answer = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert (answer.status, answer.message) == (200, "the endpoint took the test notification")
    listed = await service.reader("GET", DELIVERIES, params={"api_id": api.api_id})
    assert listed.body["deliveries"] == []


async def test_a_test_of_a_silent_endpoint_ends(service: Notifier, endpoint: Receiver) -> None:
    """The operator gets an answer within the timeout of an attempt."""
    api = await api_to(service.deps, endpoint.url())
    endpoint.behave(hanging)
    answer = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert answer.body["Meta"]["error"] == "no answer within 1 s"


async def test_there_is_nothing_to_test_without_a_url(service: Notifier) -> None:
    """404 for an unknown API, 400 for one that wants no webhooks."""
    unknown = await service.writer("POST", "/api/apis/api-unknown/notifications/test")
    assert (unknown.status, unknown.message) == (404, "API not found")
    api = await api_to(service.deps, "")
    silent = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert (silent.status, silent.message) == (400, "this API has no notification URL")
