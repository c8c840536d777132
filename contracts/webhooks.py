"""The webhook's body, and what is kept of every delivery of it."""

import enum
from typing import Annotated, Literal

from pydantic import Field

from contracts.base import AdminRequest, ClientId, Contract, EventCursor, Moment, PublicId, Response


class TokenNotification(Contract):
    """The body that a resource owner service receives: exactly these five keys, empty where not applicable."""

    auth_code: str = ""
    new_oauth_token: str = ""
    refresh_token: str = ""
    old_refresh_token: str = ""
    notification_type: Literal["new", "refresh"]


class DeliveryState(enum.StrEnum):
    """Where a delivery is."""

    PENDING = "pending"
    """An attempt is due, now or at `next_attempt_at`."""
    DELIVERED = "delivered"
    EXHAUSTED = "exhausted"
    """No retry is left, or the endpoint responded with 410. An operator may redeliver it."""
    DISCARDED = "discarded"
    """The API has no notification URL any more."""


class Attempt(Contract):
    """One POST."""

    at: Moment
    latency_ms: int
    status: int | None = None
    """None: no response."""
    error: str | None = None
    response: str | None = None
    """How the body of the response began: at most 1024 characters, with the tokens and secrets that were sent masked;
    None: it was empty or did not arrive."""
    traceparent: str | None = None
    """The context of its span (W3C Trace Context), which the request carried; None: it was not traced."""

    @property
    def accepted(self) -> bool:
        """Whether the endpoint responded with any 2xx."""
        return self.status is not None and 200 <= self.status < 300


class Delivery(Contract):
    """One event on its way to one resource owner service; MongoDB is the truth, queues only hint."""

    delivery_id: str
    """The event id, which is also the `webhook-id`."""
    version: Annotated[int, Field(ge=1)] = 1
    """Counts every change, claims included."""
    sequence: Annotated[int, Field(ge=0)] = 0
    """Counts the changes that wrote an event: the `sequence` of the latest."""
    state: DeliveryState
    api_id: str
    client_id: str
    grant_id: str
    event_type: str
    event_at: Moment
    """When the event happened."""
    traceparent: str | None = None
    """The trace of the request that caused the event."""
    sealed: bytes | None = None
    """The body under the notifier's public key; dropped when delivery ends well."""
    delivered_body: bytes | None = None
    """The body of a delivered webhook, sealed as before, for an operator who has it sent again; dropped a day after the
    delivery."""
    delivered_body_until: Moment | None = None
    attempts: tuple[Attempt, ...] = ()
    attempt_count: int = 0
    """All attempts ever, of which `attempts` keeps the latest."""
    retries: int = 0
    """Delays of the retry schedule that have been used; redelivery resets it to 0."""
    next_attempt_at: Moment | None = None
    lease_until: Moment | None = None
    """Until then one notifier owns it."""
    give_up_at: Moment
    """From then on it is exhausted, even where an endpoint that is down has kept it from its attempts."""
    created_at: Moment
    updated_at: Moment


class DeliveryView(Response):
    """A delivery as the API shows it: everything but the body."""

    id: str
    state: DeliveryState
    api_id: str
    client_id: str
    grant_id: str
    event_type: str
    event_at: Moment
    url: str | None
    attempts: tuple[Attempt, ...]
    attempt_count: int
    next_attempt_at: Moment | None
    delivered_body_until: Moment | None
    """Until then a delivered webhook can be sent again with `force=true`."""
    created_at: Moment
    updated_at: Moment


class RedeliverQuery(AdminRequest):
    """The parameters of POST /api/notifications/deliveries/{delivery_id}/redeliver."""

    force: bool = False
    """True: send it again although it was delivered."""


class DeliveryList(Response):
    """GET /api/notifications/deliveries."""

    deliveries: list[DeliveryView]
    next: str | None = None
    """Pass as `after` to get the next page; null on the last one."""


class DeliveryQuery(AdminRequest):
    """The parameters of GET /api/notifications/deliveries."""

    api_id: PublicId | None = None
    client_id: ClientId | None = None
    state: DeliveryState | None = None
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Events of this moment and later."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Events before this moment."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    after: EventCursor | None = None
    """`next` of the previous page."""


class RedeliveryRequest(AdminRequest):
    """POST /api/notifications/redeliver: all webhooks of one API since a time that were not delivered."""

    api_id: PublicId
    since: Moment
    """Events of this moment and later."""
    state: Literal[DeliveryState.EXHAUSTED, DeliveryState.PENDING] = DeliveryState.EXHAUSTED
    """`pending`: retry now the deliveries that wait for their next attempt."""


class CircuitState(enum.StrEnum):
    """Whether a notifier sends webhooks to an endpoint."""

    CLOSED = "closed"
    """Webhooks are sent."""
    OPEN = "open"
    """The endpoint has failed repeatedly: no attempt is made until `open_until`."""
    HALF_OPEN = "half_open"
    """Few attempts at once are made, to see whether the endpoint is back."""


class Circuit(Response):
    """The circuit breaker of one endpoint in one notifier instance."""

    state: CircuitState
    failures: int
    """Consecutive failed attempts of this instance."""
    open_until: Moment | None = None
    """When the next attempt may be made, while it is open."""
    in_flight: int
    """Attempts that this instance is making now."""


class EndpointView(Response):
    """Where the webhooks of one API go, and how they arrived lately."""

    api_id: str
    url: str | None
    """Null: the API has no notification URL any more, or its definition cannot be decrypted."""
    states: dict[DeliveryState, int]
    """Of the latest deliveries, at most 1000, how many are in each state; states without any are left out."""
    attempts: int
    """Attempts that the latest 100 of these deliveries have kept."""
    accepted: int
    """Those of the attempts to which the endpoint responded with 2xx."""
    success_rate: float | None
    """`accepted` of `attempts`, from 0 to 1; null without any attempt."""
    latency_median_ms: int | None
    latency_p95_ms: int | None
    """Of the same attempts."""
    last_attempt: Attempt | None
    backlog: int
    """Deliveries of any age that are pending, counted to at most 1001."""
    oldest_pending: Moment | None
    """When the event of the oldest pending delivery happened."""
    circuit: Circuit
    """In the notifier instance that sent this response."""


class EndpointList(Response):
    """GET /api/notifications/endpoints."""

    endpoints: list[EndpointView]
    since: Moment
    """The latest deliveries are those of events since this time, 24 hours ago."""
    instance: str
    """The notifier instance that sent this response, as host name and process id: each instance has circuit breakers
    of its own."""
    next: str | None = None
    """Pass as `after` to get the next page; null on the last one."""


class EndpointQuery(AdminRequest):
    """The parameters of GET /api/notifications/endpoints."""

    api_id: PublicId | None = None
    limit: Annotated[int, Field(ge=1, le=50)] = 20
    after: PublicId | None = None
    """`next` of the previous page."""
