"""Client apps: the stored record, and requests and responses in the format of Tyk's Dashboard API."""

import enum
from collections.abc import Collection, Mapping
from datetime import timedelta
from typing import Annotated, Any

from pydantic import Field, SecretStr, StringConstraints, model_validator

from contracts.base import (
    AdminRequest,
    ClientId,
    Contract,
    Moment,
    Name,
    NewName,
    NewText,
    PublicId,
    Record,
    Response,
    Scope,
    Seconds,
    Text,
)


class ClientSecret(Contract):
    """One secret of a client: a keyed digest to compare with and, unless secrets are shown once, an encrypted copy."""

    digest: str
    """`<key id>.<base64url of HMAC-SHA-256>`."""
    encrypted: str | None = None
    """The secret, encrypted with the key ring; None if secrets are shown only once."""
    created_at: Moment
    expires_at: Moment | None = None
    """When a replaced secret stops working; None: valid until it is replaced."""
    short: bool = False
    """True: it has fewer characters than a secret should have; the configuration check reports it."""


class Registration(Contract):
    """What holds for a client on one API."""

    api_id: PublicId
    name: Name = ""
    description: Text = ""
    redirect_uris: tuple[Text, ...] = ()
    policy_ids: tuple[PublicId, ...] = ()
    scope: Scope | None = None
    """Scopes that the client may request; None: all that the API declares."""
    meta_data: dict[str, Any] = {}
    resource_server: bool = False
    """True: the client is the API's resource server and may introspect all access tokens of the API (RFC 7662)."""
    localhost_any_port: bool = False
    """True: a redirect URI with host `localhost` matches any port. RFC 8252 §8.3 advises against `localhost`."""
    revoked_before: Moment | None = None
    """Grants created until then are revoked, whatever their own record says."""
    registration: str | None = None
    """Keyed digest of the request that registered the client, kept until its response is known to have been sent."""
    created_at: Moment
    updated_at: Moment


class Client(Registration, Record):
    """A client app, seen from one API on which it is registered. Without secrets it is public (RFC 6749 §2.1).

    Id and secrets are the same on all of its APIs; everything else belongs to the registration.
    """

    client_id: ClientId
    secrets: tuple[ClientSecret, ...] = ()
    others: tuple[Registration, ...] = ()
    """The registrations on other APIs."""
    unregistered_at: Moment | None = None
    """When the client was last deleted from one of its APIs. Grants from before must not revive if it is registered
    there again."""


RegisteredSecret = Annotated[SecretStr, Field(min_length=1, max_length=256)]
"""The setting `min_client_secret_length` says how short it may be."""


def _without_empty(body: Any, names: Collection[str] | None = None) -> Any:
    """The body without these fields (None: any) that are `""`, which Tyk's Dashboard sends for what is not given."""
    if not isinstance(body, Mapping):
        return body
    return {name: value for name, value in body.items() if value != "" or (names is not None and name not in names)}


class ClientRegistration(AdminRequest):
    """POST /api/apis/oauth/{api_id}. `client_id` and `secret` are generated if they are omitted; `""` is as omitted."""

    client_id: ClientId | None = None
    secret: RegisteredSecret | None = None
    public: bool = False
    """True: a client without a secret, which can use only the authorization code grant with PKCE."""
    api_id: PublicId | None = None
    """Optional; must equal the one in the path."""
    redirect_uri: Text | None = None
    """One redirect URI, or several separated by `;`. Alternative to `redirect_uris`."""
    redirect_uris: tuple[Text, ...] | None = None
    policy_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")] | None = None
    policy_ids: tuple[PublicId, ...] | None = None
    scope: Scope | None = None
    meta_data: dict[str, Any] | None = None
    description: NewText | None = None
    client_name: NewName | None = None
    resource_server: bool = False
    """True: the client is the API's resource server and may introspect all access tokens of the API."""
    localhost_any_port: bool = False
    """True: `http://localhost/…` matches any port, as `http://127.0.0.1/…` does (RFC 8252 §7.3)."""

    @model_validator(mode="before")
    @classmethod
    def _empty_is_omitted(cls, body: Any) -> Any:
        return _without_empty(body)


class ClientEdit(AdminRequest):
    """PUT /api/apis/oauth/{api_id}/{client_id}: changes the named fields; null clears a field.

    `""` clears texts, `redirect_uri` and `policy_id`, which GET shows so; elsewhere it is as omitted.
    """

    client_id: ClientId | None = None
    api_id: PublicId | None = None
    secret: SecretStr | None = None
    """Must equal the current secret, so that a client that was read can be written back; change it with …/rotate."""
    redirect_uri: Text | None = None
    redirect_uris: tuple[Text, ...] | None = None
    policy_id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{0,64}$")] | None = None
    policy_ids: tuple[PublicId, ...] | None = None
    scope: Scope | None = None
    meta_data: dict[str, Any] | None = None
    description: NewText | None = None
    client_name: NewName | None = None
    resource_server: bool | None = None
    localhost_any_port: bool | None = None
    public: bool | None = None
    created_at: Moment | None = None
    updated_at: Moment | None = None

    @model_validator(mode="before")
    @classmethod
    def _empty_is_omitted(cls, body: Any) -> Any:
        return _without_empty(body, ("client_id", "api_id", "secret", "scope", "meta_data"))


class SecretRotation(AdminRequest):
    """PUT …/rotate: sets a new secret; the old one works for `overlap` more seconds (0: not at all)."""

    overlap: Annotated[Seconds, Field(ge=timedelta(0), le=timedelta(days=90))] = timedelta(0)
    secret: RegisteredSecret | None = None


class OAuthClient(Response):
    """A client app in the Dashboard API's format."""

    client_id: str
    secret: str | None = None
    """Absent if secrets are shown only once, or if the operator lacks `write`."""
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
    localhost_any_port: bool | None = None
    """Absent if it is off."""
    created_at: Moment
    updated_at: Moment


class ClientList(Response):
    """GET /api/apis/oauth/{api_id}."""

    apps: list[OAuthClient]
    pages: int
    """Number of pages with 100 records each; 101 means more than 100."""
    next: str | None = None
    """Cursor of the next page, to pass as `after`; absent on the last page."""


class ClientDeletion(enum.StrEnum):
    """Why a client was deleted."""

    CLIENT_DELETED = "client_deleted"
    API_DELETED = "api_deleted"
