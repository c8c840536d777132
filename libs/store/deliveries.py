"""Webhook deliveries: the truth about what is to be sent, what was, and who sends it now."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bson import Binary
from pymongo import ASCENDING, DESCENDING, IndexModel

from contracts.events import (
    Event,
    NotificationData,
    NotificationDelivered,
    NotificationExhausted,
    NotificationFailed,
)
from contracts.webhooks import Attempt, Delivery, DeliveryQuery, DeliveryState, RedeliveryRequest
from libs.events import Origin, first_event_id
from libs.store.ledger import Announce, Ledger, carrying, nobody
from libs.store.mongo import Document, Mongo, outage_is_unavailability, settled
from libs.store.records import event_of
from libs.store.updates import GroupUpdate

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
    document: Document = delivery.model_dump(exclude={"delivery_id"})
    document["state"] = delivery.state.value
    if delivery.sealed is not None:
        document["sealed"] = Binary(delivery.sealed)
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
        self._updates = GroupUpdate(lambda: mongo[self.name])

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

    async def page(self, query: DeliveryQuery) -> Sequence[Delivery]:
        """The latest events first, at most `query.limit`."""
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find(_filter(query), _INTERNAL).sort("_id", DESCENDING).limit(query.limit)
            return [_decode(document) async for document in cursor]

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
        query = {"state": DeliveryState.PENDING.value, "api_id": api_id, "claimable_at": {"$lte": now}}
        return await self._claim(query, "claimable_at", limit, until)

    async def claim_overdue(self, limit: int, until: datetime, now: datetime) -> Claimed:
        """Up to `limit` due deliveries that are to be given up, leased to the caller `until` then."""
        query = {
            "state": DeliveryState.PENDING.value,
            "claimable_at": {"$lte": now},
            "give_up_at": {"$lte": now},
        }
        return await self._claim(query, None, limit, until)

    async def _claim(self, query: Document, order: str | None, limit: int, until: datetime) -> Claimed:
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find(query, _INTERNAL, hint="due").limit(limit)
            due = [_decode(document) async for document in (cursor.sort(order, 1) if order else cursor)]
        return Claimed(await self.lease(due, until), more=len(due) == limit)

    async def lease(self, deliveries: Sequence[Delivery], until: datetime) -> Sequence[Delivery]:
        """Those of the deliveries that nobody else changed meanwhile, leased to the caller `until` then."""
        update = {"lease_until": until, "claimable_at": until}
        return await self._all(deliveries, update, {"lease_until": until})

    async def release(self, deliveries: Sequence[Delivery], now: datetime) -> Sequence[Delivery]:
        """Those of the deliveries whose lease was still the caller's, free for everybody, due as they were."""
        return await self._all(deliveries, {"lease_until": None, "claimable_at": now}, {"lease_until": None})

    async def _all(
        self, deliveries: Sequence[Delivery], update: Document, changes: Mapping[str, object]
    ) -> Sequence[Delivery]:
        """Those that were as given and have the changes now."""
        after = [delivery.model_copy(update={**changes, "version": delivery.version + 1}) for delivery in deliveries]
        done = await asyncio.gather(*(self._advanced(delivery, update) for delivery in after))
        return [delivery for delivery, applied in zip(after, done, strict=True) if applied]

    async def _advanced(self, after: Delivery, fields: Document, extra: Mapping[str, Document] | None = None) -> bool:
        update = {**(extra or {}), "$set": {**fields, "version": after.version}}
        return await self._updates.advance(after.delivery_id, after.version - 1, update)

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
        counters = {"version": delivery.version + 1, "sequence": delivery.sequence + 1}
        fields = {**changes, "lease_until": None, "updated_at": at.now}
        if attempt is not None:
            fields["attempt_count"] = delivery.attempt_count + 1
        after = delivery.model_copy(update={**fields, **counters})
        last = attempt or (delivery.attempts[-1] if delivery.attempts else None)
        pending_event = event_of(event, _data(after, last), after.delivery_id, after.api_id, after.sequence, at)
        fields |= {"sequence": after.sequence, "state": after.state.value} | _schedule(after)
        extra = carrying(pending_event)
        if attempt is not None:
            pushed = {"$each": [attempt.model_dump()], "$slice": -KEPT_ATTEMPTS}
            extra["$push"] = {**extra["$push"], "attempts": pushed}
            after = after.model_copy(update={"attempts": (*delivery.attempts, attempt)[-KEPT_ATTEMPTS:]})
        if not await self._advanced(after, fields, extra):
            return None
        self._announce(self, pending_event)
        return after

    async def discarded(self, deliveries: Sequence[Delivery], now: datetime) -> Sequence[Delivery]:
        """Those of the deliveries that nobody else changed: nobody wants them any more, and their bodies are gone."""
        changes = {"state": DeliveryState.DISCARDED, "sealed": None, "next_attempt_at": None, "lease_until": None}
        update = {**changes, "state": DeliveryState.DISCARDED.value, "updated_at": now, "claimable_at": None}
        return await self._all(deliveries, {**update, "purge_after": now + KEPT, "purge_at": now + KEPT}, changes)

    async def redeliver(self, delivery: Delivery, now: datetime, give_up_at: datetime) -> bool:
        """The delivery due now, with the whole ladder before it; whether it was still as given."""
        fields = _due_anew(now, give_up_at) | {"version": delivery.version + 1}
        update = {"$set": fields, "$unset": {"purge_at": ""}}
        return await self._updates.advance(delivery.delivery_id, delivery.version, update)

    async def redeliver_all(self, request: RedeliveryRequest, now: datetime, give_up_at: datetime) -> int:
        """Everything due anew that the request names and that is not under way now; how much.

        While MongoDB changes its primary the number may be too low; what is due is right nevertheless.
        """
        wanted: Document = {
            "state": request.state.value,
            "api_id": request.api_id,
            "_id": {"$gte": first_event_id(request.since)},
            "sealed": {"$ne": None},
            "$or": [{"lease_until": None}, {"lease_until": {"$lte": now}}],
        }
        changed = 0
        last = ""
        while ids := await self._ids({**wanted, "_id": {**wanted["_id"], "$gt": last}}):
            last = ids[-1]
            changed += await self._redeliver_batch({**wanted, "_id": {"$in": ids}}, now, give_up_at)
        return changed

    async def _ids(self, query: Document) -> Sequence[str]:
        async with outage_is_unavailability():
            cursor = self._mongo[self.name].find(query, {"_id": 1}).sort("_id", ASCENDING).limit(_REDELIVERY_BATCH)
            return [document["_id"] async for document in cursor]

    async def _redeliver_batch(self, query: Document, now: datetime, give_up_at: datetime) -> int:
        update = {"$set": _due_anew(now, give_up_at), "$unset": {"purge_at": ""}, "$inc": {"version": 1}}

        async def write(_: bool) -> int:
            return (await self._mongo[self.name].update_many(query, update)).modified_count

        return await settled(write)


def _data(delivery: Delivery, last: Attempt | None) -> NotificationData:
    return NotificationData(
        delivery_id=delivery.delivery_id,
        api_id=delivery.api_id,
        client_id=delivery.client_id,
        grant_id=delivery.grant_id,
        attempts=delivery.attempt_count,
        status=last.status if last else None,
        error=last.error if last else None,
        next_attempt_at=delivery.next_attempt_at,
    )


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
