"""Reconciliation: committed events compared with those that the bus delivered and with webhook deliveries."""

import enum
from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Contract, Moment, Response
from contracts.operators import Actor


class RecordedEvent(Contract):
    """What is recorded of an event that the bus delivered: its identity, not its data."""

    id: str
    type: str
    """Event type without the vendor prefix."""
    collection: str
    """The collection of the record that changed."""
    subject: str
    sequence: Annotated[int, Field(ge=1, lt=2**63)]
    time: Moment
    api_id: str | None = None
    client_id: str | None = None
    grant_id: str | None = None
    notify: bool = False
    reason: str | None = None
    """Why a token, a grant or a client ended."""
    actor: Actor | None = None
    """The operator who caused it."""


class ReconciliationQuery(AdminRequest):
    """The parameters of GET /api/events/audit: which records are compared, by the time of their creation."""

    since: Annotated[Moment | None, Field(alias="from")] = None
    """Records created at or after this time; default: one day before `to`. At most eight days ago."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Records created before this time; default: now."""
    live: bool = False
    """True: compare all records now, instead of adding up the results of the periodic comparisons."""


class EventBalance(Response):
    """Every committed event is published, pending, in flight or missing; `committed` is the sum of these four."""

    records: int = 0
    committed: int = 0
    """According to the event counters in the records themselves."""
    published: int = 0
    """Delivered by the bus."""
    pending: int = 0
    """Still stored in their records, waiting to be published."""
    in_flight: int = 0
    """Not seen yet, but recent, or the queue of events to be recorded is not empty."""
    missing: int = 0
    """Lost: neither delivered nor stored, and too old to be in flight."""
    phantom: int = 0
    """Delivered by the bus, but never committed by a record."""
    doubled: int = 0
    """Delivered by the bus a second time under another id."""


class NotificationBalance(Response):
    """What became of the webhooks for published grant events; `published` is the sum of the other fields."""

    published: int = 0
    not_applicable: int = 0
    """Events for which no webhook is configured."""
    handover: int = 0
    """Still stored with their grants, until the notifier has created the delivery."""
    pending: int = 0
    delivered: int = 0
    exhausted: int = 0
    discarded: int = 0
    missing: int = 0
    """Lost: there is neither a delivery, nor is the webhook stored with the grant."""


class DiscrepancyKind(enum.StrEnum):
    """What is wrong with an event."""

    MISSING = "missing"
    PHANTOM = "phantom"
    DOUBLED = "doubled"
    NOT_NOTIFIED = "not_notified"
    """The event was published, but its webhook is missing."""


class Discrepancy(Response):
    """One event for which committed and delivered differ."""

    fault: DiscrepancyKind
    collection: str
    subject: str
    sequence: int


class RecordingState(Response):
    """Progress of the recording of events; null if the bus cannot be asked."""

    waiting: int | None
    """Events in the queue that are not recorded yet."""
    dead_letters: int | None
    """Events that could not be recorded; missing events may be among them."""


class UnpublishedEvents(Response):
    """Events of any age that are committed, not published yet, and not refused by a queue."""

    records: int
    """Number of records with such events."""
    oldest: Moment | None
    """When the oldest of them was committed: since then the events lag behind. Null: all are published."""


class RefusedEvents(Response):
    """Events of any age that a full queue refused; they stay in their records until the queue accepts them."""

    records: int
    """Number of records with such events."""
    oldest: Moment | None
    """When the oldest of them was committed."""
    likely_causes: list[str]
    """Which queues probably refuse them, and what to do."""


class ReconciliationReport(Response):
    """GET /api/events/audit."""

    since: Annotated[Moment, Field(alias="from")]
    until: Annotated[Moment, Field(alias="to")]
    as_of: Moment | None
    """All records were compared at this time or later; null: nothing was compared yet."""
    unchecked: int
    """Number of five-minute windows of this time that have not been compared yet."""
    balanced: bool
    """True if no event is missing, phantom or doubled, and no queue refuses events."""
    total: EventBalance
    collections: dict[str, EventBalance]
    notifications: NotificationBalance
    recording: RecordingState
    unpublished: UnpublishedEvents
    refused: RefusedEvents
    examples: list[Discrepancy]
    """Up to twenty events for which committed and delivered differ."""
