"""Reads MongoDB's profiler, to check the commands that a request sends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from libs.store.mongo import Document, Mongo

_READS = frozenset({"query", "command", "getmore"})


@dataclass
class Profile:
    """The reads of some collections; filled when the block ends."""

    reads: list[Document] = field(default_factory=list)

    @property
    def examined(self) -> int:
        """Number of documents examined."""
        return sum(read.get("docsExamined", 0) for read in self.reads)

    @property
    def keys(self) -> int:
        """Number of index entries examined."""
        return sum(read.get("keysExamined", 0) for read in self.reads)

    def require_indexed(self) -> None:
        """Every read used an index and its order: no collection scan and no in-memory sort."""
        assert self.reads
        for read in self.reads:
            about = {name: read.get(name) for name in ("ns", "command", "planSummary", "execStats")}
            assert "COLLSCAN" not in read.get("planSummary", ""), about
            assert not read.get("hasSortStage"), about


@asynccontextmanager
async def profiled(mongo: Mongo, *collections: str, audit: bool = False) -> AsyncIterator[Profile]:
    """Collect all reads of these collections within the block, except background reads of the services.

    Background reads use majority concern, which no request does; `audit=True` includes them.
    """
    database = mongo["system.profile"].database
    await database.command("profile", 0)
    await database["system.profile"].drop()
    await database.create_collection("system.profile", capped=True, size=32 * 1024 * 1024)
    profile = Profile()
    await database.command("profile", 2)
    try:
        yield profile
    finally:
        await database.command("profile", 0)
        wanted = {"ns": {"$in": [f"{database.name}.{name}" for name in collections]}, "op": {"$in": list(_READS)}}
        found = await database["system.profile"].find(wanted).to_list(None)
        profile.reads = [
            read for read in found if not _is_write(read) and not _is_sweep(read) and (audit or not _is_majority(read))
        ]


def _is_write(read: Document) -> bool:
    return bool(read.get("command", {}).keys() & {"insert", "update", "delete", "createIndexes"})


def _is_sweep(read: Document) -> bool:
    """The outbox's periodic query."""
    own = {"pending_since", "handover_since", "refused_since", "claimable_at", "stamp"}
    return bool(read.get("command", {}).get("filter", {}).keys() & own)


def _is_majority(read: Document) -> bool:
    command: Document = read.get("originatingCommand") or read.get("command") or {}
    return bool(command.get("readConcern", {}).get("level") == "majority")
