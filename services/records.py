"""What is stored, for the commands that look at it without being a service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import ClassVar

from libs.oauth.errors import TemporarilyUnavailable
from libs.sealing import CannotOpen, KeyRing
from libs.settings import Settings, read_as
from libs.store.ledger import nobody
from libs.store.mongo import Mongo, MongoError
from libs.store.store import Store


class CannotLook(Exception):
    """What is stored cannot be read; the text is the one line to show."""

    status: ClassVar[int] = 2


@asynccontextmanager
async def stored(settings: Settings) -> AsyncIterator[tuple[Store, KeyRing]]:
    """The collections and the key ring; nothing is made that is not there. Raises CannotLook, and WrongSetting."""
    keys = KeyRing.parse(settings.keys.get_secret_value())
    with read_as("mongodb_url"):
        mongo = Mongo(settings.mongodb_url.get_secret_value(), settings.mongodb_database)
    with read_as("mongodb_url"):
        await mongo.open(prepare=False)
    try:
        yield Store.over(mongo, keys, nobody), keys
    except TemporarilyUnavailable as outage:
        raise CannotLook(f"MongoDB: {outage.description}") from None
    except MongoError as error:
        raise CannotLook(f"MongoDB: {str(error).partition(', full error')[0][:200]}") from None
    except CannotOpen as closed:
        raise CannotLook(f"a stored value cannot be opened: {closed}") from None
    finally:
        await mongo.close()
