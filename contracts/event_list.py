"""The list of events over HTTP (`/api/events`): what is kept of each, without its data."""

from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, ClientId, EventCursor, Moment, PublicId, Response
from contracts.operators import Actor


class EventQuery(AdminRequest):
    """The parameters of GET /api/events."""

    types: Annotated[str, Field(max_length=1000)] = ""
    """Patterns of event types, separated by commas, such as `token.*,grant.revoked`; default: all."""
    api_id: PublicId | None = None
    client_id: ClientId | None = None
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Events of this moment and later; they are kept for eight days."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Events before this moment."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    after: EventCursor | None = None
    """`next` of the previous page."""


class ListedEvent(Response):
    """What is kept of an event that the bus delivered."""

    id: str
    at: Moment
    type: str
    """The type without the vendor prefix."""
    subject: str
    """The id of the record that changed."""
    sequence: int
    """The version of the record after the change; counts without gaps."""
    api_id: str | None = None
    client_id: str | None = None
    grant_id: str | None = None
    reason: str | None = None
    """Why a token, a grant or a client ended."""
    actor: Actor | None = None
    """The operator who caused it."""


class EventList(Response):
    """GET /api/events: the latest first."""

    events: list[ListedEvent]
    """A page of a filtered list may have fewer than `limit`, or none, although `next` leads to more."""
    next: str | None = None
    """Cursor of the next page, to pass as `after`; absent on the last page."""
