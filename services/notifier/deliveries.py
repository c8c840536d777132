"""The deliveries API: what was sent and what came of it, once more what did not arrive, and a test."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import orjson
from aiohttp import web

from contracts.base import Contract
from contracts.errors import Envelope
from contracts.operators import Permission
from contracts.webhooks import (
    Delivery,
    DeliveryList,
    DeliveryQuery,
    DeliveryState,
    DeliveryView,
    RedeliveryRequest,
    TokenNotification,
)
from libs.access import Access
from libs.catalog import Catalog
from libs.events import Origin, new_event_id
from libs.http.errors import NO_STORE, BadRequest, NotFound, Taken, TooLarge, json_bytes
from libs.http.forms import read_body
from libs.oauth.errors import BodyTooLarge
from libs.store.deliveries import Deliveries
from libs.telemetry import WEBHOOKS
from services.notifier.addresses import address_of
from services.notifier.claims import Claims
from services.notifier.sender import Sender

TEST_BODY = orjson.dumps(
    TokenNotification(
        auth_code="test",
        new_oauth_token="test",  # noqa: S106 - what it says
        refresh_token="test",  # noqa: S106 - as above
        notification_type="new",
    ).model_dump()
)
"""What nobody can take for a token."""
_RACES = 6

M = TypeVar("M", bound=Contract)


@dataclass(frozen=True, slots=True)
class DeliveriesApi:
    """For operators with `read`; with `write` where something is sent."""

    access: Access
    catalog: Catalog
    deliveries: Deliveries
    claims: Claims
    sender: Sender
    patience: timedelta
    origin: Callable[[], Origin]

    async def list(self, request: web.Request) -> web.Response:
        """The latest first, as the parameters of DeliveryQuery say."""
        await self.access.require(request, Permission.READ)
        query = _query(request)
        found, more = await self.deliveries.page(query)
        shown = DeliveryList(
            deliveries=[await self._view(delivery) for delivery in found],
            next=found[-1].delivery_id if more else None,
        )
        return _document(shown)

    async def show(self, request: web.Request) -> web.Response:
        """One delivery with its attempts."""
        await self.access.require(request, Permission.READ)
        return _document(await self._view(await self._named(request)))

    async def redeliver(self, request: web.Request) -> web.Response:
        """The delivery is due now. Raises NotFound, or Taken where there is nothing left to send."""
        await self.access.require(request, Permission.WRITE)
        for _ in range(_RACES):
            delivery = await self._named(request)
            if delivery.sealed is None:
                raise Taken(f"the delivery is {delivery.state}: there is nothing left to send")
            at = self.origin()
            leased = delivery.lease_until is not None and delivery.lease_until > at.now
            if leased and delivery.state is DeliveryState.PENDING:
                return _ok("the delivery is being attempted now", {"id": delivery.delivery_id})
            if await self.deliveries.redeliver(delivery, at.now + self.patience, at):
                self.claims.look_now()
                return _ok("the delivery is due now", {"id": delivery.delivery_id})
        raise Taken("the delivery is changing; look again and repeat")

    async def redeliver_all(self, request: web.Request) -> web.Response:
        """Every exhausted delivery of an API since a moment is due now; answers how many."""
        await self.access.require(request, Permission.WRITE)
        wanted = await _body(request, RedeliveryRequest)
        at = self.origin()
        count = await self.deliveries.redeliver_all(wanted, at.now + self.patience, at)
        self.claims.look_now()
        return _ok(f"{count} deliveries are due now", {"count": count})

    async def test(self, request: web.Request) -> web.Response:
        """One webhook that nobody can take for a token, sent to the API's URL now; answers what came of it."""
        await self.access.require(request, Permission.WRITE)
        api_id = request.match_info["api_id"]
        if await self.catalog.api(api_id) is None:
            raise NotFound("API not found")
        address = await address_of(self.catalog, api_id)
        if address is None:
            raise BadRequest("this API has no notification URL")
        outcome = await self.sender.send(
            address.on_key_change_url,
            address.shared_secret.get_secret_value(),
            new_event_id(self.origin().now),
            TEST_BODY,
        )
        WEBHOOKS.labels("test").inc()
        message = "the endpoint took the test notification" if outcome.arrived else "the test notification failed"
        return _ok(message, outcome.attempt.model_dump(mode="json"))

    async def _named(self, request: web.Request) -> Delivery:
        delivery = await self.deliveries.get(request.match_info["delivery_id"])
        if delivery is None:
            raise NotFound("Delivery not found")
        return delivery

    async def _view(self, delivery: Delivery) -> DeliveryView:
        address = await address_of(self.catalog, delivery.api_id)
        return DeliveryView(
            id=delivery.delivery_id,
            url=address.on_key_change_url if address else None,
            **delivery.model_dump(include=set(DeliveryView.model_fields) - {"id", "url"}),
        )


def _query(request: web.Request) -> DeliveryQuery:
    if len(request.query) != len(set(request.query)):
        raise BadRequest("a parameter is repeated")
    return DeliveryQuery.model_validate(dict(request.query))


async def _body(request: web.Request, model: type[M]) -> M:
    try:
        body = await read_body(request)
    except BodyTooLarge as error:
        raise TooLarge(error.description) from error
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise BadRequest("the body is not JSON") from error
    return model.model_validate(document)


def _document(response: Contract) -> web.Response:
    return json_bytes(response.model_dump_json().encode(), headers=NO_STORE)


def _ok(message: str, meta: Any) -> web.Response:
    envelope = Envelope(Status="OK", Message=message, Meta=meta)
    return json_bytes(orjson.dumps(envelope.model_dump(exclude={"ID"})), headers=NO_STORE)
