"""The bodies of the open-source Tyk gateway's own API (`/tyk/…`)."""

from typing import Any, Literal

from pydantic import RootModel

from contracts.base import AdminRequest, ClientId, PublicId, Request, Response


class GatewayStatus(Response):
    """The gateway's format for errors, and for results that have no body of their own."""

    status: Literal["ok", "error"]
    message: str
    meta: Any = None
    """The facts of an error in a form for programs; absent if there are none."""


class GatewayAction(Response):
    """What was done to the record with this key."""

    key: str
    status: Literal["ok"] = "ok"
    action: Literal["added", "modified", "deleted"]
    warnings: list[str] | None = None
    """Parts of an imported definition or policy that have no effect; absent if there are none."""


class GatewayClientRequest(Request):
    """A client app in the gateway's format. Fields that the gateway does not know are ignored."""

    client_id: ClientId | None = None
    """Generated if it is absent or empty, as the secret."""
    secret: str | None = None
    api_id: str | None = None
    """Absent: the client is registered on every OAuth API of its policy."""
    redirect_uri: str | None = None
    policy_id: str | None = None
    meta_data: dict[str, Any] | None = None
    description: str | None = None


class GatewayClient(Response):
    """A client app in the gateway's format."""

    client_id: str
    secret: str | None = None
    """Absent if secrets are shown only once, or if the operator lacks `write`."""
    redirect_uri: str
    policy_id: str | None = None
    """Absent if the client has no policy."""
    meta_data: dict[str, Any]
    description: str


class GatewayPassword(Request):
    """The password of a user."""

    password: str | None = None


class GatewaySessionRequest(Request):
    """A user of the password grant, as a session of Tyk's. Fields that would restrict it otherwise are refused."""

    basic_auth_data: GatewayPassword | None = None
    apply_policies: list[PublicId] | None = None
    apply_policy_id: PublicId | Literal[""] | None = None
    is_inactive: bool = False
    meta_data: dict[str, Any] | None = None


class GatewaySession(Response):
    """A user or an access token, as a session of Tyk's."""

    apply_policies: list[str]
    is_inactive: bool
    meta_data: dict[str, Any] | None = None
    oauth_client_id: str | None = None
    """For an access token: the client it was issued to; likewise the fields below."""
    expires: int | None = None
    """Unix seconds."""
    alias: str | None = None
    """The resource owner."""
    access_rights: dict[str, dict[str, Any]] | None = None


class GatewayList(RootModel[list[dict[str, Any]]]):
    """All records of a kind."""


class GatewayIds(RootModel[list[str]]):
    """The ids of records."""


class GatewayKeys(Response):
    """The names of all users of the password grant."""

    keys: list[str]


class GatewayHealth(Response):
    """The state of the process, without the details that only operators should see."""

    status: Literal["pass", "warn", "fail"]
    version: str
    description: str


class GatewayListQuery(AdminRequest):
    """The rest of a list that is longer than one response."""

    after: str | None = None
    """The cursor in the `Link` header of the previous response."""


class RefreshTokenQuery(Request):
    """Which API issued the refresh token."""

    api_id: str = ""


class PurgeQuery(Request):
    """What to purge."""

    scope: str = ""
    """Only `lapsed`."""


class GatewayRevocationRequest(Request):
    """The tokens of a client to revoke."""

    token: str = ""
    token_type_hint: str | None = None
    client_id: str = ""
    client_secret: str | None = None
    org_id: str | None = None
    """Ignored."""
