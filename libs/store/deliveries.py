"""Webhook deliveries: what is to be sent, what was sent, and which notifier is sending it now."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from pymongo import ASCENDING, DESCENDING, IndexModel

from contracts.events import (
    Event,
    NotificationDelivered,
    NotificationExhausted,
    NotificationFailed,
    NotificationRedelivered,
    PendingEvent,
)
from contracts.webhooks import Attempt, Delivery, DeliveryQuery, DeliveryState, RedeliveryRequest
from libs.event_encoding import EventContext, encode_event, first_event_id, new_event_id
from libs.store.mongo import Document, Mongo, outage_is_unavailability, outcome_of_write
from libs.store.outbox_collection import Announce, OutboxCollection, announce_nothing
from libs.store.updates import Change, batched_updates, new_stamp

KEPT = timedelta(days=14)
"""How long a finished delivery stays readable, and an exhausted one can be redelivered."""
BODY_KEPT = timedelta(days=1)
"""How long the body of a delivered webhook is kept, so that a receiver that lost it can get it again."""
KEPT_ATTEMPTS = 32
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_REDELIVERY_BATCH = 500
_MOST_MERGED = 200
"""Index ranges that MongoDB merges in order; with more, it sorts in memory (internalQueryMaxScansToExplode)."""

_INTERNAL = {"stamp": 0, "claimable_at": 0, "pending": 0, "pending_since": 0, "purge_after": 0, "purge_at": 0}


@dataclass(frozen=True, slots=True)
class Claimed:
    """Deliveries that are now leased to the caller."""

    deliveries: Sequence[Delivery]
    more: bool
    """Whether more may be due."""


def _claimable_at(delivery: Delivery) -> datetime | None:
    """When a notifier may claim it. After a notifier died, that is when its lease ends."""
    moments = [moment for moment in (delivery.next_attempt_at, delivery.lease_until) if moment is not None]
    return max(moments, default=None)


def _encode(delivery: Delivery) -> Document:
    document: Document = dict(vars(delivery))  # takes half as long as model_dump, for every webhook
    del document["delivery_id"]
    document["state"] = delivery.state.value
    document["attempts"] = [attempt.model_dump() for attempt in delivery.attempts]
    if delivery.state is DeliveryState.PENDING:
        document["claimable_at"] = _claimable_at(delivery)
    else:
        document["purge_after"] = document["purge_at"] = delivery.updated_at + KEPT
    return {"_id": delivery.delivery_id, **document}


def _decode(document: Document) -> Delivery:
    return Delivery.model_validate({**document, "delivery_id": document["_id"]})


def _id(document: Document) -> str:
    identifier: str = document["_id"]
    return identifier


def _times(query: DeliveryQuery) -> Document:
    # Delivery ids are event ids, which sort by time.
    bounds = {}
    if query.since:
        bounds["$gte"] = first_event_id(query.since)
    before = [bound for bound in (query.until and first_event_id(query.until), query.after) if bound]
    if before:
        bounds["$lt"] = min(before)
    return {"_id": bounds} if bounds else {}


class Deliveries(OutboxCollection):
    """All deliveries. A change is a compare-and-set on the version, batched with others."""

    name = "deliveries"
    counter = "sequence"
    last = "updated_at"
    by_time = "_id_"
    indexes = (
        IndexModel(
            [("state", ASCENDING), ("api_id", ASCENDING), ("claimable_at", ASCENDING), ("give_up_at", ASCENDING)],
            name="due",
            partialFilterExpression={"state": DeliveryState.PENDING.value},
        ),
        # Lists without an API or a state merge the ranges of all of them (`_ranges`), so these two indexes are enough.
        IndexModel([("api_id", ASCENDING), ("state", ASCENDING), ("_id", DESCENDING)], name="api_state"),
        IndexModel(
            [("client_id", ASCENDING), ("api_id", ASCENDING), ("state", ASCENDING), ("_id", DESCENDING)],
            name="client_api_state",
        ),
        IndexModel(
            "delivered_body_until",
            name="delivered_body",
            partialFilterExpression={"delivered_body_until": {"$gt": _EPOCH}},
        ),
    )
    retired = ("exhausted", "api", "client")

    def __init__(self, mongo: Mongo, announce: Announce = announce_nothing) -> None:
        super().__init__(mongo, announce)
        self._updates = batched_updates(lambda: mongo.grouped(self.name), {"attempts": KEPT_ATTEMPTS})

    async def prepared(self) -> None:
        """Return when the indexes exist, without which `claim` would scan the collection."""
        await self._mongo.prepared()

    async def add(self, delivery: Delivery) -> None:
        """Store a new delivery. Raises Conflict if it exists, and TemporarilyUnavailable."""
        await self._inserts.submit(_encode(delivery))

    async def get(self, delivery_id: str) -> Delivery | None:
        """The delivery as it is now."""
        document = await self._read(delivery_id)
        return _decode(document) if document else None

    def _made(self, since: datetime, until: datetime) -> Document:
        return {"_id": {"$gte": first_event_id(since), "$lt": first_event_id(until)}}

    async def count_states(self, delivery_ids: Sequence[str]) -> Mapping[DeliveryState, int]:
        """How many of these deliveries are in each state."""
        pipeline: list[Document] = [
            {"$match": {"_id": {"$in": list(delivery_ids)}}},
            {"$group": {"_id": "$state", "count": {"$sum": 1}}},
        ]
        async with outage_is_unavailability():
            found = await self._mongo.majority(self.name).aggregate(pipeline).to_list(None)
        return {DeliveryState(document["_id"]): document["count"] for document in found}

    async def states(self, delivery_ids: Sequence[str]) -> Mapping[str, DeliveryState]:
        """The states of these deliveries, without those that do not exist."""
        async with outage_is_unavailability():
            query = {"_id": {"$in": list(delivery_ids)}}
            found = await self._mongo.majority(self.name).find(query, {"state": 1}).to_list(None)
        return {document["_id"]: DeliveryState(document["state"]) for document in found}

    async def page(self, query: DeliveryQuery) -> tuple[Sequence[Delivery], bool]:
        """At most `query.limit` deliveries, the latest events first, and whether there are more."""
        found: list[Document] = []
        async with outage_is_unavailability():
            for wanted, index in await self._ranges(query):
                cursor = self._mongo.indexed(self.name).find(wanted, _INTERNAL, hint=index).sort("_id", DESCENDING)
                found += await cursor.limit(query.limit + 1).to_list(None)
        found.sort(key=_id, reverse=True)
        return [_decode(document) for document in found[: query.limit]], len(found) > query.limit

    async def _ranges(self, query: DeliveryQuery) -> Sequence[tuple[Document, str]]:
        """Queries that together find the deliveries, and the index for each.

        Each query is a few ranges of one index, all sorted by id. MongoDB merges them, and reads no more records than
        it returns.
        """
        times = _times(query)
        if query.api_id is None and query.client_id is None and query.state is None:
            return [(times, "_id_")]
        whose = {} if query.client_id is None else {"client_id": query.client_id}
        states = [state.value for state in DeliveryState if query.state in {None, state}]
        apis = [query.api_id] if query.api_id else await self._mongo[self.name].distinct("api_id", whose)
        at_once = _MOST_MERGED // len(states)
        return [
            (
                {**whose, "api_id": {"$in": apis[start : start + at_once]}, "state": {"$in": states}, **times},
                "client_api_state" if whose else "api_state",
            )
            for start in range(0, len(apis), at_once)
        ]

    async def count_pending_of_api(self, api_id: str, most: int) -> int:
        """How many pending deliveries an API has; up to `most`."""
        query = {"api_id": api_id, "state": DeliveryState.PENDING.value}
        async with outage_is_unavailability():
            return await self._mongo.indexed(self.name).count_documents(query, limit=most, hint="api_state")

    async def agenda(self) -> Mapping[str, datetime]:
        """For each API, when its first pending delivery may be claimed; one index step per API."""
        pipeline: list[Document] = [
            {"$match": {"state": DeliveryState.PENDING.value}},
            {"$sort": {"state": 1, "api_id": 1, "claimable_at": 1}},
            {"$group": {"_id": "$api_id", "first": {"$first": "$claimable_at"}}},
        ]
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].aggregate(pipeline, hint="due")
            return {document["_id"]: document["first"] async for document in cursor}

    async def claim(self, api_id: str, limit: int, until: datetime, now: datetime) -> Claimed:
        """Lease up to `limit` due deliveries of an API to the caller, the longest due first; until `until`."""
        return await self._claim({**_due(now), "api_id": api_id}, [("claimable_at", 1)], limit, until)

    async def claim_overdue(self, limit: int, until: datetime, now: datetime) -> Claimed:
        """Lease up to `limit` deliveries that have become too old to the caller, which gives them up; until `until`."""
        return await self._claim({**_due(now), "give_up_at": {"$lte": now}}, [], limit, until)

    async def _claim(self, query: Document, order: list[tuple[str, int]], limit: int, until: datetime) -> Claimed:
        collection = self._mongo.grouped(self.name)
        stamp = new_stamp()
        async with outage_is_unavailability():
            found = await collection.find(query, {"_id": 1}, hint="due", sort=order or None, limit=limit).to_list(None)
        mine = {"_id": {"$in": [document["_id"] for document in found]}}
        update = {
            "$set": {"lease_until": until, "claimable_at": until, "stamp": stamp},
            "$inc": {"version": 1},
        }
        if found:
            # Two notifiers may have found the same deliveries. The first update moves `claimable_at`, so the query of
            # the second no longer matches. A repeated update matches nothing either; the stamps say what the first one
            # has leased.
            await outcome_of_write(lambda _: collection.update_many({**query, **mine}, update))
        async with outage_is_unavailability():
            leased = await collection.find({**mine, "stamp": stamp}, _INTERNAL).to_list(None)
        return Claimed([_decode(document) for document in leased], more=len(found) == limit)

    async def release(self, deliveries: Sequence[Delivery], now: datetime) -> Sequence[Delivery]:
        """End the caller's leases: any notifier may claim the deliveries now. Those whose lease was still its own."""
        return await self._all(deliveries, {"lease_until": None}, {"claimable_at": now})

    async def discarded(self, deliveries: Sequence[Delivery], now: datetime) -> Sequence[Delivery]:
        """Discard deliveries whose API or webhook is gone, and delete their bodies. Returns those still unchanged."""
        changes = {
            "state": DeliveryState.DISCARDED,
            "sealed": None,
            "next_attempt_at": None,
            "lease_until": None,
            "updated_at": now,
        }
        purge = {"claimable_at": None, "purge_after": now + KEPT}
        return await self._all(deliveries, changes, purge)

    async def _all(
        self, deliveries: Sequence[Delivery], changes: Mapping[str, object], internal: Document
    ) -> Sequence[Delivery]:
        """Apply the changes; the deliveries that were still at the given version, as they are now."""
        fields = {**changes, **internal}
        done = await asyncio.gather(
            *(self._updates.submit(Change(delivery.delivery_id, delivery.version, fields)) for delivery in deliveries)
        )
        return [
            delivery.model_copy(update={**changes, "version": delivery.version + 1})
            for delivery, applied in zip(deliveries, done, strict=True)
            if applied
        ]

    async def delivered(self, delivery: Delivery, attempt: Attempt, ctx: EventContext) -> Delivery | None:
        """Mark as delivered; the body is kept for BODY_KEPT, for a redelivery. None if another writer was first."""
        changes = {
            "state": DeliveryState.DELIVERED,
            "sealed": None,
            "delivered_body": delivery.sealed,
            "delivered_body_until": ctx.now + BODY_KEPT,
            "next_attempt_at": None,
        }
        return await self._noted(delivery, attempt, changes, NotificationDelivered, ctx)

    async def failed(
        self, delivery: Delivery, attempt: Attempt, next_attempt_at: datetime, ctx: EventContext
    ) -> Delivery | None:
        """Store a failed attempt, and when the next one is due. None if another writer was first."""
        changes = {"next_attempt_at": next_attempt_at, "retries": delivery.retries + 1}
        return await self._noted(delivery, attempt, changes, NotificationFailed, ctx)

    async def exhausted(self, delivery: Delivery, attempt: Attempt | None, ctx: EventContext) -> Delivery | None:
        """Give up; the body is kept for KEPT, for a redelivery. None if another writer was first."""
        changes = {"state": DeliveryState.EXHAUSTED, "next_attempt_at": None}
        return await self._noted(delivery, attempt, changes, NotificationExhausted, ctx)

    async def _noted(
        self,
        delivery: Delivery,
        attempt: Attempt | None,
        changes: Mapping[str, object],
        event: type[Event],
        ctx: EventContext,
    ) -> Delivery | None:
        """Store an attempt, its consequences and its event in one write. None if another writer was first."""
        fields = {**changes, "lease_until": None, "updated_at": ctx.now, "sequence": delivery.sequence + 1}
        kept = delivery.attempts
        if attempt is not None:
            fields["attempt_count"] = delivery.attempt_count + 1
            kept = (*kept, attempt)[-KEPT_ATTEMPTS:]
        after = delivery.model_copy(update={**fields, "attempts": kept, "version": delivery.version + 1})
        pending_event = _event(event, after, ctx)
        change = Change(
            delivery.delivery_id,
            delivery.version,
            {**fields, **_schedule(after)},
            pending_event,
            {"attempts": attempt.model_dump(exclude_none=True)} if attempt is not None else None,
        )
        if not await self._updates.submit(change):
            return None
        self._announce(self, pending_event)
        return after

    async def redeliver(self, delivery: Delivery, give_up_at: datetime, ctx: EventContext) -> bool:
        """The delivery due now, with the whole retry schedule before it; whether it was still as given."""
        fields = {**_rescheduled(ctx.now, give_up_at), "sequence": delivery.sequence + 1}
        if delivery.delivered_body is not None:
            fields |= {"sealed": delivery.delivered_body, "delivered_body": None, "delivered_body_until": None}
        after = delivery.model_copy(update={"next_attempt_at": ctx.now, "sequence": delivery.sequence + 1})
        event = _event(NotificationRedelivered, after, ctx, actor=ctx.actor)
        if not await self._updates.submit(Change(delivery.delivery_id, delivery.version, fields, event)):
            return False
        self._announce(self, event)
        return True

    async def redeliver_all(self, request: RedeliveryRequest, give_up_at: datetime, ctx: EventContext) -> int:
        """Schedule every delivery that the request selects and that is not in progress; how many."""
        wanted: Document = {
            "state": request.state.value,
            "api_id": request.api_id,
            "_id": {"$gte": first_event_id(request.since)},
            "sealed": {"$ne": None},
            "$or": [{"lease_until": None}, {"lease_until": {"$lte": ctx.now}}],
        }
        changed = 0
        last = ""
        while found := await self._next({**wanted, "_id": {**wanted["_id"], "$gt": last}}):
            last = found[-1].delivery_id
            # A delivery that another writer changes at this moment is being attempted; it is left out.
            changed += sum(await asyncio.gather(*(self.redeliver(delivery, give_up_at, ctx) for delivery in found)))
        return changed

    async def drop_bodies(self, now: datetime) -> int:
        """Delete the bodies that are not kept any longer; of how many deliveries."""
        due = {"delivered_body_until": {"$gt": _EPOCH, "$lte": now}, "state": DeliveryState.DELIVERED.value}
        # Without a new version: what a redelivery writes at this moment sets both fields to other values.
        update = {"$set": {"delivered_body": None, "delivered_body_until": None}}
        async with outage_is_unavailability():
            result = await self._mongo[self.name].update_many(due, update, hint="delivered_body")
        return int(result.modified_count)

    async def _next(self, query: Document) -> Sequence[Delivery]:
        """The next batch of deliveries, without bodies, and with their last attempt only."""
        fields = {**_INTERNAL, "sealed": 0, "attempts": {"$slice": -1}}
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, fields, hint="api_state").sort("_id", ASCENDING)
            return [_decode(document) async for document in cursor.limit(_REDELIVERY_BATCH)]


def _due(now: datetime) -> Document:
    return {"state": DeliveryState.PENDING.value, "claimable_at": {"$lte": now}}


def _event(kind: type[Event], delivery: Delivery, ctx: EventContext, **more: object) -> PendingEvent:
    """The event that tells of the delivery's latest change."""
    last = delivery.attempts[-1] if delivery.attempts else None
    data = {
        "delivery_id": delivery.delivery_id,
        "api_id": delivery.api_id,
        "client_id": delivery.client_id,
        "grant_id": delivery.grant_id,
        "attempts": delivery.attempt_count,
        "status": last.status if last else None,
        "error": last.error if last else None,
        "next_attempt_at": delivery.next_attempt_at,
        **more,
    }
    event_id = new_event_id(ctx.now)
    body = encode_event(kind, event_id, ctx, delivery.delivery_id, delivery.sequence, data)
    return PendingEvent(event_id, delivery.delivery_id, f"{kind.stem}.{delivery.api_id}", body, ctx.now)


def _schedule(delivery: Delivery) -> Document:
    """When it may be claimed, and when it may be purged, which counts only once its last event is published."""
    if delivery.state is DeliveryState.PENDING:
        return {"claimable_at": _claimable_at(delivery)}
    return {"claimable_at": None, "purge_after": delivery.updated_at + KEPT}


def _rescheduled(now: datetime, give_up_at: datetime) -> Document:
    return {
        "state": DeliveryState.PENDING.value,
        "retries": 0,
        "next_attempt_at": now,
        "claimable_at": now,
        "lease_until": None,
        "give_up_at": give_up_at,
        "updated_at": now,
        "purge_after": None,
    }
