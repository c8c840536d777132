"""The catalogue of events: CloudEvents 1.0 in structured mode, one class per type, with ids and never a token.

The class of an event type is its only declaration. Its class variables, most of them inherited from a base class, say
which records it is about, whether the audit log keeps it, and what its routing key ends with. `EVENTS` collects the
classes; the recorder, the audit log, the event stream, the AsyncAPI document and the JSON Schemas are made from it.
"""

import enum
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple, Union

from pydantic import Field

from contracts.apis import GrantType
from contracts.base import Contract, Moment
from contracts.clients import ClientDeletion
from contracts.grants import RevocationReason
from contracts.operators import Actor, Permission

VENDOR = "io.tokenwire."
"""Prefix of every CloudEvents `type`. A routing key is the type without it, and one word more."""

_declared: list["type[Event]"] = []


class InAuditLog(enum.Enum):
    """Whether the audit log keeps events of a type."""

    ALWAYS = "always"
    BY_OPERATOR = "by_operator"
    """Only if an operator caused it: the event's data has an `actor`."""
    NEVER = "never"


class Event(Contract):
    """Something that has happened. Serialised without its None fields, it is the body of the message."""

    stem: ClassVar[str]
    """The type without the vendor prefix."""
    collection: ClassVar[str]
    """The collection of the records that these events are about."""
    last_word: ClassVar[str] = "{api_id}"
    """What follows the stem in the routing key; see `contracts.channels.WORDS`."""
    in_audit_log: ClassVar[InAuditLog] = InAuditLog.NEVER

    specversion: Literal["1.0"] = "1.0"
    id: str
    """Unique; the same on every resend."""
    source: str
    """`urn:tokenwire:<service>`."""
    type: str
    time: Moment
    subject: str
    """The id of the record that has changed: a grant, client, API, policy, operator, resource owner, user, delivery."""
    sequence: str
    """Ten digits: the version of the record after the change. A subscriber notices a gap by a missing number."""
    datacontenttype: Literal["application/json"] = "application/json"
    traceparent: str | None = None
    """The trace of the request that caused it (W3C Trace Context)."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Derive the stem of an event type from its `type`, and add it to the catalogue."""
        type_ = cls.model_fields["type"].default
        if isinstance(type_, str):  # a base class of several event types has none
            cls.stem = type_.removeprefix(VENDOR)
            _declared.append(cls)


class GrantData(Contract):
    """The data of every event about a grant."""

    grant_id: str
    api_id: str
    client_id: str
    grant_type: GrantType
    resource_owner: str | None = None
    scope: str | None = None


class TokenData(GrantData):
    """A token pair, by its public id."""

    token_id: str
    """The public id of the access token."""
    expires_at: Moment
    refresh_expires_at: Moment | None = None
    notify: bool = False
    """True if a webhook is sent for this."""


class RefreshData(TokenData):
    """A token pair that replaced another."""

    previous_token_id: str


class RevokedTokenData(GrantData):
    """One revoked access token."""

    token_id: str
    reason: RevocationReason
    actor: Actor | None = None
    """The operator who revoked it; None if no operator did."""


class RevokedGrantData(GrantData):
    """A revoked grant, with all its tokens."""

    reason: RevocationReason
    actor: Actor | None = None
    """The operator who revoked this grant alone; None if no operator did, or if it was revoked with others."""


class CodeData(GrantData):
    """An authorization code, never the code itself."""

    expires_at: Moment
    actor: Actor | None = None
    """The operator whose key requested it: the identity server."""


class ManagedData(Contract):
    """The data of every event about a record of the management API."""

    actor: Actor | None = None
    """The operator who made the change, or the change that it follows from; None if no operator did."""
    changed: tuple[str, ...] | None = None
    """Names of the fields whose values changed; None if the record was created or deleted."""


class ClientData(ManagedData):
    """A client app."""

    client_id: str
    api_id: str
    policy_ids: tuple[str, ...] | None = None
    """The policies after the change; None if the client was deleted."""


class DeletedClientData(ClientData):
    """A deleted client app, and why."""

    reason: ClientDeletion = ClientDeletion.CLIENT_DELETED


class ApiData(ManagedData):
    """An API."""

    api_id: str
    listen_path: str


class PolicyData(ManagedData):
    """A policy."""

    policy_id: str


class OperatorData(ManagedData):
    """An operator, without the key."""

    operator_id: str
    name: str
    permissions: tuple[Permission, ...] | None = None
    """The permissions after the change; None if the operator was deleted."""


class ResourceOwnerData(ManagedData):
    """A resource owner, without the password."""

    username: str
    policy_ids: tuple[str, ...] | None = None
    """The policies after the change; None if the user was deleted."""


class UserData(ManagedData):
    """Someone who authorizes grants: a user of an identity server, or a resource owner."""

    resource_owner: str
    """The name that the grants have as `resource_owner`."""


class NotificationData(Contract):
    """A webhook delivery; its subject is the delivery's id, which is the id of the token event."""

    delivery_id: str
    api_id: str
    client_id: str
    grant_id: str
    attempts: int
    status: int | None = None
    error: str | None = None
    next_attempt_at: Moment | None = None


class RedeliveryData(NotificationData):
    """A webhook delivery that is sent again."""

    actor: Actor | None = None
    """The operator who requested it."""


class GrantEvent(Event):
    """About a grant: its code, its tokens, or the grant itself."""

    collection: ClassVar[str] = "grants"


class ManagementEvent(Event):
    """About a record of the management API."""

    in_audit_log: ClassVar[InAuditLog] = InAuditLog.ALWAYS


class ClientEvent(ManagementEvent):
    """About a client app."""

    collection: ClassVar[str] = "clients"


class ApiEvent(ManagementEvent):
    """About an API."""

    collection: ClassVar[str] = "apis"


class PolicyEvent(ManagementEvent):
    """About a policy."""

    collection: ClassVar[str] = "policies"
    last_word: ClassVar[str] = "{policy_id}"


class OperatorEvent(ManagementEvent):
    """About an operator."""

    collection: ClassVar[str] = "operators"
    last_word: ClassVar[str] = "{operator_id}"


class ResourceOwnerEvent(ManagementEvent):
    """About a resource owner. The routing key does not have the user name, which may hold any character."""

    collection: ClassVar[str] = "resource_owners"
    last_word: ClassVar[str] = "user"


class UserEvent(ManagementEvent):
    """About someone who authorizes grants. The routing key does not have the name, which may hold any character."""

    collection: ClassVar[str] = "users"
    last_word: ClassVar[str] = "user"


class NotificationEvent(Event):
    """About the delivery of a webhook."""

    collection: ClassVar[str] = "deliveries"


class CodeIssued(GrantEvent):
    """An authorization code was issued."""

    type: Literal["io.tokenwire.code.issued"] = "io.tokenwire.code.issued"
    data: CodeData


class TokenNew(GrantEvent):
    """The first token (pair) of a grant was issued."""

    type: Literal["io.tokenwire.token.new"] = "io.tokenwire.token.new"
    data: TokenData


class TokenRefresh(GrantEvent):
    """A refresh token was used: its token pair ended, and a new one was issued."""

    type: Literal["io.tokenwire.token.refresh"] = "io.tokenwire.token.refresh"
    data: RefreshData


class TokenRevoked(GrantEvent):
    """One access token was revoked; its grant stays valid."""

    in_audit_log: ClassVar[InAuditLog] = InAuditLog.BY_OPERATOR
    type: Literal["io.tokenwire.token.revoked"] = "io.tokenwire.token.revoked"
    data: RevokedTokenData


class GrantRevoked(GrantEvent):
    """A grant was revoked, with its code, access token and refresh token."""

    in_audit_log: ClassVar[InAuditLog] = InAuditLog.BY_OPERATOR
    type: Literal["io.tokenwire.grant.revoked"] = "io.tokenwire.grant.revoked"
    data: RevokedGrantData


class ClientCreated(ClientEvent):
    """A client app was registered."""

    type: Literal["io.tokenwire.client.created"] = "io.tokenwire.client.created"
    data: ClientData


class ClientUpdated(ClientEvent):
    """A client app was edited."""

    type: Literal["io.tokenwire.client.updated"] = "io.tokenwire.client.updated"
    data: ClientData


class ClientSecretRotated(ClientEvent):
    """A client app got a new secret, on all APIs on which it is registered."""

    type: Literal["io.tokenwire.client.secret_rotated"] = "io.tokenwire.client.secret_rotated"
    data: ClientData


class ClientTokensRevoked(ClientEvent):
    """All grants that the client has had so far on this API are revoked (`revoke_all`), each with a `grant.revoked`."""

    type: Literal["io.tokenwire.client.tokens_revoked"] = "io.tokenwire.client.tokens_revoked"
    data: ClientData


class ClientDeleted(ClientEvent):
    """A client app was deleted from an API; its grants there are revoked, and a `grant.revoked` for each follows."""

    type: Literal["io.tokenwire.client.deleted"] = "io.tokenwire.client.deleted"
    data: DeletedClientData


class ApiCreated(ApiEvent):
    """An API was imported."""

    type: Literal["io.tokenwire.api.created"] = "io.tokenwire.api.created"
    data: ApiData


class ApiUpdated(ApiEvent):
    """An API's definition was replaced."""

    type: Literal["io.tokenwire.api.updated"] = "io.tokenwire.api.updated"
    data: ApiData


class ApiSigningSecretRotated(ApiEvent):
    """The API's webhooks are signed with a new secret; during an overlap with the old one, too."""

    type: Literal["io.tokenwire.api.signing_secret_rotated"] = "io.tokenwire.api.signing_secret_rotated"
    data: ApiData


class ApiDeleted(ApiEvent):
    """An API was deleted; a `client.deleted` for each of its clients follows."""

    type: Literal["io.tokenwire.api.deleted"] = "io.tokenwire.api.deleted"
    data: ApiData


class PolicyCreated(PolicyEvent):
    """A policy was added."""

    type: Literal["io.tokenwire.policy.created"] = "io.tokenwire.policy.created"
    data: PolicyData


class PolicyUpdated(PolicyEvent):
    """A policy was replaced; the new one applies to tokens already issued."""

    type: Literal["io.tokenwire.policy.updated"] = "io.tokenwire.policy.updated"
    data: PolicyData


class PolicyDeleted(PolicyEvent):
    """A policy was deleted; it no longer grants anything."""

    type: Literal["io.tokenwire.policy.deleted"] = "io.tokenwire.policy.deleted"
    data: PolicyData


class OperatorCreated(OperatorEvent):
    """An operator was created."""

    type: Literal["io.tokenwire.operator.created"] = "io.tokenwire.operator.created"
    data: OperatorData


class OperatorUpdated(OperatorEvent):
    """An operator's name or permissions changed."""

    type: Literal["io.tokenwire.operator.updated"] = "io.tokenwire.operator.updated"
    data: OperatorData


class OperatorKeyRotated(OperatorEvent):
    """An operator got a new key."""

    type: Literal["io.tokenwire.operator.key_rotated"] = "io.tokenwire.operator.key_rotated"
    data: OperatorData


class OperatorDeleted(OperatorEvent):
    """An operator was deleted; the key is no longer accepted."""

    type: Literal["io.tokenwire.operator.deleted"] = "io.tokenwire.operator.deleted"
    data: OperatorData


class ResourceOwnerCreated(ResourceOwnerEvent):
    """A resource owner was added."""

    type: Literal["io.tokenwire.resource_owner.created"] = "io.tokenwire.resource_owner.created"
    data: ResourceOwnerData


class ResourceOwnerUpdated(ResourceOwnerEvent):
    """A resource owner was edited."""

    type: Literal["io.tokenwire.resource_owner.updated"] = "io.tokenwire.resource_owner.updated"
    data: ResourceOwnerData


class ResourceOwnerDeleted(ResourceOwnerEvent):
    """A resource owner was deleted."""

    type: Literal["io.tokenwire.resource_owner.deleted"] = "io.tokenwire.resource_owner.deleted"
    data: ResourceOwnerData


class UserTokensRevoked(UserEvent):
    """All grants that the user has authorized so far are revoked; a `grant.revoked` for each goes with it."""

    type: Literal["io.tokenwire.user.tokens_revoked"] = "io.tokenwire.user.tokens_revoked"
    data: UserData


class NotificationDelivered(NotificationEvent):
    """The receiver accepted the webhook (2xx)."""

    type: Literal["io.tokenwire.notification.delivered"] = "io.tokenwire.notification.delivered"
    data: NotificationData


class NotificationFailed(NotificationEvent):
    """An attempt to deliver a webhook failed; another will follow."""

    type: Literal["io.tokenwire.notification.failed"] = "io.tokenwire.notification.failed"
    data: NotificationData


class NotificationExhausted(NotificationEvent):
    """A webhook was given up after its last attempt; an operator may redeliver it."""

    type: Literal["io.tokenwire.notification.exhausted"] = "io.tokenwire.notification.exhausted"
    data: NotificationData


class NotificationRedelivered(NotificationEvent):
    """An operator requested that a webhook is sent again; delivery is scheduled now, and its attempts start again."""

    in_audit_log: ClassVar[InAuditLog] = InAuditLog.BY_OPERATOR
    type: Literal["io.tokenwire.notification.redelivered"] = "io.tokenwire.notification.redelivered"
    data: RedeliveryData


EVENTS: tuple[type[Event], ...] = tuple(_declared)
"""The class of every event type, in the order of declaration."""

if TYPE_CHECKING:
    AnyEvent = Event
else:
    AnyEvent = Annotated[Union[EVENTS], Field(discriminator="type")]  # noqa: UP007 - of a tuple
    """Any event that is published on `tokenwire.events`, for validation: the type decides about the class."""


class RefusedBy(enum.StrEnum):
    """Whose queue on the bus refused an event."""

    POOL = "pool"
    """Only Tokenwire's own queues."""
    SUBSCRIBER = "subscriber"
    """A queue of a downstream system, or every queue, as on a broker with a full disk."""


class PendingEvent(NamedTuple):
    """An event that was committed with its record and is not known to be published yet."""

    id: str
    owner: str
    """The id of the record that carries it."""
    key: str
    """The routing key."""
    body: bytes
    """The event as JSON; every attempt publishes the same bytes."""
    at: datetime
    sealed: bytes | None = None
    """The webhook's body, sealed to the notifier's public key; only for events with a webhook."""
    refused_by: RefusedBy | None = None
    """Set once a queue refused it; it is published again when that queue accepts messages again."""


class NotificationCommand(Contract):
    """The message to the notifier alone: the event, and the webhook's body sealed to the notifier's public key."""

    event: Annotated[TokenNew | TokenRefresh, Field(discriminator="type")]
    sealed: str
    """Base64 of a libsodium sealed box around `contracts.webhooks.TokenNotification` as JSON."""
