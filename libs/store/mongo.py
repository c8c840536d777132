"""The connection to MongoDB, and how single reads and writes share round trips."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import structlog
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import IndexModel
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    ExecutionTimeout,
    OperationFailure,
    PyMongoError,
    WriteConcernError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from libs.oauth.errors import TemporarilyUnavailable

Document = dict[str, Any]
Collection = AsyncIOMotorCollection[Document]

OPERATION_TIMEOUT_MS = 4000
"""No single operation, with the driver's own retry, takes longer."""
AMBIGUITY_DEADLINE = 6.0
"""Seconds for which a write whose outcome is unknown is repeated with the same values."""
BATCH_LIMIT = 512
MongoError = PyMongoError
"""Whatever MongoDB or its driver refuses."""
DURABLE = {"w": "majority", "j": True}
_NOT_NOW = frozenset({11600, 11602, 10107, 13435, 189, 91, 7, 6, 89, 9001, 262, 50, 64})
"""Server codes that mean: interrupted, not primary, shutting down, out of time."""

log = structlog.get_logger("store")

T = TypeVar("T")


class Conflict(Exception):
    """Something with this key exists already."""


def is_outage(error: BaseException) -> bool:
    """Whether this error says that MongoDB is away or in transition, so that a write's outcome is unknown."""
    if isinstance(error, ConnectionFailure | ExecutionTimeout | WriteConcernError):
        return True
    return isinstance(error, OperationFailure) and error.code in _NOT_NOW


@asynccontextmanager
async def outage_is_unavailability() -> AsyncIterator[None]:
    """Turn MongoDB being away into TemporarilyUnavailable."""
    try:
        yield
    except PyMongoError as error:
        if not is_outage(error):
            raise
        raise TemporarilyUnavailable("the database is not available", detail=str(error)[:200]) from error


async def settled(write: Callable[[bool], Awaitable[T]]) -> T:
    """The outcome of a write, repeated with the same values while its outcome is unknown.

    `write` is told whether it may have been applied before. Raises TemporarilyUnavailable after AMBIGUITY_DEADLINE.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + AMBIGUITY_DEADLINE
    repeated = False
    while True:
        try:
            return await write(repeated)
        except PyMongoError as error:
            if not is_outage(error):
                raise
            if loop.time() >= deadline:
                raise TemporarilyUnavailable("the database is not available", detail=str(error)[:200]) from error
        repeated = True
        await asyncio.sleep(0.05)


def _require_url(url: str) -> None:
    """Raises ValueError with a text that quotes nothing of the URL, where a password may be."""
    if url.startswith("mongodb+srv://"):
        return  # what it says is in the DNS
    try:
        parse_uri(url, warn=True)
    except (PyMongoError, ValueError):
        raise ValueError(
            "a mongodb:// or mongodb+srv:// URL is expected, user name and password percent-encoded"
        ) from None


class Mongo:
    """One client a process; built unopened. Raises ValueError for a URL that is none."""

    def __init__(self, url: str, database: str) -> None:
        _require_url(url)
        self._url = url
        self._database = database
        self._client: AsyncIOMotorClient[Document] | None = None
        self._collections: dict[str, Collection] = {}
        self._wanted: list[tuple[str, Sequence[IndexModel]]] = []
        self._preparing: asyncio.Task[None] | None = None
        self._prepared = asyncio.Event()

    def want(self, collection: str, indexes: Sequence[IndexModel]) -> None:
        """Ask for a collection with these indexes; made after `open`, before any load."""
        self._wanted.append((collection, indexes))

    async def open(self, *, prepare: bool = True) -> None:
        """Connect in the background; returns at once even where MongoDB is away. Raises ValueError for a bad URL.

        Without `prepare` no collection or index is made: for those who look, and are no service.
        """
        try:
            self._client = AsyncIOMotorClient(
                self._url,
                tz_aware=True,
                tzinfo=UTC,
                w="majority",
                journal=True,
                retryWrites=True,
                timeoutMS=OPERATION_TIMEOUT_MS,
                serverSelectionTimeoutMS=OPERATION_TIMEOUT_MS // 2,
                connectTimeoutMS=2000,
                maxPoolSize=64,
                appname="tokenwire",
            )
        except (ConfigurationError, PyMongoError, ValueError) as error:
            raise ValueError(f"TOKENWIRE_MONGODB_URL: {error}") from error
        if prepare:
            self._preparing = asyncio.create_task(self._prepare(), name="mongo-prepare")

    async def _prepare(self) -> None:
        while True:
            try:
                for name, indexes in self._wanted:
                    await self._make(name, indexes)
            except PyMongoError as error:
                log.warning("mongodb_not_ready", error=str(error)[:200])
                await asyncio.sleep(0.5)
            else:
                self._prepared.set()
                return

    async def _make(self, name: str, indexes: Sequence[IndexModel]) -> None:
        if indexes:
            await self[name].create_indexes(list(indexes))

    async def prepared(self) -> None:
        """Return when collections and indexes exist."""
        await self._prepared.wait()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        if self._preparing:
            self._preparing.cancel()
            await asyncio.gather(self._preparing, return_exceptions=True)
            self._preparing = None
        if self._client:
            self._client.close()
            self._client = None
            self._collections.clear()

    def __getitem__(self, name: str) -> Collection:
        collection = self._collections.get(name)
        if collection is None:
            if self._client is None:
                raise RuntimeError("Mongo is not open")
            collection = self._collections[name] = self._client[self._database][name]
        return collection

    def majority(self, name: str) -> Collection:
        """The collection, reading only what cannot be rolled back."""
        return self[name].with_options(read_concern=ReadConcern("majority"))

    async def time(self) -> datetime:
        """What the primary's clock says. Raises TemporarilyUnavailable."""
        if self._client is None:
            raise TemporarilyUnavailable("the database is not open")
        async with outage_is_unavailability():
            hello = await self._client.admin.command("hello")
        moment: datetime = hello["localTime"]
        return moment.replace(tzinfo=UTC)

    async def ping(self) -> None:
        """Return if the primary answers and the indexes exist. Raises TemporarilyUnavailable."""
        if self._client is None:
            raise TemporarilyUnavailable("the database is not open")
        async with outage_is_unavailability():
            await self._client.admin.command("ping")
        if not self._prepared.is_set():
            raise TemporarilyUnavailable("the indexes are not made yet")


class GroupCommit:
    """Inserts that wait at the same time share one `insert_many`; one batch is in flight, which is the window.

    Each waiter gets the outcome of its own document; a cancelled waiter does not cancel the batch. The documents' ids
    must be random: a duplicate id in a repeated batch is then the proof that the first attempt was applied.
    """

    def __init__(self, collection: Callable[[], Collection]) -> None:
        self._collection = collection
        self._waiting: list[tuple[Document, asyncio.Future[None]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def insert(self, document: Document) -> None:
        """Return when the document is on a majority. Raises TemporarilyUnavailable, or Conflict for a taken id."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((document, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="group-commit")
        await future

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_LIMIT], self._waiting[BATCH_LIMIT:]
                try:
                    await self._commit(batch)
                except TemporarilyUnavailable as outage:
                    # Who came meanwhile was not sent, and need not wait as long again for the same answer.
                    self._refuse(batch + self._waiting, outage)
                    self._waiting = []
        finally:
            self._flusher = None

    async def _commit(self, batch: list[tuple[Document, asyncio.Future[None]]]) -> None:
        documents = [document for document, _ in batch]
        try:
            refused = await settled(lambda repeated: self._insert_many(documents, repeated))
        except TemporarilyUnavailable:
            raise
        except Exception as fault:  # noqa: BLE001 - raised where each waits, who would wait for ever else
            self._refuse(batch, fault)
            return
        for index, (_, future) in enumerate(batch):
            refusal = refused.get(index)
            if future.done():
                continue
            if refusal is None:
                future.set_result(None)
            else:
                future.set_exception(refusal)

    @staticmethod
    def _refuse(batch: list[tuple[Document, asyncio.Future[None]]], fault: Exception) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(fault)

    async def _insert_many(self, documents: list[Document], repeated: bool) -> dict[int, Exception]:
        # The plain command: `settled` repeats it, which the random ids make safe, so the driver's session, transaction
        # number and bookkeeping for each document would only cost.
        collection = self._collection()
        answer = await collection.database.command(
            "insert", collection.name, documents=documents, ordered=False, writeConcern=DURABLE
        )
        if doubt := answer.get("writeConcernError"):
            raise WriteConcernError(doubt.get("errmsg", ""), doubt.get("code"), doubt)
        return _refused(answer.get("writeErrors", ()), repeated)


def _refused(entries: Iterable[Document], repeated: bool) -> dict[int, Exception]:
    """Which documents were refused, and why; a repeated one that is there already was not. Raises for an outage."""
    refused: dict[int, Exception] = {}
    for entry in entries:
        if entry["code"] != 11000:
            failure = OperationFailure(entry.get("errmsg", "write error"), entry["code"])
            if is_outage(failure):
                raise failure
            refused[entry["index"]] = failure
        elif not repeated:
            refused[entry["index"]] = Conflict("taken")
    return refused


class GroupedFind:
    """Look-ups by `_id` that wait at the same time share one `$in` find; two finds are in flight at most."""

    def __init__(self, collection: Callable[[], Collection]) -> None:
        self._collection = collection
        self._waiting: dict[str, list[asyncio.Future[Document | None]]] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._finders = 0

    async def find(self, key: str) -> Document | None:
        """The document, as it is on the primary. Raises TemporarilyUnavailable."""
        future: asyncio.Future[Document | None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(key, []).append(future)
        if self._finders < 2:
            self._finders += 1
            task = asyncio.create_task(self._work(), name="grouped-find")
            self._running.add(task)
            task.add_done_callback(self._running.discard)
        return await future

    async def _work(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, {}
                await self._answer(batch)
        finally:
            # In the same turn of the loop that found nobody waiting: who comes next must not count on this one.
            self._finders -= 1

    async def _answer(self, batch: Mapping[str, list[asyncio.Future[Document | None]]]) -> None:
        try:
            async with outage_is_unavailability():
                found = await self._collection().find({"_id": {"$in": list(batch)}}).to_list(None)
        except Exception as error:  # noqa: BLE001 - raised where each waits, who would wait for ever else
            for future in (future for futures in batch.values() for future in futures if not future.done()):
                future.set_exception(error)
            return
        documents = {document["_id"]: document for document in found}
        for key, futures in batch.items():
            for future in futures:
                if not future.done():
                    future.set_result(documents.get(key))
