"""GET /api/audit: who changed what. The entries are made of the events that the changes wrote, in the same write."""

from dataclasses import dataclass
from typing import Any

import orjson
from aiohttp import web
from pydantic import ValidationError

from contracts.operators import Permission
from contracts.trail import TrailEntry, TrailPage, TrailQuery
from libs.access import Access
from libs.bus.port import Drop
from libs.http.errors import BadRequest
from libs.runtime import both_slashes
from libs.store.trail import Trail
from services.management.answers import document

MANAGED = frozenset({"api", "client", "policy", "resource_owner", "operator"})
"""Whose events are in the trail, whoever made the change."""
BY_OPERATORS = frozenset({"token.revoked", "grant.revoked", "notification.redelivered"})
"""Events that are in the trail where an operator made the change."""
_FROM_DATA = ("actor", "changed", "permissions", "reason", "api_id", "client_id")


@dataclass(frozen=True, slots=True)
class TrailEndpoint:
    """For operators with `read`: whoever looks after others needs no power to change anything."""

    access: Access
    trail: Trail

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "GET", "/api/audit", self.list)

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/audit?operator=…&action=…&subject=…&from=…&to=…&limit=…&after=…"""
        await self.access.require(request, Permission.READ)
        if len(request.query) != len(set(request.query)):
            raise BadRequest("a parameter is repeated")
        entries, more = await self.trail.page(TrailQuery.model_validate(dict(request.query)))
        return document(TrailPage(entries=list(entries), next=entries[-1].id if more else None))


def entry_of(kind: str, body: bytes) -> TrailEntry | None:
    """What the trail keeps of an event of this type; None where it is no change by an operator. Raises Drop."""
    managed = kind.partition(".")[0] in MANAGED
    if not managed and kind not in BY_OPERATORS:
        return None
    event: dict[str, Any] = orjson.loads(body)
    data = event["data"]
    if not managed and not data.get("actor"):
        return None
    try:
        return TrailEntry.model_validate(
            {
                **{name: data.get(name) for name in _FROM_DATA},
                "id": event["id"],
                "at": event["time"],
                "action": kind,
                "subject": event["subject"],
                "version": int(event["sequence"]),
                "source": event.get("source"),
                "traceparent": event.get("traceparent"),
            }
        )
    except ValidationError as error:
        raise Drop("not an event this service knows") from error
