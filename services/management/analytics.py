"""GET /api/analytics/clients: what the client apps did, and what was done for them."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web

from contracts.operators import Permission
from contracts.usage import UsageQuery
from libs.access import Access
from libs.http.errors import BadRequest
from libs.runtime import both_slashes
from libs.store.usage import Usage, hour_of
from services.management.answers import as_it_is

USUAL = timedelta(days=1)
"""How far back it goes where nobody says."""
ANSWER_WITHIN = 20.0
"""Seconds; whoever is in front waits for no more than 30."""


@dataclass(frozen=True, slots=True)
class Analytics:
    """For operators with `read`."""

    access: Access
    usage: Usage
    now: Callable[[], datetime]

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "GET", "/api/analytics/clients", self.clients)

    async def clients(self, request: web.Request) -> web.Response:
        """GET /api/analytics/clients?api_id=…&client_id=…&from=…&to=…&per=…"""
        await self.access.require(request, Permission.READ)
        query = _query(request)
        until = query.until or self.now()
        since = query.since or until - USUAL
        if since >= until:
            raise BadRequest("from: a moment before `to` is expected")
        try:
            async with asyncio.timeout(ANSWER_WITHIN):
                found = await self.usage.sums(query, hour_of(since), until)
        except TimeoutError:
            raise BadRequest(
                "this is too much for one answer: a shorter time from `from` to `to`, or an API or a client is expected"
            ) from None
        return as_it_is(found.model_dump_json(by_alias=True).encode())


def _query(request: web.Request) -> UsageQuery:
    if len(request.query) != len(set(request.query)):
        raise BadRequest("a parameter is repeated")
    return UsageQuery.model_validate(dict(request.query))
