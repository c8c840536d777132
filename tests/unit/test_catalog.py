"""The catalog's cache of records, and of keys without a record."""

import sys

from libs.bus.port import Pulse
from libs.catalog import MISSING_FOR, MISSING_SIZE, _CachedCollection

LONGEST = 255


class Source:
    """Values that may exist, and how often they were loaded."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.asked = 0

    async def load(self, key: str) -> str | None:
        self.asked += 1
        return self.values.get(key)


class Time:
    """A clock that a test advances."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def test_a12_misses_are_cached_for_a_time() -> None:
    """A missing key is not loaded again until its time is over, or something changed."""
    source, time = Source(), Time()
    collection = _CachedCollection(source.load, 5, time, Pulse(time), MISSING_FOR)
    for _ in range(3):
        assert await collection.cached_or_load("a") is None
    assert source.asked == 1
    time.now += MISSING_FOR
    assert await collection.cached_or_load("a") is None
    assert source.asked == 2
    source.values["a"] = "x"
    collection.forget()
    assert await collection.cached_or_load("a") == "x"


async def test_a12_without_a_time_nothing_missing_is_remembered() -> None:
    """As it is for clients, policies and operators."""
    source = Source()
    collection = _CachedCollection(source.load, 5, Time(), Pulse(Time()))
    for _ in range(3):
        assert await collection.cached_or_load("a") is None
    assert source.asked == 3


async def test_a12_cached_misses_are_bounded() -> None:
    """The cache of missing keys is bounded in entries and bytes; the oldest are dropped."""
    collection = _CachedCollection(Source().load, 5, Time(), Pulse(Time()), MISSING_FOR)
    keys = [f"{number:0{LONGEST}}" for number in range(MISSING_SIZE + 100)]
    for key in keys:
        await collection.cached_or_load(key)
    assert list(collection._missing) == keys[-MISSING_SIZE:]
    size = sys.getsizeof(collection._missing) + sum(sys.getsizeof(key) + 24 for key in collection._missing)
    assert size < 2 * 1024 * 1024
    assert not collection._entries
    assert not collection._loading
