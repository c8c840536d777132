"""The notifier keeps looking for due deliveries whatever errors MongoDB returns."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from libs.bus.local import LocalBus
from libs.supervision import Backoff
from libs.telemetry import BACKGROUND_FAILURES
from services.embedded import EmbeddedMongo
from services.notifier import sweeper
from services.notifier.sweeper import MissedNotificationSweeper
from tests.eventually import eventually
from tests.services.each import Started, started

SOON = Backoff(first_delay=0.5, longest_delay=0.5, recovered_after=1.5)


class WithFailPoints(EmbeddedMongo):
    """A mongod with fail points."""

    parameters: ClassVar[tuple[str, ...]] = ("--setParameter", "enableTestCommands=1")


class Sweeps:
    """The results of a notifier's sweeps, and injected errors."""

    def __init__(self, service: Started, admin: Any, outcomes: list[bool]) -> None:
        self.service = service
        self._admin = admin
        self._outcomes = outcomes

    async def fail(self, code: int) -> None:
        """From now on every read of the services fails with this error."""
        data = {"failCommands": ["find", "aggregate", "count"], "appName": "tokenwire", "errorCode": code}
        await self._admin.command({"configureFailPoint": "failCommand", "mode": "alwaysOn", "data": data})

    async def mend(self) -> None:
        """Remove the error."""
        await self._admin.command({"configureFailPoint": "failCommand", "mode": "off"})

    async def one_more(self, *, good: bool) -> None:
        """Wait for another sweep to end, successfully or not."""
        before = len(self._outcomes)
        await eventually(lambda: good in self._outcomes[before:], within=30)


@pytest.fixture(scope="module", name="sweeps")
async def _sweeps(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Sweeps]:
    outcomes: list[bool] = []
    sweep = MissedNotificationSweeper.sweep

    async def noted(self: MissedNotificationSweeper) -> int:
        try:
            collected = await sweep(self)
        except BaseException:
            outcomes.append(False)
            raise
        outcomes.append(True)
        return collected

    patch = pytest.MonkeyPatch()
    patch.setattr(MissedNotificationSweeper, "sweep", noted)
    patch.setattr(sweeper, "INTERVAL_SECONDS", 0.1)
    home: Path = tmp_path_factory.mktemp("failing")
    async with WithFailPoints(home) as server, started("notifier", server.url, "sweeps", LocalBus(), SOON) as service:
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(server.url)
        yield Sweeps(service, client.admin, outcomes)
        client.close()
    patch.undo()


@pytest.mark.parametrize("code", [43, 11601, 8000, 20, 13, 96, 999_999])
async def test_b3_no_error_of_mongodb_ends_the_sweep(sweeps: Sweeps, code: int) -> None:
    """Retryable or not, MongoDB's error fails some sweeps; the next succeed as soon as it is gone."""
    await sweeps.one_more(good=True)
    await sweeps.fail(code)
    try:
        await sweeps.one_more(good=False)
        await sweeps.one_more(good=False)
    finally:
        await sweeps.mend()
    await sweeps.one_more(good=True)
    await eventually(lambda: sweeps.service.has_status("ok"), within=30)


async def test_b3_an_unexpected_error_is_reported(sweeps: Sweeps) -> None:
    """An unexpected error is counted, and readiness names the task and the error code until a sweep succeeds."""
    counted = BACKGROUND_FAILURES.labels("missed-notification-sweeper")._value.get()
    await sweeps.fail(20)
    try:

        async def named() -> bool:
            response = await sweeps.service.readyz()
            assert (response.status, response.body["status"]) == (503, "unavailable"), response.body
            return "missed-notification-sweeper failed (OperationFailure 20)" in response.body["background_tasks"]

        await eventually(named, within=30)
        assert BACKGROUND_FAILURES.labels("missed-notification-sweeper")._value.get() > counted
    finally:
        await sweeps.mend()
    await eventually(lambda: sweeps.service.has_status("ok"), within=30)
