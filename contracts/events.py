"""The catalogue of events: CloudEvents 1.0 in structured mode, one class per type, ids and never a token."""

from datetime import datetime
from typing import Annotated, ClassVar, Literal, NamedTuple

from pydantic import Field

from contracts.apis import GrantType
from contracts.base import Contract, Moment
from contracts.clients import ClientDeletion
from contracts.grants import RevocationReason
from contracts.operators import Actor, Permission

VENDOR = "io.tokenwire."
"""Prefix of every CloudEvents `type`; a routing key is the type without it, plus the api id."""


class Event(Contract):
    """A fact that stays true. Serialised without its None fields, it is the message body."""

    stem: ClassVar[str]
    """The type without the vendor prefix."""

    specversion: Literal["1.0"] = "1.0"
    id: str
    """Unique; the same on every resend."""
    source: str
    """`urn:tokenwire:<service>`."""
    type: str
    time: Moment
    subject: str
    """The id of the record whose change this is: grant, client, API, policy, operator or delivery."""
    sequence: str
    """Ten digits: the version that the change gave to the record. A subscriber sees a gap as a missing number."""
    datacontenttype: Literal["application/json"] = "application/json"
    traceparent: str | None = None
    """The trace of the request that caused it (W3C Trace Context)."""


class GrantData(Contract):
    """What every event of a grant says."""

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
    """True: the resource owner service gets a webhook for this."""


class RefreshData(TokenData):
    """A token pair that took the place of another."""

    previous_token_id: str


class RevokedTokenData(GrantData):
    """One access token ended; the grant lives."""

    token_id: str
    reason: RevocationReason
    actor: Actor | None = None
    """The operator who ended it; None: no operator did."""


class RevokedGrantData(GrantData):
    """The grant and all its tokens ended."""

    reason: RevocationReason
    actor: Actor | None = None
    """The operator who ended this grant by itself; None: no operator did, or one ended it with others."""


class CodeData(GrantData):
    """An authorization code, never the code itself."""

    expires_at: Moment


class ManagedData(Contract):
    """What every change of a record of management says of itself."""

    actor: Actor | None = None
    """The operator who made it, or the change that it follows from; None: no operator did."""
    changed: tuple[str, ...] | None = None
    """Names of the record's fields that have another value than before; None where it was made or is gone."""


class ClientData(ManagedData):
    """A client app."""

    client_id: str
    api_id: str


class DeletedClientData(ClientData):
    """A client app that is gone, and why."""

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
    """What the key opens after the change; None where it is dead."""


class ResourceOwnerData(ManagedData):
    """A resource owner, without the password."""

    username: str


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
    """A webhook delivery that begins anew."""

    actor: Actor | None = None
    """The operator who had it sent again."""


class CodeIssued(Event):
    """An authorization code was issued."""

    stem: ClassVar[str] = "code.issued"
    type: Literal["io.tokenwire.code.issued"] = "io.tokenwire.code.issued"
    data: CodeData


class TokenNew(Event):
    """The first token (pair) of a grant was issued."""

    stem: ClassVar[str] = "token.new"
    type: Literal["io.tokenwire.token.new"] = "io.tokenwire.token.new"
    data: TokenData


class TokenRefresh(Event):
    """A refresh token was used: its pair ended, the next one began."""

    stem: ClassVar[str] = "token.refresh"
    type: Literal["io.tokenwire.token.refresh"] = "io.tokenwire.token.refresh"
    data: RefreshData


class TokenRevoked(Event):
    """One access token was revoked; its grant goes on."""

    stem: ClassVar[str] = "token.revoked"
    type: Literal["io.tokenwire.token.revoked"] = "io.tokenwire.token.revoked"
    data: RevokedTokenData


class GrantRevoked(Event):
    """A grant ended, and with it its code, access token and refresh token."""

    stem: ClassVar[str] = "grant.revoked"
    type: Literal["io.tokenwire.grant.revoked"] = "io.tokenwire.grant.revoked"
    data: RevokedGrantData


class ClientCreated(Event):
    """A client app was registered."""

    stem: ClassVar[str] = "client.created"
    type: Literal["io.tokenwire.client.created"] = "io.tokenwire.client.created"
    data: ClientData


class ClientUpdated(Event):
    """A client app was edited."""

    stem: ClassVar[str] = "client.updated"
    type: Literal["io.tokenwire.client.updated"] = "io.tokenwire.client.updated"
    data: ClientData


class ClientSecretRotated(Event):
    """A client app got a new secret."""

    stem: ClassVar[str] = "client.secret_rotated"
    type: Literal["io.tokenwire.client.secret_rotated"] = "io.tokenwire.client.secret_rotated"
    data: ClientData


class ClientTokensRevoked(Event):
    """Every grant that the client had up to now is dead (`revoke_all`); one `grant.revoked` each follows."""

    stem: ClassVar[str] = "client.tokens_revoked"
    type: Literal["io.tokenwire.client.tokens_revoked"] = "io.tokenwire.client.tokens_revoked"
    data: ClientData


class ClientDeleted(Event):
    """A client app is gone; its grants are dead, and one `grant.revoked` each follows."""

    stem: ClassVar[str] = "client.deleted"
    type: Literal["io.tokenwire.client.deleted"] = "io.tokenwire.client.deleted"
    data: DeletedClientData


class ApiCreated(Event):
    """An API was imported."""

    stem: ClassVar[str] = "api.created"
    type: Literal["io.tokenwire.api.created"] = "io.tokenwire.api.created"
    data: ApiData


class ApiUpdated(Event):
    """An API's definition was replaced."""

    stem: ClassVar[str] = "api.updated"
    type: Literal["io.tokenwire.api.updated"] = "io.tokenwire.api.updated"
    data: ApiData


class ApiDeleted(Event):
    """An API is gone; `client.deleted` for each of its clients follows."""

    stem: ClassVar[str] = "api.deleted"
    type: Literal["io.tokenwire.api.deleted"] = "io.tokenwire.api.deleted"
    data: ApiData


class PolicyCreated(Event):
    """A policy was added."""

    stem: ClassVar[str] = "policy.created"
    type: Literal["io.tokenwire.policy.created"] = "io.tokenwire.policy.created"
    data: PolicyData


class PolicyUpdated(Event):
    """A policy was replaced; it applies to tokens already issued."""

    stem: ClassVar[str] = "policy.updated"
    type: Literal["io.tokenwire.policy.updated"] = "io.tokenwire.policy.updated"
    data: PolicyData


class PolicyDeleted(Event):
    """A policy is gone; it grants nothing any more."""

    stem: ClassVar[str] = "policy.deleted"
    type: Literal["io.tokenwire.policy.deleted"] = "io.tokenwire.policy.deleted"
    data: PolicyData


class OperatorCreated(Event):
    """An operator key was made."""

    stem: ClassVar[str] = "operator.created"
    type: Literal["io.tokenwire.operator.created"] = "io.tokenwire.operator.created"
    data: OperatorData


class OperatorUpdated(Event):
    """An operator's name or permissions changed."""

    stem: ClassVar[str] = "operator.updated"
    type: Literal["io.tokenwire.operator.updated"] = "io.tokenwire.operator.updated"
    data: OperatorData


class OperatorDeleted(Event):
    """An operator key is dead."""

    stem: ClassVar[str] = "operator.deleted"
    type: Literal["io.tokenwire.operator.deleted"] = "io.tokenwire.operator.deleted"
    data: OperatorData


class ResourceOwnerCreated(Event):
    """A resource owner was added."""

    stem: ClassVar[str] = "resource_owner.created"
    type: Literal["io.tokenwire.resource_owner.created"] = "io.tokenwire.resource_owner.created"
    data: ResourceOwnerData


class ResourceOwnerUpdated(Event):
    """A resource owner was edited."""

    stem: ClassVar[str] = "resource_owner.updated"
    type: Literal["io.tokenwire.resource_owner.updated"] = "io.tokenwire.resource_owner.updated"
    data: ResourceOwnerData


class ResourceOwnerDeleted(Event):
    """A resource owner is gone."""

    stem: ClassVar[str] = "resource_owner.deleted"
    type: Literal["io.tokenwire.resource_owner.deleted"] = "io.tokenwire.resource_owner.deleted"
    data: ResourceOwnerData


class NotificationDelivered(Event):
    """A resource owner service took the webhook."""

    stem: ClassVar[str] = "notification.delivered"
    type: Literal["io.tokenwire.notification.delivered"] = "io.tokenwire.notification.delivered"
    data: NotificationData


class NotificationFailed(Event):
    """An attempt failed; another will follow."""

    stem: ClassVar[str] = "notification.failed"
    type: Literal["io.tokenwire.notification.failed"] = "io.tokenwire.notification.failed"
    data: NotificationData


class NotificationExhausted(Event):
    """No further attempt will be made by itself; an operator may redeliver."""

    stem: ClassVar[str] = "notification.exhausted"
    type: Literal["io.tokenwire.notification.exhausted"] = "io.tokenwire.notification.exhausted"
    data: NotificationData


class NotificationRedelivered(Event):
    """An operator has had it sent again: it is due now, with every attempt before it."""

    stem: ClassVar[str] = "notification.redelivered"
    type: Literal["io.tokenwire.notification.redelivered"] = "io.tokenwire.notification.redelivered"
    data: RedeliveryData


AnyEvent = Annotated[
    CodeIssued
    | TokenNew
    | TokenRefresh
    | TokenRevoked
    | GrantRevoked
    | ClientCreated
    | ClientUpdated
    | ClientSecretRotated
    | ClientTokensRevoked
    | ClientDeleted
    | ApiCreated
    | ApiUpdated
    | ApiDeleted
    | PolicyCreated
    | PolicyUpdated
    | PolicyDeleted
    | OperatorCreated
    | OperatorUpdated
    | OperatorDeleted
    | ResourceOwnerCreated
    | ResourceOwnerUpdated
    | ResourceOwnerDeleted
    | NotificationDelivered
    | NotificationFailed
    | NotificationExhausted
    | NotificationRedelivered,
    Field(discriminator="type"),
]
"""Whatever may come from `tokenwire.events`."""

GrantEvent = CodeIssued | TokenNew | TokenRefresh | TokenRevoked | GrantRevoked


class PendingEvent(NamedTuple):
    """An event that was committed with its record and is not yet known to be published."""

    id: str
    owner: str
    """The id of the record that carries it."""
    key: str
    """The routing key."""
    body: bytes
    """The event as JSON: the very bytes to publish, on every attempt."""
    at: datetime
    sealed: bytes | None = None
    """The webhook's body sealed to the notifier's public key; only for events that are notified."""


class NotificationCommand(Contract):
    """What travels to the notifier alone: the event, and the webhook's body under its public key."""

    event: Annotated[TokenNew | TokenRefresh, Field(discriminator="type")]
    sealed: str
    """Base64 of a libsodium sealed box around `contracts.webhooks.TokenNotification` as JSON."""
