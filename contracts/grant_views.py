"""Grants as the management API shows them: lists, one grant, and its timeline. Never a token, only public ids."""

import enum
from typing import Annotated

from pydantic import Field, SecretStr

from contracts.apis import GrantType
from contracts.base import AdminRequest, ClientId, Moment, PublicId, Response
from contracts.grants import GrantState, RevocationReason
from contracts.webhooks import Attempt, DeliveryState

Subject = Annotated[str, Field(min_length=1, max_length=256)]
"""Who authorized a grant; any characters."""


class GrantQuery(AdminRequest):
    """The parameters of GET /api/grants. Any combination is found through an index."""

    client_id: ClientId | None = None
    api_id: PublicId | None = None
    subject: Subject | None = None
    """The resource owner who authorized the grants, exactly as the identity server named them."""
    state: GrantState | None = None
    """`pending`: a code was issued; `active`: tokens were issued, even if all of them have expired; `revoked`."""
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    after: str | None = None
    """`next` of the previous page."""


class CodeView(Response):
    """The authorization code of a grant."""

    expires_at: Moment
    used_at: Moment | None = None


class AccessTokenView(Response):
    """The newest access token of a grant."""

    token_id: str
    """The token's public id, which `…/revoke` accepts as `token`."""
    scope: str | None = None
    issued_at: Moment
    expires_at: Moment
    revoked: bool
    """Whether it was revoked alone; its grant may be active all the same."""


class RefreshTokenView(Response):
    """The newest refresh token of a grant."""

    expires_at: Moment


class GrantView(Response):
    """One authorization of one client on one API."""

    grant_id: str
    state: GrantState
    expired: bool
    """Whether its code, access token and refresh token have all expired. It is deleted a day after that."""
    api_id: str
    client_id: str
    grant_type: GrantType
    subject: str | None = None
    scope: str | None = None
    redirect_uri: str | None = None
    created_at: Moment
    expires_at: Moment
    """No token of the grant is valid after this."""
    ended_at: Moment | None = None
    """When it was revoked."""
    ended_reason: RevocationReason | None = None
    generation: int
    """How many token pairs were issued; 0 while there is only a code."""
    code: CodeView | None = None
    access: AccessTokenView | None = None
    refresh: RefreshTokenView | None = None


class GrantList(Response):
    """GET /api/grants: the newest first."""

    grants: list[GrantView]
    next: str | None = None
    """Pass as `after` to get the next page; null on the last one."""


class GrantLookup(AdminRequest):
    """POST /api/grants/lookup. The value is in the body, because URLs are logged."""

    token: SecretStr
    """An access token, a refresh token, a code, or the public id of an access token."""


class PresentedKind(enum.StrEnum):
    """What kind of value was looked up."""

    CODE = "code"
    ACCESS_TOKEN = "access_token"  # noqa: S105 - a kind
    REFRESH_TOKEN = "refresh_token"  # noqa: S105 - a kind
    TOKEN_ID = "token_id"  # noqa: S105 - a kind


class FoundGrant(Response):
    """The grant that a token or code belongs to."""

    grant: GrantView
    kind: PresentedKind
    generation: int
    """Which of the grant's token pairs the value is from; 0 for a code."""
    valid: bool
    """Whether this very value works now: issued by this server, unused, not replaced, not expired, not revoked."""


class ActorKind(enum.StrEnum):
    """Who made a change."""

    CLIENT = "client"
    OPERATOR = "operator"
    SERVICE = "service"
    """Tokenwire itself, as a consequence of another change."""


class TimelineActor(Response):
    """Who made a change: a client app or an operator by id, or a service by name."""

    kind: ActorKind
    id: str
    name: str | None = None


class Publication(enum.StrEnum):
    """What became of an event on the bus."""

    PUBLISHED = "published"
    PENDING = "pending"
    """Still stored with its record; it is published as soon as the bus accepts it."""
    REFUSED = "refused"
    """A queue did not accept it; it is published again when that queue accepts messages again."""


class PolicyHolder(enum.StrEnum):
    """Why a policy counts for a grant."""

    CLIENT = "client"
    RESOURCE_OWNER = "resource_owner"
    KEY_RULES = "key_rules"


class CountingPolicy(Response):
    """A policy that decided about the grant's calls at that time."""

    policy_id: str
    holder: PolicyHolder
    version: int | None = None
    """The version that was in force; the audit log says what made it. Null: not known any more, or the policy did not
    exist."""


class TimelineWebhook(Response):
    """The webhook for an event."""

    delivery_id: str
    state: DeliveryState
    attempts: tuple[Attempt, ...]
    """The latest attempts, with status and latency."""
    attempt_count: int
    next_attempt_at: Moment | None = None


class TimelineEntry(Response):
    """One change of the grant, or of a record that decides about it."""

    at: Moment
    type: str
    """The event's type without the vendor prefix: `code.issued`, `token.new`, `token.refresh`, `token.revoked`,
    `grant.revoked`; or `client.…`, `policy.…`, `resource_owner.…`, where policies of the grant changed."""
    subject: str
    """The id of the record that changed."""
    event_id: str
    sequence: int
    """The event's `sequence`: the version of the record after the change."""
    publication: Publication
    actor: TimelineActor | None = None
    """Null: not known."""
    token_id: str | None = None
    """The public id of the access token that was issued or revoked."""
    reason: str | None = None
    """Why a token or the grant was revoked."""
    policies: tuple[CountingPolicy, ...] | None = None
    """For an issued code or token: the policies that counted at that moment. Null: not known any more; an empty list:
    the client had none."""
    webhook: TimelineWebhook | None = None


class RefusalCount(Response):
    """Refused calls of one kind."""

    reason: str
    """As in the usage report: `expired`, `unknown_token` (also revoked or replaced), `rate_limit` …"""
    count: int


class RefusedCallsView(Response):
    """Calls with tokens of the grant that the gateways refused."""

    counts: list[RefusalCount]
    last_at: Moment | None = None
    """The latest refusal, to the second."""


class GrantTimeline(Response):
    """GET /api/grants/{grant_id}/timeline."""

    grant: GrantView
    entries: list[TimelineEntry]
    """The oldest first."""
    complete: bool
    """Whether every event of the grant is among the entries. Events are kept for eight days."""
    refused: RefusedCallsView
    """Counted since the grant began, up to a second ago; a call without a token, or with one that was never issued,
    belongs to no grant."""
