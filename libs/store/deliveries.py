"""Webhook deliveries: the truth about what is to be sent, what was, and who sends it now."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

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
from libs.events import Origin, first_event_id, new_event_id, written
from libs.store.ledger import Announce, Ledger, nobody
from libs.store.mongo import Document, Mongo, outage_is_unavailability, settled
from libs.store.updates import Change, GroupUpdate, new_stamp

KEPT = timedelta(days=14)
"""How long a delivery that is over stays readable, and an exhausted one redeliverable."""
KEPT_ATTEMPTS = 32
_REDELIVERY_BATCH = 500

_INTERNAL = {"stamp": 0, "claimable_at": 0, "pending": 0, "pending_since": 0, "purge_after": 0, "purge_at": 0}


@dataclass(frozen=True, slots=True)
class Claimed:
    """Deliveries that are leased to the caller now."""

    deliveries: Sequence[Delivery]
    more: bool
    """Whether more may be due."""


def _claimable_at(delivery: Delivery) -> datetime | None:
    """When the next notifier may take it; the lease of one that died ends by itself."""
    moments = [moment for moment in (delivery.next_attempt_at, delivery.lease_until) if moment is not None]
    return max(moments, default=None)


def _encode(delivery: Delivery) -> Document:
    document: Document = dict(vars(delivery))  # half of what a dump of the model takes, for each webhook
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


def _filter(query: DeliveryQuery) -> Document:
    wanted: Document = {
        name: value
        for name, value in (("api_id", query.api_id), ("client_id", query.client_id), ("state", query.state))
        if value is not None
    }
    # The ids sort by the time of their events.
    bounds = {}
    if query.since:
        bounds["$gte"] = first_event_id(query.since)
    before = [bound for bound in (query.until and first_event_id(query.until), query.after) if bound]
    if before:
        bounds["$lt"] = min(before)
    return wanted | ({"_id": bounds} if bounds else {})


class Deliveries(Ledger):
    """All deliveries. A change is a compare-and-set on the version; many share one round trip."""

    name = "deliveries"
    counter = "sequence"
    last = "updated_at"
    indexes = (
        IndexModel(
            [("state", ASCENDING), ("api_id", ASCENDING), ("claimable_at", ASCENDING), ("give_up_at", ASCENDING)],
            name="due",
            partialFilterExpression={"state": DeliveryState.PENDING.value},
        ),
        IndexModel(
            [("state", ASCENDING), ("api_id", ASCENDING), ("_id", DESCENDING)],
            name="exhausted",
            partialFilterExpression={"state": DeliveryState.EXHAUSTED.value},
        ),
        IndexModel([("api_id", ASCENDING), ("_id", DESCENDING)], name="api"),
        IndexModel([("client_id", ASCENDING), ("_id", DESCENDING)], name="client"),
    )

    def __init__(self, mongo: Mongo, announce: Announce = nobody) -> None:
        super().__init__(mongo, announce)
        self._updates = GroupUpdate(lambda: mongo[self.name], {"attempts": KEPT_ATTEMPTS})

    async def prepared(self) -> None:
        """Return when there are indexes to claim by."""
        await self._mongo.prepared()

    async def add(self, delivery: Delivery) -> None:
        """The delivery stored. Raises Conflict for one that is known, and TemporarilyUnavailable."""
        await self._group.insert(_encode(delivery))

    async def get(self, delivery_id: str) -> Delivery | None:
        """The delivery as it is now."""
        document = await self._read(delivery_id)
        return _decode(document) if document else None

    def _made(self, since: datetime, until: datetime) -> Document:
        return {"_id": {"$gte": first_event_id(since), "$lt": first_event_id(until)}}

    async def count_states(self, delivery_ids: Sequence[str]) -> Mapping[DeliveryState, int]:
        """How many of these deliveries are where."""
        pipeline: list[Document] = [
            {"$match": {"_id": {"$in": list(delivery_ids)}}},
            {"$group": {"_id": "$state", "count": {"$sum": 1}}},
        ]
        async with outage_is_unavailability():
            found = await self._mongo.majority(self.name).aggregate(pipeline).to_list(None)
        return {DeliveryState(document["_id"]): document["count"] for document in found}

    async def states(self, delivery_ids: Sequence[str]) -> Mapping[str, DeliveryState]:
        """Where these deliveries are, those that there are."""
        async with outage_is_unavailability():
            query = {"_id": {"$in": list(delivery_ids)}}
            found = await self._mongo.majority(self.name).find(query, {"state": 1}).to_list(None)
        return {document["_id"]: DeliveryState(document["state"]) for document in found}

    async def page(self, query: DeliveryQuery) -> tuple[Sequence[Delivery], bool]:
        """The latest events first, at most `query.limit`, and whether there are more."""
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find(_filter(query), _INTERNAL).sort("_id", DESCENDING)
            found = await cursor.limit(query.limit + 1).to_list(None)
        return [_decode(document) for document in found[: query.limit]], len(found) > query.limit

    async def agenda(self) -> Mapping[str, datetime]:
        """When the first pending delivery of each API may be claimed; one step in the index an API."""
        pipeline: list[Document] = [
            {"$match": {"state": DeliveryState.PENDING.value}},
            {"$sort": {"state": 1, "api_id": 1, "claimable_at": 1}},
            {"$group": {"_id": "$api_id", "first": {"$first": "$claimable_at"}}},
        ]
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].aggregate(pipeline, hint="due")
            return {document["_id"]: document["first"] async for document in cursor}

    async def claim(self, api_id: str, limit: int, until: datetime, now: datetime) -> Claimed:
        """Up to `limit` due deliveries of an API, the longest due first, leased to the caller `until` then."""
        return await self._claim({**_due(now), "api_id": api_id}, [("claimable_at", 1)], limit, until)

    async def claim_overdue(self, limit: int, until: datetime, now: datetime) -> Claimed:
        """Up to `limit` due deliveries that are to be given up, leased to the caller `until` then."""
        return await self._claim({**_due(now), "give_up_at": {"$lte": now}}, [], limit, until)

    async def _claim(self, query: Document, order: list[tuple[str, int]], limit: int, until: datetime) -> Claimed:
        collection = self._mongo[self.name]
        stamp = new_stamp()
        async with outage_is_unavailability():
            found = await collection.find(query, {"_id": 1}, hint="due", sort=order or None, limit=limit).to_list(None)
        mine = {"_id": {"$in": [document["_id"] for document in found]}}
        update = {
            "$set": {"lease_until": until, "claimable_at": until, "stamp": stamp},
            "$inc": {"version": 1},
        }
        if found:
            # Whoever stamps first moves `claimable_at`, so that the next one misses; a repetition misses its own.
            await settled(lambda _: collection.update_many({**query, **mine}, update))
        async with outage_is_unavailability():
            leased = await collection.find({**mine, "stamp": stamp}, _INTERNAL).to_list(None)
        return Claimed([_decode(document) for document in leased], more=len(found) == limit)

    async def release(self, deliveries: Sequence[Delivery], now: datetime) -> Sequence[Delivery]:
        """Those of the deliveries whose lease was still the caller's, free for everybody, due as they were."""
        return await self._all(deliveries, {"lease_until": None}, {"claimable_at": now})

    async def discarded(self, deliveries: Sequence[Delivery], now: datetime) -> Sequence[Delivery]:
        """Those of the deliveries that nobody else changed: nobody wants them any more, and their bodies are gone."""
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
        """Those that were as given and have the changes now."""
        fields = {**changes, **internal}
        done = await asyncio.gather(
            *(self._updates.apply(Change(delivery.delivery_id, delivery.version, fields)) for delivery in deliveries)
        )
        return [
            delivery.model_copy(update={**changes, "version": delivery.version + 1})
            for delivery, applied in zip(deliveries, done, strict=True)
            if applied
        ]

    async def delivered(self, delivery: Delivery, attempt: Attempt, at: Origin) -> Delivery | None:
        """It arrived, and its body is gone; None if the delivery was changed by somebody else."""
        changes = {"state": DeliveryState.DELIVERED, "sealed": None, "next_attempt_at": None}
        return await self._noted(delivery, attempt, changes, NotificationDelivered, at)

    async def failed(
        self, delivery: Delivery, attempt: Attempt, next_attempt_at: datetime, at: Origin
    ) -> Delivery | None:
        """The attempt failed, the next one is due then; None if the delivery was changed by somebody else."""
        changes = {"next_attempt_at": next_attempt_at, "rung": delivery.rung + 1}
        return await self._noted(delivery, attempt, changes, NotificationFailed, at)

    async def exhausted(self, delivery: Delivery, attempt: Attempt | None, at: Origin) -> Delivery | None:
        """No attempt follows; the body is kept for KEPT. None if the delivery was changed by somebody else."""
        changes = {"state": DeliveryState.EXHAUSTED, "next_attempt_at": None}
        return await self._noted(delivery, attempt, changes, NotificationExhausted, at)

    async def _noted(
        self,
        delivery: Delivery,
        attempt: Attempt | None,
        changes: Mapping[str, object],
        event: type[Event],
        at: Origin,
    ) -> Delivery | None:
        """The attempt, what follows from it, and its event, in one write."""
        fields = {**changes, "lease_until": None, "updated_at": at.now, "sequence": delivery.sequence + 1}
        kept = delivery.attempts
        if attempt is not None:
            fields["attempt_count"] = delivery.attempt_count + 1
            kept = (*kept, attempt)[-KEPT_ATTEMPTS:]
        after = delivery.model_copy(update={**fields, "attempts": kept, "version": delivery.version + 1})
        pending_event = _event(event, after, at)
        change = Change(
            delivery.delivery_id,
            delivery.version,
            {**fields, **_schedule(after)},
            pending_event,
            {"attempts": attempt.model_dump()} if attempt is not None else None,
        )
        if not await self._updates.apply(change):
            return None
        self._announce(self, pending_event)
        return after

    async def redeliver(self, delivery: Delivery, give_up_at: datetime, at: Origin) -> bool:
        """The delivery due now, with the whole ladder before it; whether it was still as given."""
        fields = {**_due_anew(at.now, give_up_at), "sequence": delivery.sequence + 1}
        after = delivery.model_copy(update={"next_attempt_at": at.now, "sequence": delivery.sequence + 1})
        event = _event(NotificationRedelivered, after, at, actor=at.actor)
        if not await self._updates.apply(Change(delivery.delivery_id, delivery.version, fields, event)):
            return False
        self._announce(self, event)
        return True

    async def redeliver_all(self, request: RedeliveryRequest, give_up_at: datetime, at: Origin) -> int:
        """Everything due anew that the request names and that is not under way now; how much."""
        wanted: Document = {
            "state": request.state.value,
            "api_id": request.api_id,
            "_id": {"$gte": first_event_id(request.since)},
            "sealed": {"$ne": None},
            "$or": [{"lease_until": None}, {"lease_until": {"$lte": at.now}}],
        }
        changed = 0
        last = ""
        while found := await self._next({**wanted, "_id": {**wanted["_id"], "$gt": last}}):
            last = found[-1].delivery_id
            # One that somebody else has changed meanwhile is under way.
            changed += sum(await asyncio.gather(*(self.redeliver(delivery, give_up_at, at) for delivery in found)))
        return changed

    async def _next(self, query: Document) -> Sequence[Delivery]:
        """Some of the deliveries, without their bodies and all but the last attempt."""
        fields = {**_INTERNAL, "sealed": 0, "attempts": {"$slice": -1}}
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find(query, fields).sort("_id", ASCENDING).limit(_REDELIVERY_BATCH)
            return [_decode(document) async for document in cursor]


def _due(now: datetime) -> Document:
    return {"state": DeliveryState.PENDING.value, "claimable_at": {"$lte": now}}


def _event(kind: type[Event], delivery: Delivery, at: Origin, **more: object) -> PendingEvent:
    """The event of the delivery's latest change."""
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
    event_id = new_event_id(at.now)
    body = written(kind, event_id, at, delivery.delivery_id, delivery.sequence, data)
    return PendingEvent(event_id, delivery.delivery_id, f"{kind.stem}.{delivery.api_id}", body, at.now)


def _schedule(delivery: Delivery) -> Document:
    """When it is looked at next, and when it may go; the latter counts once its last event is published."""
    if delivery.state is DeliveryState.PENDING:
        return {"claimable_at": _claimable_at(delivery)}
    return {"claimable_at": None, "purge_after": delivery.updated_at + KEPT}


def _due_anew(now: datetime, give_up_at: datetime) -> Document:
    return {
        "state": DeliveryState.PENDING.value,
        "rung": 0,
        "next_attempt_at": now,
        "claimable_at": now,
        "lease_until": None,
        "give_up_at": give_up_at,
        "updated_at": now,
        "purge_after": None,
    }
