"""Client apps: what is kept of them, and the Dashboard's words for them."""

import enum
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, SecretStr, StringConstraints

from contracts.base import (
    AdminRequest,
    ClientId,
    Contract,
    Moment,
    Name,
    PublicId,
    Record,
    Response,
    Scope,
    Seconds,
    Text,
)


class ClientSecret(Contract):
    """One secret of a client: a keyed digest to compare with, and, unless secrets are shown once, a sealed copy."""

    digest: str
    """`<key id>.<base64url of HMAC-SHA-256>`."""
    sealed: str | None = None
    """The secret encrypted under the key ring; None when it is shown once."""
    created_at: Moment
    expires_at: Moment | None = None
    """The end of a rotation's overlap; None: valid until replaced."""


class Client(Record):
    """A registered client app of one API. A client without secrets is public (RFC 6749 §2.1)."""

    client_id: ClientId
    api_id: PublicId
    name: Name = ""
    description: Text = ""
    redirect_uris: tuple[Text, ...] = ()
    policy_ids: tuple[PublicId, ...] = ()
    scope: Scope | None = None
    """What it may ask for; None: not restricted."""
    meta_data: dict[str, Any] = {}
    secrets: tuple[ClientSecret, ...] = ()
    resource_server: bool = False
    """True: it stands for its API, and may introspect every access token that the API accepts (RFC 7662)."""
    revoked_before: Moment | None = None
    """Grants created up to this moment are dead, whatever their own document says."""


RegisteredSecret = Annotated[SecretStr, Field(min_length=24, max_length=256)]


class ClientRegistration(AdminRequest):
    """POST /api/apis/oauth/{api_id}. Absent `client_id` and `secret` are generated."""

    client_id: ClientId | None = None
    secret: RegisteredSecret | None = None
    public: bool = False
    """True: no secret at all; only the code grant with PKCE."""
    api_id: PublicId | None = None
    """Accepted where it repeats the path."""
    redirect_uri: Text | None = None
    """One redirect URI, or several separated by `;`."""
    redirect_uris: tuple[Text, ...] | None = None
    policy_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")] | None = None
    policy_ids: tuple[PublicId, ...] | None = None
    scope: Scope | None = None
    meta_data: dict[str, Any] | None = None
    description: Text | None = None
    client_name: Name | None = None
    resource_server: bool = False
    """True: it stands for its API, and may introspect every access token that the API accepts."""


class ClientEdit(AdminRequest):
    """PUT /api/apis/oauth/{api_id}/{client_id}: replaces what it names; what it leaves out stays; null clears."""

    client_id: ClientId | None = None
    api_id: PublicId | None = None
    secret: SecretStr | None = None
    """Accepted where it repeats the stored one, so that what was read can be written back; rotate changes it."""
    redirect_uri: Text | None = None
    redirect_uris: tuple[Text, ...] | None = None
    policy_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")] | None = None
    policy_ids: tuple[PublicId, ...] | None = None
    scope: Scope | None = None
    meta_data: dict[str, Any] | None = None
    description: Text | None = None
    client_name: Name | None = None
    resource_server: bool | None = None
    public: bool | None = None
    created_at: Moment | None = None
    updated_at: Moment | None = None


class SecretRotation(AdminRequest):
    """PUT …/rotate: a new secret; the old one works for `overlap` seconds more (0: dies at once)."""

    overlap: Annotated[Seconds, Field(ge=timedelta(0), le=timedelta(days=90))] = timedelta(0)
    secret: RegisteredSecret | None = None


class OAuthClient(Response):
    """A client app as the Dashboard API shows it."""

    client_id: str
    secret: str | None = None
    """Absent where secrets are shown once, or the operator may not see it."""
    api_id: str
    redirect_uri: str
    redirect_uris: tuple[str, ...]
    policy_id: str
    policy_ids: tuple[str, ...]
    scope: str | None = None
    meta_data: dict[str, Any]
    description: str
    client_name: str
    public: bool
    resource_server: bool
    created_at: Moment
    updated_at: Moment


class ClientList(Response):
    """GET /api/apis/oauth/{api_id}."""

    apps: list[OAuthClient]
    pages: int


class ClientDeletion(enum.StrEnum):
    """Why a client went away."""

    CLIENT_DELETED = "client_deleted"
    API_DELETED = "api_deleted"
