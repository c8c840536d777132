"""The audit log: one document per change, kept long after the events that the entries are made from."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta

from pymongo import ASCENDING, DESCENDING, IndexModel

from contracts.audit_log import AuditLogEntry, AuditLogQuery
from contracts.events import EVENTS
from libs.event_encoding import first_event_id
from libs.store.batched import batched_inserts
from libs.store.mongo import Conflict, Document, Mongo, outage_is_unavailability

KEPT = timedelta(days=400)
"""How long an entry is kept, counted from the change: a year, and some time for an annual review."""

ACTIONS = sorted(event.stem for event in EVENTS)
"""All actions. A query without an action scans the index ranges of all of them, which MongoDB merges in order."""
_INDEXED: Mapping[str, tuple[str, ...]] = {
    "action": ("action",),
    "operator_action": ("actor.operator_id", "action"),
    "subject_action": ("subject", "action"),
    "operator_subject_action": ("actor.operator_id", "subject", "action"),
}
"""The fields of each index before the id."""


class AuditLog:
    """One document per change. Its id is the id of the event, which sorts by time."""

    name = "audit_log"
    indexes = (
        *(
            IndexModel([*((field, ASCENDING) for field in fields), ("_id", DESCENDING)], name=name)
            for name, fields in _INDEXED.items()
        ),
        IndexModel("at", name="purge", expireAfterSeconds=int(KEPT.total_seconds())),
    )

    def __init__(self, mongo: Mongo) -> None:
        self._mongo = mongo
        self._inserts = batched_inserts(lambda: mongo.grouped(self.name))
        mongo.want(self.name, self.indexes, retired=("subject", "operator"))

    async def add(self, entry: AuditLogEntry) -> None:
        """Store the entry. Idempotent, because the bus may deliver an event twice. Raises TemporarilyUnavailable."""
        with suppress(Conflict):
            await self._inserts.submit({"_id": entry.id, **entry.model_dump(exclude={"id"}, exclude_none=True)})

    async def page(self, query: AuditLogQuery) -> tuple[Sequence[AuditLogEntry], bool]:
        """At most `query.limit` entries, the latest first, and whether there are more."""
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(_filter(query), hint=_index(query)).sort("_id", DESCENDING)
            found = await cursor.limit(query.limit + 1).to_list(None)
        return [_decode(document) for document in found[: query.limit]], len(found) > query.limit

    async def about(self, subject: str, kind: str, most: int = 1000) -> Sequence[AuditLogEntry]:
        """The latest changes of the record with this id, of this kind (`client`, `policy`, …), in their order."""
        actions = [action for action in ACTIONS if action.startswith(f"{kind}.")]
        query = {"subject": subject, "action": {"$in": actions}}
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, hint="subject_action").sort("_id", DESCENDING)
            found = await cursor.limit(most).to_list(None)
        return sorted(map(_decode, found), key=lambda entry: entry.version)

    async def latest_of(self, operator_id: str) -> datetime | None:
        """When the operator last changed something; None: not within the time that the audit log covers."""
        async with outage_is_unavailability():
            found = await self._mongo[self.name].find_one(
                {"actor.operator_id": operator_id, "action": {"$in": ACTIONS}}, sort=[("_id", DESCENDING)]
            )
        return _decode(found).at if found else None


def _decode(document: Document) -> AuditLogEntry:
    return AuditLogEntry.model_validate({**document, "id": document["_id"]})


def _index(query: AuditLogQuery) -> str:
    """The index whose fields are those of the query, followed by the id."""
    named = [name for name in ("operator", "subject") if getattr(query, name)]
    return "_".join([*named, "action"]) if named or query.action else "_id_"


def _filter(query: AuditLogQuery) -> Document:
    wanted: Document = {}
    if query.operator:
        wanted["actor.operator_id"] = query.operator
    if query.subject:
        wanted["subject"] = query.subject
    if query.action and query.action.endswith("*"):
        kind = query.action.removesuffix("*")
        wanted["action"] = {"$in": [action for action in ACTIONS if action.startswith(kind)]}
    elif query.action:
        wanted["action"] = query.action
    elif wanted:
        wanted["action"] = {"$in": ACTIONS}
    bounds = {"$gte": first_event_id(query.since)} if query.since else {}
    if before := [bound for bound in (query.until and first_event_id(query.until), query.after) if bound]:
        bounds["$lt"] = min(before)
    return wanted | ({"_id": bounds} if bounds else {})
