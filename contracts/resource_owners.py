"""Resource owners: the users of the password grant."""

from typing import Annotated, Any

from pydantic import Field, SecretStr, StringConstraints

from contracts.base import AdminRequest, Moment, PublicId, Record, Response

Username = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f/]+$")]


class ResourceOwner(Record):
    """A user with an argon2id hash of the password."""

    username: Username
    password_hash: str
    password_since: Moment | None = None
    """When this password was set; a grant for an earlier one is not refreshed."""
    active: bool = True
    policy_ids: tuple[PublicId, ...] = ()
    meta_data: dict[str, Any] = {}


class ResourceOwnerDocument(AdminRequest):
    """POST /api/apis/keys/basic/{username}, which needs a password; PUT, where what is left out stays."""

    password: Annotated[SecretStr, Field(min_length=8, max_length=256)] | None = None
    active: bool = True
    policy_ids: tuple[PublicId, ...] = ()
    meta_data: dict[str, Any] = {}


class ResourceOwnerView(Response):
    """A resource owner as the API shows it: never the hash."""

    username: str
    active: bool
    policy_ids: tuple[str, ...]
    meta_data: dict[str, Any]
    created_at: Moment
    updated_at: Moment


class ResourceOwnerList(Response):
    """GET /api/apis/keys/basic."""

    users: list[ResourceOwnerView]
    pages: int
