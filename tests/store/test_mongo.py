"""The two MongoDB clients of a process: one for single operations, one for grouped ones."""

from typing import Any

import pytest
from pymongo import AsyncMongoClient

from libs.oauth.errors import TemporarilyUnavailable
from libs.store import mongo as module
from libs.store.mongo import Document, Mongo


async def test_both_clients_see_the_same_records_in_the_same_types(mongodb_url: str, database_name: str) -> None:
    """What one writes, the other reads as it was written; times are aware and in UTC."""
    mongo = Mongo(mongodb_url, database_name)
    await mongo.open()
    try:
        now = await mongo.time()
        await mongo.grouped("notes").insert_one({"_id": "a", "at": now})
        await mongo["notes"].insert_one({"_id": "b", "at": now})
        for found in (
            await mongo.grouped("notes").find({}).sort("_id", 1).to_list(),
            await mongo["notes"].find({}).sort("_id", 1).to_list(None),
        ):
            assert found == [{"_id": "a", "at": now}, {"_id": "b", "at": now}]
            assert {document["at"].utcoffset() for document in found} == {now.utcoffset()}
    finally:
        await mongo.close()


async def test_a_process_is_ready_only_when_both_clients_reach_the_primary(
    mongodb_url: str, database_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens need the one for grouped operations, so `/readyz` must not be green without it."""

    def unreachable(_: str, **options: Any) -> AsyncMongoClient[Document]:
        return AsyncMongoClient("mongodb://127.0.0.1:1", **options | {"serverSelectionTimeoutMS": 100})

    monkeypatch.setattr(module, "AsyncMongoClient", unreachable)
    mongo = Mongo(mongodb_url, database_name)
    await mongo.open()
    try:
        await mongo.prepared()
        with pytest.raises(TemporarilyUnavailable):
            await mongo.ping()
    finally:
        await mongo.close()


async def test_a_closed_connection_serves_nothing(mongodb_url: str, database_name: str) -> None:
    """Both clients are closed, whether they were used or not; closing twice is allowed."""
    mongo = Mongo(mongodb_url, database_name)
    await mongo.open()
    await mongo.grouped("notes").find_one({})
    for _ in range(2):
        await mongo.close()
    for collection in (mongo.grouped, mongo.__getitem__):
        with pytest.raises(RuntimeError, match="not open"):
            collection("notes")
