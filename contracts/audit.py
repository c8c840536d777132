"""The balance sheet of events: what was committed against what went out, and what became of its notifications."""

import enum
from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Contract, Moment, Response


class RecordedEvent(Contract):
    """What is kept of an event that the bus brought: which it is, and nothing of what it says."""

    id: str
    type: str
    """Without the vendor prefix."""
    collection: str
    """Where the record is whose change it tells."""
    subject: str
    sequence: Annotated[int, Field(ge=1, lt=2**63)]
    time: Moment
    api_id: str | None = None
    client_id: str | None = None
    grant_id: str | None = None
    notify: bool = False


class AuditQuery(AdminRequest):
    """The parameters of GET /api/events/audit: which records are looked at, by when they were made."""

    since: Annotated[Moment | None, Field(alias="from")] = None
    """Records made at this moment and later; absent: a day before `to`. At most eight days ago."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Records made before this moment; absent: now."""


class EventBalance(Response):
    """Every committed event is published, pending, in flight or missing: committed is the sum of the four."""

    records: int = 0
    committed: int = 0
    """By the records' own count of their events."""
    published: int = 0
    """Brought by the bus."""
    pending: int = 0
    """Still in their records, to be published."""
    in_flight: int = 0
    """Neither: too young to say more, or behind others that wait to be recorded."""
    missing: int = 0
    """Neither, and there is no reason for it: lost."""
    phantom: int = 0
    """Brought by the bus without having been committed."""
    doubled: int = 0
    """Brought by the bus under a second id."""


class NotificationBalance(Response):
    """What became of the grants' published events, which is the sum of all the others here."""

    published: int = 0
    not_applicable: int = 0
    """Events that no resource owner service is told of."""
    handover: int = 0
    """Kept with their grants until there is a delivery."""
    pending: int = 0
    delivered: int = 0
    exhausted: int = 0
    discarded: int = 0
    missing: int = 0
    """Neither a delivery nor with their grants: lost."""


class Fault(enum.StrEnum):
    """What does not balance."""

    MISSING = "missing"
    PHANTOM = "phantom"
    DOUBLED = "doubled"
    NOT_NOTIFIED = "not_notified"
    """The event is published, but its notification is nowhere."""


class AuditExample(Response):
    """One event that does not balance."""

    fault: Fault
    collection: str
    subject: str
    sequence: int


class RecordingState(Response):
    """How far the recording of events is; null where the bus does not say."""

    waiting: int | None
    """Events in the queue."""
    parked: int | None
    """Events that could not be recorded: what is missing may be among them."""


class AuditAnswer(Response):
    """GET /api/events/audit."""

    since: Annotated[Moment, Field(alias="from")]
    until: Annotated[Moment, Field(alias="to")]
    balanced: bool
    """Nothing is missing, phantom or doubled."""
    total: EventBalance
    collections: dict[str, EventBalance]
    notifications: NotificationBalance
    recording: RecordingState
    examples: list[AuditExample]
    """Up to twenty of what does not balance."""
