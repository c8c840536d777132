"""The indexes of a release are built however long it takes, and those of the previous release are dropped."""

from datetime import timedelta

import pytest
from pymongo import IndexModel

from libs.encryption import KEY_BYTES, KeyRing
from libs.oauth.errors import TemporarilyUnavailable
from libs.store.mongo import OPERATION_TIMEOUT_MS, Mongo
from libs.store.outbox_collection import announce_nothing
from libs.store.store import Store


async def test_b8_the_indexes_of_a_large_collection_may_take_hours(mongodb_url: str, database_name: str) -> None:
    """The normal timeout would abort a build again and again, and the service would never become ready."""
    mongo = Mongo(mongodb_url, database_name)
    mongo.want("large", [IndexModel("at", name="at")])
    await mongo.open(prepare=False)
    database = mongo["large"].database
    await mongo["large"].insert_one({"at": 1})
    await database.command("profile", 2)
    await mongo._make("large", [IndexModel("at", name="at")])
    await database.command("profile", 0)
    (build,) = await database["system.profile"].find({"command.createIndexes": "large"}).to_list(None)
    await mongo.close()
    limit = build["command"].get("maxTimeMS")
    assert limit is None or timedelta(milliseconds=limit) > timedelta(hours=1)
    assert timedelta(milliseconds=OPERATION_TIMEOUT_MS) < timedelta(minutes=1)


async def test_b8_retired_indexes_go(mongodb_url: str, database_name: str) -> None:
    """Unused indexes cost every write. Queries with a hint are not sent before their index exists."""
    before = Mongo(mongodb_url, database_name)
    before.want("things", [IndexModel("old", name="old"), IndexModel("kept", name="kept")])
    await before.open()
    await before.prepared()
    await before.close()
    mongo = Mongo(mongodb_url, database_name)
    mongo.want("things", [IndexModel("kept", name="kept"), IndexModel("new", name="new")], retired=("old", "never"))
    await mongo.open(prepare=False)
    with pytest.raises(TemporarilyUnavailable):
        mongo.indexed("things")
    await mongo.close()
    await mongo.open()
    await mongo.prepared()
    assert (await mongo.indexed("things").index_information()).keys() == {"_id_", "kept", "new"}
    await mongo.close()


async def test_no_index_is_made_twice(mongodb_url: str, database_name: str) -> None:
    """Every index of the store is recognised once it exists: the users of the services may not create any."""
    mongo = Mongo(mongodb_url, database_name)
    Store.over(mongo, KeyRing({0: bytes(KEY_BYTES)}, 0), announce_nothing)
    await mongo.open()
    await mongo.prepared()
    database = mongo["grants"].database
    await database.command("profile", 2)
    await mongo.make_indexes()
    await database.command("profile", 0)
    made = await database["system.profile"].find({"command.createIndexes": {"$exists": True}}).to_list(None)
    await mongo.close()
    assert made == []
