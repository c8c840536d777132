"""The stream of events over HTTP (`/api/events/stream`)."""

from contracts.base import AdminRequest, PublicId


class EventStreamQuery(AdminRequest):
    """The parameters of GET /api/events/stream."""

    types: str | None = None
    """Patterns of event types, separated by commas, such as `token.*,grant.revoked`; default: all."""
    api_id: PublicId | None = None
    """Only events of this API."""
