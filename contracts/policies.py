"""Policies: what tokens may do. A change applies at once, also to tokens that have already been issued."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import ConfigDict, Field

from contracts.base import Contract, Moment, Name, NewName, PublicId, Record, Response, Text

Rate = Annotated[float, Field(ge=-1, lt=2**63)]
"""Requests, or seconds of the period; 0: not set, -1: unlimited."""
Quota = Annotated[int, Field(ge=-1, lt=2**63)]
"""Requests, or seconds of the quota's window; 0: not set, -1: unlimited (for the window: never renewed)."""


def _is_empty(value: Sequence[object]) -> bool:
    return not value


class AllowedUrl(Contract):
    """A path (a regular expression) and the methods allowed on it."""

    url: Text
    """Regular expression in RE2 syntax, as in Tyk; it matches anywhere in the request path unless it is anchored."""
    methods: tuple[Name, ...] = ()
    """Empty: every method."""


class ApiLimit(Contract):
    """Limits for one API, with their own counter; additional Tyk fields are kept unchanged."""

    model_config = ConfigDict(extra="allow")

    rate: Rate = 0
    per: Rate = 0
    quota_max: Quota = 0
    quota_renewal_rate: Quota = 0


class EndpointRate(Contract):
    """The rate limit of one endpoint, which counts apart; additional Tyk fields are kept unchanged."""

    model_config = ConfigDict(extra="allow")

    rate: Rate = 0
    """Requests in any `per` seconds; 0 or -1: the endpoint has no rate limit, as in Tyk."""
    per: Rate = 0


class EndpointMethod(Contract):
    """A method of an endpoint and its rate limit."""

    name: Name
    limit: EndpointRate = EndpointRate()


class EndpointLimits(Contract):
    """Rate limits of one endpoint. They replace the policy's rate for its calls; the quota stays as it is."""

    path: Text
    """As in Tyk: `{parameter}` matches one segment, the rest is a regular expression (RE2), which matches anywhere in
    the path below the listen path."""
    methods: tuple[EndpointMethod, ...] = ()
    """Other methods have no limit of their own."""


class AccessRight(Contract):
    """What a policy grants on one API; additional Tyk fields are kept unchanged."""

    model_config = ConfigDict(extra="allow")

    api_id: PublicId
    api_name: Name = ""
    versions: tuple[Name, ...] = ()
    """Allowed versions, for an API with versions."""
    allowed_urls: tuple[AllowedUrl, ...] = ()
    """Empty: the whole API."""
    limit: ApiLimit | None = None
    endpoints: Annotated[tuple[EndpointLimits, ...], Field(exclude_if=_is_empty)] = ()
    """The first entry that matches a call counts. As in Tyk, absent if there is none."""


class Partitions(Contract):
    """Which parts of a policy apply; if none is set, all parts do."""

    quota: bool = False
    rate_limit: bool = False
    acl: bool = False
    complexity: bool = False
    per_api: bool = False
    """Each API has its own counter."""


class Policy(Record):
    """A policy. Without access rights it grants nothing."""

    policy_id: PublicId
    name: Name = ""
    org_id: Name = ""
    active: bool = True
    is_inactive: bool = False
    access_rights: dict[PublicId, AccessRight] = {}
    rate: Rate = 0
    """Requests in any `per` seconds."""
    per: Rate = 0
    quota_max: Quota = 0
    quota_renewal_rate: Quota = 0
    """Seconds of the quota window, which starts with its first request."""
    partitions: Partitions = Partitions()
    tags: tuple[Name, ...] = ()
    meta_data: dict[str, Any] = {}


class PolicyDocument(Contract):
    """A policy as the Dashboard API accepts it: Tyk's fields; unused ones are ignored."""

    model_config = ConfigDict(extra="ignore")

    id: PublicId | None = None
    name: NewName = ""
    org_id: NewName = ""
    active: bool = True
    is_inactive: bool = False
    access_rights: dict[PublicId, AccessRight] = {}
    rate: Rate = 0
    per: Rate = 0
    quota_max: Quota = 0
    quota_renewal_rate: Quota = 0
    partitions: Partitions = Partitions()
    tags: tuple[NewName, ...] = ()
    meta_data: dict[str, Any] = {}


class PolicyView(Response):
    """A policy as the Dashboard API returns it."""

    id: str
    stored_id: Annotated[str, Field(serialization_alias="_id")]
    """The same id under the name that Tyk's tools expect."""
    name: str
    org_id: str
    active: bool
    is_inactive: bool
    access_rights: dict[str, AccessRight]
    rate: float
    per: float
    quota_max: int
    quota_renewal_rate: int
    partitions: Partitions
    tags: tuple[str, ...]
    meta_data: dict[str, Any]
    created_at: Moment
    updated_at: Moment


class PolicyList(Response):
    """GET /api/portal/policies."""

    Data: list[PolicyView]
    Pages: int
    """Number of pages of 100 policies; 101 means more than 100 pages."""
    next: str | None = None
    """Pass as `after` to get the next page; absent on the last one."""
