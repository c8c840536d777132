"""GET /api/analytics/clients: usage by client app, API and period."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

from aiohttp import web
from pydantic import BaseModel

from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from contracts.usage import UsageOverTimeQuery, UsageQuery, UsageReport
from libs.http.error_responses import BadRequest
from libs.http.operations import operator_operation
from libs.http.pages import link_to_next
from libs.store.usage import Usage, hour_of
from services.management.success_responses import as_it_is, list_of

DEFAULT_LENGTH = timedelta(days=1)
"""Default length of the report."""
TIMEOUT = 20.0
"""Seconds. Below the 30 seconds after which the edge gives up on a response."""

Q = TypeVar("Q", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Analytics:
    """Reads what the gateway and the recorder have counted."""

    usage: Usage
    now: Callable[[], datetime]

    @operator_operation(
        "GET",
        "/api/analytics/clients",
        "getClientUsage",
        Permission.READ,
        tag="Analytics",
        summary="Get usage by client",
        description="How many tokens were issued, refreshed and revoked, and how many calls the gateway admitted and "
        "refused: by client app, API, and hour, day or in total.",
        parameters=Parameters(model=UsageQuery),
        response=list_of(UsageReport),
        errors=(400,),
    )
    async def clients(self, request: web.Request) -> web.Response:
        """GET /api/analytics/clients?api_id=…&client_id=…&from=…&to=…&per=…"""
        query = usage_query(request, UsageQuery)
        since, until = span(query.since, query.until, self.now())
        try:
            async with asyncio.timeout(TIMEOUT):
                found = await self.usage.sums(query, hour_of(since), until)
        except TimeoutError:
            raise BadRequest(
                "the report is too large: choose a shorter time between `from` and `to`, or name an API or a client"
            ) from None
        return as_it_is(found.model_dump_json(by_alias=True).encode(), link_to_next(request, found.next))

    @operator_operation(
        "GET",
        "/api/analytics/usage",
        "getUsage",
        Permission.READ,
        tag="Analytics",
        summary="Get usage over time",
        description="The same numbers for all client apps together, of all APIs or of one, by hour or day: a row for "
        "each hour or day with usage. A row of a day counts the whole day.",
        parameters=Parameters(model=UsageOverTimeQuery),
        response=ResponseSpec(description="The usage.", models=(UsageReport,)),
        errors=(400,),
    )
    async def over_time(self, request: web.Request) -> web.Response:
        """GET /api/analytics/usage?api_id=…&from=…&to=…&per=…"""
        query = usage_query(request, UsageOverTimeQuery)
        since, until = span(query.since, query.until, self.now())
        found = await self.usage.over_time(query, hour_of(since), until)
        return as_it_is(found.model_dump_json(by_alias=True).encode())


def span(since: datetime | None, until: datetime | None, now: datetime) -> tuple[datetime, datetime]:
    """The time of a report, with defaults for what the query leaves out. Raises BadRequest."""
    until = until or now
    since = since or until - DEFAULT_LENGTH
    if since >= until:
        raise BadRequest("from: must be before `to`")
    return since, until


def usage_query(request: web.Request, model: type[Q]) -> Q:
    """The parameters of the request as this model. Raises BadRequest."""
    if len(request.query) != len(set(request.query)):
        raise BadRequest("a parameter is repeated")
    return model.model_validate(dict(request.query))
