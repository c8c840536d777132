"""Usage analytics: tokens issued, refreshed and revoked, calls admitted and refused, by API, client and hour."""

import enum
import re
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from contracts.base import AdminRequest, ClientId, Moment, PublicId, Response


class UsagePeriod(enum.StrEnum):
    """The period of one row."""

    HOUR = "hour"
    DAY = "day"
    """A day in UTC; the first and the last day contain only the requested hours."""
    TOTAL = "total"
    """The whole requested time."""


class UsageQuery(AdminRequest):
    """The parameters of GET /api/analytics/clients."""

    api_id: PublicId | None = None
    client_id: ClientId | None = None
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Start, rounded down to the hour; default: one day before `to`."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """End: only hours that begin before this time; default: now."""
    per: UsagePeriod = UsagePeriod.HOUR
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Annotated[str, StringConstraints(max_length=256)] = ""
    """`next` of the previous page."""

    @model_validator(mode="after")
    def _cursor_of_these_rows(self) -> Self:
        if self.after and not _is_row(self.after, self.per):
            raise ValueError("after: not a cursor of this list; send the `next` of the previous page unchanged")
        return self


class UsageOverTimeQuery(AdminRequest):
    """The parameters of GET /api/analytics/usage."""

    api_id: PublicId | None = None
    since: Annotated[Moment | None, Field(alias="from")] = None
    """Start, rounded down to the hour; default: one day before `to`."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """End; default: now."""
    per: Literal[UsagePeriod.HOUR, UsagePeriod.DAY] = UsagePeriod.HOUR


_ROW = re.compile(r"(?P<period>[0-9T-]*)\.[A-Za-z0-9_-]{0,64}\.[A-Za-z0-9._~-]{0,128}")
_PERIODS = {UsagePeriod.HOUR: "%Y-%m-%dT%H", UsagePeriod.DAY: "%Y-%m-%d", UsagePeriod.TOTAL: ""}


def _is_row(text: str, per: UsagePeriod) -> bool:
    found = _ROW.fullmatch(text)
    try:
        return found is not None and bool(datetime.strptime(found["period"], _PERIODS[per]))
    except ValueError:
        return False


class UsageCounts(Response):
    """Counts."""

    issued: int = 0
    """New grants: events `token.new`."""
    refreshed: int = 0
    """Token refreshes (events `token.refresh`)."""
    revoked: int = 0
    """Events `token.revoked` (single access tokens) and `grant.revoked` (grants with all their tokens)."""
    verified: int = 0
    """Calls that the gateway admitted."""
    refused: int = 0
    """Calls that the gateway refused."""
    reasons: dict[str, int] = {}
    """Refused calls by reason."""


class ClientUsage(UsageCounts):
    """The usage of one client on one API in one period."""

    at: Moment | None
    """Start of the hour or day; null: the whole requested time."""
    api_id: str | None
    """Null: calls that were for no known API; in the usage over time, all APIs."""
    client_id: str | None
    """Null: calls of an unknown client, such as those without a token or with a forged one; in the usage over time, all
    client apps."""


class UsageReport(Response):
    """GET /api/analytics/clients and GET /api/analytics/usage."""

    since: Annotated[Moment, Field(alias="from")]
    """Start of an hour."""
    until: Annotated[Moment, Field(alias="to")]
    per: UsagePeriod
    total: UsageCounts
    """Totals of the whole query, on every page."""
    clients: list[ClientUsage]
    """Sorted by time, API and client; there are no rows without usage."""
    next: str | None
    """Pass as `after` to get the next page; null on the last one."""
