"""Grants: one document each, advanced by compare-and-set on its version."""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from typing import TypeVar

import orjson
from pymongo import ASCENDING, DESCENDING, IndexModel

from contracts.clients import Client
from contracts.grants import Grant, GrantState
from libs.oauth.errors import TemporarilyUnavailable
from libs.oauth.grants import Transition
from libs.store.ledger import RETENTION, Ledger
from libs.store.mongo import Document, outage_is_unavailability

D = TypeVar("D")
MOST_DECISIONS = 32
"""Each decision lost to another writer is one step of that writer's; a grant has no more than a few left to make."""


def _over_at(grant: Grant) -> datetime:
    """When the last of the grant's values is dead by age."""
    last = grant.code.expires_at if grant.code is not None else None
    for token in (grant.access, grant.refresh):
        if token is not None and (last is None or token.expires_at > last):
            last = token.expires_at
    return last or grant.expires_at


def _encode(grant: Grant, *, present_only: bool) -> Document:
    document: Document = grant.model_dump(exclude={"grant_id"}, exclude_none=present_only)
    if grant.key_rules is not None:
        # As JSON text: a session's keys may hold what BSON field names must not.
        document["key_rules"] = orjson.dumps(grant.key_rules)
    document["purge_after"] = _over_at(grant) + RETENTION
    return document


def _decode(document: Document) -> Grant:
    # Others who asked at the same time have the same document.
    document = {**document, "grant_id": document["_id"]}
    if document.get("key_rules") is not None:
        document["key_rules"] = orjson.loads(document["key_rules"])
    return Grant.model_validate(document)


class Grants(Ledger):
    """All grants, pending, active and over."""

    name = "grants"
    counter = "sequence"
    _stand_in = ""
    """The last that was found."""
    indexes = (
        IndexModel([("client_id", ASCENDING), ("created_at", DESCENDING)], name="client"),
        IndexModel("created_at", name="made"),
    )

    async def read(self, grant_id: str) -> Grant | None:
        """The grant as it is now; None if it never was, or is long over."""
        document = await self._read(grant_id)
        if document is None:
            return None
        self._stand_in = grant_id
        return _decode(document)

    async def read_in_vain(self) -> None:
        """The work of `read`, for a value that names no grant: the time does not tell it from one that does."""
        await self.read(self._stand_in)

    async def commit(self, transition: Transition) -> bool:
        """Write the transition and its event as one; False if the grant is no longer what it was before.

        Raises TemporarilyUnavailable with nothing half-done.
        """
        grant, before = transition.after, transition.before
        document = _encode(grant, present_only=before is None)
        if before is not None:
            return await self._advance(grant.grant_id, before.version, document, transition.event)
        if transition.event is None:
            raise ValueError("a new grant comes with its event")
        document["_id"] = grant.grant_id
        await self._insert(document, transition.event)
        return True

    async def settle(self, grant_id: str, decide: Callable[[Grant | None], D]) -> D:
        """Read the grant, decide, and commit what was decided; again from the start where another writer was first.

        `decide` returns a Transition, or anything else where there is nothing to write, or raises. Raises the
        transition's refusal once it is written, and TemporarilyUnavailable.
        """
        for _ in range(MOST_DECISIONS):
            decision = decide(await self.read(grant_id))
            if not isinstance(decision, Transition):
                return decision
            if await self.commit(decision):
                if decision.refusal is not None:
                    raise decision.refusal
                return decision
        raise TemporarilyUnavailable("too many changes of one grant at once")

    async def page_of_client(self, client: Client, now: datetime, page: int, size: int) -> tuple[Sequence[Grant], int]:
        """One page, counted from 1, of the client's grants with a live access token, and how many there are in all.

        The soonest to expire come first; what ended with all others of the client is not among them.
        """
        query: Document = {
            "client_id": client.client_id,
            "api_id": client.api_id,
            "state": GrantState.ACTIVE,
            "access.revoked": False,
            "access.expires_at": {"$gt": now},
        }
        if client.revoked_before is not None:
            query["created_at"] = {"$gt": client.revoked_before}
        async with outage_is_unavailability():
            collection = self._mongo[self.name]
            total = await collection.count_documents(query)
            cursor = collection.find(query).sort([("access.expires_at", 1), ("_id", 1)])
            documents = await cursor.skip((page - 1) * size).limit(size).to_list(None)
        return [_decode(document) for document in documents], total

    async def unended_of_client(self, client_id: str, until: datetime) -> AsyncIterator[Grant]:
        """Grants of a client, created up to a moment, that no revocation has ended; whatever their age."""
        query = {"client_id": client_id, "created_at": {"$lte": until}, "state": {"$ne": GrantState.REVOKED}}
        async with outage_is_unavailability():
            async for document in self._mongo[self.name].find(query):
                yield _decode(document)
