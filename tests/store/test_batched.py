"""Batched look-ups and inserts: each caller gets its own outcome, and none waits forever."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from libs.store.batched import batched_finds, batched_inserts
from libs.store.mongo import Conflict, Mongo


@pytest.fixture(name="mongo")
async def _mongo(mongodb_url: str, database_name: str) -> AsyncIterator[Mongo]:
    mongo = Mongo(mongodb_url, database_name)
    await mongo.open()
    yield mongo
    await mongo.close()


class InStep:
    """The real collection, but replies arrive in pairs, in the same turn of the event loop."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self.single = False
        self._arrived = 0
        self._both = asyncio.Event()

    def find(self, query: dict[str, Any]) -> "InStep._Cursor":
        return InStep._Cursor(self, self._collection.find(query))

    async def together(self) -> None:
        """Return when two callers are here, to both in one turn of the event loop."""
        self._arrived += 1
        if self._arrived == 2:
            asyncio.get_running_loop().call_soon(self._both.set)
        await self._both.wait()

    class _Cursor:
        def __init__(self, owner: "InStep", cursor: Any) -> None:
            self._owner, self._cursor = owner, cursor

        async def to_list(self, length: None) -> list[dict[str, Any]]:
            found: list[dict[str, Any]] = await self._cursor.to_list(length)
            if not self._owner.single:
                await self._owner.together()
            return found


async def test_a_look_up_right_after_two_others_ended_is_answered(mongo: Mongo) -> None:
    """Both senders end in one turn of the event loop; a look-up in that very turn still starts a new one."""
    await mongo["kept"].insert_many([{"_id": key} for key in "abc"])
    collection = InStep(mongo.grouped("kept"))
    finder = batched_finds(lambda: collection)  # type: ignore[arg-type, return-value]

    async def first() -> Any:
        assert await finder.submit("a") == {"_id": "a"}
        collection.single = True
        return await finder.submit("c")

    async def second() -> Any:
        await asyncio.sleep(0)
        return await finder.submit("b")

    async with asyncio.timeout(10):
        assert list(await asyncio.gather(first(), second())) == [{"_id": "c"}, {"_id": "b"}]


async def test_many_look_ups_get_their_own_document(mongo: Mongo) -> None:
    """Whichever look-ups share a round trip, and whether the document exists or not."""
    await mongo["kept"].insert_many([{"_id": str(number), "number": number} for number in range(50)])
    finder = batched_finds(lambda: mongo.grouped("kept"))
    keys = [str(number % 60) for number in range(300)]
    found = await asyncio.gather(*(finder.submit(key) for key in keys))
    assert [document and document["number"] for document in found] == [
        number % 60 if number % 60 < 50 else None for number in range(300)
    ]


async def test_a_taken_id_is_the_conflict_of_its_own_insert(mongo: Mongo) -> None:
    """The other documents of the batch are inserted."""
    await mongo["kept"].insert_one({"_id": "3"})
    group = batched_inserts(lambda: mongo.grouped("kept"))
    inserts = (group.submit({"_id": str(number)}) for number in range(10))
    outcomes = await asyncio.gather(*inserts, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [Conflict if number == 3 else type(None) for number in range(10)]
    assert await mongo["kept"].count_documents({}) == 10


async def test_a_value_that_cannot_be_written_blocks_no_caller(mongo: Mongo) -> None:
    """A value that cannot be encoded as BSON raises at its caller, and the next insert works."""
    group = batched_inserts(lambda: mongo.grouped("kept"))
    async with asyncio.timeout(10):
        with pytest.raises(UnicodeEncodeError):
            await group.submit({"_id": "a", "text": "\ud800"})
        await group.submit({"_id": "b"})
    finder = batched_finds(lambda: mongo.grouped("kept"))
    async with asyncio.timeout(10):
        with pytest.raises(UnicodeEncodeError):
            await finder.submit("\ud800")
        assert await finder.submit("b") == {"_id": "b"}
