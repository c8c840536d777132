"""Grants: one document for each, changed only by compare-and-set on its version."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import NamedTuple, TypeVar

import orjson
from pymongo import ASCENDING, DESCENDING, IndexModel

from contracts.clients import Client
from contracts.events import PendingEvent
from contracts.grant_views import GrantQuery
from contracts.grants import Grant, GrantState, IssuedResponse
from contracts.pages import MOST_PAGES
from libs.deadlines import IN_FLIGHT_WITHIN
from libs.oauth.errors import TemporarilyUnavailable
from libs.oauth.grants import Recovery, Transition
from libs.store.mongo import Document, Mongo, outage_is_unavailability
from libs.store.optimistic import retry_on_conflict
from libs.store.outbox_collection import RETENTION, Announce, OutboxCollection, announce_nothing
from libs.store.response_notes import Note, Notes, ResponseNotes, noted
from libs.store.updates import Change, batched_updates

D = TypeVar("D")
MAX_DECISIONS = 32
"""A decision is lost only if another writer has advanced the grant, and a grant has only a few steps ahead of it."""
POLL_INTERVAL = 0.025
"""Seconds between two reads while waiting for the note that another process may write."""


def over_at(grant: Grant) -> datetime:
    """When the last of the grant's code, access and refresh token expires."""
    last = grant.code.expires_at if grant.code is not None else None
    for token in (grant.access, grant.refresh):
        if token is not None and (last is None or token.expires_at > last):
            last = token.expires_at
    return last or grant.expires_at


def _encode(grant: Grant, *, present_only: bool) -> Document:
    document: Document = grant.model_dump(exclude={"grant_id"}, exclude_none=present_only)
    if grant.key_rules is not None:
        # As JSON text: the keys of a session object are not restricted to what BSON allows in field names.
        document["key_rules"] = orjson.dumps(grant.key_rules)
    document["purge_after"] = over_at(grant) + RETENTION
    return document


def _decode(document: Document) -> Grant:
    # A copy: other callers of the same batched find have this very document.
    document = {**document, "grant_id": document["_id"]}
    if document.get("key_rules") is not None:
        document["key_rules"] = orjson.loads(document["key_rules"])
    return Grant.model_validate(document)


class End(NamedTuple):
    """The sort key of the list of live tokens: when the access token expires, then the grant id."""

    expires_at: datetime
    grant_id: str


class Made(NamedTuple):
    """The sort key of the list of grants: when it was created, then the grant id."""

    created_at: datetime
    grant_id: str


_UNENDED = [GrantState.PENDING.value, GrantState.ACTIVE.value]
_BY_END = [("access.expires_at", ASCENDING), ("_id", ASCENDING)]
_LISTED = dict.fromkeys(("code", "refresh", "used_refresh", "pending", "numbered"), 0)
_LATEST = [("created_at", DESCENDING), ("_id", DESCENDING)]
_SHOWN = dict.fromkeys(("key_rules", "used_refresh", "response", "pending", "numbered"), 0)
_MOST_MERGED = 200
"""Index ranges that MongoDB merges in order; with more, it sorts in memory (internalQueryMaxScansToExplode)."""
_LIVE = ("client_id", "api_id", "state", "access.revoked", "access.expires_at", "_id", "created_at")


def _with_note(grant: Grant, note: Note | None) -> Grant:
    response = grant.response
    if note is None or response is None or response.id != note.response_id or response.written_at is not None:
        return grant
    return grant.model_copy(update={"response": response.model_copy(update={"written_at": note.at})})


class Grants(OutboxCollection):
    """All grants: pending, active and ended."""

    name = "grants"
    counter = "sequence"
    numbers = True
    _last_found = ""
    """The id of the last grant that was found, for `dummy_read`."""
    indexes = (
        # Covers the list of a client's live tokens in its order, and the search for grants that a revocation must end.
        IndexModel([(field, ASCENDING) for field in _LIVE], name="live"),
        # For the list of grants, newest first (`_ranges`): by client, user or API; without these, by all APIs.
        IndexModel([("client_id", ASCENDING), ("state", ASCENDING), *_LATEST, ("api_id", ASCENDING)], name="of_client"),
        IndexModel(
            [("subject", ASCENDING), ("state", ASCENDING), *_LATEST, ("client_id", ASCENDING), ("api_id", ASCENDING)],
            name="of_subject",
            partialFilterExpression={"subject": {"$gte": ""}},  # strings only: most grants have no subject
        ),
        IndexModel([("api_id", ASCENDING), ("state", ASCENDING), *_LATEST], name="of_api"),
        IndexModel("created_at", name="made"),
    )
    retired = ("client",)

    def __init__(self, mongo: Mongo, announce: Announce = announce_nothing) -> None:
        super().__init__(mongo, announce)
        self._notes = ResponseNotes(self._note)
        self._updates = batched_updates(lambda: mongo.grouped(self.name), {})

    async def close(self) -> None:
        """Write the notes that are not stored yet. Idempotent."""
        await self._notes.close()

    async def read(self, grant_id: str) -> Grant | None:
        """The grant as it is now; None if it never existed, or was purged after its end."""
        note = self._notes.get(grant_id)
        document = await self._read(grant_id)
        if document is None:
            return None
        self._last_found = grant_id
        return _with_note(_decode(document), self._notes.get(grant_id) or note)

    def note_response_sent(self, grant_id: str, response: IssuedResponse, now: datetime) -> None:
        """Note that this response was sent to its client. Returns at once; a process that dies may lose the note."""
        self._notes.add(grant_id, response.id, now)

    async def was_response_sent(self, grant_id: str, response: IssuedResponse) -> bool:
        """Whether this response was sent, or the grant got another one, within IN_FLIGHT_WITHIN seconds.

        For a second request with the same code or refresh token while the first may still be in flight: reuse is only
        proven if the first client has got its response.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + IN_FLIGHT_WITHIN
        while True:
            grant = await self.read(grant_id)
            if grant is None or grant.response is None or grant.response.id != response.id:
                return True
            if grant.response.written_at is not None:
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(POLL_INTERVAL)

    async def _clear_in_records(self, events: Sequence[PendingEvent]) -> None:
        """As for every collection; the same write also notes which of the grants' responses were sent."""
        owners = {event.owner for event in events}
        notes = self._notes.of(owners)
        cleared = await self._clear(events, {"response": noted(notes)} if notes else None)
        # Otherwise another process had cleared an event already, and the note of its grant was not written: keep all
        # notes, which are then written on their own.
        if cleared == len(owners):
            self._notes.written(notes)

    async def _note(self, notes: Notes) -> None:
        query = {"_id": {"$in": list(notes)}, "response.id": {"$in": [note.response_id for note in notes.values()]}}
        async with outage_is_unavailability():
            await self._mongo.grouped(self.name).update_many(query, [{"$set": {"response": noted(notes)}}])

    async def dummy_read(self) -> None:
        """Spend the time of `read` for a token that names no grant, so that timing does not tell the two apart."""
        await self.read(self._last_found)

    async def commit(self, transition: Transition) -> bool:
        """Write the transition and its event in one write; False if another writer has changed the grant meanwhile.

        Raises TemporarilyUnavailable with the outcome unknown: all of it was written, or nothing.
        """
        grant, before = transition.after, transition.before
        document = _encode(grant, present_only=before is None)
        if before is not None:
            if grant.response == before.response:
                del document["response"]  # another process may be noting at this moment that it was sent
            return await self._change(Change(grant.grant_id, before.version, document, transition.event))
        if transition.event is None:
            raise ValueError("a new grant comes with its event")
        document["_id"] = grant.grant_id
        await self._insert(document, transition.event)
        return True

    async def _change(self, change: Change) -> bool:
        applied = await self._updates.submit(change)
        if applied and change.event is not None:
            self._announce(self, change.event)
        return applied

    async def update_with_retry(self, grant_id: str, decide: Callable[[Grant | None], D]) -> D:
        """Read the grant, decide, and commit the decision; if another writer was first, start over.

        `decide` returns a Transition, a Recovery, or any other value if there is nothing to write; or it raises. It may
        be called several times, so it must have no side effects. Raises the transition's refusal, but only after the
        transition is written: a replayed code must end its grant before the client hears of it. Raises
        TemporarilyUnavailable.
        """

        async def attempt() -> tuple[D] | None:
            decision = decide(await self.read(grant_id))
            transition = decision.mark if isinstance(decision, Recovery) else decision
            if not isinstance(transition, Transition):
                return (decision,)
            if not await self.commit(transition):
                return None
            if transition.refusal is not None:
                raise transition.refusal
            return (decision,)

        (decision,) = await retry_on_conflict(attempt, attempts=MAX_DECISIONS, exhausted=_too_many_changes)
        return decision

    async def page_of_client(
        self, registrations: Sequence[Client], now: datetime, page: int, size: int
    ) -> tuple[Sequence[Grant], int]:
        """One page, counted from 1, of a client's grants with a live access token; and how many there are in total.

        `registrations`: the client, seen from each API whose grants are wanted.
        The soonest to expire come first; grants that `revoke_all` has ended are not included. Counts no further than
        one more than MOST_PAGES pages, and returns nothing beyond them. Earlier pages are skipped in the index.
        """
        query = _any_of([_live(client, now) for client in registrations])
        async with outage_is_unavailability():
            collection = self._mongo.indexed(self.name)
            total = await collection.count_documents(query, limit=MOST_PAGES * size + 1, hint="live")
            if (page - 1) * size >= min(total, MOST_PAGES * size):
                return [], total
            cursor = collection.find(query, {"_id": 1}, hint="live").sort(_BY_END).skip((page - 1) * size)
            ids = [document["_id"] async for document in cursor.limit(size)]
            found = await collection.find({"_id": {"$in": ids}}, _LISTED).to_list(None)
        documents = {document["_id"]: document for document in found}
        return [_decode(documents[key]) for key in ids if key in documents], total

    async def live_of_client(
        self, registrations: Sequence[Client], now: datetime, size: int, after: End | None = None
    ) -> tuple[Sequence[Grant], bool]:
        """Up to `size` of the same grants, those that sort after `after`, and whether there are more."""
        queries = [_live(client, now) for client in registrations]
        if after is not None and after.expires_at > now:
            end, ties = after.expires_at, {"access.expires_at": after.expires_at, "_id": {"$gt": after.grant_id}}
            queries = [{**query, **rest} for query in queries for rest in (ties, {"access.expires_at": {"$gt": end}})]
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(_any_of(queries), _LISTED, hint="live").sort(_BY_END)
            documents = await cursor.limit(size + 1).to_list(None)
        return [_decode(document) for document in documents[:size]], len(documents) > size

    async def page(self, query: GrantQuery, after: Made | None) -> tuple[Sequence[Grant], bool]:
        """At most `query.limit` grants, the newest first, and whether there are more; without their key rules.

        Reads no more grants than it returns, whichever of the filters are given.
        """
        found: list[Document] = []
        async with outage_is_unavailability():
            for wanted, index in await self._ranges(query):
                if after is not None:
                    wanted["created_at"] = {"$lte": after.created_at}
                    wanted["$nor"] = [{"created_at": after.created_at, "_id": {"$gte": after.grant_id}}]
                cursor = self._mongo.indexed(self.name).find(wanted, _SHOWN, hint=index).sort(_LATEST)
                found += await cursor.limit(query.limit + 1).to_list(None)
        found.sort(key=lambda document: (document["created_at"], document["_id"]), reverse=True)
        return [_decode(document) for document in found[: query.limit]], len(found) > query.limit

    async def _ranges(self, query: GrantQuery) -> Sequence[tuple[Document, str]]:
        """Queries that together find the grants, and the index for each.

        Each query is a few ranges of one index, all sorted by time. MongoDB merges them. What the index has after the
        time (`api_id`, `client_id`) is compared in the index, among the grants of one client or user.
        """
        states = [state.value for state in GrantState if query.state in {None, state}]
        wanted: Document = {"state": {"$in": states}}
        given = {name: getattr(query, name) for name in ("client_id", "api_id", "subject")}
        wanted |= {name: value for name, value in given.items() if value is not None}
        if query.subject is not None:
            return [(wanted, "of_subject")]
        if query.client_id is not None:
            return [(wanted, "of_client")]
        if query.api_id is not None:
            return [(wanted, "of_api")]
        apis = await self._mongo[self.name].distinct("api_id")
        at_once = _MOST_MERGED // len(states)
        return [
            ({**wanted, "api_id": {"$in": apis[start : start + at_once]}}, "of_api")
            for start in range(0, len(apis), at_once)
        ]

    async def count_unended(self, query: GrantQuery, until: datetime, most: int) -> int:
        """How many grants of a client or of a subject that were created up to `until` are not revoked; up to `most`."""
        of_subject = query.subject is not None
        wanted: Document = {"subject": query.subject} if of_subject else {"client_id": query.client_id}
        wanted |= {"state": {"$in": _UNENDED}, "created_at": {"$lte": until}}
        async with outage_is_unavailability():
            collection = self._mongo.indexed(self.name)
            hint = "of_subject" if of_subject else "of_client"
            return await collection.count_documents(wanted, limit=most, hint=hint)

    async def count_unended_of_api(self, api_id: str, most: int) -> int:
        """How many grants of an API no revocation has ended, expired or not; up to `most`."""
        query = {"api_id": api_id, "state": {"$in": _UNENDED}}
        async with outage_is_unavailability():
            return await self._mongo.indexed(self.name).count_documents(query, limit=most, hint="of_api")

    async def unended_of_subject(self, subject: str, until: datetime, batch: int) -> AsyncIterator[Sequence[str]]:
        """The same as `unended_of_client`, for the grants that one user authorized."""
        query = {"subject": subject, "state": {"$in": _UNENDED}, "created_at": {"$lte": until}}
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, {"_id": 1}, hint="of_subject", batch_size=batch)
            while found := await cursor.to_list(batch):
                yield [document["_id"] for document in found]

    async def unended_of_client(
        self, api_id: str, client_id: str, until: datetime, batch: int
    ) -> AsyncIterator[Sequence[str]]:
        """Ids of a client's grants on an API, created up to `until`, that no revocation has ended, expired or not.

        Read from the index alone, without visiting the ended ones.
        """
        whose = {"client_id": client_id, "api_id": api_id}
        query = {**whose, "state": {"$in": _UNENDED}, "created_at": {"$lte": until}}
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, {"_id": 1}, hint="live", batch_size=batch)
            while found := await cursor.to_list(batch):
                yield [document["_id"] for document in found]


def _too_many_changes() -> TemporarilyUnavailable:
    return TemporarilyUnavailable("too many changes of one grant at once")


def _any_of(queries: Sequence[Document]) -> Document:
    return queries[0] if len(queries) == 1 else {"$or": queries}


def _live(client: Client, now: datetime) -> Document:
    query: Document = {
        "client_id": client.client_id,
        "api_id": client.api_id,
        "state": GrantState.ACTIVE.value,
        "access.revoked": False,
        "access.expires_at": {"$gt": now},
    }
    if client.revoked_before is not None:
        query["created_at"] = {"$gt": client.revoked_before}
    return query
