"""GET /api/grants/{grant_id}/timeline: everything that happened to a grant, from its code to its end.

The event log, the outbox and the audit log say what changed, when, and who did it; the deliveries say what became of
the webhooks. A policy counts at the moment of a call, so the policies of an issued token are those that the audit log
shows for that moment.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from aiohttp import web

from contracts.audit_log import AuditLogEntry
from contracts.grant_views import (
    ActorKind,
    GrantTimeline,
    Publication,
    TimelineActor,
    TimelineEntry,
    TimelineWebhook,
)
from contracts.grants import Grant, RevocationReason
from contracts.operations import ResponseSpec
from contracts.operators import Actor, Permission
from contracts.reconciliation import RecordedEvent
from libs.event_log import recorded_event
from libs.http.operations import operator_operation
from libs.oauth.token_formats import public_token_id
from libs.store.store import Store
from services.management.grant_search import GrantSearch
from services.management.policy_history import policy_history
from services.management.success_responses import document

_PAIRS = ("token.new", "token.refresh")
_ISSUING = ("code.issued", *_PAIRS)
_BY_CLIENT = (RevocationReason.CODE_REPLAY, RevocationReason.REFRESH_REUSE, RevocationReason.CLIENT_REQUEST)
_TOGETHER: Mapping[str, str] = {
    RevocationReason.REVOKE_ALL: "client.tokens_revoked",
    RevocationReason.CLIENT_DELETED: "client.deleted",
    RevocationReason.API_DELETED: "client.deleted",
    RevocationReason.USER_REVOKED: "user.tokens_revoked",
}
"""For grants that were revoked with others: the change of their client or user that ended them."""


@dataclass(frozen=True, slots=True)
class TimelineEndpoint:
    """For operators with the permission `read`."""

    search: GrantSearch
    store: Store

    @operator_operation(
        "GET",
        "/api/grants/{grant_id}/timeline",
        "getGrantTimeline",
        Permission.READ,
        tag="Grants",
        summary="Get a grant's timeline",
        description="Every change of the grant with time and actor, its events with sequence and publication, the "
        "attempts to deliver their webhooks, the policies that counted, and how many "
        "calls were refused. Events are kept for eight days, deliveries "
        "for fourteen.",
        response=ResponseSpec(description="The timeline, the oldest entry first.", models=(GrantTimeline,)),
        errors=(404,),
    )
    async def show(self, request: web.Request) -> web.Response:
        """GET /api/grants/{grant_id}/timeline."""
        grant = await self.search.named(request)
        view = await self.search.view(grant)
        events, together, history, refused = await asyncio.gather(
            self._events(grant),
            self._revoked_together(grant),
            policy_history(self.store, grant),
            self.store.refused_calls.of(grant.grant_id),
        )
        webhooks = await asyncio.gather(*(self._webhook(event) for event, _ in events))
        token_ids = _token_ids(grant, [event for event, _ in events])
        entries = [
            TimelineEntry(
                at=event.time,
                type=event.type,
                subject=event.subject,
                event_id=event.id,
                sequence=event.sequence,
                publication=publication,
                actor=_actor(grant, event, together),
                token_id=token_id,
                reason=event.reason,
                policies=history.at(event.time) if event.type in _ISSUING else None,
                webhook=webhook,
            )
            for (event, publication), webhook, token_id in zip(events, webhooks, token_ids, strict=True)
        ]
        end = view.ended_at or self.search.now()
        entries += [_of_record(change) for change in history.changes(grant.created_at, end)]
        timeline = GrantTimeline(
            grant=view,
            entries=sorted(entries, key=lambda entry: (entry.at, entry.subject, entry.sequence)),
            complete=len(events) == grant.sequence,
            refused=refused,
        )
        return document(timeline)

    async def _events(self, grant: Grant) -> Sequence[tuple[RecordedEvent, Publication]]:
        """The grant's events in their order, and what became of each on the bus."""
        # First those that the grant carries: an event that is published meanwhile is then found twice, not never.
        carried = await self.store.grants.unpublished(grant.grant_id)
        found = {
            event.id: (recorded_event(event.body), Publication.REFUSED if event.refused_by else Publication.PENDING)
            for event in carried
        }
        for recorded in await self.store.events.of("grants", grant.grant_id):
            found[recorded.id] = recorded, Publication.PUBLISHED
        # One that came after the grant was read is left for the next request.
        events = [each for each in found.values() if each[0].sequence <= grant.sequence]
        return sorted(events, key=lambda each: each[0].sequence)

    async def _revoked_together(self, grant: Grant) -> Sequence[AuditLogEntry]:
        """The changes that may have ended this grant together with others of its client or its user."""
        log = self.store.audit_log
        of_client = [each for each in await log.about(grant.client_id, "client") if each.api_id == grant.api_id]
        of_user = await log.about(grant.subject, "user") if grant.subject is not None else ()
        return [change for change in (*of_client, *of_user) if change.action in _TOGETHER.values()]

    async def _webhook(self, event: RecordedEvent) -> TimelineWebhook | None:
        delivery = await self.store.deliveries.get(event.id) if event.notify else None
        return (
            TimelineWebhook(**delivery.model_dump(include=set(TimelineWebhook.model_fields)))
            if delivery is not None
            else None
        )


def _token_ids(grant: Grant, events: Sequence[RecordedEvent]) -> Sequence[str | None]:
    """For each event, the public id of the access token that was the newest after it; None if that is not known."""
    pairs = list(accumulate(int(event.type in _PAIRS) for event in events))
    # If the first events are not kept any more, the last one tells how many pairs there were before.
    complete_to_the_end = bool(events) and events[-1].sequence == grant.sequence
    offset = grant.generation - pairs[-1] if complete_to_the_end else 0
    if not complete_to_the_end and (not events or events[0].sequence != 1):
        return [None] * len(events)
    concerned = (*_PAIRS, "token.revoked")
    return [
        public_token_id(grant.grant_id, offset + pair) if event.type in concerned else None
        for event, pair in zip(events, pairs, strict=True)
    ]


def _actor(grant: Grant, event: RecordedEvent, together: Sequence[AuditLogEntry]) -> TimelineActor | None:
    """Who made the change. A service made it if nobody asked for it, as after the deletion of an API by its cause."""
    if event.actor is not None:
        return _operator(event.actor)
    if event.type in _PAIRS or event.reason in _BY_CLIENT:
        return TimelineActor(kind=ActorKind.CLIENT, id=grant.client_id)
    action = _TOGETHER.get(event.reason or "")
    causes = [change for change in together if change.action == action and change.at <= event.time]
    if not causes:
        return None
    cause = max(causes, key=lambda change: change.version)
    if cause.actor is not None:
        return _operator(cause.actor)
    if event.reason == RevocationReason.REVOKE_ALL:
        return TimelineActor(kind=ActorKind.CLIENT, id=grant.client_id)
    return TimelineActor(kind=ActorKind.SERVICE, id=cause.source.rpartition(":")[2])


def _of_record(change: AuditLogEntry) -> TimelineEntry:
    """The change of a client, a user or a policy that changed what the grant may do."""
    return TimelineEntry(
        at=change.at,
        type=change.action,
        subject=change.subject,
        event_id=change.id,
        sequence=change.version,
        publication=Publication.PUBLISHED,
        actor=_operator(change.actor) if change.actor else None,
    )


def _operator(actor: Actor) -> TimelineActor:
    return TimelineActor(kind=ActorKind.OPERATOR, id=actor.operator_id, name=actor.name)
