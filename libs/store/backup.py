"""A backup of the database as it was at one moment, and the way back.

The archive is a gzip stream of BSON documents: first a header, then for each collection its name and its documents, and
at the end how many there were. Documents are copied as they are stored, so what is encrypted stays encrypted.
"""

import gzip
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import IO, Any, NamedTuple

import bson
from bson.codec_options import CodecOptions
from bson.errors import InvalidBSON
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from pymongo.client_session import ClientSession
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from libs.store.mongo import require_url
from libs.store.mongodb_diagnosis import sentence

FORMAT = "tokenwire-backup"
FORMAT_VERSION = 1
COMPRESSION = 6
BATCH_BYTES = 8 * 1024 * 1024
"""Size of the batches in which documents are inserted."""
BATCH_DOCUMENTS = 10_000
REACHED_WITHIN = 10.0
"""Seconds until MongoDB must answer."""
_LONGEST = 64 * 1024 * 1024
"""Bytes; no document can be longer, so a greater length means that the archive is damaged."""
_TOOK_TOO_LONG = (
    "it took longer than MongoDB keeps the state of a moment; raise its parameter "
    "minSnapshotHistoryWindowInSeconds (300) while the backup runs"
)
_END = struct.pack("<i", 0)
_SNAPSHOT_TOO_OLD = 239
_RAW: CodecOptions[Any] = CodecOptions(document_class=RawBSONDocument)

Client = MongoClient[dict[str, Any]]


class BackupFailed(Exception):
    """The backup or its restoration has failed; the text is the line to print."""


@dataclass(frozen=True)
class Summary:
    """What an archive contains."""

    at: datetime
    """The moment whose state it is."""
    documents: Mapping[str, int]
    """Their number by collection."""


def back_up(url: str, database: str, archive: IO[bytes], version: str) -> Summary:
    """Write the state of the whole database at one moment to `archive`, while others go on writing to the database.

    `version` is that of the software, for information. Raises BackupFailed; the archive is unusable then.
    """
    with _connected(url) as client, gzip.open(archive, "wb", COMPRESSION) as packed:
        try:
            snapshot = _snapshot(client, database)
            with snapshot.session:
                about = {"format": FORMAT, "format_version": FORMAT_VERSION, "version": version, "at": snapshot.at}
                packed.write(bson.encode(about))
                documents = {name: _copied(client, database, name, snapshot.session, packed) for name in snapshot.names}
                packed.write(bson.encode({"documents": documents}))
        except PyMongoError as error:
            if isinstance(error, OperationFailure) and error.code == _SNAPSHOT_TOO_OLD:
                raise BackupFailed(_TOOK_TOO_LONG) from error
            raise BackupFailed(f"MongoDB: {sentence(error)}") from error
    return Summary(snapshot.at, documents)


def restore(url: str, database: str, archive: IO[bytes]) -> Summary:
    """Write the documents of `archive` to the database, which must be empty. Raises BackupFailed."""
    with _connected(url) as client, gzip.open(archive, "rb") as packed:
        try:
            header = _header(packed)
            _require_empty(client, database)
            documents = _restored(client, database, packed)
        except (EOFError, OSError, zlib.error, InvalidBSON) as error:
            raise BackupFailed(f"the archive is damaged or incomplete: {error}") from error
        except BulkWriteError as error:
            raise BackupFailed(f"MongoDB: {error.details['writeErrors'][0]['errmsg'][:200]}") from error
        except PyMongoError as error:
            raise BackupFailed(f"MongoDB: {sentence(error)}") from error
    return Summary(header["at"].replace(tzinfo=UTC), documents)


def _connected(url: str) -> Client:
    try:
        require_url(url)
        return MongoClient(
            url,
            tz_aware=True,
            w="majority",
            journal=True,
            serverSelectionTimeoutMS=int(REACHED_WITHIN * 1000),
            connectTimeoutMS=int(REACHED_WITHIN * 1000),
            appname="tokenwire-backup",
        )
    except (PyMongoError, ValueError) as error:
        raise BackupFailed(f"TOKENWIRE_MONGODB_URL: {error}") from error


class _Snapshot(NamedTuple):
    """A session whose reads all see the same moment, and the collections that existed then."""

    session: ClientSession
    names: list[str]
    at: datetime
    """What was acknowledged before this is in it."""


def _snapshot(client: Client, database: str) -> _Snapshot:
    while True:
        names = _collections(client, database)
        if not names:
            raise BackupFailed(f"the database {database} is empty")
        at = client.admin.command("hello")["localTime"]
        session = client.start_session(snapshot=True)
        client[database][names[0]].find_one(session=session)  # the first read fixes the moment
        if _collections(client, database) == names:
            return _Snapshot(session, names, at.replace(tzinfo=UTC))
        session.end_session()


def _collections(client: Client, database: str) -> list[str]:
    return sorted(name for name in client[database].list_collection_names() if not name.startswith("system."))


def _copied(client: Client, database: str, name: str, session: ClientSession, packed: gzip.GzipFile) -> int:
    """Write the section of this collection; how many documents it has."""
    count = 0
    packed.write(bson.encode({"collection": name}))
    collection: Any = client[database].get_collection(name, codec_options=_RAW)
    for document in collection.find(session=session):
        packed.write(document.raw)
        count += 1
    packed.write(_END)
    return count


def _header(packed: gzip.GzipFile) -> dict[str, Any]:
    raw = _next(packed)
    header = bson.decode(raw) if raw is not None else {}
    if (header.get("format"), header.get("format_version")) != (FORMAT, FORMAT_VERSION):
        raise BackupFailed(f"this is not a backup of Tokenwire in format {FORMAT_VERSION}")
    return header


def _next(packed: gzip.GzipFile) -> bytes | None:
    """The next document; None at the end of a section. Raises EOFError."""
    length = packed.read(4)
    if length == _END:
        return None
    if len(length) < 4:
        raise EOFError("it ends early")
    (size,) = struct.unpack("<i", length)
    if not 5 <= size <= _LONGEST:
        raise EOFError("a document has an impossible length")
    rest = packed.read(size - 4)
    if len(rest) < size - 4:
        raise EOFError("it ends early")
    return length + rest


def _require_empty(client: Client, database: str) -> None:
    for name in _collections(client, database):
        if client[database][name].find_one() is not None:
            raise BackupFailed(
                f"the database {database} is not empty ({name}): stop the services, and drop it or name another one"
            )


def _restored(client: Client, database: str, packed: gzip.GzipFile) -> dict[str, int]:
    counts: dict[str, int] = {}
    while (raw := _next(packed)) is not None:
        about = bson.decode(raw)
        if "documents" in about:
            if about["documents"] != counts:
                raise EOFError("it has fewer documents than it should")
            return counts
        counts[about["collection"]] = _insert(client, database, about["collection"], packed)
    raise EOFError("it ends early")


def _insert(client: Client, database: str, name: str, packed: gzip.GzipFile) -> int:
    collection, count = client[database][name], 0
    for batch in _batches(packed):
        collection.insert_many(batch, ordered=False)
        count += len(batch)
    return count


def _batches(packed: gzip.GzipFile) -> Iterator[list[RawBSONDocument]]:
    batch: list[RawBSONDocument] = []
    size = 0
    while (raw := _next(packed)) is not None:
        batch.append(RawBSONDocument(raw))
        size += len(raw)
        if size >= BATCH_BYTES or len(batch) >= BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
