"""What docs/operations.md says about sharding on hashed `_id` is true of the indexes."""

import re

from libs.encryption import KeyRing
from libs.store.mongo import Mongo
from libs.store.outbox_collection import announce_nothing
from libs.store.store import Store
from tests.deployment import stack
from tests.deployment.wiring import _VALUES


def told() -> list[tuple[str, str]]:
    """Each collection with what the page says: `yes…`, `possible…`, `no` or `no need`."""
    section = (stack.ROOT / "docs/operations.md").read_text().partition("### Sharding\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+`) \| ([^|]+) \|", section, re.MULTILINE)
    return [(name, answer) for names, answer in rows for name in re.findall(r"`(\w+)`", names)]


SHARDABLE = {name for name, answer in told() if not answer.startswith("no")}


def test_only_collections_without_another_unique_index_can_be_sharded() -> None:
    """A unique index must begin with the shard key, so the others stay whole; the page names each collection once."""
    mongo = Mongo(_VALUES["mongodb_url"], "any")
    Store.over(mongo, KeyRing.parse(_VALUES["keys"]), announce_nothing)
    indexes = [(name, index.document) for name, wanted, _ in mongo._wanted for index in wanted]
    unique = {name for name, index in indexes if index.get("unique")}
    assert len(told()) == len(dict(told()))
    assert {name for name, answer in told() if answer == "no"} == unique
    assert {name for name, _ in indexes} <= dict(told()).keys()
