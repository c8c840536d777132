"""Policies: what a token may do, applied live to tokens already issued."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field

from contracts.base import Contract, Moment, Name, PublicId, Record, Response, Text


class AllowedUrl(Contract):
    """A path (a regular expression) and the methods allowed on it."""

    url: Text
    methods: tuple[Name, ...] = ()


class AccessRight(Contract):
    """What a policy grants on one API; extra fields of Tyk's are kept as they are."""

    model_config = ConfigDict(extra="allow")

    api_id: PublicId
    api_name: Name = ""
    versions: tuple[Name, ...] = ()
    allowed_urls: tuple[AllowedUrl, ...] = ()


class Policy(Record):
    """One policy. Empty access rights grant nothing."""

    policy_id: PublicId
    name: Name = ""
    org_id: Name = ""
    active: bool = True
    is_inactive: bool = False
    access_rights: dict[PublicId, AccessRight] = {}
    rate: Annotated[float, Field(ge=-1)] = 0
    """Requests per `per` seconds; 0 or -1: unlimited."""
    per: Annotated[float, Field(ge=-1)] = 0
    quota_max: Annotated[int, Field(ge=-1)] = -1
    quota_renewal_rate: Annotated[int, Field(ge=-1)] = -1
    """Seconds of the quota's window."""
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
    rate: Annotated[float, Field(ge=-1)] = 0
    per: Annotated[float, Field(ge=-1)] = 0
    quota_max: Annotated[int, Field(ge=-1)] = -1
    quota_renewal_rate: Annotated[int, Field(ge=-1)] = -1
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
    tags: tuple[str, ...]
    meta_data: dict[str, Any]
    created_at: Moment
    updated_at: Moment


class PolicyList(Response):
    """GET /api/portal/policies."""

    Data: list[PolicyView]
    Pages: int
