"""Usage analytics: what was issued, refreshed, revoked, verified and refused, by API, client app and hour."""

import enum
from typing import Annotated

from pydantic import Field, StringConstraints

from contracts.base import AdminRequest, ClientId, Moment, PublicId, Response


class UsagePeriod(enum.StrEnum):
    """What the numbers of one row are about."""

    HOUR = "hour"
    DAY = "day"
    """A day of UTC; of the first and the last one, the hours that were asked for."""
    TOTAL = "total"
    """All of the time that was asked for."""


class UsageQuery(AdminRequest):
    """The parameters of GET /api/analytics/clients."""

    api_id: PublicId | None = None
    client_id: ClientId | None = None
    since: Annotated[Moment | None, Field(alias="from")] = None
    """From the hour of this moment on; absent: a day before `to`."""
    until: Annotated[Moment | None, Field(alias="to")] = None
    """Hours that begin before this moment; absent: now."""
    per: UsagePeriod = UsagePeriod.HOUR
    limit: Annotated[int, Field(ge=1, le=1000)] = 100
    after: Annotated[str, StringConstraints(max_length=256, pattern=r"^[A-Za-z0-9._~-]*$")] = ""
    """`next` of the page before."""


class UsageCounts(Response):
    """How often."""

    issued: int = 0
    """First tokens of a grant: events `token.new`."""
    refreshed: int = 0
    """Events `token.refresh`."""
    revoked: int = 0
    """Events `token.revoked` and `grant.revoked`: access tokens that ended alone, and grants, with all they had."""
    verified: int = 0
    """Calls that the gateway admitted."""
    refused: int = 0
    """Calls that the gateway refused."""
    reasons: dict[str, int] = {}
    """The refused, by why."""


class ClientUsage(UsageCounts):
    """One client app on one API in one period."""

    at: Moment | None
    """When the hour or the day began; null: all of the time."""
    api_id: str | None
    """Null: the call was for no API."""
    client_id: str | None
    """Null: nobody knows whose call it was, such as one without a token, or with a forged one."""


class UsageAnswer(Response):
    """GET /api/analytics/clients."""

    since: Annotated[Moment, Field(alias="from")]
    """The beginning of an hour."""
    until: Annotated[Moment, Field(alias="to")]
    per: UsagePeriod
    total: UsageCounts
    """Of everything that was asked for, on whichever page."""
    clients: list[ClientUsage]
    """By time, API and client app; nothing where there was nothing."""
    next: str | None
    """Pass as `after` to go on; null at the end."""
