"""Opens what a test stores in, over a connection of its own."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TypeVar

from libs.store.mongo import Mongo

S = TypeVar("S")


@asynccontextmanager
async def connected(make: Callable[[Mongo], S], url: str, database: str) -> AsyncIterator[S]:
    """What `make` builds over a connection that is open and whose indexes exist; closed at the end."""
    mongo = Mongo(url, database)
    made = make(mongo)
    await mongo.open()
    await mongo.prepared()
    try:
        yield made
    finally:
        await mongo.close()
