"""Many waits of one length, with one timer."""

import asyncio

from services.notifier.alarms import Alarms

SHORT = 0.05


class Bell:
    """Notes what rings, and when."""

    def __init__(self) -> None:
        self.rung: list[tuple[str, float]] = []
        self._began = asyncio.get_running_loop().time()

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.rung]

    def ring(self, name: str) -> None:
        self.rung.append((name, asyncio.get_running_loop().time() - self._began))


async def test_each_goes_off_in_its_time() -> None:
    """Not before, and in the order in which they were set; one that is off does not."""
    alarms, bell = Alarms(SHORT), Bell()
    alarms.set(lambda: bell.ring("first"))
    off = alarms.set(lambda: bell.ring("off"))
    await asyncio.sleep(SHORT / 2)
    alarms.set(lambda: bell.ring("second"))
    alarms.off(off)
    alarms.off(off)
    await asyncio.sleep(2 * SHORT)
    assert bell.names == ["first", "second"]
    assert [at >= least - 0.002 for (_, at), least in zip(bell.rung, (SHORT, 1.5 * SHORT), strict=True)] == [True, True]
    alarms.off(off)


async def test_one_may_set_the_next() -> None:
    """Whatever else is set: each has its own time."""
    alarms, bell = Alarms(SHORT), Bell()

    def again() -> None:
        bell.ring("again")
        if len(bell.rung) < 4:
            alarms.set(again)

    alarms.set(again)
    await asyncio.sleep(SHORT / 2)
    alarms.set(lambda: bell.ring("other"))
    await asyncio.sleep(5 * SHORT)
    assert sorted(bell.names) == ["again"] * 3 + ["other"]
    assert bell.names[:2] == ["again", "other"]


async def test_none_goes_off_once_they_are_closed() -> None:
    """And they can be set again."""
    alarms, bell = Alarms(SHORT), Bell()
    alarms.set(lambda: bell.ring("closed"))
    alarms.close()
    await asyncio.sleep(SHORT / 2)
    alarms.set(lambda: bell.ring("after"))
    await asyncio.sleep(2 * SHORT)
    assert bell.names == ["after"]
