"""The limit on tokens issued to a client in a time window."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from libs.bus.local import LocalBroker, LocalBus
from libs.oauth.errors import TooManyTokens
from libs.oauth.login_limits import Limit
from services.token.issuance_limit import IssuanceLimiter
from tests.builders import Response, make_api, make_client
from tests.services.system import Clock, Party, System, open_system, tokens_of

CREDENTIALS = {"grant_type": "client_credentials"}


def limited(response: Response) -> bool:
    """Whether this is 429 as RFC 6749 §5.2 with Retry-After, and nothing else."""
    assert (response.status, response.body["error"]) == (429, "temporarily_unavailable"), response.body
    assert set(response.body) == {"error", "error_description"}
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert response.headers["Cache-Control"] == "no-store"
    assert "WWW-Authenticate" not in response.headers
    return True


@pytest.fixture(name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url, issuance_limit="3/60", oauth_error_status=403) as system:
        yield system


async def test_a5_issuing_is_limited_per_client(system: System) -> None:
    """The fourth token in a window is refused, for any grant type; other clients are unaffected."""
    party = await system.party()
    other = await system.client_of(party.api)
    tokens = await party.tokens()
    later = await party.refreshed(tokens.refresh)
    user = await system.user()
    assert (await party.password(user.username)).status == 200
    assert limited(await party.token(CREDENTIALS))
    assert limited(await party.refresh(later.refresh))
    assert limited(await party.password(user.username))
    code = await party.code()
    assert limited(await party.exchange(code))
    assert (await other.token(CREDENTIALS)).status == 200
    assert (await party.verify(later.access)).status == 200
    system.clock.advance(int((await party.exchange(code)).headers["Retry-After"]))
    assert (await party.refresh(later.refresh)).status == 200
    assert (await party.token(CREDENTIALS)).status == 200


async def test_a5_a_refused_request_counts_for_nothing(system: System) -> None:
    """Refused requests are not counted, and a refused code is not used up."""
    party, user = await system.party(), await system.user()
    for _ in range(5):
        assert (await party.password(user.username, "wrong password")).status == 403
        assert (await party.token({**CREDENTIALS, "scope": "undeclared"})).status == 403
        assert (await party.exchange("tw_ac_forged")).status == 403
    assert [(await party.token(CREDENTIALS)).status for _ in range(4)] == [200, 200, 200, 429]


async def test_a5_a_public_client_is_limited_for_each_grant(system: System) -> None:
    """A public client is limited for each grant, because anyone could use up a limit by its id."""
    party = await system.party(public=True)
    mine, theirs = await party.tokens(), await party.tokens()
    for _ in range(2):
        mine = await party.refreshed(mine.refresh)
    assert limited(await party.refresh(mine.refresh))
    assert (await party.refresh(theirs.refresh)).status == 200


async def test_a5_two_instances_share_the_limit(mongodb_url: str) -> None:
    """Two instances together issue exactly the limit, and so does a restarted one."""
    broker, clock, name = LocalBroker(), Clock(), "tokenwire_test_issuance"

    def instance() -> Any:
        return open_system(mongodb_url, name, LocalBus(broker), clock, issuance_limit="40/60")

    async with instance() as one, instance() as two:
        party = await one.party()
        parties = [replace(party, system=system) for system in (one, two)]
        responses = await asyncio.gather(*(parties[number % 2].token(CREDENTIALS) for number in range(120)))
        assert Counter(response.status for response in responses) == {200: 40, 429: 80}
        async with instance() as three:
            assert limited(await replace(party, system=three).token(CREDENTIALS))


async def test_a5_a_client_far_from_a_generous_limit_costs_no_count(mongodb_url: str) -> None:
    """A first share is issued without MongoDB; then shares are reserved with one write each."""
    async with open_system(mongodb_url, issuance_limit="640/60") as system:
        party = await system.party()
        counts = system.deps.store.mongo["attempts"]
        assert Counter([(await party.token(CREDENTIALS)).status for _ in range(10)]) == {200: 10}
        assert await counts.count_documents({}) == 0
        assert Counter([(await party.token(CREDENTIALS)).status for _ in range(11)]) == {200: 11}
        assert [document["taken"] async for document in counts.find()] == [20]


async def test_a5_counters_in_memory_are_bounded(mongodb_url: str) -> None:
    """Beyond a bound of clients in memory, further ones are counted in MongoDB one by one, equally exactly."""
    async with open_system(mongodb_url) as system:
        api = await make_api(system.deps)
        clients = [(await make_client(system.deps, api))[0] for _ in range(4)]
        limiter = IssuanceLimiter(system.deps.store.attempts, Limit(128, 3600), most_clients=2)
        now = system.deps.now()
        for client in clients:
            admitted = 0
            with suppress(TooManyTokens):
                for admitted in range(200):  # noqa: B007 - used after the loop
                    await limiter.admit(client, "grant", now)
            assert admitted == (130 if client in clients[:2] else 128)
        assert len(limiter._allowances) == 2


async def test_a5_by_default_issuing_is_generous(mongodb_url: str) -> None:
    """The default limit allows five hundred tokens in a row."""
    async with open_system(mongodb_url) as system:
        party: Party = await system.party()
        responses = await asyncio.gather(*(party.token(CREDENTIALS) for _ in range(500)))
        assert {response.status for response in responses} == {200}
        assert tokens_of(responses[0])
