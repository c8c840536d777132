"""What a client may do with some policies, and who has a policy."""

import enum
from typing import Annotated, Any

from pydantic import Field

from contracts.base import AdminRequest, ClientId, PublicId, Response
from contracts.limits import Limits
from contracts.policies import AllowedUrl
from contracts.resource_owners import Username


class PolicyPreviewRequest(AdminRequest):
    """POST /api/portal/policies/preview: a client app of an API, perhaps with other policies than it has."""

    api_id: PublicId
    """The API that issues the tokens."""
    client_id: ClientId | None = None
    """A client app of this API; null: one without metadata."""
    policy_ids: Annotated[tuple[PublicId, ...], Field(max_length=50)] | None = None
    """The policies to try in place of the client app's; null: those that it has. Empty: none."""
    username: Username | None = None
    """A resource owner whose policies apply as well, as with the password grant."""


class PreviewOutcome(enum.StrEnum):
    """Whether tokens would open an API."""

    GRANTED = "granted"
    NOT_GRANTED = "not_granted"
    """No policy grants it, or not the policies of every holder do."""
    NO_ACTIVE_POLICY = "no_active_policy"
    """All policies of the client app or of the user are deleted or switched off: its tokens are refused everywhere."""
    INACTIVE = "inactive"
    """A policy says `is_inactive`: its tokens are refused everywhere."""
    NO_SUCH_API = "no_such_api"
    """A policy names an API that does not exist."""


class PreviewedEndpoint(Response):
    """The rate limit of calls of one endpoint, which count apart from those of others."""

    pattern: str
    """A regular expression, searched for in the path below the listen path."""
    methods: list[str]
    limits: Limits
    """A `rate` of 0: such calls have no rate limit by the policies that say so."""


class PreviewedApi(Response):
    """What tokens may do on one API."""

    api_id: str
    outcome: PreviewOutcome
    urls: list[list[AllowedUrl]] = []
    """A call must match one rule of each of these lists; none: every path and method is allowed."""
    versions: list[list[str]] = []
    """The version of a call must be in each of these lists; none: the API has no versions."""
    limits: Limits | None = None
    endpoints: list[PreviewedEndpoint] = []
    """Rate limits of single endpoints, which count in place of the rate in `limits`; the quota stays the same."""
    own_counter: bool = False
    """True: calls of this API are counted apart from those of the others."""
    meta_data: dict[str, Any] = {}


class PolicyPreview(Response):
    """What the tokens may do."""

    policy_ids: list[str]
    """The policies that stand for the client app's."""
    user_policy_ids: list[str]
    apis: list[PreviewedApi]
    """The issuing API first, then the others that the policies name, by id; at most 100."""
    more: bool
    """Whether the policies name more APIs."""


class PolicyHolder(Response):
    """A client app that has a policy."""

    client_id: str
    api_id: str
    """The API on which it has the policy."""
    client_name: str


class PolicyUsage(Response):
    """GET /api/portal/policies/{policy_id}/usage."""

    clients: list[PolicyHolder]
    """The first 20 by id."""
    client_count: int
    """Client apps with the policy, counted to at most 1001."""
    users: list[str]
    """The first 20 by name."""
    user_count: int
    """Resource owners with the policy, counted to at most 1001."""
