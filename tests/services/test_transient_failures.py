"""Transient MongoDB errors, injected into each kind of operation by fail points."""

import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from motor.motor_asyncio import AsyncIOMotorClient

from libs.oauth.errors import TemporarilyUnavailable
from libs.oauth.token_formats import TokenKind, new_grant_id
from libs.store import mongo
from services.embedded import EmbeddedMongo
from tests.builders import Response, settle, unique
from tests.services.system import Party, System, open_system, tokens_of

TRANSIENT = [134, 43, 175, 237, 11601, 24, 8000, 133, 112, 100, 79, 462]
FAULTS = [2]
CREDENTIALS = {"grant_type": "client_credentials"}
ALWAYS = "alwaysOn"


class WithFailPoints(EmbeddedMongo):
    """A mongod with fail points."""

    parameters: ClassVar[tuple[str, ...]] = ("--setParameter", "enableTestCommands=1")


class Failing:
    """Services on such a server, and a way to make its commands fail."""

    def __init__(self, system: System, admin: Any) -> None:
        self.system = system
        self._admin = admin

    @asynccontextmanager
    async def failing(self, command: str, mode: Any = ALWAYS, **how: Any) -> AsyncIterator[None]:
        """This command fails for the services only."""
        data = {"failCommands": [command], "appName": "tokenwire", **how}
        await self._admin.command({"configureFailPoint": "failCommand", "mode": mode, "data": data})
        try:
            yield
        finally:
            await self._admin.command({"configureFailPoint": "failCommand", "mode": "off"})


@pytest.fixture(scope="module", name="failing")
async def _failing() -> AsyncIterator[Failing]:
    patch = pytest.MonkeyPatch()
    patch.setattr(mongo, "AMBIGUITY_DEADLINE", 0.2)
    with tempfile.TemporaryDirectory(prefix="tokenwire-failing-") as home:
        async with WithFailPoints(Path(home)) as server, open_system(server.url) as system:
            client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(server.url)
            yield Failing(system, client.admin)
            client.close()
    patch.undo()


@pytest.fixture(scope="module", name="party")
async def _party(failing: Failing) -> Party:
    party = await failing.system.party()
    # Warm caches, and nothing left to write.
    assert (await party.verify((await party.tokens()).access)).status == 200
    await settle(failing.system.deps)
    return party


def unavailable(response: Response) -> bool:
    """503 with `Retry-After` in its path's format."""
    assert (response.status, response.headers.get("Retry-After")) == (503, "2"), (response.status, response.raw)
    return "Status" in response.body or response.body["error"] == "temporarily_unavailable"


async def exchanged(party: Party) -> Response:
    """Exchange a code that this server could have issued for a grant that does not exist."""
    code = party.system.deps.token_format.mint(TokenKind.CODE, new_grant_id(bytes(16)), 0)
    return await party.exchange(code.value)


async def issued(party: Party) -> Response:
    return await party.token(CREDENTIALS)


async def edited(party: Party) -> Response:
    path = f"/api/apis/oauth/{party.api.api_id}/{party.id}"
    return await party.system.operator("PUT", path, json={"description": unique("changed")})


async def listed(party: Party) -> Response:
    return await party.system.operator("GET", "/api/apis")


OPERATIONS = [
    pytest.param("find", exchanged, id="grouped-find"),
    pytest.param("find", listed, id="find-of-management"),
    pytest.param("insert", issued, id="insert-many"),
    pytest.param("update", edited, id="update"),
]
Ask = Callable[[Party], Awaitable[Response]]


@pytest.mark.parametrize("code", TRANSIENT)
@pytest.mark.parametrize(("command", "ask"), OPERATIONS)
async def test_b4_a_transient_error_is_503(failing: Failing, party: Party, command: str, ask: Ask, code: int) -> None:
    """A transient error of any operation gives 503; the next request succeeds or is refused as usual."""
    async with failing.failing(command, errorCode=code):
        assert unavailable(await ask(party))
    assert (await ask(party)).status < 500


@pytest.mark.parametrize("code", FAULTS)
@pytest.mark.parametrize(("command", "ask"), OPERATIONS)
async def test_b4_a_permanent_error_is_500(failing: Failing, party: Party, command: str, ask: Ask, code: int) -> None:
    """A permanent error gives 500 without details."""
    async with failing.failing(command, errorCode=code):
        response = await ask(party)
    assert response.status == 500
    assert b"injected" not in response.raw


@pytest.mark.parametrize(("command", "ask"), [("insert", issued), ("update", edited)])
async def test_b4_an_unmet_write_concern_is_503(failing: Failing, party: Party, command: str, ask: Ask) -> None:
    """An unmet write concern gives 503, because the write may still be rolled back."""
    for code in (64, 79, 100):
        concern = {"code": code, "errmsg": "not on a majority"}
        async with failing.failing(command, writeConcernError=concern):
            assert unavailable(await ask(party))


@pytest.mark.parametrize(
    ("command", "ask", "code"),
    [("insert", issued, 112), ("insert", issued, 462), ("update", edited, 112), ("update", edited, 11601)],
)
async def test_b4_a_write_is_repeated_first(failing: Failing, party: Party, command: str, ask: Ask, code: int) -> None:
    """A single failed write is retried with the same values."""
    async with failing.failing(command, {"times": 1}, errorCode=code):
        assert (await ask(party)).status == 200


async def test_b4_a_grouped_find_is_repeated_first(failing: Failing, party: Party) -> None:
    """A killed grouped find is retried."""
    code = await party.code()
    async with failing.failing("find", {"times": 2}, errorCode=11601):
        assert tokens_of(await party.exchange(code))


@pytest.mark.parametrize("code", TRANSIENT)
async def test_b4_a_cursor_that_is_lost_is_unavailability(failing: Failing, party: Party, code: int) -> None:
    """If `getMore` fails, the request gets 503, not a partial list."""
    for _ in range(3):
        await party.tokens()
    await settle(failing.system.deps)
    grants, now = failing.system.deps.store.grants, failing.system.deps.now
    since = now().replace(year=now().year - 1)
    until = now().replace(year=now().year + 1)
    async with failing.failing("getMore", errorCode=code):
        with pytest.raises(TemporarilyUnavailable):
            assert [batch async for batch in grants.outbox_statuses(since, until, 2)]


@pytest.mark.parametrize("code", TRANSIENT)
async def test_b4_an_aggregation_that_fails_in_passing_is_unavailability(failing: Failing, code: int) -> None:
    """A failed aggregation is treated like other reads."""
    deliveries = failing.system.deps.store.deliveries
    async with failing.failing("aggregate", errorCode=code):
        with pytest.raises(TemporarilyUnavailable):
            await deliveries.agenda()
        with pytest.raises(TemporarilyUnavailable):
            await deliveries.count_states(["a", "b"])
    assert await deliveries.agenda() == {}


@pytest.mark.parametrize("label", ["RetryableWriteError", "TransientTransactionError"])
async def test_b4_the_label_decides_where_the_code_is_unknown(failing: Failing, party: Party, label: str) -> None:
    """For unknown error codes the server's labels decide whether to retry."""
    async with failing.failing("insert", errorCode=1_234_567, errorLabels=[label]):
        assert unavailable(await issued(party))
