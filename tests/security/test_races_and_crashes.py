"""Concurrent requests and crashes: rows 77 and 103 to 117, with two processes of each service. Row 112 is in
test_throttling.py. The kill matrix under load is in tests/faults.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import aiohttp
import pytest

from tests.acceptance.discretion import Secrets
from tests.acceptance.login import authorize_key, login_for
from tests.acceptance.stack import Stack
from tests.acceptance.subscriber import kept, reading
from tests.acceptance.tenants import CALLBACK, SCHEME, Pair, issued
from tests.acceptance.webhooks import Receiver
from tests.builders import Response, unique
from tests.eventually import eventually
from tests.provision import mongodb, rabbitmq
from tests.security.apps import (
    HEARD_WITHIN,
    Api,
    App,
    User,
    has_ended,
    is_alive,
    is_over,
    new_api,
    passed,
    query_of,
    refused,
    together,
)
from tests.security.extra_process import ExtraProcess, extra_process

N = 32
ROUNDS = 50
INACTIVE = {"active": False}


async def racing(cluster: Stack, app: App, service: str = "token") -> list[App]:
    """Copies of the client, half at each process of the service, on open connections."""
    racers = app.over(cluster, service, N)
    await together(*(racer.edge("GET", "/healthz") for racer in racers))
    return racers


def outcome(responses: Sequence[Response]) -> Counter[str]:
    """Number of responses with tokens, and of each error."""
    return Counter("tokens" if response.status == 200 else response.body["error"] for response in responses)


def winners(responses: Sequence[Response]) -> list[Pair]:
    """The tokens issued. All other responses must be `invalid_grant`."""
    assert {response.status for response in responses} <= {200, 400}, outcome(responses)
    assert set(outcome(responses)) <= {"tokens", "invalid_grant"}
    return [issued(response) for response in responses if response.status == 200]


# One code


@dataclass(frozen=True)
class Raced:
    """A client, and the responses of each round."""

    app: App
    rounds: list[list[Response]]


@pytest.fixture(scope="module", name="codes")
async def _codes(cluster: Stack, api: Api) -> Raced:
    """Exchange each of many codes many times at once."""
    app = await api.app()
    racers = await racing(cluster, app)
    rounds = []
    for _ in range(ROUNDS):
        code = await app.code()
        rounds.append(list(await together(*(racer.exchange(code) for racer in racers))))
    return Raced(app, rounds)


def test_103_one_of_many_exchanges_of_a_code_gets_tokens(codes: Raced) -> None:
    """Of concurrent exchanges of one code exactly one succeeds; the others are refused, and none fails."""
    for responses in codes.rounds:
        assert outcome(responses) == {"tokens": 1, "invalid_grant": N - 1}


async def test_104_its_tokens_live_in_every_round(cluster: Stack, codes: Raced) -> None:
    """The issued tokens stay valid: the same request within two seconds is a retry, not theft, at any process.
    Tokenwire's own rule.
    """
    pairs = [pair for responses in codes.rounds for pair in winners(responses)]
    assert len(pairs) == ROUNDS
    assert await is_alive(cluster, codes.app, *(pair.access for pair in pairs))
    assert len(await codes.app.listed()) == ROUNDS


# One refresh token


async def refresh_rounds(cluster: Stack, app: App) -> tuple[list[Pair], list[list[Response]]]:
    """Use each of many refresh tokens many times at once."""
    racers = await racing(cluster, app)
    firsts, rounds = [], []
    for _ in range(ROUNDS):
        firsts.append(await app.pair())
        rounds.append(list(await together(*(racer.refresh(firsts[-1].refresh) for racer in racers))))
    return firsts, rounds


async def test_105_one_of_many_refreshes_gets_tokens_where_the_api_is_strict(cluster: Stack) -> None:
    """With strict refresh, one concurrent refresh succeeds; the others look like theft, so the grant is revoked."""
    app = await (await new_api(cluster, {"refreshReuse": "strict"})).app()
    firsts, rounds = await refresh_rounds(cluster, app)
    for responses in rounds:
        assert outcome(responses) == {"tokens": 1, "invalid_grant": N - 1}
    pairs = firsts + [pair for responses in rounds for pair in winners(responses)]
    assert await is_over(cluster, app, *(pair.access for pair in pairs))
    assert await app.listed() == []


async def test_106_many_refreshes_of_a_token_get_one_pair(cluster: Stack, api: Api) -> None:
    """Concurrent refreshes return the same pair: one access token and one refresh token are alive for each grant."""
    app = await api.app()
    firsts, rounds = await refresh_rounds(cluster, app)
    pairs = []
    for responses in rounds:
        assert outcome(responses) == {"tokens": N}
        (pair,) = set(winners(responses))
        pairs.append(pair)
    assert await is_over(cluster, app, *(first.access for first in firsts))
    assert await is_alive(cluster, app, *(pair.access for pair in pairs))
    assert len(await app.listed()) == ROUNDS
    for first, pair in zip(firsts, pairs, strict=True):
        assert (await app.introspect(first.refresh)).body == INACTIVE
        assert (await app.introspect(pair.refresh)).body["active"] is True


async def test_107_no_token_survives_a_concurrent_refresh_and_revocation(cluster: Stack, web: App) -> None:
    """After a concurrent refresh and revocation, whichever came first, no token of the grant is active (200 rounds)."""
    refreshing, revoking = web.over(cluster, "token", 2), web.over(cluster, "revocation", 2)

    async def once(number: int) -> list[Pair]:
        pair = await web.pair()
        refreshed, revoked = await together(
            refreshing[number % 2].refresh(pair.refresh), revoking[number // 2 % 2].revoke(pair.refresh)
        )
        assert revoked.status == 200
        pairs = [pair, *winners([refreshed])]
        assert [(await web.introspect(each.refresh)).body for each in pairs] == [INACTIVE] * len(pairs)
        return pairs

    seen: Counter[int] = Counter()
    for start in range(0, 200, 20):
        many = await together(*(once(number) for number in range(start, start + 20)))
        seen.update(len(pairs) for pairs in many)
        assert await is_over(cluster, web, *(pair.access for pairs in many for pair in pairs))
    assert sum(seen.values()) == 200


@pytest.mark.parametrize("ending", ["revoke_all", "delete"])
async def test_108_no_token_survives_an_exchange_concurrent_with_deletion(cluster: Stack, ending: str) -> None:
    """After an exchange concurrent with revocation of the client's grants, or deletion of the client, no token is
    active.
    """
    api = await new_api(cluster)

    async def once(number: int) -> tuple[App, list[Pair]]:
        app = await api.app()
        code = await app.code()
        place = app.over(cluster, "token", 2)[number % 2]
        withdrawn = cluster.operator("POST", f"/api/apis/oauth/{app.client_id}/revoke_all")
        response, ended = await together(
            place.exchange(code), withdrawn if ending == "revoke_all" else app.managed("DELETE")
        )
        if ending == "delete":
            withdrawn.close()
        assert ended.status == 200
        assert response.status in {200, 400, 401}, response.raw
        return app, [issued(response)] if response.status == 200 else []

    for app, pairs in await together(*(once(number) for number in range(24))):
        for pair in pairs:
            assert await is_over(cluster, app, pair.access)
            refusals = [await _settled_refresh(place, pair.refresh) for place in app.over(cluster, "token", 2)]
            assert {response.status for response in refusals} <= {400, 401}, [each.raw for each in refusals]


async def _settled_refresh(place: App, refresh_token: str) -> Response:
    """The response to a refresh, which is repeated while a busy server says 503."""

    async def attempt() -> Response | None:
        response = await place.refresh(refresh_token)
        return None if response.status == 503 else response

    return await eventually(attempt, 30.0, every=1.0)


async def test_109_no_token_survives_a_replay_concurrent_with_a_refresh(cluster: Stack, web: App) -> None:
    """After a replay concurrent with use of the newest token, no second token family is alive and the first is
    revoked.
    """
    one, two = web.over(cluster, "token", 2)

    async def once() -> Pair:
        first = await web.pair()
        second = await web.refreshed(first.refresh)
        third = await web.refreshed(second.refresh)
        replayed, used = await together(one.refresh(first.refresh), two.refresh(third.refresh))
        assert refused(replayed, "invalid_grant")
        return (winners([used]) or [third])[-1]

    for _ in range(ROUNDS // 10):
        newest = await together(*(once() for _ in range(10)))
        for pair in newest:
            assert await has_ended(cluster, web, pair)


async def test_110_many_uses_of_a_consent_bring_one_code(cluster: Stack, web: App) -> None:
    """Concurrent uses of one consent at the identity server yield one code."""
    async with login_for(web, cluster, await authorize_key(cluster)) as login:
        for _ in range(3):
            proof = (await login.signed_in()).proof("/consent")
            pages = await together(*(login.post("/consent", decision="allow", **proof) for _ in range(N)))
            assert Counter(page.status for page in pages) == {303: 1, 403: N - 1}
            (location,) = (page.headers["Location"] for page in pages if page.status == 303)
            assert (await web.exchange(query_of(location)["code"])).status == 200
            await login.post("/session/end", **(await login.get("/login", **login.request())).proof("/session/end"))


async def test_111_a_secret_is_rotated_under_traffic(cluster: Stack, api: Api) -> None:
    """While both secrets count, every process accepts both and no request gets 401; afterwards none accepts the old
    one.
    """
    old = await api.app()
    asking = asyncio.Event()
    asking.set()
    apps = [old]
    seen: Counter[int] = Counter()

    async def ask(number: int) -> None:
        while asking.is_set():
            for app in tuple(apps):
                seen[(await app.over(cluster, "token", 2)[number % 2].credentials()).status] += 1

    def answered(times: int) -> bool:
        return seen[200] >= times

    traffic = [asyncio.ensure_future(ask(number)) for number in range(8)]
    try:
        for _ in range(3):
            new = replace(old, secret=(await old.managed("PUT", "/rotate", overlap=600)).body["secret"])
            apps.append(new)
            await eventually(partial(answered, seen[200] + 51))
    finally:
        asking.clear()
        await together(*traffic)
    assert set(seen) == {200}
    last = replace(old, secret=(await old.managed("PUT", "/rotate")).body["secret"])
    for app in apps:
        for place in app.over(cluster, "token", 2):

            async def is_refused(place: App = place) -> bool:
                return refused(await place.credentials(), "invalid_client", 401)

            await eventually(is_refused, HEARD_WITHIN)
    assert (await last.credentials()).status == 200


async def test_113_a_revocation_reaches_other_processes(cluster: Stack, web: App) -> None:
    """Other processes refuse a revoked refresh token at once (it is not cached), and an access token when the bus has
    told them.
    """
    asked = web.over(cluster, "gateway", 2)
    for number in range(20):
        pair = await web.pair()
        assert all([await place.opens(pair.access) for place in asked])
        await web.over(cluster, "revocation", 2)[number % 2].revoke(pair.refresh)
        for place in asked:
            assert (await place.introspect(pair.refresh)).body == INACTIVE
        assert await is_over(cluster, web, pair.access)


# Crashes


@pytest.fixture(name="dying")
async def _dying(cluster: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[ExtraProcess]:
    """A token process that dies after passing this point once."""
    command = ("tests.faults.armed", "services.token", "--at", request.param)
    async with extra_process(cluster, tmp_path, *command, service="token") as process:
        yield process


async def dies(process: ExtraProcess, app: App, request: Mapping[str, str]) -> None:
    """Whether the process was killed during the request."""
    with pytest.raises((aiohttp.ClientError, OSError)):
        await app.at(process.call).token(**request)
    assert await process.program.ended() == -9


@pytest.mark.parametrize(("dying", "kept"), [("committed:1", True), ("before-write:1", False)], indirect=["dying"])
async def test_114_a_refresh_without_a_response_can_be_repeated(
    cluster: Stack, web: App, dying: ExtraProcess, kept: bool
) -> None:
    """If the token service dies during a refresh, repeating the request at another process returns the one pair."""
    first = await web.pair()
    await dies(dying, web, {"grant_type": "refresh_token", "refresh_token": first.refresh})
    assert (await web.introspect(first.refresh)).body["active"] is not kept
    pairs = [await place.refreshed(first.refresh) for place in web.over(cluster, "token", 4)]
    assert len(set(pairs)) == 1
    assert await is_alive(cluster, web, pairs[0].access)
    assert await is_over(cluster, web, first.access)


@pytest.mark.parametrize("dying", ["committed:1", "before-write:1"], indirect=True)
async def test_114_b2_an_exchange_without_a_response_can_be_repeated(
    cluster: Stack, api: Api, dying: ExtraProcess
) -> None:
    """If it dies during an exchange, repeating the request returns the one pair, whether or not the code was used; a
    third is refused.
    """
    app = await api.app()
    code = await app.code()
    await dies(dying, app, {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK})
    responses = [await place.exchange(code) for place in app.over(cluster, "token", 4)]
    assert outcome(responses) == {"tokens": 1, "invalid_grant": 3}
    assert responses[0].status == 200
    assert await is_alive(cluster, app, responses[0].body["access_token"])
    assert len(await app.listed()) == 1


@dataclass(frozen=True)
class Away:
    """Responses while MongoDB was away, and tokens issued before."""

    app: App
    responses: Mapping[str, Response]
    code: str
    pair: Pair


@pytest.fixture(scope="module", name="away")
async def _away(cluster: Stack, api: Api, alice: User, mongodb: mongodb.Database) -> Away:
    app = await api.app()
    code, pair = await app.code(), await app.pair()
    mongodb.kill()
    asked = {
        "revoke": app.revoke(pair.refresh),
        "exchange": app.exchange(code),
        "refresh": app.refresh(pair.refresh),
        "credentials": app.credentials(),
        "password": app.password(alice),
        "introspect": app.introspect(pair.refresh),
    }
    try:
        responses = dict(zip(asked, await together(*asked.values()), strict=True))
    finally:
        await mongodb.start()
    await cluster.ready()
    return Away(app, responses, code, pair)


async def test_077_nothing_is_revoked_while_the_store_is_down(cluster: Stack, away: Away) -> None:
    """Revocation returns 503 with `Retry-After`, never 200 (RFC 7009 §2.2.1), and the token stays active."""
    response = away.responses["revoke"]
    assert refused(response, "temporarily_unavailable", 503)
    assert int(response.headers["Retry-After"]) > 0
    assert (await away.app.introspect(away.pair.refresh)).body["active"] is True
    assert await is_alive(cluster, away.app, away.pair.access)


async def test_114_while_the_store_is_down_nothing_is_partly_done(away: Away) -> None:
    """Requests get 503 while the store is down; the code and the refresh token work afterwards."""
    for response in away.responses.values():
        assert refused(response, "temporarily_unavailable", 503)
    assert (await away.app.exchange(away.code)).status == 200
    assert (await away.app.refresh(away.pair.refresh)).status == 200


async def test_114_a_change_of_primary_makes_no_second_family(
    cluster: Stack, api: Api, mongodb: mongodb.Database
) -> None:
    """If the primary changes during many exchanges and clients repeat failed requests, each code yields at most one
    pair.
    """
    app = await api.app()
    racers = await racing(cluster, app)
    codes = await together(*(app.code() for _ in racers))

    async def insist(racer: App, code: str) -> list[Pair]:
        responses = [await racer.exchange(code)]
        while responses[-1].status == 503:
            responses.append(await racer.exchange(code))
        assert {response.status for response in responses} <= {200, 400, 503}
        return [issued(response) for response in responses if response.status == 200]

    exchanges = [insist(racer, code) for racer, code in zip(racers, codes, strict=True)]
    *pairs, _ = await together(*exchanges, mongodb.step_down())
    await cluster.ready()
    assert all(len(each) <= 1 for each in pairs)
    assert len(await app.listed()) == len(racers)
    assert await is_alive(cluster, app, *(pair.access for each in pairs for pair in each))


async def test_115_tokens_are_issued_while_the_broker_is_down(
    cluster: Stack, receiver: Receiver, rabbitmq: rabbitmq.Broker
) -> None:
    """Tokens are issued while RabbitMQ is down. Afterwards subscribers get each event once by id, and the receiver each
    webhook.
    """
    path = f"/hooks/{unique('broker')}"
    app = await (await new_api(cluster, **{f"{SCHEME}__notifications": {"onKeyChangeUrl": receiver.url(path)}})).app()
    queue = await kept(cluster.servers.amqp_url, f"token.*.{app.api_id}")
    codes = [await app.code() for _ in range(20)]
    await asyncio.to_thread(rabbitmq.settle)
    await asyncio.to_thread(rabbitmq.stop)
    try:
        pairs = [issued(await app.exchange(code)) for code in codes]
        assert await is_alive(cluster, app, pairs[0].access)
    finally:
        await asyncio.to_thread(rabbitmq.start)
    cluster.kill("notifier-1")
    await cluster.restart("notifier-1")
    await cluster.ready()
    async with reading(cluster.servers.amqp_url, queue) as subscriber:
        await subscriber.hears("token.new", count=len(pairs), client_id=app.client_id)
    for pair in pairs:
        await receiver.hears(path, new_oauth_token=pair.access)
    ids = {webhook.headers["webhook-id"] for webhook in receiver.saying(path)}
    assert ids == set(subscriber.events)


# Clock skew


@dataclass(frozen=True)
class Skewed:
    """Processes whose clocks are a minute ahead or behind."""

    token: App
    gateway: App
    revocation: App


@pytest.fixture(scope="module", name="skewed")
async def _skewed(
    cluster: Stack, api: Api, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Mapping[int, Skewed]]:
    home, app = tmp_path_factory.mktemp("skewed"), await api.app()
    async with AsyncExitStack() as opened:

        async def ahead(service: str, seconds: int) -> App:
            command = ("tests.security.skewed", f"services.{service}", "--seconds", str(seconds))
            process = await opened.enter_async_context(extra_process(cluster, home, *command, service=service))
            return app.at(process.call)

        places = [(service, seconds) for seconds in (60, -60) for service in ("token", "gateway", "revocation")]
        token, gateway, revocation, *behind = await together(*(ahead(*place) for place in places))
        yield {60: Skewed(token, gateway, revocation), -60: Skewed(*behind)}


def of(app: App, place: App) -> App:
    """The client, sending its requests to the same process as the other client."""
    return app.at(place.edge)


async def test_116_nothing_expires_early_where_clocks_differ(cluster: Stack, skewed: Mapping[int, Skewed]) -> None:
    """A one-minute code and a ten-second token are accepted by a process whose clock is a minute ahead or behind."""
    app = await (await new_api(cluster, {"accessTokenLifetime": 10})).app()
    for issuing in skewed.values():
        response = await of(app, issuing.token).exchange(await app.code())
        pair = issued(response)
        assert response.body["expires_in"] == 10
        for checking in skewed.values():
            assert await of(app, checking.gateway).opens(pair.access)
        assert await is_alive(cluster, app, pair.access)


async def test_116_nothing_becomes_valid_again_when_clocks_differ(cluster: Stack, skewed: Mapping[int, Skewed]) -> None:
    """An expired or revoked token is refused by a process whose clock is behind; a new one is accepted where it is
    ahead.
    """
    app = await (await new_api(cluster, {"accessTokenLifetime": 1, "codeLifetime": 1})).app()
    code, pair = await app.code(), await app.pair()
    await passed(2.5)
    for place in skewed.values():
        assert refused(await of(app, place.token).exchange(code), "invalid_grant")
        assert (await of(app, place.gateway).call(pair.access)).status == 401
    app = await (await new_api(cluster)).app()
    for ending in skewed.values():
        pairs = [issued(await of(app, place.token).exchange(await app.code())) for place in skewed.values()]
        response = await of(app, ending.revocation).post("revoke_all", {}, headers=app.basic)
        assert response.status == 200
        assert await is_over(cluster, app, *(pair.access for pair in pairs))
        for place in skewed.values():
            assert await is_alive(cluster, app, issued(await of(app, place.token).exchange(await app.code())).access)


# Many clients

CLIENTS = 1000


async def test_117_a_thousand_clients_at_once_get_each_its_own(cluster: Stack, api: Api) -> None:
    """With a thousand concurrent clients, each gets its own token, at every process."""
    quiet = replace(cluster.anybody, secrets=Secrets())
    apps: list[App] = []
    for _ in range(0, CLIENTS, 50):
        apps += await together(*(api.app(quiet=quiet) for _ in range(50)))
    ids = {app.client_id for app in apps}
    assert len(ids) == CLIENTS
    responses = await together(*(app.credentials() for app in apps))
    assert {response.status for response in responses} == {200}
    described = await together(
        *(app.introspect(response.body["access_token"]) for app, response in zip(apps, responses, strict=True))
    )
    assert [response.body["client_id"] for response in described] == [app.client_id for app in apps]
    tokens = [response.body["access_token"] for response in responses]
    described = await together(*(app.introspect(token) for app, token in zip(apps[:100], tokens[100:200], strict=True)))
    assert [response.body for response in described] == [INACTIVE] * 100
