"""The deliveries API for operators."""

import os
import socket
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from aiohttp import web

from contracts.operators import Permission
from contracts.webhooks import Attempt, CircuitState, DeliveryState
from libs.event_encoding import new_event_id
from libs.runtime import utc_now
from services.notifier.endpoints import EndpointLimiter
from tests.builders import make_operator, unique
from tests.notifications import (
    BODY,
    NOTIFICATION,
    SECRET,
    Behaviour,
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
ENDPOINTS = "/api/notifications/endpoints"


@pytest.fixture(name="service", scope="module")
async def _service(mongodb_url: str) -> AsyncIterator[Notifier]:
    async with notifier(mongodb_url, database_of_its_own(), webhook_timeout=1) as service:
        yield service


async def put(service: Notifier, url: str, **fields: Any) -> tuple[str, str]:
    """Insert a delivery, finished by default; return its id and its API's."""
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
        ("GET", ENDPOINTS, "read"),
        ("POST", f"{DELIVERIES}/evt_1/redeliver", "write"),
        ("POST", "/api/notifications/redeliver", "write"),
        ("POST", "/api/apis/api-1/notifications/test", "write"),
    ],
)
async def test_each_call_needs_its_permission(service: Notifier, method: str, path: str, permission: str) -> None:
    """401 without a key and 403 with the wrong permission, with and without a slash."""
    other = service.writer if permission == "read" else service.reader
    for spelling in (path, f"{path}/"):
        assert (await service.anybody(method, spelling)).status == 401
        refused = await other(method, spelling)
        assert refused.status == 403
        assert permission in refused.message


async def test_a_delivery_is_shown_with_its_attempts(service: Notifier, endpoint: Receiver) -> None:
    """A delivery shows state, endpoint, and every attempt with status, latency and error; never the body."""
    endpoint.behave(answering(503))
    api = await api_to(service.deps, endpoint.url())
    event = token_event(api)
    await service.publish(event)
    await service.tried(event.id, 1)
    response = await service.reader("GET", f"{DELIVERIES}/{event.id}")
    assert response.status == 200
    shown = response.body
    (attempt,) = shown.pop("attempts")
    assert attempt.keys() == {"at", "latency_ms", "status", "error", "response", "traceparent"}
    assert (attempt["status"], attempt["error"]) == (503, None)
    assert shown.keys() == {
        "id", "state", "api_id", "client_id", "grant_id", "event_type", "event_at", "url", "attempt_count",
        "next_attempt_at", "delivered_body_until", "created_at", "updated_at",
    }  # fmt: skip
    assert (shown["id"], shown["state"], shown["api_id"]) == (event.id, "pending", api.api_id)
    assert (shown["event_type"], shown["url"], shown["attempt_count"]) == ("token.new", endpoint.url(), 1)
    assert not [
        secret for secret in (SECRET, "sealed", NOTIFICATION.new_oauth_token) if secret in response.raw.decode()
    ]


async def test_an_unknown_delivery_is_404(service: Notifier) -> None:
    """Unknown and impossible ids get 404."""
    for name in ("evt_1", "a%00b", "%C3%A9", "%FF", "$where"):
        response = await service.reader("GET", f"{DELIVERIES}/{name}")
        assert (response.status, response.message) == (404, "Delivery not found")


async def test_deliveries_are_listed_page_by_page(service: Notifier, endpoint: Receiver) -> None:
    """Newest first; `next` leads to the end."""
    api, now = await api_to(service.deps, endpoint.url()), utc_now()
    moments = [now - timedelta(seconds=seconds) for seconds in range(5)]
    added = [stored(api, at, state=DeliveryState.EXHAUSTED) for at in moments]
    for delivery in added:
        await service.deps.store.deliveries.add(delivery)
    seen: list[str] = []
    after = ""
    for size in (2, 2, 1):
        response = (await service.reader("GET", f"{DELIVERIES}?api_id={api.api_id}&limit=2{after}")).body
        assert len(response["deliveries"]) == size
        seen += [delivery["id"] for delivery in response["deliveries"]]
        after = f"&after={response['next']}"
    assert response["next"] is None
    assert seen == [delivery.delivery_id for delivery in added]


async def test_deliveries_are_found_by_every_filter(service: Notifier, endpoint: Receiver) -> None:
    """Filters by API, client, state, and event time."""
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
    """An invalid filter gets 400 and is not ignored."""
    response = await service.reader("GET", f"{DELIVERIES}?{query}")
    assert response.status == 400
    assert response.message


async def test_an_exhausted_delivery_is_redelivered(service: Notifier, endpoint: Receiver) -> None:
    """A redelivered delivery is sent at once under the same id, and keeps its history."""
    history = (Attempt(at=utc_now(), latency_ms=3, status=500),)
    delivery_id, _ = await put(service, endpoint.url(), attempts=history, attempt_count=9, retries=8)
    response = await service.writer("POST", f"{DELIVERIES}/{delivery_id}/redeliver")
    assert (response.status, response.message) == (200, "the delivery is due now")
    delivery = await service.reached(delivery_id, DeliveryState.DELIVERED)
    assert (delivery.attempt_count, delivery.attempts[0]) == (10, history[0])
    assert [(webhook.id, webhook.body) for webhook in endpoint.webhooks] == [(delivery_id, BODY)]


async def test_a_waiting_delivery_is_redelivered(service: Notifier, endpoint: Receiver) -> None:
    """A waiting delivery can be redelivered before its retry is due."""
    later = utc_now() + timedelta(hours=10)
    delivery_id, _ = await put(service, endpoint.url(), state=DeliveryState.PENDING, next_attempt_at=later, retries=7)
    assert (await service.writer("POST", f"{DELIVERIES}/{delivery_id}/redeliver")).status == 200
    await service.reached(delivery_id, DeliveryState.DELIVERED)


async def test_a_delivery_in_progress_is_not_sent_twice(service: Notifier, endpoint: Receiver) -> None:
    """Redelivering a delivery in progress changes nothing."""
    endpoint.behave(hanging)
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    response = await service.writer("POST", f"{DELIVERIES}/{event.id}/redeliver")
    assert (response.status, response.message) == (200, "the delivery is being attempted now")
    assert (await service.tried(event.id, 1)).retries == 1
    assert endpoint.ids() == [event.id]


@pytest.mark.parametrize("state", [DeliveryState.DELIVERED, DeliveryState.DISCARDED])
async def test_a_delivery_without_body_cannot_be_redelivered(
    service: Notifier, endpoint: Receiver, state: DeliveryState
) -> None:
    """A delivery without body gets 409."""
    delivery_id, _ = await put(service, endpoint.url(), state=state, sealed=None)
    response = await service.writer("POST", f"{DELIVERIES}/{delivery_id}/redeliver")
    assert response.status == 409
    assert "nothing left to send" in response.message
    assert (await service.writer("POST", f"{DELIVERIES}/evt_1/redeliver")).status == 404


async def test_e8_a_delivered_webhook_is_sent_again_only_by_force(service: Notifier, endpoint: Receiver) -> None:
    """409 without `force=true`; with it the same body and webhook-id arrive again, as often as wanted."""
    api = await api_to(service.deps, endpoint.url())
    event = token_event(api)
    await service.publish(event)
    delivered = await service.reached(event.id, DeliveryState.DELIVERED, within=60)
    path = f"{DELIVERIES}/{event.id}/redeliver"
    refused = await service.writer("POST", path)
    assert (refused.status, refused.message) == (409, "the webhook was delivered; send it again with ?force=true")
    assert (await service.writer("POST", f"{path}?force=perhaps")).status == 400
    for number in (2, 3):
        assert (await service.writer("POST", f"{path}?force=true")).status == 200
        await service.tried(event.id, number, within=60)
        await service.reached(event.id, DeliveryState.DELIVERED, within=60)
    assert endpoint.ids() == [event.id] * 3
    assert {webhook.body for webhook in endpoint.webhooks} == {BODY}
    shown = (await service.reader("GET", f"{DELIVERIES}/{event.id}")).body
    assert shown["state"] == "delivered"
    assert datetime.fromisoformat(shown["delivered_body_until"]) > delivered.updated_at


async def test_e8_the_body_of_a_delivered_webhook_is_dropped_after_a_day(service: Notifier, endpoint: Receiver) -> None:
    """Sealed until then, as before the delivery; afterwards there is nothing left to send."""
    api = await api_to(service.deps, endpoint.url())
    event = token_event(api)
    await service.publish(event)
    delivered = await service.reached(event.id, DeliveryState.DELIVERED, within=60)
    store, until = service.deps.store.deliveries, delivered.updated_at + timedelta(days=1)
    kept = await service.deps.store.mongo["deliveries"].find_one({"_id": event.id})
    assert kept is not None
    assert NOTIFICATION.new_oauth_token.encode() not in kept["delivered_body"]
    await store.drop_bodies(until - timedelta(seconds=1))
    assert (await service.delivery(event.id)).delivered_body == kept["delivered_body"]
    assert await store.drop_bodies(until + timedelta(seconds=1)) >= 1
    response = await service.writer("POST", f"{DELIVERIES}/{event.id}/redeliver?force=true")
    assert (response.status, response.message) == (409, "the delivery is delivered: there is nothing left to send")
    assert "delivered_body_until" not in [
        name
        for name, value in (await service.reader("GET", f"{DELIVERIES}/{event.id}")).body.items()
        if value is not None
    ]


async def test_everything_exhausted_of_an_api_is_redelivered(service: Notifier, endpoint: Receiver) -> None:
    """One call redelivers all exhausted deliveries of an API and returns their number."""
    api, now = await api_to(service.deps, endpoint.url()), utc_now()
    lost = [stored(api, now - timedelta(minutes=minutes), state=DeliveryState.EXHAUSTED) for minutes in range(5)]
    for delivery in lost:
        await service.deps.store.deliveries.add(delivery)
    await put(service, endpoint.url("/other"))
    since = (now - timedelta(minutes=3)).isoformat()
    response = await service.writer("POST", "/api/notifications/redeliver", json={"api_id": api.api_id, "since": since})
    assert (response.status, response.body["Meta"]) == (200, {"count": 4})
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
async def test_an_invalid_redelivery_is_refused(service: Notifier, body: bytes, status: int) -> None:
    """An invalid redelivery is refused, and nothing is sent."""
    response = await service.writer("POST", "/api/notifications/redeliver", data=body)
    assert response.status == status
    assert response.message


async def test_a_test_notification_shows_what_the_endpoint_does(service: Notifier, endpoint: Receiver) -> None:
    """A test notification is sent once, with normal headers and signature, and values that are clearly no tokens."""
    api = await api_to(service.deps, endpoint.url())
    endpoint.behave(answering(418))
    response = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert (response.status, response.body["Status"]) == (200, "Error")
    latency = response.body["Meta"]["latency_ms"]
    assert response.body["Message"] == (
        f"the test webhook was NOT delivered: the endpoint responded with 418, after {latency} ms"
    )
    assert response.body["Meta"]["status"] == 418
    assert response.body["Meta"]["latency_ms"] >= 0
    (webhook,) = endpoint.webhooks
    body = orjson.loads(webhook.body)
    assert list(body) == ["auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type"]
    assert set(body.values()) == {"test", "", "new"}
    assert webhook.headers["X-Tyk-Shared-Secret"] == SECRET
    assert webhook.headers["webhook-signature"].startswith("v1,")
    endpoint.behave(answering(204))
    response = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    latency = response.body["Meta"]["latency_ms"]
    assert (response.status, response.message) == (
        200,
        f"the test webhook was delivered: the endpoint responded with 204, after {latency} ms",
    )
    listed = await service.reader("GET", DELIVERIES, params={"api_id": api.api_id})
    assert listed.body["deliveries"] == []


def saying(status: int, body: bytes, **headers: str) -> Behaviour:
    """An endpoint that responds with this body."""

    async def response(_: web.Request) -> web.Response:
        return web.Response(status=status, body=body, headers=headers)

    return response


async def test_e8_a_test_shows_how_the_response_began(service: Notifier, endpoint: Receiver) -> None:
    """The first 1024 characters, without the secrets that the endpoint sent back."""
    api = await api_to(service.deps, endpoint.url())
    endpoint.behave(saying(500, b"Traceback: " + SECRET.encode() + b" tw_at_abc123 whsec_AAAA " + b"x" * 3000))
    response = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    shown = response.body["Meta"]["response"]
    assert shown.startswith("Traceback: ******** ******** ******** xxx")
    assert len(shown) == 1024
    assert response.body["Meta"]["error"] is None


async def test_e8_every_attempt_keeps_how_its_response_began(service: Notifier, endpoint: Receiver) -> None:
    """Of failed and of accepted webhooks, with the tokens that were in the webhook masked."""
    api = await api_to(service.deps, endpoint.url())

    async def echoing(request: web.Request) -> web.Response:
        signature = request.headers["webhook-signature"].encode()
        return web.Response(body=b"got " + await request.read() + signature)

    endpoint.behave(echoing)
    event = token_event(api)
    await service.publish(event)
    await service.tried(event.id, 1, within=60)
    shown = (await service.reader("GET", f"{DELIVERIES}/{event.id}")).body
    assert shown["attempts"][0]["response"].startswith('got {"auth_code":"********","new_oauth_token":"********"')
    for value in (NOTIFICATION.auth_code, NOTIFICATION.new_oauth_token, NOTIFICATION.refresh_token, "v1,"):
        assert value not in shown["attempts"][0]["response"]


async def test_a_test_of_a_silent_endpoint_ends(service: Notifier, endpoint: Receiver) -> None:
    """If the endpoint is silent, the operator gets a response within the time-out of an attempt."""
    api = await api_to(service.deps, endpoint.url())
    endpoint.behave(hanging)
    response = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert response.body["Meta"]["error"] == "no response within 1 s"
    assert response.body["Status"] == "Error"
    assert response.body["Message"].startswith("the test webhook was NOT delivered: there was no response (no response")


async def test_there_is_nothing_to_test_without_a_url(service: Notifier) -> None:
    """404 for an unknown API, 400 for one without webhooks."""
    unknown = await service.writer("POST", "/api/apis/api-unknown/notifications/test")
    assert (unknown.status, unknown.message) == (404, "API not found")
    api = await api_to(service.deps, "")
    silent = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert (silent.status, silent.message) == (400, "this API has no notification URL")


async def test_a10_only_writers_see_a_complete_url(service: Notifier) -> None:
    """The full URL is shown with `write` only, because it may contain a secret."""
    url = "https://hooks.example.test/in?known=to-few"
    both = service.anybody.with_key(await make_operator(service.deps, Permission.READ, Permission.WRITE))
    delivery_id, api_id = await put(service, url)
    for path in (f"{DELIVERIES}/{delivery_id}", f"{DELIVERIES}?api_id={api_id}"):
        assert b"to-few" not in (await service.reader("GET", path)).raw
        assert url.encode() in (await both("GET", path)).raw
    shown = (await service.reader("GET", f"{DELIVERIES}/{delivery_id}")).body
    assert shown["url"] == "https://hooks.example.test/in?known=********"


# Endpoints


async def endpoint_of(service: Notifier, api_id: str) -> dict[str, Any]:
    """What the list says about the endpoint of this API."""
    response = await service.reader("GET", f"{ENDPOINTS}?api_id={api_id}")
    assert response.status == 200, response.body
    (found,) = response.body["endpoints"]
    return dict(found)


async def test_an_endpoint_has_its_rate_latency_and_backlog_of_the_last_day(
    service: Notifier, endpoint: Receiver
) -> None:
    """Deliveries by state and attempts of the last 24 hours, and whatever is pending, however old."""
    api, now = await api_to(service.deps, endpoint.url("/hook")), utc_now()
    good = [Attempt(at=now - timedelta(seconds=each), latency_ms=each, status=200) for each in range(1, 20)]
    bad = Attempt(at=now, latency_ms=900, error="no response in time")
    far = now + timedelta(hours=1)
    long_ago = now - timedelta(days=2)
    for delivery in (
        stored(api, now - timedelta(hours=2), state=DeliveryState.DELIVERED, attempts=good, attempt_count=len(good)),
        stored(api, now - timedelta(hours=1), state=DeliveryState.EXHAUSTED, attempts=(bad,), attempt_count=1),
        stored(api, long_ago, state=DeliveryState.EXHAUSTED, attempts=(bad,) * 20, attempt_count=20),
        stored(api, long_ago, next_attempt_at=far, give_up_at=far + timedelta(hours=1)),
    ):
        await service.deps.store.deliveries.add(delivery)
    found = await endpoint_of(service, api.api_id)
    assert (found["api_id"], found["url"]) == (api.api_id, endpoint.url("/hook"))
    assert found["states"] == {"delivered": 1, "exhausted": 1}
    assert (found["attempts"], found["accepted"], found["success_rate"]) == (20, 19, 0.95)
    assert (found["latency_median_ms"], found["latency_p95_ms"]) == (10, 19)
    assert found["last_attempt"]["error"] == "no response in time"
    assert found["backlog"] == 1
    assert abs(datetime.fromisoformat(found["oldest_pending"]) - long_ago) < timedelta(seconds=1)
    assert found["circuit"] == {"state": "closed", "failures": 0, "open_until": None, "in_flight": 0}


async def test_an_endpoint_without_attempts_has_no_rate(service: Notifier, endpoint: Receiver) -> None:
    """Null, and not 0 or 100 percent; an API without any delivery is in the response if it is asked for by id."""
    api = await api_to(service.deps, endpoint.url())
    found = await endpoint_of(service, api.api_id)
    assert (found["attempts"], found["success_rate"], found["latency_median_ms"], found["last_attempt"]) == (
        *(0, None, None),
        None,
    )
    assert (found["states"], found["backlog"], found["oldest_pending"]) == ({}, 0, None)


async def test_the_circuit_is_that_of_the_instance_that_responds(service: Notifier, endpoint: Receiver) -> None:
    """After five failures it is open until the next attempt; another notifier, which has made none, says closed."""
    endpoint.behave(answering(503), "/failing")
    api = await api_to(service.deps, endpoint.url("/failing"))
    for event in [token_event(api) for _ in range(5)]:
        await service.publish(event)
        await service.tried(event.id, 1)
    found = await endpoint_of(service, api.api_id)
    assert found["circuit"]["state"] in {"open", "half_open"}
    assert found["circuit"]["failures"] >= 5
    assert found["success_rate"] == 0
    said = (await service.reader("GET", ENDPOINTS)).body["instance"]
    assert said == f"{socket.gethostname()}:{os.getpid()}"
    assert EndpointLimiter(8, 4, utc_now).circuit(endpoint.url("/failing")).state is CircuitState.CLOSED


async def test_endpoints_are_listed_page_by_page(service: Notifier, endpoint: Receiver) -> None:
    """By API id; `next` leads through all that have deliveries, once each."""
    wanted = {(await put(service, endpoint.url()))[1] for _ in range(3)}
    seen: list[str] = []
    after = ""
    while True:
        response = (await service.reader("GET", f"{ENDPOINTS}?limit=2{after}")).body
        seen += [found["api_id"] for found in response["endpoints"]]
        if response["next"] is None:
            break
        after = f"&after={response['next']}"
    assert seen == sorted(set(seen))
    assert wanted <= set(seen)


async def test_an_endpoint_url_is_masked_for_those_who_may_only_read(service: Notifier, endpoint: Receiver) -> None:
    """A URL may be a credential; operators with `write` see it."""
    api = await api_to(service.deps, f"{endpoint.url()}?key=of-the-receiver")
    path = f"{ENDPOINTS}?api_id={api.api_id}"
    assert "of-the-receiver" not in (await service.reader("GET", path)).raw.decode()
    both = service.anybody.with_key(await make_operator(service.deps, Permission.READ, Permission.WRITE))
    assert "of-the-receiver" in (await both("GET", path)).raw.decode()


@pytest.mark.parametrize("query", ["limit=0", "limit=51", "after=a/b", "api_id=%00", "what=1", "limit=1&limit=2"])
async def test_a_bad_question_about_endpoints_is_refused(service: Notifier, query: str) -> None:
    """400 in the envelope."""
    response = await service.reader("GET", f"{ENDPOINTS}?{query}")
    assert (response.status, response.body["Status"]) == (400, "Error")
