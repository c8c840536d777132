"""The connection to MongoDB: client options, write concern, indexes, and what is repeated after an error."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar
from warnings import catch_warnings, simplefilter

import pymongo
import structlog
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection
from pymongo import AsyncMongoClient, IndexModel, MongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.errors import (
    ConfigurationError,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern

from libs.deadlines import OPERATION_WITHIN, REPEAT_WRITE_WITHIN
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.failures import is_outage
from libs.store.mongodb_diagnosis import NotAReplicaSet, NotInitiated, brief, sentence
from libs.supervision import BackgroundTask, LoggedReasons, Supervisor

Document = dict[str, Any]
Collection = AsyncIOMotorCollection[Document]
GroupedCollection = AsyncCollection[Document]
"""A collection for grouped operations: see `Mongo.grouped`."""

OPERATION_TIMEOUT_MS = int(OPERATION_WITHIN * 1000)
AMBIGUITY_DEADLINE = REPEAT_WRITE_WITHIN
PING_WITHIN = 1.8
"""Seconds that MongoDB has to reply to a ping; less than the two seconds that an orchestrator usually waits."""
INDEXES_WITHIN = 6 * 3600.0
"""Seconds that building the indexes of a collection may take."""
MongoError = PyMongoError
"""Any error of MongoDB or its driver."""
CONNECTIONS, GROUPING_CONNECTIONS = 64, 24
"""Connections that a process may have: for single operations, and for grouped ones, of which few are in flight."""
DURABLE = {"w": "majority", "j": True}
"""Write concern: on the disks of a majority, so that no election rolls back a token that a client has already got."""
REPEAT_READ_WITHIN = 0.2
"""Seconds for which a read that failed with a transient error is repeated."""
_NO_SUCH_COLLECTION = 26
_CONFIGURATION = frozenset({13, 18, 20, 94})
"""Server error codes: not permitted, wrong password, not a replica set, replica set not initiated."""

log = structlog.get_logger("store")

T = TypeVar("T")


class Conflict(Exception):
    """A unique key is taken: there is a record with this id, or with this value of another unique field."""


@asynccontextmanager
async def outage_is_unavailability() -> AsyncIterator[None]:
    """Turn errors that mean an outage of MongoDB (`is_outage`) into TemporarilyUnavailable."""
    try:
        yield
    except PyMongoError as error:
        if not is_outage(error):
            raise
        raise TemporarilyUnavailable("the database is not available", detail=sentence(error)) from error


async def outcome_of_write(write: Callable[[bool], Awaitable[T]]) -> T:
    """The outcome of a write, which is repeated with the same values while its outcome is unknown.

    If the connection breaks after the write was sent, or the primary steps down, it is not known whether the write was
    applied. So `write` must be idempotent. Its argument says whether an earlier attempt may have been applied, so that
    it can tell its own traces from those of another writer. Raises TemporarilyUnavailable after AMBIGUITY_DEADLINE
    seconds.
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
                raise TemporarilyUnavailable("the database is not available", detail=sentence(error)) from error
        repeated = True
        await asyncio.sleep(0.05)


async def retry_read(read: Callable[[], Awaitable[T]]) -> T:
    """What a read found; repeated for REPEAT_READ_WITHIN seconds if MongoDB returns a transient error.

    A read that got no reply at all is not repeated here: the driver has already done that. Raises the last error.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + REPEAT_READ_WITHIN
    while True:
        try:
            return await read()
        except PyMongoError as error:
            if isinstance(error, ConnectionFailure) or not is_outage(error) or loop.time() >= deadline:
                raise
        await asyncio.sleep(0.05)


def _is_configuration(error: PyMongoError) -> bool:
    """Whether this error means that the URL, the user or the server is not set up as needed."""
    return isinstance(error, NotAReplicaSet | NotInitiated) or (
        isinstance(error, OperationFailure) and error.code in _CONFIGURATION
    )


_URL_EXPECTED = "a mongodb:// or mongodb+srv:// URL is expected, user name and password percent-encoded"


def require_url(url: str) -> None:
    """Raise ValueError for a wrong URL. The text quotes only names of options, because the URL contains a password."""
    scheme, _, rest = url.partition("://")
    if scheme not in {"mongodb", "mongodb+srv"} or not rest:
        raise ValueError(_URL_EXPECTED)  # the driver would accept `localhost:27017` too
    if scheme == "mongodb+srv":
        return  # its hosts and options are in the DNS
    try:
        with catch_warnings():
            simplefilter("error", UserWarning)  # the driver only warns of an unknown option, which is a typo
            MongoClient(url, connect=False).close()
    except UserWarning as warning:
        raise ValueError(f"an option of the URL is wrong: {str(warning).partition('. ')[0]}") from None
    except OSError as error:
        raise ValueError(f"a file that the URL names cannot be read: {error.strerror}") from None
    except (PyMongoError, ValueError):
        raise ValueError(_URL_EXPECTED) from None


def _is_like(wanted: IndexModel, there: Mapping[str, Any] | None) -> bool:
    """Whether an existing index is the wanted one. `there`: its description as `listIndexes` returns it."""
    options = dict(wanted.document)
    del options["name"]
    key = list(options.pop("key").items())
    return (
        there is not None
        and list(there["key"].items()) == key
        and all(there.get(option) == value for option, value in options.items())
    )


def _options(connections: int) -> dict[str, Any]:
    """The options of both clients, which override those of the URL."""
    return {
        "tz_aware": True,
        "tzinfo": UTC,
        "w": "majority",
        "journal": True,
        "retryWrites": True,
        "timeoutMS": OPERATION_TIMEOUT_MS,
        "serverSelectionTimeoutMS": OPERATION_TIMEOUT_MS // 2,
        "connectTimeoutMS": 2000,
        "maxPoolSize": connections,
        "appname": "tokenwire",
    }


class Mongo:
    """The process's connection to MongoDB, and the indexes that its collections need. Connects in `open`.

    It has two clients with the same options: motor's, and for grouped operations PyMongo's own async client, which
    takes less processor time because it switches no threads (ADR 43). They share nothing, so neither a session nor a
    cursor of one may be given to the other.
    """

    def __init__(self, url: str, database: str) -> None:
        require_url(url)
        self._url = url
        self._database = database
        self._client: AsyncIOMotorClient[Document] | None = None
        self._grouping_client: AsyncMongoClient[Document] | None = None
        self._collections: dict[str, Collection] = {}
        self._grouped: dict[str, GroupedCollection] = {}
        self._wanted: list[tuple[str, Sequence[IndexModel], Sequence[str]]] = []
        self._preparing: BackgroundTask | None = None
        self._prepared = asyncio.Event()
        self._unprepared = "the indexes are not made yet"
        """Why the indexes do not exist yet."""

    def want(self, collection: str, indexes: Sequence[IndexModel], retired: Sequence[str] = ()) -> None:
        """Declare the indexes of a collection, and names of indexes of earlier releases that are to be dropped.

        Missing ones are created, and retired ones dropped, in the background after `open`; `prepared` waits for it. A
        user that may do neither waits until another process has done it (ADR 36).
        """
        self._wanted.append((collection, indexes, retired))

    async def open(self, *, prepare: bool = True, supervisor: Supervisor | None = None) -> None:
        """Connect in the background; returns at once, even if MongoDB is down. Raises ValueError for a bad URL.

        Without `prepare`, no collection and no index is created: for commands that are not a service.
        """
        try:
            self._client = AsyncIOMotorClient(self._url, **_options(CONNECTIONS))
            # Connects at its first operation.
            self._grouping_client = AsyncMongoClient(self._url, **_options(GROUPING_CONNECTIONS))
        except (ConfigurationError, PyMongoError, ValueError) as error:
            raise ValueError(f"TOKENWIRE_MONGODB_URL: {error}") from error
        if prepare:
            self._preparing = (supervisor or Supervisor()).start("mongo-prepare", self._prepare)

    async def _prepare(self) -> None:
        logged = LoggedReasons()
        while True:
            try:
                await self.make_indexes()
            except PyMongoError as error:
                known = is_outage(error) or _is_configuration(error)
                if not known:
                    raise
                self._unprepared = self._sentence(error)
                if logged.is_new(self._unprepared):
                    log.warning("mongodb_not_ready", reason=f"TOKENWIRE_MONGODB_URL: {self._unprepared}")
                await asyncio.sleep(0.5)
            else:
                self._prepared.set()
                return

    async def make_indexes(self) -> None:
        """Create the missing indexes of all collections and drop the retired ones. Raises MongoError."""
        await self._require_replica_set()
        for name, indexes, retired in self._wanted:
            await self._make(name, indexes, retired)

    async def _require_replica_set(self) -> None:
        hello = await self._opened().admin.command("hello")
        if "setName" not in hello and hello.get("msg") != "isdbgrid":
            raise NotInitiated if hello.get("isreplicaset") else NotAReplicaSet

    def _opened(self) -> AsyncIOMotorClient[Document]:
        if self._client is None:
            raise RuntimeError("Mongo is not open")
        return self._client

    def _sentence(self, error: PyMongoError) -> str:
        return sentence(error, self._client.delegate.topology_description if self._client else None)

    async def _make(self, name: str, indexes: Sequence[IndexModel], retired: Sequence[str] = ()) -> None:
        there = await self._indexes(name)
        # Only missing ones: the users of the services may not create indexes, not even those that exist.
        missing = [index for index in indexes if not _is_like(index, there.get(index.document["name"]))]
        if missing:
            # Not under the client's own timeout: building an index of a large collection takes minutes.
            with pymongo.timeout(INDEXES_WITHIN):
                await self[name].create_indexes(missing)
        for index in there.keys() & set(retired):
            await self[name].drop_index(index)

    async def _indexes(self, name: str) -> Mapping[str, Document]:
        """The indexes of a collection by name, without those that are still being built."""
        try:
            collection = self[name]
            # Dates in the options of an index are compared, so they must be read as aware as everywhere.
            reply = await collection.database.command(
                "listIndexes", name, includeBuildUUIDs=True, codec_options=collection.codec_options
            )
        except OperationFailure as error:
            if error.code == _NO_SUCH_COLLECTION:
                return {}
            raise
        return {index["name"]: index for index in reply["cursor"]["firstBatch"] if "buildUUID" not in index}

    async def missing_indexes(self) -> Sequence[str]:
        """The wanted indexes that do not exist, as `<collection>.<index>`. Raises TemporarilyUnavailable."""
        async with self._explained():
            found: list[str] = []
            for name, indexes, _ in self._wanted:
                there = await self._indexes(name)
                lacking = (each for each in indexes if not _is_like(each, there.get(each.document["name"])))
                found += [f"{name}.{index.document['name']}" for index in lacking]
        return found

    async def server_version(self) -> str:
        """The version of MongoDB. Raises TemporarilyUnavailable, also if it is not a replica set."""
        async with self._explained():
            await self._require_replica_set()
            return str((await self._opened().admin.command("buildInfo"))["version"])

    async def may_write(self) -> bool:
        """Whether the user may write to a collection of the database. Raises TemporarilyUnavailable."""
        async with self._explained():
            status = await self._opened().admin.command("connectionStatus", showPrivileges=True)
        known = status["authInfo"]
        if not known["authenticatedUsers"]:
            return True  # access control is off, or the first operation would have been refused
        databases = {self._database, ""}
        return any(
            {"insert", "update"} & {*privilege["actions"]} and privilege["resource"].get("db", "") in databases
            for privilege in known["authenticatedUserPrivileges"]
        )

    @asynccontextmanager
    async def _explained(self) -> AsyncIterator[None]:
        try:
            yield
        except PyMongoError as error:
            raise TemporarilyUnavailable(self._sentence(error), detail=brief(error)) from error

    async def prepared(self) -> None:
        """Return when all indexes exist."""
        await self._prepared.wait()

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        if self._preparing:
            await self._preparing.stop()
            self._preparing = None
        if self._client:
            self._client.close()
            self._client = None
            self._collections.clear()
        if self._grouping_client:
            client, self._grouping_client = self._grouping_client, None
            self._grouped.clear()
            await client.close()

    def __getitem__(self, name: str) -> Collection:
        collection = self._collections.get(name)
        if collection is None:
            if self._client is None:
                raise RuntimeError("Mongo is not open")
            collection = self._collections[name] = self._client[self._database][name]
        return collection

    def grouped(self, name: str) -> GroupedCollection:
        """The collection for operations that many callers share: batches of inserts, updates and look-ups."""
        collection = self._grouped.get(name)
        if collection is None:
            if self._grouping_client is None:
                raise RuntimeError("Mongo is not open")
            collection = self._grouped[name] = self._grouping_client[self._database][name]
        return collection

    def indexed(self, name: str) -> Collection:
        """The collection, for queries with a `hint`. Raises TemporarilyUnavailable until the indexes exist."""
        if not self._prepared.is_set():
            raise TemporarilyUnavailable(self._unprepared)
        return self[name]

    def majority(self, name: str) -> Collection:
        """The collection with read concern majority: returns only data that cannot be rolled back."""
        return self[name].with_options(read_concern=ReadConcern("majority"))

    async def time(self) -> datetime:
        """The time of the primary's clock. Raises TemporarilyUnavailable."""
        if self._client is None:
            raise TemporarilyUnavailable("the database is not open")
        async with outage_is_unavailability():
            hello = await self._client.admin.command("hello")
        moment: datetime = hello["localTime"]
        return moment.replace(tzinfo=UTC)

    async def ping(self) -> None:
        """Return if the primary responds to both clients and the indexes exist; for `/readyz`.

        Raises TemporarilyUnavailable.
        """
        if self._client is None or self._grouping_client is None:
            raise TemporarilyUnavailable("the database is not open")
        try:
            async with asyncio.timeout(PING_WITHIN):
                await asyncio.gather(*(c.admin.command("ping") for c in (self._client, self._grouping_client)))
                if not self._prepared.is_set():
                    await self._require_replica_set()
        except TimeoutError:
            raise TemporarilyUnavailable(self._sentence(ServerSelectionTimeoutError("it does not respond"))) from None
        except PyMongoError as error:
            raise TemporarilyUnavailable(self._sentence(error), detail=brief(error)) from error
        if not self._prepared.is_set():
            raise TemporarilyUnavailable(self._unprepared)
