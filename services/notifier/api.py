"""Management API of webhooks: deliveries (list, show, redeliver), a test webhook, and the state of the endpoints."""

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, TypeVar

import orjson
from aiohttp import web

from contracts.base import Contract
from contracts.error_bodies import Envelope
from contracts.operations import Parameters, RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.webhooks import (
    Delivery,
    DeliveryList,
    DeliveryQuery,
    DeliveryState,
    DeliveryView,
    EndpointList,
    EndpointQuery,
    EndpointView,
    RedeliverQuery,
    RedeliveryRequest,
    TokenNotification,
)
from libs.access import permits
from libs.catalog import Catalog
from libs.encryption import CannotDecrypt
from libs.event_encoding import EventContext, new_event_id
from libs.http.context import current
from libs.http.error_responses import BadRequest, NotFound, Taken, TooLarge
from libs.http.forms import read_body
from libs.http.operations import operator_of, operator_operation
from libs.http.pages import link_to_next
from libs.http.responses import NO_STORE, json_bytes
from libs.masking import masked_url
from libs.oauth.errors import BodyTooLarge
from libs.store.deliveries import Deliveries
from libs.store.optimistic import retry_on_conflict
from libs.store.recent_deliveries import RecentDeliveries
from libs.telemetry import WEBHOOK_ATTEMPTS
from services.notifier.client import WebhookClient, WebhookTrace
from services.notifier.endpoints import EndpointLimiter, webhook_settings
from services.notifier.scheduler import DeliveryScheduler

TEST_BODY = orjson.dumps(
    TokenNotification(
        auth_code="test",
        new_oauth_token="test",  # noqa: S106 - what it says
        refresh_token="test",  # noqa: S106 - as above
        notification_type="new",
    ).model_dump()
)
"""Body of a test webhook; its values cannot be mistaken for tokens."""
RECENT = timedelta(days=1)
"""How far back the state of an endpoint looks."""

M = TypeVar("M", bound=Contract)


@dataclass(frozen=True, slots=True)
class DeliveriesApi:
    """Operators need the permission `read`, and `write` for what sends webhooks or shows secrets."""

    catalog: Catalog
    deliveries: Deliveries
    scheduler: DeliveryScheduler
    client: WebhookClient
    max_age: timedelta
    event_context: Callable[[], EventContext]

    @operator_operation(
        "GET",
        "/api/notifications/deliveries",
        "listDeliveries",
        Permission.READ,
        tag="Deliveries",
        summary="List webhook deliveries",
        description="The latest events first. Credentials in URLs are masked unless the operator has `write`.",
        parameters=Parameters(model=DeliveryQuery),
        response=ResponseSpec(
            description="One page of the list.",
            models=(DeliveryList,),
            headers={"Link": 'The next page (`rel="next"`), relative to the request; absent on the last page.'},
        ),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """One page of the deliveries that match the parameters (DeliveryQuery), the latest event first."""
        with_secrets = _reads_secrets(request)
        query = _parameters(request, DeliveryQuery)
        found, more = await self.deliveries.page(query)
        following = found[-1].delivery_id if more else None
        shown = DeliveryList(
            deliveries=[await self._view(delivery, with_secrets=with_secrets) for delivery in found], next=following
        )
        return _document(shown, link_to_next(request, following))

    @operator_operation(
        "GET",
        "/api/notifications/deliveries/{delivery_id}",
        "getDelivery",
        Permission.READ,
        tag="Deliveries",
        summary="Get a webhook delivery",
        description="Includes the latest attempts with status and latency.",
        response=ResponseSpec(description="The delivery.", models=(DeliveryView,)),
        errors=(404,),
    )
    async def show(self, request: web.Request) -> web.Response:
        """One delivery with its attempts."""
        with_secrets = _reads_secrets(request)
        return _document(await self._view(await self._named(request), with_secrets=with_secrets))

    @operator_operation(
        "POST",
        "/api/notifications/deliveries/{delivery_id}/redeliver",
        "redeliver",
        Permission.WRITE,
        tag="Deliveries",
        summary="Retry a webhook delivery now",
        description="Schedules the next attempt for now and restarts the retry schedule. A delivered webhook is sent "
        "again only with `force=true`, within a day after its delivery, with the same `webhook-id`. 409 if it was "
        "delivered and `force` is missing, or if its body is no longer stored.",
        parameters=Parameters(model=RedeliverQuery),
        response=ResponseSpec(description="Delivery scheduled now.", models=(Envelope,)),
        errors=(400, 404, 409),
    )
    async def redeliver(self, request: web.Request) -> web.Response:
        """Schedule the delivery now. Raises NotFound, and Taken if it was delivered, or its body is gone."""
        force = _parameters(request, RedeliverQuery).force

        async def attempt() -> web.Response | None:
            delivery = await self._named(request)
            if delivery.sealed is None and delivery.delivered_body is None:
                raise Taken(f"the delivery is {delivery.state}: there is nothing left to send")
            if delivery.state is DeliveryState.DELIVERED and not force:
                raise Taken("the webhook was delivered; send it again with ?force=true")
            ctx = self.event_context()
            leased = delivery.lease_until is not None and delivery.lease_until > ctx.now
            if leased and delivery.state is DeliveryState.PENDING:
                return _ok("the delivery is being attempted now", {"id": delivery.delivery_id})
            if await self.deliveries.redeliver(delivery, ctx.now + self.max_age, ctx):
                self.scheduler.poll_now()
                return _ok("the delivery is due now", {"id": delivery.delivery_id})
            return None

        return await retry_on_conflict(attempt, exhausted=_changing)

    @operator_operation(
        "POST",
        "/api/notifications/redeliver",
        "redeliverAll",
        Permission.WRITE,
        tag="Deliveries",
        summary="Retry all failed webhook deliveries of an API",
        description="Schedules every exhausted (or pending) delivery of the API since the given time to be sent now.",
        body=RequestBody(model=RedeliveryRequest),
        response=ResponseSpec(description="Deliveries scheduled now; `Meta.count` says how many.", models=(Envelope,)),
    )
    async def redeliver_all(self, request: web.Request) -> web.Response:
        """Schedule now every exhausted (or pending) delivery of an API since a time; returns how many."""
        wanted = await _body(request, RedeliveryRequest)
        ctx = self.event_context()
        count = await self.deliveries.redeliver_all(wanted, ctx.now + self.max_age, ctx)
        self.scheduler.poll_now()
        return _ok(f"{count} deliveries are due now", {"count": count})

    @operator_operation(
        "POST",
        "/api/apis/{api_id}/notifications/test",
        "testNotification",
        Permission.WRITE,
        tag="Deliveries",
        summary="Send a test webhook",
        description="Sends one notification with the value `test` instead of tokens to the API's webhook URL. `Status` "
        "is `OK` if the endpoint accepted it, else `Error`; `Meta` has `status`, `latency_ms`, `error` and how the "
        "response began.",
        response=ResponseSpec(description="Test webhook sent; `Status` says whether it arrived.", models=(Envelope,)),
        errors=(400, 404),
    )
    async def test(self, request: web.Request) -> web.Response:
        """Send a test webhook to the API's URL now; returns the outcome."""
        api_id = request.match_info["api_id"]
        if await self.catalog.api(api_id) is None:
            raise NotFound("API not found")
        target = await webhook_settings(self.catalog, api_id)
        if target is None:
            raise BadRequest("this API has no notification URL")
        outcome = await self.client.send(
            target.on_key_change_url,
            target.secrets,
            new_event_id(self.event_context().now),
            TEST_BODY,
            WebhookTrace(current().traceparent),
        )
        WEBHOOK_ATTEMPTS.labels("test").inc()
        attempt = outcome.attempt
        result = f"the endpoint responded with {attempt.status}" if attempt.status else "there was no response"
        detail = f" ({attempt.error})" if attempt.error else ""
        said = "delivered" if outcome.delivered else "NOT delivered"
        message = f"the test webhook was {said}: {result}{detail}, after {attempt.latency_ms} ms"
        return _enveloped("OK" if outcome.delivered else "Error", message, attempt.model_dump(mode="json"))

    async def _named(self, request: web.Request) -> Delivery:
        delivery = await self.deliveries.get(request.match_info["delivery_id"])
        if delivery is None:
            raise NotFound("Delivery not found")
        return delivery

    async def _view(self, delivery: Delivery, *, with_secrets: bool) -> DeliveryView:
        target = await webhook_settings(self.catalog, delivery.api_id)
        return DeliveryView(
            id=delivery.delivery_id,
            url=_shown_url(target.on_key_change_url, with_secrets=with_secrets) if target else None,
            **delivery.model_dump(include=set(DeliveryView.model_fields) - {"id", "url"}),
        )


@dataclass(frozen=True, slots=True)
class EndpointsApi:
    """How webhooks arrive at their endpoints.

    Deliveries and attempts are of all notifier instances, from MongoDB. The circuit breakers are of this instance only:
    each instance decides by its own attempts, so no state of all of them exists, and storing every change of each one
    would cost writes exactly when an endpoint is in trouble.
    """

    catalog: Catalog
    recent: RecentDeliveries
    limiter: EndpointLimiter
    instance: str
    now: Callable[[], datetime]

    @operator_operation(
        "GET",
        "/api/notifications/endpoints",
        "listEndpoints",
        Permission.READ,
        tag="Deliveries",
        summary="List webhook endpoints",
        description="One entry for each API that has deliveries: how many of the latest ones arrived within the last "
        "24 hours, with which latency, what is pending, and the circuit breaker. Deliveries and attempts are those of "
        "all notifier instances; `circuit` is that of the instance that responds, which `instance` names. Credentials "
        "in URLs are masked unless the operator has `write`.",
        parameters=Parameters(model=EndpointQuery),
        response=ResponseSpec(
            description="One page of the list.",
            models=(EndpointList,),
            headers={"Link": 'The next page (`rel="next"`), relative to the request; absent on the last page.'},
        ),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """One page of the APIs that have deliveries, sorted by id, each with the state of its endpoint."""
        with_secrets = _reads_secrets(request)
        query = _parameters(request, EndpointQuery)
        since = self.now() - RECENT
        apis = [query.api_id] if query.api_id else await self.recent.apis(query.after or "", query.limit + 1)
        shown = apis[: query.limit]
        views = await asyncio.gather(*(self._view(api_id, since, with_secrets=with_secrets) for api_id in shown))
        following = shown[-1] if len(apis) > query.limit else None
        listed = EndpointList(endpoints=views, since=since, instance=self.instance, next=following)
        return _document(listed, link_to_next(request, following))

    async def _view(self, api_id: str, since: datetime, *, with_secrets: bool) -> EndpointView:
        recent, backlog = await asyncio.gather(self.recent.of_api(api_id, since), self.recent.backlog(api_id))
        url = await self._url(api_id)
        attempts = recent.attempts
        accepted = sum(1 for attempt in attempts if attempt.accepted)
        latencies = sorted(attempt.latency_ms for attempt in attempts)
        return EndpointView(
            api_id=api_id,
            url=_shown_url(url, with_secrets=with_secrets) if url else None,
            states=recent.states,
            attempts=len(attempts),
            accepted=accepted,
            success_rate=accepted / len(attempts) if attempts else None,
            latency_median_ms=_quantile(latencies, 0.5),
            latency_p95_ms=_quantile(latencies, 0.95),
            last_attempt=attempts[0] if attempts else None,
            backlog=backlog.count,
            oldest_pending=backlog.oldest,
            circuit=self.limiter.circuit(url),
        )

    async def _url(self, api_id: str) -> str | None:
        try:
            target = await webhook_settings(self.catalog, api_id)
        except CannotDecrypt:
            return None
        return target.on_key_change_url if target else None


def _quantile(values: Sequence[int], share: float) -> int | None:
    """The smallest value that this share of the sorted values does not exceed; None without values."""
    return values[max(0, math.ceil(len(values) * share) - 1)] if values else None


def _reads_secrets(request: web.Request) -> bool:
    return permits(operator_of(request), Permission.WRITE)


def _shown_url(url: str, *, with_secrets: bool) -> str:
    """The URL; for operators who may only read, without the parts that may be credentials."""
    return url if with_secrets else masked_url(url)


def _parameters(request: web.Request, model: type[M]) -> M:
    if len(request.query) != len(set(request.query)):
        raise BadRequest("a parameter is repeated")
    return model.model_validate(dict(request.query))


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


def _document(response: Contract, headers: Mapping[str, str] | None = None) -> web.Response:
    return json_bytes(response.model_dump_json().encode(), headers={**NO_STORE, **(headers or {})})


def _ok(message: str, meta: Any) -> web.Response:
    return _enveloped("OK", message, meta)


def _enveloped(status: Literal["OK", "Error"], message: str, meta: Any) -> web.Response:
    envelope = Envelope(Status=status, Message=message, Meta=meta)
    return json_bytes(orjson.dumps(envelope.model_dump(exclude={"ID"})), headers=NO_STORE)


def _changing() -> Taken:
    return Taken("the delivery was changed at the same time; read it again and repeat")
