"""Compare-and-sets on single records that share round trips."""

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pymongo import UpdateOne
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import BATCH_LIMIT, Collection, Document, is_outage, settled


@dataclass(slots=True)
class _Waiter:
    key: str
    stamp: str
    operation: UpdateOne
    future: asyncio.Future[bool]


class GroupUpdate:
    """Updates that wait at the same time share one unordered `bulk_write`; one batch is in flight, which is the window.

    Each update leaves a stamp of its own in its record. Where the server's count does not say that all were applied,
    or an attempt's outcome is unknown, the stamps say which were.
    """

    def __init__(self, collection: Callable[[], Collection]) -> None:
        self._collection = collection
        self._waiting: list[_Waiter] = []
        self._flusher: asyncio.Task[None] | None = None

    async def advance(self, key: str, version: int, update: Document) -> bool:
        """Apply the update, which has a `$set`, if the record is still at `version`; whether it was.

        Raises TemporarilyUnavailable, with the outcome unknown.
        """
        stamp = os.urandom(8).hex()
        operation = UpdateOne({"_id": key, "version": version}, {**update, "$set": {**update["$set"], "stamp": stamp}})
        future: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiter(key, stamp, operation, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="group-update")
        return await future

    async def _flush(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:BATCH_LIMIT], self._waiting[BATCH_LIMIT:]
                await self._commit(batch)
        finally:
            self._flusher = None

    async def _commit(self, batch: Sequence[_Waiter]) -> None:
        try:
            applied = await settled(lambda _: self._write(batch))
        except (PyMongoError, TemporarilyUnavailable) as error:
            for waiter in batch:
                if not waiter.future.done():
                    waiter.future.set_exception(error)
            return
        for waiter in batch:
            if not waiter.future.done():
                waiter.future.set_result(applied is None or waiter.stamp in applied)

    async def _write(self, batch: Sequence[_Waiter]) -> set[str] | None:
        """The stamps of the updates that were applied; None: all."""
        try:
            result = await self._collection().bulk_write([waiter.operation for waiter in batch], ordered=False)
        except BulkWriteError as error:
            if is_outage(error):
                raise
            first = (error.details or {})["writeErrors"][0]
            raise OperationFailure(first.get("errmsg", "write error"), first["code"]) from error
        if result.matched_count == len(batch):
            return None
        keys = [waiter.key for waiter in batch]
        found = await self._collection().find({"_id": {"$in": keys}}, {"stamp": 1}).to_list(None)
        return {document["stamp"] for document in found if "stamp" in document}
