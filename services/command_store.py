"""Opens the store for commands that read or repair it without being a service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from libs.encryption import CannotDecrypt, KeyRing
from libs.oauth.errors import TemporarilyUnavailable
from libs.settings import Settings, read_as
from libs.store.mongo import Mongo, MongoError
from libs.store.outbox_collection import announce_nothing
from libs.store.store import Store


class StoreUnreadable(Exception):
    """The store cannot be read; the text is the one line to show to the operator."""

    status: ClassVar[int] = 2


@asynccontextmanager
async def stored(settings: Settings) -> AsyncIterator[tuple[Store, KeyRing]]:
    """The collections and the key ring; creates nothing in MongoDB. Raises StoreUnreadable, and WrongSetting."""
    keys = KeyRing.parse(settings.keys.get_secret_value())
    with read_as("mongodb_url"):
        mongo = Mongo(settings.mongodb_url.get_secret_value(), settings.mongodb_database)
    with read_as("mongodb_url"):
        await mongo.open(prepare=False)
    try:
        yield Store.over(mongo, keys, announce_nothing), keys
    except TemporarilyUnavailable as outage:
        raise StoreUnreadable(f"MongoDB: {outage.description}") from None
    except MongoError as error:
        raise StoreUnreadable(f"MongoDB: {str(error).partition(', full error')[0][:200]}") from None
    except CannotDecrypt as error:
        raise StoreUnreadable(f"a stored value cannot be decrypted: {error}") from None
    finally:
        await mongo.close()
