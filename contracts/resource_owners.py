"""Resource owners: the users of the password grant."""

import re
from typing import Annotated, Any

from pydantic import Field, SecretStr, StringConstraints

from contracts.base import AdminRequest, Moment, Name, PublicId, Record, Response

Username = Annotated[str, StringConstraints(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f/]+$")]
FEWEST_CHARACTERS = 8
"""Minimum length of a password."""
_USERNAME = re.compile(r"[^\x00-\x1f\x7f/]{1,256}")


def is_username(text: str) -> bool:
    """Whether the text has the form of a user name. Anything else is neither looked up nor counted by the throttle."""
    # `.` and `..` cannot be a path segment: URL normalization removes them (RFC 3986 §5.2.4).
    return _USERNAME.fullmatch(text) is not None and text not in {".", ".."}


class ResourceOwner(Record):
    """A user with an argon2id hash of the password."""

    username: Username
    password_hash: str
    password_since: Moment | None = None
    """When this password was set. Grants made with an earlier password cannot be refreshed."""
    active: bool = True
    policy_ids: tuple[PublicId, ...] = ()
    meta_data: dict[str, Any] = {}


Password = Annotated[SecretStr, Field(min_length=FEWEST_CHARACTERS, max_length=256)]


class BasicAuthData(AdminRequest):
    """The place of the password in Tyk's session objects."""

    password: Password | None = None
    hash_type: Name = ""
    """Ignored: the password is always hashed with argon2id."""


class ResourceOwnerDocument(AdminRequest):
    """POST /api/apis/keys/basic/{username} (password required), and PUT (omitted fields keep their values)."""

    password: Password | None = None
    basic_auth_data: BasicAuthData | None = None
    """Alternative to `password`."""
    active: bool = True
    policy_ids: tuple[PublicId, ...] = ()
    meta_data: dict[str, Any] = {}


class ResourceOwnerView(Response):
    """A resource owner in responses; never contains the password hash."""

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
    """Number of pages with 100 records each; 101 means more than 100."""
    next: str | None = None
    """Cursor of the next page, to pass as `after`; absent on the last page."""
