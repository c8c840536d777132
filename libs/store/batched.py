"""Inserts and look-ups by id that share round trips with others of the same collection."""

from collections.abc import Awaitable, Callable, Iterable, Sequence

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.batcher import Batcher
from libs.store.failures import DUPLICATE_KEY, is_outage, raise_write_concern_error, write_error
from libs.store.mongo import (
    DURABLE,
    Conflict,
    Document,
    GroupedCollection,
    outage_is_unavailability,
    outcome_of_write,
    retry_read,
)

InsertMany = Callable[[Sequence[Document], bool], Awaitable[Sequence[Exception | None]]]
"""Inserts documents; the flag says whether an earlier attempt may have done so. One outcome for each, in order."""

FINDS_IN_FLIGHT = 2
"""With one, a look-up would wait for a whole round trip on average before it is even sent."""


def batched_inserts(
    collection: Callable[[], GroupedCollection], name: str = "batched-inserts"
) -> Batcher[Document, None]:
    """Inserts documents. `submit` returns when the document is on a majority of the replica set.

    It raises Conflict for an id that is taken, and TemporarilyUnavailable with the outcome unknown. The ids must be
    random: in a repeated batch, an id that exists already is then the proof that the first attempt inserted it.
    """
    return inserted_by(lambda documents, repeated: insert_many(collection(), documents, repeated), name)


def inserted_by(insert: InsertMany, name: str) -> Batcher[Document, None]:
    """`batched_inserts` with another way to insert a batch."""

    async def send(documents: Sequence[Document]) -> Sequence[Exception | None]:
        return await outcome_of_write(lambda repeated: insert(documents, repeated))

    return Batcher(name, send)


async def insert_many(
    collection: GroupedCollection, documents: Sequence[Document], repeated: bool
) -> Sequence[Exception | None]:
    """Insert the documents: for each, None if it is stored, or why it was refused. Raises the driver's errors.

    `repeated`: an earlier attempt may have inserted some, so an id that exists already counts as stored.
    """
    # The plain command rather than `insert_many`: the driver's session, transaction number and bookkeeping for each
    # document would only cost, because repeating an insert with a random id is safe without them.
    reply = await collection.database.command(
        "insert", collection.name, documents=documents, ordered=False, writeConcern=DURABLE
    )
    raise_write_concern_error(reply)
    outcomes: list[Exception | None] = [None] * len(documents)
    for index, refusal in _refusals(reply.get("writeErrors", ()), repeated):
        outcomes[index] = refusal
    return outcomes


def _refusals(entries: Iterable[Document], repeated: bool) -> Iterable[tuple[int, Exception]]:
    for entry in entries:
        if entry["code"] != DUPLICATE_KEY:
            error = write_error(entry)
            if is_outage(error):
                raise error
            yield entry["index"], error
        elif not repeated:
            yield entry["index"], Conflict("taken")


def batched_finds(collection: Callable[[], GroupedCollection]) -> Batcher[str, Document | None]:
    """Finds documents by `_id` on the primary; None if there is none. `submit` raises TemporarilyUnavailable."""

    async def send(keys: Sequence[str]) -> Sequence[Document | Exception | None]:
        query = {"_id": {"$in": list(dict.fromkeys(keys))}}
        try:
            async with outage_is_unavailability():
                found = await retry_read(lambda: collection().find(query).to_list(None))
        except TemporarilyUnavailable as outage:
            # Returned, not raised: a read is repeated for a moment only, so those that wait for the next batch still
            # have a good chance.
            return [outage] * len(keys)
        documents = {document["_id"]: document for document in found}
        return [documents.get(key) for key in keys]

    return Batcher("batched-finds", send, in_flight=FINDS_IN_FLIGHT)
