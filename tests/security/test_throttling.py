"""Login throttling over two instances with separate caches and connections. Callers with too many failures must wait;
others are unaffected. Rows 25, 88 and 112.
"""

import asyncio
import itertools
import os
import secrets
import statistics
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Any

import argon2
import pytest

from libs.passwords import MAX_WAITING_PER_THREAD
from libs.settings import Settings
from tests.builders import Response
from tests.eventually import eventually
from tests.services.system import PASSWORD, Clock, Party, System, open_system

CLIENT, USER, ANYWHERE, ADDRESS = 5, 4, 10, 12
LIMITS: dict[str, Any] = {
    "throttle_client": f"{CLIENT}/60",
    "throttle_user": f"{USER}/900",
    "throttle_user_anywhere": f"{ANYWHERE}/3600",
    "throttle_address": f"{ADDRESS}/60",
}
PROXY = "127.0.0.1"
"""The address from which the tests connect; its X-Forwarded-For is trusted."""
N = 32


def place() -> str:
    """An address with no history."""
    return f"2001:db8:{secrets.randbelow(65536):x}:{secrets.randbelow(65536):x}::1"


def seen_from(address: str, asked: System) -> System:
    """The instance, called from this address."""
    headers = {"X-Forwarded-For": address}
    return replace(
        asked,
        call=replace(asked.call, headers=asked.call.headers | headers),
        operator=replace(asked.operator, headers=asked.operator.headers | headers),
    )


@dataclass(frozen=True)
class Pair:
    """Two instances of every service with one clock."""

    one: System
    two: System

    def by_turns(self, party: Party, address: str, times: int = N) -> list[Party]:
        """The client at this address, alternating between the instances."""
        instances = [seen_from(address, system).knows(party) for system in (self.one, self.two)]
        return list(itertools.islice(itertools.cycle(instances), times))

    def at(self, address: str, party: Party) -> Party:
        """The client at this address."""
        return seen_from(address, self.one).knows(party)


@pytest.fixture(scope="module", name="pair")
async def _pair(mongodb_url: str) -> AsyncIterator[Pair]:
    database, clock = f"tokenwire_test_{secrets.token_hex(6)}", Clock()
    async with AsyncExitStack() as stack:
        one, two = [
            await stack.enter_async_context(
                open_system(mongodb_url, database, clock=clock, trusted_proxies=PROXY, **LIMITS)
            )
            for _ in range(2)
        ]
        yield Pair(one, two)


@pytest.fixture(autouse=True)
def _new_window(pair: Pair) -> None:
    """Set the stopped clock to the beginning of a window, so that no test crosses a window's end."""
    pair.one.clock.advance(3600 - pair.one.clock().timestamp() % 3600)


def is_throttled(response: Response, within: float) -> bool:
    """Whether the response is 429 with Retry-After, and does not reveal whether the credentials were right."""
    if response.status != 429:
        return False
    assert 1 <= int(response.headers["Retry-After"]) <= within
    assert response.headers["Cache-Control"] == "no-store"
    assert response.body == {
        "error": "temporarily_unavailable",
        "error_description": "too many attempts have failed; try again later",
    }
    return True


def wrong(party: Party) -> Party:
    """The client with a wrong secret."""
    return replace(party, secret=secrets.token_urlsafe(32))


async def token(party: Party) -> Response:
    """Request client credentials."""
    return await party.token({"grant_type": "client_credentials"})


async def statuses(requests: Sequence[Awaitable[Response]]) -> Counter[int]:
    """Send requests concurrently; count the statuses."""
    return Counter(response.status for response in await asyncio.gather(*requests))


# Clients


async def test_a_hundred_wrong_secrets_are_throttled_at_the_documented_limit(mongodb_url: str) -> None:
    """Row 25: with default settings, twenty wrong secrets per minute; the right client at another address is
    unaffected.
    """
    defaults = {name: Settings.model_fields[name].default for name in LIMITS}
    assert defaults["throttle_client"] == "20/60"
    async with open_system(mongodb_url, trusted_proxies=PROXY, **defaults) as system:
        system.clock.advance(60 - system.clock().timestamp() % 60)
        party = await system.party()
        here, elsewhere = [seen_from(place(), system).knows(party) for _ in range(2)]
        responses = [await token(wrong(here)) for _ in range(100)]
        assert [response.status for response in responses] == [401] * 20 + [429] * 80
        assert all(is_throttled(response, 60) for response in responses[20:])
        assert (await token(here)).status == 429
        assert (await token(elsewhere)).status == 200
        system.clock.advance(int((await token(here)).headers["Retry-After"]))
        assert (await token(here)).status == 200


async def test_no_more_than_the_limit_learn_that_the_secret_is_wrong(pair: Pair) -> None:
    """Of many concurrent attempts at both instances, exactly the limit get 401 and the others 429."""
    for _ in range(5):
        party = await pair.one.party()
        asked = [wrong(one) for one in pair.by_turns(party, place())]
        assert await statuses([token(one) for one in asked]) == {401: CLIENT, 429: N - CLIENT}


async def test_the_limit_s_edge_is_exact(pair: Pair) -> None:
    """With one attempt left, exactly one of many concurrent attempts is checked."""
    for _ in range(5):
        party = await pair.one.party()
        asked = [wrong(one) for one in pair.by_turns(party, place())]
        assert await statuses([token(one) for one in asked[: CLIENT - 1]]) == {401: CLIENT - 1}
        assert await statuses([token(one) for one in asked]) == {401: 1, 429: N - 1}


async def test_an_instance_without_failures_allows_one_more_attempt(pair: Pair) -> None:
    """An instance that has not yet seen a failure lets one attempt through: the price of not counting successes."""
    party, address = await pair.one.party(), place()
    here, there = pair.by_turns(party, address, 2)
    assert await statuses([token(wrong(here)) for _ in range(N)]) == {401: CLIENT, 429: N - CLIENT}
    assert (await token(here)).status == 429
    assert (await token(there)).status == 200
    assert (await token(wrong(there))).status == 429
    assert (await token(there)).status == 429


async def test_a_client_can_authenticate_after_a_failure(pair: Pair) -> None:
    """Below the limit a client with the right secret is admitted, however many requests it sends at once."""
    party, address = await pair.one.party(), place()
    asked = pair.by_turns(party, address, 40)
    for one in asked[: CLIENT - 1]:
        assert (await token(wrong(one))).status == 401
    for _ in range(3):
        assert await statuses([token(one) for one in asked]) == {200: 40}
    assert (await token(wrong(asked[0]))).status == 401
    assert (await token(wrong(asked[0]))).status == 429


async def test_a_successful_login_does_not_reset_the_counter(pair: Pair) -> None:
    """A successful login does not reset the counter; otherwise anyone who knows one secret could guess another
    forever.
    """
    party, address = await pair.one.party(), place()
    here = pair.at(address, party)
    for _ in range(CLIENT):
        assert (await token(wrong(here))).status == 401
        if _ < CLIENT - 1:
            assert (await token(here)).status == 200
    assert (await token(here)).status == 429


async def test_every_place_that_asks_for_a_secret_counts(pair: Pair) -> None:
    """Token, revocation and revoke-all requests share one counter."""
    party = await pair.one.party()
    here = wrong(pair.at(place(), party))

    async def revoke_all() -> Response:
        return await here.system.call("POST", here.at("oauth/revoke_all"), headers=here.basic)

    asked: list[Callable[[], Awaitable[Response]]] = [lambda: token(here), lambda: here.revoke("tw_at_x"), revoke_all]
    responses = [await ask() for ask in asked * 3]
    assert [response.status for response in responses] == [401] * CLIENT + [429] * (9 - CLIENT)
    assert all(is_throttled(response, 60) for response in responses[CLIENT:])


async def test_unknown_clients_are_throttled_like_known_ones(pair: Pair) -> None:
    """Unknown clients get 429 at the same attempt as known ones, so that it does not reveal who is registered."""
    party = await pair.one.party()
    for client_id in (party.id, "nobody"):
        here = pair.at(place(), party)
        here = wrong(replace(here, client=here.client.model_copy(update={"client_id": client_id})))
        responses = [await token(here) for _ in range(CLIENT + 2)]
        assert [response.status for response in responses] == [401] * CLIENT + [429] * 2


async def test_attempts_on_many_clients_are_throttled_by_address(pair: Pair) -> None:
    """Attempts for many client ids are throttled by address; another address has its own counter."""
    party, address = await pair.one.party(), place()
    asked = [
        replace(wrong(one), client=one.client.model_copy(update={"client_id": f"guess-{number}"}))
        for number, one in enumerate(pair.by_turns(party, address))
    ]
    assert await statuses([token(one) for one in asked]) == {401: ADDRESS, 429: N - ADDRESS}
    assert (await token(pair.at(address, party))).status == 429
    assert (await token(pair.at(place(), party))).status == 200


async def test_requests_without_a_secret_are_not_counted(pair: Pair) -> None:
    """Requests without credentials, with malformed ones, or by public clients try no secret and are not counted."""
    confidential, public = await pair.one.party(), await pair.one.party(public=True)
    address = place()
    here = pair.at(address, confidential)
    for _ in range(CLIENT + 1):
        for headers in ({}, {"Authorization": "Basic !"}, {"Authorization": "Bearer x"}):
            form = {"grant_type": "client_credentials"}
            response = await here.system.call("POST", here.at("oauth/token"), data=form, headers=headers)
            assert response.status == 401
        assert (await pair.at(address, public).revoke("tw_at_x")).status == 200
    assert (await token(here)).status == 200


async def test_clients_that_do_not_fail_cost_nothing(pair: Pair) -> None:
    """While every secret is right, the counters' collection is neither read nor written, by MongoDB's own
    statistics.
    """

    async def operations() -> dict[str, int]:
        pipeline: list[dict[str, Any]] = [{"$collStats": {"latencyStats": {}}}]
        (stats,) = await pair.one.deps.store.mongo["attempts"].aggregate(pipeline).to_list(None)
        return {kind: stats["latencyStats"][kind]["ops"] for kind in ("reads", "writes")}

    party = await pair.one.party()
    here = pair.at(place(), party)
    await token(wrong(pair.at(place(), party)))  # creates the collection and one open counter
    await asyncio.gather(*(system.deps.throttle.close() for system in (pair.one, pair.two)))
    await operations()
    before = await operations()
    assert await statuses([token(here) for _ in range(20)]) == {200: 20}
    after = await operations()
    assert after["writes"] == before["writes"]
    assert after["reads"] - before["reads"] <= 1  # the statistics query itself


# Addresses


async def test_without_trusted_proxies_the_peer_counts(mongodb_url: str) -> None:
    """Without trusted proxies the peer's address counts; a forged X-Forwarded-For gives no new counter."""
    async with open_system(mongodb_url, **LIMITS) as system:
        party = await system.party()
        responses = [await token(wrong(seen_from(place(), system).knows(party))) for _ in range(CLIENT + 1)]
        assert [response.status for response in responses] == [401] * CLIENT + [429]


async def test_of_a_chain_the_entry_of_the_trusted_proxy_counts(pair: Pair) -> None:
    """In a chain, the entry added by the trusted proxy counts; what the client prepended is ignored."""
    party, address = await pair.one.party(), place()
    responses = [await token(wrong(pair.at(f"{place()}, {address}", party))) for _ in range(CLIENT + 1)]
    assert [response.status for response in responses] == [401] * CLIENT + [429]


async def test_a_network_of_ipv6_is_one_place(pair: Pair) -> None:
    """All addresses of an IPv6 /64 share one counter; the neighbouring /64 has its own."""
    party = await pair.one.party()
    responses = [await token(wrong(pair.at(f"2001:db8:77:1::{number:x}", party))) for number in range(1, CLIENT + 2)]
    assert [response.status for response in responses] == [401] * CLIENT + [429]
    assert (await token(pair.at("2001:db8:77:2::1", party))).status == 200


# Passwords


@pytest.fixture(name="hashed")
def _hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every password that was hashed for comparison."""
    hashed: list[str] = []
    verify = argon2.PasswordHasher.verify

    def counted(self: argon2.PasswordHasher, hash: str, password: bytes) -> bool:
        hashed.append(password.decode())
        return verify(self, hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", counted)
    return hashed


async def test_no_more_passwords_than_the_limit_reach_the_hasher(pair: Pair, hashed: list[str]) -> None:
    """Row 112: of many concurrent attempts at both instances, no more than the limit reach the password hasher."""
    for failed_before in (0, USER - 1):
        party, user = await pair.one.party(), await pair.one.user()
        asked = pair.by_turns(party, place())
        hashed.clear()
        for one in asked[:failed_before]:
            assert (await one.password(user.username, "wrong")).status == 400
        left = USER - failed_before
        responses = await asyncio.gather(*(one.password(user.username, "wrong") for one in asked))
        assert Counter(response.status for response in responses) == {400: left, 429: N - left}
        assert len(hashed) == USER
        assert (await asked[0].password(user.username)).status == 429
        assert (await asked[1].password(user.username)).status == 429
        assert len(hashed) == USER


async def test_wrong_passwords_are_throttled_as_documented(pair: Pair) -> None:
    """Row 88: 429 with Retry-After, the same for known and unknown users; at other addresses and later all is
    normal.
    """
    party, user = await pair.one.party(), await pair.one.user()
    here, elsewhere = pair.at(place(), party), pair.at(place(), party)
    for username in (user.username, "nobody"):
        responses = [await here.password(username, "wrong") for _ in range(USER + 2)]
        assert [response.status for response in responses] == [400] * USER + [429] * 2
        assert all(is_throttled(response, 900) for response in responses[USER:])
    assert (await elsewhere.password(user.username)).status == 200
    pair.one.clock.advance(int((await here.password(user.username)).headers["Retry-After"]))
    assert (await here.password(user.username)).status == 200


async def test_a_user_may_log_in_more_often_at_once_than_may_fail(pair: Pair) -> None:
    """A user may have more concurrent logins than allowed failures: undecided attempts wait, and successes are not
    counted.
    """
    party, user = await pair.one.party(), await pair.one.user()
    asked = pair.by_turns(party, place(), 4 * USER)
    assert await statuses([one.password(user.username) for one in asked]) == {200: 4 * USER}
    for one in asked[: USER - 1]:
        assert (await one.password(user.username, "wrong")).status == 400
    assert (await asked[0].password(user.username)).status == 200


async def test_one_user_cannot_be_guessed_from_everywhere(pair: Pair) -> None:
    """Attempts on one user from ever new addresses are limited by a second, higher limit for the user."""
    party, user = await pair.one.party(), await pair.one.user()
    responses = [await pair.at(place(), party).password(user.username, "wrong") for _ in range(ANYWHERE + 3)]
    assert [response.status for response in responses] == [400] * ANYWHERE + [429] * 3
    assert all(is_throttled(response, 3600) for response in responses[ANYWHERE:])


async def test_an_attack_from_everywhere_does_not_lock_the_user_out(pair: Pair) -> None:
    """During such an attack the user can still log in from an address with an earlier login; failures there
    do count.
    """
    party, user, home = await pair.one.party(), await pair.one.user(), place()
    here, there = pair.by_turns(party, home, 2)
    assert (await here.password(user.username)).status == 200
    pair.one.clock.advance(3600)
    for _ in range(ANYWHERE):
        assert (await pair.at(place(), party).password(user.username, "wrong")).status == 400
    assert (await pair.at(place(), party).password(user.username)).status == 429
    for at_home in (here, there):
        assert (await at_home.password(user.username)).status == 200
    responses = [await at_home.password(user.username, "wrong") for at_home in (here, there) * 3]
    assert [response.status for response in responses] == [400] * USER + [429] * (6 - USER)


async def test_attempts_on_many_users_are_throttled_by_address(pair: Pair, hashed: list[str]) -> None:
    """Trying one password for many users is throttled by address; no more than the limit are hashed."""
    party, address = await pair.one.party(), place()
    asked = pair.by_turns(party, address)
    found = await statuses([one.password(f"user-{number}", "summer") for number, one in enumerate(asked)])
    assert found == {400: ADDRESS, 429: N - ADDRESS}
    assert len(hashed) == ADDRESS
    assert (await token(asked[0])).status == 200, "the client itself has not failed"


async def test_an_attempt_without_outcome_is_none(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login refused because the hasher is busy is not a failure, and may be repeated at will."""
    room = max(1, (os.cpu_count() or 2) - 1) * (1 + MAX_WAITING_PER_THREAD)
    gate = threading.Event()
    verify = argon2.PasswordHasher.verify

    def verify_when_open(self: argon2.PasswordHasher, hash: str, password: bytes) -> bool:
        gate.wait(30)
        return verify(self, hash, password)

    monkeypatch.setattr(argon2.PasswordHasher, "verify", verify_when_open)
    async with open_system(mongodb_url, throttle_user=f"{room + 5}/900") as system:
        party = await system.party()
        flood = [asyncio.ensure_future(party.password("somebody", "wrong")) for _ in range(room + 5)]
        await eventually(lambda: sum(asked.done() for asked in flood) == 5)
        gate.set()
        assert Counter(response.status for response in await asyncio.gather(*flood)) == {400: room, 503: 5}
        responses = [await party.password("somebody", "wrong") for _ in range(6)]
        assert [response.status for response in responses] == [400] * 5 + [429]


async def test_a_flood_of_logins_does_not_stall_tokens(mongodb_url: str) -> None:
    """Passwords are hashed off the event loop, in bounded number, so that tokens are issued meanwhile."""
    async with open_system(mongodb_url) as system:
        party, user = await system.party(), await system.user()

        async def median_of_tokens() -> float:
            times = []
            for _ in range(40):
                started = time.perf_counter()
                assert (await token(party)).status == 200
                times.append(time.perf_counter() - started)
            return statistics.median(times)

        async def log_in_again_and_again() -> None:
            while True:
                assert (await party.password(user.username, "wrong")).status in {400, 429, 503}

        await median_of_tokens()
        idle = await median_of_tokens()
        flood = [asyncio.ensure_future(log_in_again_and_again()) for _ in range(12)]
        flooded = await median_of_tokens()
        for flooding in flood:
            flooding.cancel()
        await asyncio.gather(*flood, return_exceptions=True)
        assert flooded < 10 * idle


# Operators


async def test_wrong_operator_keys_are_throttled_by_address(pair: Pair) -> None:
    """Wrong operator keys are throttled by address, exactly at the limit, in the Dashboard's format.

    Operators at other addresses are unaffected, and a missing key is not counted.
    """
    address = place()
    instances = [seen_from(address, system) for system in (pair.one, pair.two)]
    asked = list(itertools.islice(itertools.cycle(instances), N))
    for system in asked[: ADDRESS + 1]:
        assert (await system.call("GET", "/api/apis")).status == 401
    guesses = [
        system.call("GET", "/api/apis", headers={"Authorization": secrets.token_urlsafe(32)}) for system in asked
    ]
    responses = await asyncio.gather(*guesses)
    assert Counter(response.status for response in responses) == {401: ADDRESS, 429: N - ADDRESS}
    (refused, *_) = [response for response in responses if response.status == 429]
    assert refused.message == "too many attempts have failed; try again later"
    assert 1 <= int(refused.headers["Retry-After"]) <= 60
    assert (await asked[0].operator("GET", "/api/apis")).status == 429
    assert (await seen_from(place(), pair.one).operator("GET", "/api/apis")).status == 200


# Storage


async def test_counts_go_by_themselves(pair: Pair) -> None:
    """MongoDB deletes a counter minutes after its window; neither name nor address can be read from it."""
    party, address = await pair.one.party(), place()
    attempts = pair.one.deps.store.mongo["attempts"]
    indexes = await attempts.index_information()
    assert indexes["purge"]["key"] == [("purge_after", 1)]
    assert indexes["purge"]["expireAfterSeconds"] == 0
    here = pair.at(address, party)
    await here.password("somebody", "wrong")

    async def settled() -> bool:
        return await attempts.count_documents({"failed": {"$gt": 0}, "purge_after": {"$gt": pair.one.clock()}}) >= 3

    await eventually(settled)
    documents = await attempts.find().to_list(None)
    assert all(document.keys() <= {"_id", "taken", "failed", "purge_after"} for document in documents)
    assert not any(word in str(documents) for word in (party.id, "somebody", address.removesuffix("1"), PASSWORD))
