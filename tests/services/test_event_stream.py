"""GET /api/events/stream: the bus's events as server-sent events."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from aiohttp import ClientResponse, ClientSession

from contracts.operators import Permission
from contracts.reconciliation import RecordedEvent
from examples.subscriber import lines_of, server_sent_events
from libs.access import OperatorAuthenticator
from libs.bus.local import LocalBus
from libs.bus.port import Delivery, Exchange, Message
from libs.event_encoding import new_event_id
from libs.http.operations import add_operations
from libs.runtime import Deps, new_application, new_deps
from services.management import event_replay, event_stream
from services.management import stream_subscribers as subscribers_module
from services.management.event_stream import EventStream
from services.management.settings import ManagementSettings
from services.management.stream_subscribers import EventFilter, StreamedEvent, StreamSubscriber, StreamSubscribers
from tests.builders import Caller, make_api, make_client, make_operator, make_policy, running, settings, settle, unique
from tests.eventually import eventually
from tests.services.management import Management, management
from tests.services.system import System, open_system

PLACE = "/api/events/stream"


@pytest.fixture(scope="module", name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


@asynccontextmanager
async def streaming(caller: Caller, query: str = "") -> AsyncIterator[ClientResponse]:
    """An open stream whose first lines have been read."""
    async with caller.http.get(PLACE + query, headers=caller.headers) as response:
        assert response.status == 200, await response.text()
        retry, position, connected = await lines(response)
        assert (retry, position[:8], connected) == ("retry: 2000", "id: evt_", ": connected")
        yield response


async def lines(response: ClientResponse) -> list[str]:
    """The lines up to the next empty one; none at the end of the stream."""
    found = []
    async with asyncio.timeout(10):
        while line := (await response.content.readline()).decode().rstrip("\n"):
            found.append(line)
    return found


async def seen(response: ClientResponse) -> tuple[str, dict[str, Any]]:
    """Name and data of the next event; its id must be the event's."""
    identifier, name, data = await lines(response)
    event = json.loads(data.removeprefix("data: "))
    assert identifier == f"id: {event['id']}"
    return name.removeprefix("event: "), event


async def test_a_stream_is_made_for_the_web(service: Management) -> None:
    """The stream has the media type of server-sent events, and is neither cached nor buffered."""
    async with streaming(service.reader) as response:
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-store"
        assert response.headers["X-Accel-Buffering"] == "no"
        assert response.headers["Server"] == ""
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert len(response.headers["X-Request-Id"]) == 16


async def test_every_event_arrives_as_it_is_on_the_bus(service: Management) -> None:
    """Events have `id`, `event` (without the vendor prefix) and the CloudEvent as `data`, in order."""
    async with streaming(service.reader) as response:
        api = await make_api(service.deps)
        client, _ = await make_client(service.deps, api)
        (of_api,), (of_client,) = await service.heard.about(api.api_id), await service.heard.about(client.client_id)
        assert await seen(response) == ("api.created", of_api)
        assert await seen(response) == ("client.created", of_client)
        assert of_client["type"] == "io.tokenwire.client.created"


async def test_the_example_subscriber_understands_it(service: Management) -> None:
    """The example subscriber reads the events."""
    async with streaming(service.reader) as response:
        policy = await make_policy(service.deps)
        (expected,) = await service.heard.about(policy.policy_id)
        async for event in server_sent_events(lines_of(response.content)):
            assert event == expected
            break


@pytest.mark.parametrize(
    ("event_filter", "stem", "api_id", "taken"),
    [
        pytest.param(EventFilter(), "token.new", "orders", True, id="nothing-named"),
        pytest.param(EventFilter(), "policy.created", None, True, id="nothing-named-and-no-api"),
        pytest.param(EventFilter(("token.*",)), "token.new", "orders", True, id="pattern"),
        pytest.param(EventFilter(("token.*",)), "grant.revoked", "orders", False, id="other-type"),
        pytest.param(EventFilter(("token.*", "grant.revoked")), "grant.revoked", "orders", True, id="second-pattern"),
        pytest.param(EventFilter(("#",)), "client.secret_rotated", "orders", True, id="hash"),
        pytest.param(EventFilter(("*.revoked",)), "token.revoked", "orders", True, id="star-first"),
        pytest.param(EventFilter((), "orders"), "token.new", "orders", True, id="api"),
        pytest.param(EventFilter((), "orders"), "token.new", "other", False, id="other-api"),
        pytest.param(EventFilter((), "orders"), "policy.created", None, False, id="an-api-wanted-and-none-there"),
        pytest.param(EventFilter(("token.*",), "orders"), "token.new", "other", False, id="type-but-not-api"),
        pytest.param(EventFilter(("token.*",), "orders"), "api.updated", "orders", False, id="api-but-not-type"),
    ],
)
def test_a_stream_may_be_narrowed(event_filter: EventFilter, stem: str, api_id: str | None, taken: bool) -> None:
    """Filters by type (as in a binding key) and by API must both match."""
    assert event_filter.matches_event(stem, api_id) is taken


async def test_a_filtered_stream_has_only_matching_events(service: Management) -> None:
    """The stream contains only events that match its query."""
    api, other = await make_api(service.deps), await make_api(service.deps)
    async with streaming(service.reader, f"?types=client.*,policy.deleted&api_id={api.api_id}") as response:
        await make_client(service.deps, other)
        await make_policy(service.deps)
        await settle(service.deps)
        client, _ = await make_client(service.deps, api)
        name, event = await seen(response)
        assert (name, event["subject"]) == ("client.created", client.client_id)


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("types=token.newest", id="no-such-type"),
        pytest.param("types=token.*,tokne.*", id="one-of-two-misspelt"),
        pytest.param("types=TOKEN.NEW", id="capitals"),
        pytest.param("types=token..new", id="empty-word"),
        pytest.param("types=%00", id="nul"),
        pytest.param("types=$where", id="operator"),
        pytest.param("api_id=a/b", id="malformed-api-id"),
        pytest.param("api_id=%FF", id="not-utf-8"),
    ],
)
async def test_a_stream_of_nothing_is_refused(service: Management, query: str) -> None:
    """A filter that can match nothing is refused, because a typo would wait forever."""
    response = await service.reader("GET", f"{PLACE}?{query}")
    assert (response.status, bool(response.message)) == (400, True)


async def test_only_readers_listen(service: Management) -> None:
    """401 without a key, 403 without `read`, in the management format, before the stream starts."""
    writer = service.anybody.with_key(await make_operator(service.deps, Permission.WRITE, Permission.AUTHORIZE))
    assert (await service.anybody("GET", PLACE)).status == 401
    refused = await writer("GET", PLACE)
    assert (refused.status, "'read'" in refused.message) == (403, True)


# Unreadable messages


def message(body: bytes) -> Delivery:
    return Delivery(Message(unique("m"), Exchange.EVENTS, "token.new.orders", body), redelivered=False)


def event_body(**changed: Any) -> dict[str, Any]:
    return {"id": "evt_1", "type": "io.tokenwire.token.new", "data": {"api_id": "orders"}} | changed


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff", id="not-utf-8"),
        pytest.param(b"[]", id="list"),
        pytest.param(b"{}", id="nothing-in-it"),
        pytest.param(json.dumps(event_body(data=None)).encode(), id="no-data"),
        pytest.param(json.dumps(event_body(id=7)).encode(), id="number-for-id"),
        pytest.param(json.dumps(event_body(x=0)).encode().replace(b"0", b"\n" + b"[" * 500 + b"]" * 500), id="deep"),
        pytest.param(json.dumps(event_body(id="a\nevent: forged")).encode(), id="line-break-in-id"),
        pytest.param(json.dumps(event_body(type="a\rdata: forged")).encode(), id="line-break-in-type"),
    ],
)
async def test_a_malformed_event_is_not_streamed(service: Management, body: bytes) -> None:
    """A malformed message on the exchange is skipped, and the stream continues."""
    async with streaming(service.reader) as response:
        foreign = message(body).message
        await service.deps.bus.publish([foreign])
        policy = await make_policy(service.deps)
        assert (await seen(response))[1]["subject"] == policy.policy_id


async def test_an_event_over_several_lines_is_one_line(service: Management) -> None:
    """JSON with line breaks is written on one line, because a line break would end the field."""
    async with streaming(service.reader) as response:
        event = event_body(id=unique("evt"))
        await service.deps.bus.publish([message(json.dumps(event, indent=2).encode()).message])
        assert await seen(response) == ("token.new", event)


# Continued streams


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url) as system:
        yield system


async def position_of(system: System, query: str = "") -> str:
    """The first line of a new stream, which says where it begins."""
    async with system.operator.http.get(PLACE + query, headers=system.operator.headers) as response:
        return (await lines(response))[1].removeprefix("id: ")


@asynccontextmanager
async def continued(system: System, query: str, last: str = "") -> AsyncIterator[tuple[list[str], ClientResponse]]:
    """A stream after this event, with its first lines."""
    headers = system.operator.headers | ({"Last-Event-ID": last} if last else {})
    async with system.operator.http.get(PLACE + query, headers=headers) as response:
        assert response.status == 200, await response.text()
        yield await lines(response), response


async def stored(system: System, query: str, count: int) -> list[dict[str, Any]]:
    """The events of the list, the oldest first, once there are so many."""
    found: list[dict[str, Any]] = []

    async def are_there() -> bool:
        found[:] = (await system.operator("GET", f"/api/events{query}&limit=200")).body["events"]
        return len(found) >= count

    await eventually(are_there)
    return found[::-1]


async def test_e6_a_stream_continues_after_the_last_event(system: System) -> None:
    """The stored events since then come first, with their ids as data; then what happens. Each comes once."""
    query = f"?api_id={(party := await system.party()).api.api_id}"
    await settle(system.deps)
    system.clock.advance(120)  # the last minute before the position would come again
    position = await position_of(system, query)
    for _ in range(3):
        system.clock.advance(1)
        await party.tokens()
    listed = await stored(system, f"{query}&types=token.new", 3)
    async with continued(system, f"{query}&types=token.*", position) as (head, response):
        assert head == ["retry: 2000", ": connected"]
        missed = [await seen(response) for _ in range(3)]
        assert [event["id"] for _, event in missed] == [event["id"] for event in listed]
        name, first = missed[0]
        expected = {name: listed[0][name] for name in ("api_id", "client_id", "grant_id")}
        assert (name, first["type"], first["data"]) == ("token.new", "io.tokenwire.token.new", expected)
        assert (first["source"], first["time"]) == ("urn:tokenwire:event_log", listed[0]["at"])
        system.clock.advance(1)
        await party.tokens()
        _, live = await seen(response)
        assert (live["source"], "expires_at" in live["data"]) == ("urn:tokenwire:token", True)


async def test_e6_a_stream_may_begin_in_the_past(system: System) -> None:
    """With `from`; a Last-Event-ID wins over it, since a browser sends both when it connects again."""
    party = await system.party()
    began = f"&from={system.clock():%Y-%m-%dT%H:%M:%SZ}"
    query = f"?api_id={party.api.api_id}&types=client.created,token.new"
    await party.tokens()
    await stored(system, query, 2)
    async with continued(system, query + began) as (_, response):
        assert {(await seen(response))[0], (await seen(response))[0]} == {"client.created", "token.new"}
    system.clock.advance(120)
    position = await position_of(system, query)
    system.clock.advance(1)
    await party.tokens()
    (*_, latest) = await stored(system, query, 3)
    async with continued(system, query + began, position) as (_, response):
        assert (await seen(response))[1]["id"] == latest["id"]


async def test_e6_an_event_that_is_recorded_late_is_not_missed(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was published before the client came back, so the stream has it from the store, a moment later."""
    monkeypatch.setattr(event_stream, "LOOK_AGAIN", (0.2, 0.5))
    party, events = await system.party(), system.deps.store.events
    await settle(system.deps)
    query = f"?api_id={party.api.api_id}&types=token.revoked"
    position = await position_of(system, query)
    async with continued(system, query, position) as (_, response):
        late = RecordedEvent(
            id=new_event_id(system.clock() - timedelta(seconds=30)),
            type="token.revoked",
            collection="grants",
            subject=unique("grant"),
            sequence=2,
            time=system.clock(),
            api_id=party.api.api_id,
        )
        await events.add(late)
        assert (await seen(response))[1]["id"] == late.id


async def test_e6_a_subject_that_is_kept_once_is_in_the_data_too(system: System) -> None:
    """Of policies, for example, whose id is what people look for."""
    began = f"?from={system.clock():%Y-%m-%dT%H:%M:%SZ}"
    policy = await make_policy(system.deps)
    await settle(system.deps)
    await stored(system, "?types=policy.created", 1)
    async with continued(system, f"{began}&types=policy.created") as (_, response):
        while (event := (await seen(response))[1])["subject"] != policy.policy_id:
            pass
        assert event["data"]["policy_id"] == policy.policy_id


async def test_e6_a_long_search_tells_how_far_it_is(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """With ids that belong to no event, so that a client whose connection is lost meanwhile continues from there."""
    monkeypatch.setattr(event_replay, "PAGE", 2)
    party = await system.party()
    for _ in range(3):
        await party.tokens()
    query = f"?api_id={party.api.api_id}"
    await stored(system, f"{query}&types=token.new", 3)
    async with continued(system, f"{query}&types=policy.deleted&from=2026-01-01T00:00:00Z") as (_, response):
        (line,) = await lines(response)
        assert line.startswith("id: evt_")


async def test_e6_a_client_that_was_away_for_too_long_is_told(system: System) -> None:
    """In a comment, with the moment from which events are stored."""
    async with continued(system, "?from=2020-01-01T00:00:00Z") as (head, _):
        kept_since = f"{system.clock() - timedelta(days=8):%Y-%m-%dT%H:%M:%SZ}"
        assert head == ["retry: 2000", f": events before {kept_since} are no longer stored", ": connected"]


@pytest.mark.parametrize(
    ("query", "last", "said"),
    [
        pytest.param("", "7", "Last-Event-ID: not the id of an event", id="last-event-id"),
        pytest.param("?from=yesterday", "", "from: not a time; write 2026-05-04T12:00:00Z", id="from"),
    ],
)
async def test_e6_a_place_that_does_not_exist_is_refused(system: System, query: str, last: str, said: str) -> None:
    """Before the stream begins."""
    headers = {"Last-Event-ID": last} if last else {}
    response = await system.operator("GET", PLACE + query, headers=headers)
    assert (response.status, response.message) == (400, said)


async def test_e6_a_stream_that_missed_an_event_ends(mongodb_url: str, database_name: str) -> None:
    """So that its client connects again and continues where it was."""
    async with impatient(mongodb_url, database_name) as one, streaming(one.caller) as response:
        (gap := one.subscribers.subscription().on_gap) and gap()
        assert await lines(response) == []
        assert response.content.at_eof()


# Slow, lost and too many clients


THREE = [StreamedEvent(f"evt_{number}", "token.new", "orders", b"") for number in range(3)]


def test_a_stream_with_too_many_waiting_events_ends() -> None:
    """A stream with too many waiting events ends and drops them, so memory is bounded."""
    subscriber = StreamSubscriber(EventFilter(), max_waiting=2)
    assert [subscriber.offer(event) for event in THREE] == [True, True, False]


async def test_an_ended_stream_gets_no_more_events() -> None:
    """`next` reports the end at once."""
    subscriber = StreamSubscriber(EventFilter(), max_waiting=2)
    for event in THREE:
        subscriber.offer(event)
    assert await asyncio.wait_for(subscriber.next(), 1) is None


@dataclass(frozen=True)
class Impatient:
    """A stream with short time-outs."""

    deps: Deps
    subscribers: StreamSubscribers
    caller: Caller


@asynccontextmanager
async def impatient(
    mongodb_url: str, database_name: str, *, heartbeat: float = 60, write_within: float = 60
) -> AsyncIterator[Impatient]:
    configured = settings(ManagementSettings, mongodb_url, database_name)
    deps = new_deps(configured, "management", bus=LocalBus())
    app, subscribers = new_application(configured, deps), StreamSubscribers()
    access = OperatorAuthenticator(deps.catalog, deps.throttle, deps.now)
    stream = EventStream(access, subscribers, deps.store.events, deps.now, heartbeat, write_within)
    add_operations(app, stream, access.require)
    app.on_shutdown.append(stream.stop)
    async with running(app) as anybody:
        yield Impatient(deps, subscribers, anybody.with_key(await make_operator(deps, Permission.READ)))


async def test_an_idle_stream_has_a_heartbeat(mongodb_url: str, database_name: str) -> None:
    """A comment every few seconds keeps proxies and clients connected."""
    async with impatient(mongodb_url, database_name, heartbeat=0.02) as one, streaming(one.caller) as response:
        assert [await lines(response) for _ in range(3)] == [[": still here"]] * 3


async def test_a_busy_stream_has_a_heartbeat_too(mongodb_url: str, database_name: str) -> None:
    """Events do not delay the heartbeat, which also checks the operator key."""
    async with impatient(mongodb_url, database_name, heartbeat=0.05) as one, streaming(one.caller) as response:
        heard: set[str] = set()
        while len(heard) < 2:
            await one.subscribers.deliver(message(json.dumps(event_body()).encode()))
            heard.add((await lines(response))[0])
        assert heard == {": still here", "id: evt_1"}


async def test_a_stream_ends_with_the_operators_key(mongodb_url: str, database_name: str) -> None:
    """The stream ends when the operator loses the permission."""
    async with impatient(mongodb_url, database_name, heartbeat=0.02) as one, streaming(one.caller) as response:
        (operator,) = await one.deps.store.operators.all()
        await one.deps.store.operators.delete(operator, one.deps.event_context("tests"))
        while await lines(response):
            pass
        assert response.content.at_eof()
        await eventually(lambda: len(one.subscribers) == 0)


@asynccontextmanager
async def deaf(one: Impatient) -> AsyncIterator[socket.socket]:
    """A connected client that does not read."""
    server = one.caller.http.server
    assert server.port is not None
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (server.host, server.port))
        key = one.caller.headers["Authorization"]
        request = f"GET {PLACE} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {key}\r\n\r\n"
        await loop.sock_sendall(client, request.encode())
        before = len(one.subscribers)
        await eventually(lambda: len(one.subscribers) > before)
        yield client


@pytest.mark.parametrize(
    ("write_within", "events"),
    [pytest.param(0.1, 200, id="taking-nothing-for-too-long"), pytest.param(5, 1500, id="letting-too-many-wait")],
)
async def test_a_slow_reader_is_disconnected(
    mongodb_url: str, database_name: str, write_within: float, events: int
) -> None:
    """A client that does not read is disconnected; others miss nothing."""
    async with AsyncExitStack() as stack:
        one = await stack.enter_async_context(impatient(mongodb_url, database_name, write_within=write_within))
        client = await stack.enter_async_context(deaf(one))
        response = await stack.enter_async_context(streaming(one.caller))
        assert len(one.subscribers) == 2
        for number in range(events):
            body = json.dumps(event_body(id=str(number), padding="x" * 50_000)).encode()
            await one.subscribers.deliver(message(body))
            assert (await seen(response))[1]["id"] == str(number)
        await eventually(lambda: len(one.subscribers) == 1)
        received = bytearray()
        await eventually(lambda: has_ended(client, received))
        assert len(received) < events * 50_000


def has_ended(client: socket.socket, received: bytearray) -> bool:
    """Whether the connection is closed or the response complete, after reading what was sent."""
    try:
        while chunk := client.recv(1 << 16):
            received += chunk
    except BlockingIOError:
        return received.endswith(b"\r\n0\r\n\r\n")
    except ConnectionResetError:
        return True
    return True


async def test_a_client_that_left_is_forgotten(mongodb_url: str, database_name: str) -> None:
    """A disconnected client is forgotten at the next heartbeat at the latest."""
    async with impatient(mongodb_url, database_name, heartbeat=0.05) as one:
        async with streaming(one.caller):
            assert len(one.subscribers) == 1
        await eventually(lambda: len(one.subscribers) == 0)


async def test_too_many_streams_are_503(mongodb_url: str, database_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit a stream gets 503 with Retry-After; when one ends, there is room again."""
    monkeypatch.setattr(subscribers_module, "MAX_SUBSCRIBERS", 1)
    async with impatient(mongodb_url, database_name, heartbeat=0.05) as one:
        async with streaming(one.caller):
            refused = await one.caller("GET", PLACE)
            assert (refused.status, refused.headers["Retry-After"]) == (503, "2")
            assert refused.message
        await eventually(lambda: len(one.subscribers) == 0)
        async with streaming(one.caller):
            pass


async def test_streams_end_in_order_when_the_service_stops(mongodb_url: str, database_name: str) -> None:
    """When the service stops, each stream ends at once as a complete response."""
    async with AsyncExitStack() as stack:
        http = await stack.enter_async_context(ClientSession())
        async with impatient(mongodb_url, database_name) as one:
            url = one.caller.http.make_url(PLACE)
            response = await stack.enter_async_context(http.get(url, headers=one.caller.headers))
            await lines(response)
            stopping = asyncio.get_running_loop().time()
        assert asyncio.get_running_loop().time() - stopping < 30, "the stream was waited for"
        assert await response.content.read() == b""
