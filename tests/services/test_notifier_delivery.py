"""From the command on the bus to the endpoint and the recorded result."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import orjson
import pytest
from pydantic import SecretStr

from contracts.webhooks import DeliveryState
from libs.bus.local import LocalBus
from libs.settings import WrongSetting
from services.notifier.settings import NotifierSettings
from tests.builders import NOTIFIER_KEY, settings
from tests.eventually import eventually
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
    dripping,
    notifier,
    pouring,
    token_event,
)


@pytest.fixture(name="service", scope="module")
async def _service(mongodb_url: str) -> AsyncIterator[Notifier]:
    async with notifier(mongodb_url, database_of_its_own()) as service:
        yield service


async def test_the_body_arrives_as_it_was_sealed(service: Notifier, endpoint: Receiver) -> None:
    """The encrypted body is posted byte for byte, with the documented headers."""
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
    """After delivery the encrypted body is deleted and the attempt kept."""
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    delivery = await service.reached(event.id, DeliveryState.DELIVERED)
    assert delivery.sealed is None
    assert delivery.lease_until is None
    (attempt,) = delivery.attempts
    assert (attempt.status, attempt.error, delivery.attempt_count) == (204, None, 1)


async def test_the_same_command_twice_is_one_webhook(service: Notifier, endpoint: Receiver) -> None:
    """A repeated command has no effect."""
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    await service.publish(event)
    await service.reached(event.id, DeliveryState.DELIVERED)
    await service.publish(event)
    assert endpoint.ids() == [event.id]


@pytest.mark.parametrize("behaviour", [dripping, pouring])
async def test_a_2xx_counts_whatever_its_body_does(service: Notifier, endpoint: Receiver, behaviour: Behaviour) -> None:
    """Any 2xx is success, without waiting for an endless body."""
    endpoint.behave(behaviour)
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    delivery = await service.reached(event.id, DeliveryState.DELIVERED, within=8)
    assert delivery.attempts[0].status == 200
    await eventually(lambda: endpoint.under_way == 0)


async def test_every_delivery_announces_its_end(service: Notifier, endpoint: Receiver) -> None:
    """`notification.delivered` has ids, status and the token request's trace; never a token."""
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    delivery = await service.reached(event.id, DeliveryState.DELIVERED)
    (heard,) = await service.heard.about(delivery)
    assert heard["type"] == "io.tokenwire.notification.delivered"
    assert heard["traceparent"] == orjson.loads(event.message.body)["event"]["traceparent"]
    assert (heard["data"]["attempts"], heard["data"]["status"]) == (1, 204)
    assert not any(value and value in str(heard) for value in (NOTIFICATION.new_oauth_token, SECRET))


async def test_an_api_without_a_secret_gets_an_empty_header_and_no_signature(
    service: Notifier, endpoint: Receiver
) -> None:
    """Without a shared secret the header is empty, as in Tyk, and there is no signature."""
    event = token_event(await api_to(service.deps, endpoint.url(), secret=""))
    await service.publish(event)
    await service.reached(event.id, DeliveryState.DELIVERED)
    (webhook,) = endpoint.webhooks
    assert webhook.headers["X-Tyk-Shared-Secret"] == ""
    assert "webhook-signature" not in webhook.headers


async def test_a_secret_that_no_header_can_carry_is_a_failure(service: Notifier, endpoint: Receiver) -> None:
    """A secret that is no valid header value is a recorded failure; it cannot inject headers, and other
    webhooks go on.
    """
    api = await api_to(service.deps, endpoint.url())
    assert api.oauth is not None
    assert api.oauth.notifications is not None
    broken = api.oauth.notifications.model_copy(update={"shared_secret": SecretStr("two\r\nX-Lines: 1")})
    changed = api.model_copy(update={"oauth": api.oauth.model_copy(update={"notifications": broken})})
    assert await service.deps.store.apis.replace(api, changed, service.deps.event_context("tests"))
    event = token_event(api)
    await service.publish(event)
    (attempt,) = (await service.tried(event.id, 1)).attempts
    assert (attempt.status, attempt.error) == (None, "the URL or the shared secret cannot be sent")
    assert endpoint.webhooks == []


async def test_an_endpoint_sets_no_cookies(service: Notifier, endpoint: Receiver) -> None:
    """Cookies are not kept between webhooks."""
    endpoint.behave(answering(204, Set_Cookie="session=1; Path=/"))
    api = await api_to(service.deps, endpoint.url())
    for _ in range(2):
        event = token_event(api)
        await service.publish(event)
        await service.reached(event.id, DeliveryState.DELIVERED)
    assert all("Cookie" not in webhook.headers for webhook in endpoint.webhooks)


async def test_proxies_of_the_environment_are_not_used(
    service: Notifier, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Proxy settings of the environment are ignored, so tokens go to the registered URL only."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1/")
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    await service.reached(event.id, DeliveryState.DELIVERED)


async def test_a_kept_connection_that_was_closed_is_no_failure(service: Notifier) -> None:
    """If an idle connection was just closed, the webhook is sent on a new one at once."""
    async with forgetful() as (port, connections):
        api = await api_to(service.deps, f"http://127.0.0.1:{port}/")
        for _ in range(3):
            event = token_event(api)
            await service.publish(event)
            delivery = await service.reached(event.id, DeliveryState.DELIVERED)
            assert delivery.attempt_count == 1
    assert connections == [2, 2, 1]


@pytest.mark.parametrize("pause", [0, 0.05], ids=["at once", "later"])
async def test_unrequested_data_is_no_response_to_the_next(service: Notifier, pause: float) -> None:
    """Extra data after a response does not count for the next webhook."""
    async with talking([(0, ANSWER + OTHER * (not pause)), *([(pause, OTHER)] if pause else ())]) as (
        port,
        connections,
    ):
        api = await api_to(service.deps, f"http://127.0.0.1:{port}/")
        for number in (1, 2):
            event = token_event(api)
            await service.publish(event)
            delivery = await service.reached(event.id, DeliveryState.DELIVERED)
            assert (delivery.attempt_count, len(connections)) == (1, number)
            await asyncio.sleep(2 * pause)


async def test_an_interim_response_is_not_the_response(service: Notifier) -> None:
    """A 1xx response is not final (RFC 9110 §15.2)."""
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with talking([(0, b"HTTP/1.1 100 Continue\r\n\r\n" + early), (0.05, early + ANSWER)]) as (port, connections):
        api = await api_to(service.deps, f"http://127.0.0.1:{port}/")
        for _ in range(2):
            event = token_event(api)
            await service.publish(event)
            delivery = await service.reached(event.id, DeliveryState.DELIVERED)
            assert [attempt.status for attempt in delivery.attempts] == [204]
    assert connections == [2]


async def test_a_name_is_asked_by_its_name(service: Notifier, endpoint: Receiver) -> None:
    """`Host` is the URL's host, the request line has path and query, and no header repeats."""
    event = token_event(await api_to(service.deps, endpoint.url("/hook", host="localhost") + "?tenant=a%20b"))
    await service.publish(event)
    await service.reached(event.id, DeliveryState.DELIVERED)
    (webhook,) = endpoint.webhooks
    assert webhook.headers.getall("Host") == [f"localhost:{endpoint.port}"]
    assert webhook.headers.getall("Content-Length") == [str(len(BODY))]
    assert webhook.target == "/hook?tenant=a%20b"


ANSWER = b"HTTP/1.1 204 No Content\r\n\r\n"
OTHER = b"HTTP/1.1 500 Other\r\nContent-Length: 0\r\n\r\n"


@asynccontextmanager
async def talking(response: Sequence[tuple[float, bytes]]) -> AsyncIterator[tuple[int, list[int]]]:
    """A server with the same response for every request, in parts with pauses. Yields its request counts by
    connection.
    """
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(0)
        with suppress(asyncio.IncompleteReadError):
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.split(b":")[1]))
                connections[number] += 1
                for pause, part in response:
                    await asyncio.sleep(pause)
                    writer.write(part)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], connections


@asynccontextmanager
async def forgetful() -> AsyncIterator[tuple[int, list[int]]]:
    """A server that drops the second request of each connection. Yields its request counts by connection."""
    connections: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(connections)
        connections.append(0)
        for answered in (True, False):
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
            await reader.readexactly(int(length.split(b":")[1]))
            connections[number] += 1
            if answered:
                writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1], connections


async def test_a_deleted_api_gets_no_webhook(service: Notifier, endpoint: Receiver) -> None:
    """Deliveries of a deleted API are discarded, without body."""
    api = await api_to(service.deps, endpoint.url())
    await service.deps.store.apis.delete(api, service.deps.event_context("tests"))
    event = token_event(api)
    await service.publish(event)
    delivery = await service.reached(event.id, DeliveryState.DISCARDED)
    assert (delivery.sealed, delivery.attempts) == (None, ())
    assert endpoint.webhooks == []


async def test_a_body_sealed_with_an_older_key_is_opened(
    mongodb_url: str, database_name: str, endpoint: Receiver
) -> None:
    """After a key rotation the old keys still decrypt waiting bodies."""
    keys = ",".join(base64.b64encode(key).decode() for key in (bytes(range(32)), NOTIFIER_KEY))
    async with notifier(mongodb_url, database_name, notifier_private_keys=keys) as service:
        api = await api_to(service.deps, endpoint.url())
        events = [token_event(api, key=key) for key in (NOTIFIER_KEY, bytes(range(32)))]
        await service.publish(*events)
        for event in events:
            await service.reached(event.id, DeliveryState.DELIVERED)


async def test_a_body_that_cannot_be_opened_is_kept(service: Notifier, endpoint: Receiver) -> None:
    """If the key is missing, nothing is sent, and the attempt is recorded as failed."""
    event = token_event(await api_to(service.deps, endpoint.url()), key=bytes(range(32)))
    await service.publish(event)
    delivery = await service.tried(event.id, 1)
    assert delivery.attempts[0].error == "sealed to a key that this process does not have"
    assert delivery.sealed is not None
    assert endpoint.webhooks == []


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff{", id="not-json"),
        pytest.param(b"{}", id="nothing-in-it"),
        pytest.param(b'{"event":{"type":"io.tokenwire.code.issued"},"sealed":"AA=="}', id="another-event"),
        pytest.param(None, id="not-base64"),
    ],
)
async def test_a_malformed_command_is_dead_lettered(service: Notifier, endpoint: Receiver, body: bytes | None) -> None:
    """A malformed command is dead-lettered at once, and the next one is delivered."""
    assert isinstance(service.deps.bus, LocalBus)
    before = await service.deps.bus.dead_letters("notifier")
    event = token_event(await api_to(service.deps, endpoint.url()))
    poison = event.message._replace(id="poison", body=body or event.message.body[:-2] + b'*"}')
    await service.deps.bus.publish([poison])
    await service.publish(event)
    await service.reached(event.id, DeliveryState.DELIVERED)
    assert await service.deps.bus.dead_letters("notifier") == before + 1


async def test_no_log_line_has_a_secret(
    service: Notifier, endpoint: Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """Failures are logged with ids and causes, without body, token or shared secret."""
    endpoint.behave(answering(500))
    event = token_event(await api_to(service.deps, endpoint.url()))
    await service.publish(event)
    await service.heard.about(await service.tried(event.id, 1))
    told = capsys.readouterr().out
    assert "webhook_not_delivered" in told
    assert event.id in told
    secrets = (SECRET, NOTIFICATION.auth_code, NOTIFICATION.new_oauth_token, NOTIFICATION.refresh_token)
    assert not [value for value in secrets if value in told]


@pytest.mark.parametrize(
    "keys",
    ["", "nonsense", base64.b64encode(bytes(31)).decode(), base64.b64encode(bytes(32)).decode() + ",x"],
)
def test_a_wrong_key_stops_the_start_with_one_line(keys: str) -> None:
    """A bad key stops the start with one line that names the setting and not the value."""
    with pytest.raises(WrongSetting) as wrong:
        settings(NotifierSettings, "mongodb://127.0.0.1/", "x", notifier_private_keys=keys)
    line = str(wrong.value)
    assert line.startswith("TOKENWIRE_NOTIFIER_PRIVATE_KEYS: ")
    assert "\n" not in line
    assert "nonsense" not in line
