"""Policies: what a token may do, applied live to tokens already issued."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from contracts.base import Contract, Moment, Name, PublicId, Record, Response, Text

Rate = Annotated[float, Field(ge=-1, lt=2**63)]
"""Requests, or the seconds they count in; 0: says nothing, -1: unlimited."""
Quota = Annotated[int, Field(ge=-1, lt=2**63)]
"""Requests, or the seconds of the quota's window; 0: says nothing, -1: unlimited (a window: never renewed)."""


class AllowedUrl(Contract):
    """A path (a regular expression) and the methods allowed on it."""

    url: Text
    """RE2's syntax, as in Tyk; found anywhere in the path of the request unless it is anchored."""
    methods: tuple[Name, ...] = ()
    """Empty: every method."""


class ApiLimit(Contract):
    """A limit of one API's own, counted apart from the grant's others; extra fields of Tyk's are kept as they are."""

    model_config = ConfigDict(extra="allow")

    rate: Rate = 0
    per: Rate = 0
    quota_max: Quota = 0
    quota_renewal_rate: Quota = 0


class AccessRight(Contract):
    """What a policy grants on one API; extra fields of Tyk's are kept as they are."""

    model_config = ConfigDict(extra="allow")

    api_id: PublicId
    api_name: Name = ""
    versions: tuple[Name, ...] = ()
    """Of an API with versions, those that are open."""
    allowed_urls: tuple[AllowedUrl, ...] = ()
    """Empty: the whole API."""
    limit: ApiLimit | None = None


class Partitions(Contract):
    """Which parts of a policy count beside others; none of them: all."""

    quota: bool = False
    rate_limit: bool = False
    acl: bool = False
    complexity: bool = False
    per_api: bool = False
    """The limits count for each API apart."""


class Policy(Record):
    """One policy. Empty access rights grant nothing."""

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
    """Seconds of the quota's window, which begins with its first request."""
    partitions: Partitions = Partitions()
    tags: tuple[Name, ...] = ()
    meta_data: dict[str, Any] = {}


class PolicyDocument(Contract):
    """A policy as the Dashboard API takes it: Tyk's fields, those not used are ignored."""

    model_config = ConfigDict(extra="ignore")

    id: PublicId | None = None
    name: Name = ""
    org_id: Name = ""
    active: bool = True
    is_inactive: bool = False
    access_rights: dict[PublicId, AccessRight] = {}
    rate: Rate = 0
    per: Rate = 0
    quota_max: Quota = 0
    quota_renewal_rate: Quota = 0
    partitions: Partitions = Partitions()
    tags: tuple[Name, ...] = ()
    meta_data: dict[str, Any] = {}


class PolicyView(Response):
    """A policy as the Dashboard API shows it."""

    id: str
    stored_id: Annotated[str, Field(serialization_alias="_id")]
    """The same id again, where Tyk's tools look for it."""
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
