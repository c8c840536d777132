"""The stream of events over HTTP (`/api/events/stream`)."""

from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Moment, PublicId


class EventStreamQuery(AdminRequest):
    """The parameters of GET /api/events/stream."""

    types: str | None = None
    """Patterns of event types, separated by commas, such as `token.*,grant.revoked`; default: all."""
    api_id: PublicId | None = None
    """Only events of this API."""
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Also the stored events of this moment and later; they are kept for eight days. The header
    `Last-Event-ID` wins over it."""
