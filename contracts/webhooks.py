"""The webhook's body, and what is kept of every delivery of it."""

import enum
from typing import Annotated, Literal

from pydantic import Field

from contracts.base import Contract, Moment, Response


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
    """The ladder is at its end, or the endpoint said 410; an operator may redeliver."""
    DISCARDED = "discarded"
    """The API has no notification URL any more."""


class Attempt(Contract):
    """One POST."""

    at: Moment
    latency_ms: int
    status: int | None = None
    """None: no response."""
    error: str | None = None


class Delivery(Contract):
    """One event on its way to one resource owner service; MongoDB is the truth, queues only hint."""

    delivery_id: str
    """The event id, which is also the `webhook-id`."""
    version: Annotated[int, Field(ge=1)] = 1
    state: DeliveryState
    api_id: str
    client_id: str
    grant_id: str
    event_type: str
    event_at: Moment
    """When the event happened."""
    sealed: bytes | None = None
    """The body under the notifier's public key; dropped when delivery ends well."""
    attempts: tuple[Attempt, ...] = ()
    attempt_count: int = 0
    """All attempts ever, of which `attempts` keeps the latest."""
    rung: int = 0
    """How many rungs of the retry ladder are used."""
    next_attempt_at: Moment | None = None
    lease_until: Moment | None = None
    """Until then one notifier owns it."""
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
    created_at: Moment
    updated_at: Moment


class DeliveryList(Response):
    """GET /api/notifications/deliveries."""

    deliveries: list[DeliveryView]
    next: str | None = None
    """Pass as `after` to go on; None at the end."""
