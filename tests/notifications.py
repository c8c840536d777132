"""Helpers for the notifier's tests: a running notifier, and a webhook receiver whose paths behave as told."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from aiohttp import web

from contracts.apis import Api, GrantType
from contracts.events import TokenData, TokenNew
from contracts.operators import Permission
from contracts.webhooks import Delivery, DeliveryState, TokenNotification
from libs.bus.local import LocalBroker, LocalBus
from libs.bus.outbox import messages_of
from libs.bus.port import Delivery as BusDelivery
from libs.bus.port import Exchange, Message, Mode, Subscription
from libs.encryption import Sealer, public_key_of
from libs.event_encoding import new_event_id, pending, sequence_text
from libs.runtime import Deps, new_application, new_deps, utc_now
from services.notifier.app import install
from services.notifier.retry import RETRY_SCHEDULE, RetrySchedule
from services.notifier.settings import NotifierSettings
from tests.builders import (
    NOTIFIER_KEY,
    Caller,
    api_document,
    make_api,
    make_operator,
    running,
    settings,
    unique,
)
from tests.eventually import eventually

SECRET = "a-shared-secret-of-the-tests"
NOTIFICATION = TokenNotification(
    auth_code="tw_ac_code",
    new_oauth_token="tw_at_access",
    refresh_token="tw_rt_refresh",
    notification_type="new",
)
BODY = orjson.dumps(NOTIFICATION.model_dump())

Behaviour = Callable[[web.Request], Awaitable[web.StreamResponse]]


def answering(status: int, **headers: str) -> Behaviour:
    """An endpoint that responds at once with this status."""

    async def response(_: web.Request) -> web.Response:
        return web.Response(status=status, headers={name.replace("_", "-"): value for name, value in headers.items()})

    return response


async def hanging(_: web.Request) -> web.StreamResponse:
    """An endpoint that never responds."""
    await asyncio.Event().wait()
    raise AssertionError("unreachable")


async def resetting(request: web.Request) -> web.StreamResponse:
    """An endpoint that closes the connection instead of responding."""
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


async def dripping(request: web.Request) -> web.StreamResponse:
    """An endpoint that responds 200 with an endless body, one byte at a time."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(b".")
        await asyncio.sleep(0.05)


async def pouring(request: web.Request) -> web.StreamResponse:
    """An endpoint that responds 200 with an endless body, as fast as it is read."""
    response = web.StreamResponse()
    await response.prepare(request)
    while True:
        await response.write(bytes(64 * 1024))


@dataclass(frozen=True)
class Webhook:
    """One request as it arrived."""

    id: str
    headers: Any
    body: bytes
    path: str
    target: str
    """As written in the request line."""


@dataclass
class Receiver:
    """A webhook receiver on loopback that records every request; each path has its own behaviour."""

    port: int = 0
    webhooks: list[Webhook] = field(default_factory=list)
    behaviours: dict[str, Behaviour] = field(default_factory=dict)
    under_way: int = 0
    most_under_way: int = 0

    def url(self, path: str = "/hook", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    def behave(self, behaviour: Behaviour, path: str = "/hook") -> None:
        """Set the behaviour of a path from now on."""
        self.behaviours[path] = behaviour

    def ids(self, path: str = "/hook") -> list[str]:
        """The webhook ids received, in order."""
        return [webhook.id for webhook in self.webhooks if webhook.path == path]

    async def _receive(self, request: web.Request) -> web.StreamResponse:
        webhook = Webhook(
            request.headers.get("webhook-id", ""),
            request.headers.copy(),
            await request.read(),
            request.path,
            request.raw_path,
        )
        self.webhooks.append(webhook)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            return await self.behaviours.get(request.path, answering(204))(request)
        finally:
            self.under_way -= 1


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver that responds 204 by default."""
    received = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", received._receive)
    runner = web.AppRunner(app, shutdown_timeout=0.01, handler_cancellation=True)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (received.port, *_) = runner.addresses[0][1:]
    yield received
    await runner.cleanup()


class Heard:
    """The notification events of a process, in the order in which its bus received them."""

    def __init__(self, deps: Deps) -> None:
        self._events: list[dict[str, Any]] = []
        deps.bus.subscribe(Subscription("heard", Exchange.EVENTS, ("notification.#",), self._hear, Mode.BROADCAST))

    async def _hear(self, delivery: BusDelivery) -> None:
        self._events.append(orjson.loads(delivery.message.body))

    async def about(self, delivery: Delivery) -> list[dict[str, Any]]:
        """The events of this delivery, after waiting for those of all its recorded attempts."""

        def arrived() -> list[dict[str, Any]]:
            found = [event for event in self._events if event["subject"] == delivery.delivery_id]
            assert len(found) == delivery.sequence, found
            return found

        return await eventually(arrived)


def database_of_its_own() -> str:
    """A database name that several tests of one module share, and no other test uses."""
    return f"tokenwire_test_{secrets.token_hex(6)}"


@dataclass(frozen=True)
class Notifier:
    """A running notifier, and operators' access to it."""

    deps: Deps
    anybody: Caller
    reader: Caller
    writer: Caller
    heard: Heard

    async def publish(self, *events: "Published") -> None:
        """Publish the commands; return when the notifier has acknowledged them."""
        outcomes = await self.deps.bus.publish([event.message for event in events])
        assert all(outcomes), outcomes

    async def delivery(self, delivery_id: str) -> Delivery:
        """The delivery as stored in MongoDB."""
        found = await self.deps.store.deliveries.get(delivery_id)
        assert found is not None, f"no delivery {delivery_id}"
        return found

    async def reached(self, delivery_id: str, state: DeliveryState, within: float = 60.0) -> Delivery:
        """Wait until the delivery is in this state; return it."""

        async def there() -> Delivery:
            found = await self.delivery(delivery_id)
            assert found.state is state, found
            return found

        return await eventually(there, within)

    async def tried(self, delivery_id: str, attempts: int, within: float = 60.0) -> Delivery:
        """Wait until this many attempts are recorded; return the delivery."""

        async def there() -> Delivery:
            found = await self.delivery(delivery_id)
            assert found.attempt_count == attempts, found
            return found

        return await eventually(there, within)


@dataclass(frozen=True)
class Published:
    """A token event and its encrypted notification command, as the token service publishes them."""

    id: str
    message: Message


def token_event(api: Api, at: datetime | None = None, *, body: bytes = BODY, key: bytes = NOTIFIER_KEY) -> Published:
    """The event and command of the first token of a new grant."""
    at = at or utc_now()
    grant_id, event_id = unique("grant"), new_event_id(at)
    data = TokenData(
        grant_id=grant_id,
        api_id=api.api_id,
        client_id="client-of-the-tests",
        grant_type=GrantType.AUTHORIZATION_CODE,
        token_id=f"{grant_id}.1",
        expires_at=at,
        notify=True,
    )
    event = TokenNew(
        id=event_id,
        source="urn:tokenwire:token",
        time=at,
        subject=grant_id,
        sequence=sequence_text(2),
        traceparent=f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01",
        data=data,
    )
    sealed = Sealer(public_key_of(key)).seal(body)
    _, command = messages_of(pending(event, api.api_id, grant_id, sealed))
    return Published(event_id, command)


def stored(api: Api, at: datetime, **fields: Any) -> Delivery:
    """Store a delivery of this API as the notification consumer would: due at once."""
    given = {
        "delivery_id": new_event_id(at),
        "state": DeliveryState.PENDING,
        "api_id": api.api_id,
        "client_id": "client-of-the-tests",
        "grant_id": unique("grant"),
        "event_type": "token.new",
        "event_at": at,
        "sealed": Sealer(public_key_of(NOTIFIER_KEY)).seal(BODY),
        "next_attempt_at": at,
        "give_up_at": at + RETRY_SCHEDULE.max_age,
        "created_at": at,
        "updated_at": at,
    }
    return Delivery.model_validate(given | fields)


@asynccontextmanager
async def notifier(
    mongodb_url: str,
    database_name: str,
    *,
    broker: LocalBroker | None = None,
    schedule: RetrySchedule = RETRY_SCHEDULE,
    now: Callable[[], datetime] = utc_now,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    **own: Any,
) -> AsyncIterator[Notifier]:
    """The notifier on this database, with an in-process bus. Private destinations are allowed by default."""
    given = {"notifier_private_keys": base64.b64encode(NOTIFIER_KEY).decode(), "allow_private_destinations": True}
    configured = settings(NotifierSettings, mongodb_url, database_name, **given | own)
    deps = new_deps(configured, "notifier", bus=LocalBus(broker, first_backoff=0.01), now=now)
    app = new_application(configured, deps)
    install(app, configured, deps, schedule, sleep)
    heard = Heard(deps)
    async with running(app) as anybody:
        reader, writer = await make_operator(deps, Permission.READ), await make_operator(deps, Permission.WRITE)
        yield Notifier(deps, anybody, anybody.with_key(reader), anybody.with_key(writer), heard)


async def api_to(deps: Deps, url: str, secret: str = SECRET) -> Api:
    """Create an API whose webhooks go to this URL."""
    scheme = "x-tyk-api-gateway__server__authentication__securitySchemes__tykOAuth__notifications"
    return await make_api(deps, api_document(**{scheme: {"onKeyChangeUrl": url, "sharedSecret": secret}}))
