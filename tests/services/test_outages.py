"""MongoDB or RabbitMQ are away: what is answered meanwhile, and that nothing is lost or half-done afterwards."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from yarl import URL

from contracts.grants import GrantState
from libs.bus.port import BusUnavailable, Delivery, Exchange, Mode, Subscription
from libs.bus.rabbit import RabbitBus
from services.embedded import EmbeddedMongo
from tests.builders import Answer, settle
from tests.eventually import eventually
from tests.services.system import Party, System, Tokens, open_system, refused, tokens_of
from tests.wire import wire

CREDENTIALS = {"grant_type": "client_credentials"}


async def is_ready(system: System) -> bool:
    return (await system.call("GET", "/readyz")).status == 200


# MongoDB


def unavailable(answer: Answer) -> bool:
    """Whether this is 503 with the time to come back, in the envelope of its path."""
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2"), answer.raw
    assert answer.headers["Cache-Control"] == "no-store"
    if "Status" in answer.body:
        return answer.message == "the database is not available"
    assert set(answer.body) == {"error", "error_description"}
    return bool(answer.body["error"] == "temporarily_unavailable")


async def test_without_mongodb_every_endpoint_says_when_to_come_back(tmp_path: Path) -> None:
    """503 with Retry-After (row 77: revocation too), soon, also for who comes while others wait; then all goes on.

    Codes and refresh tokens that were presented meanwhile are as good as before: nothing was half-written.
    """
    async with EmbeddedMongo(tmp_path) as mongo, open_system(mongo.url) as system:
        party = await system.party()
        code, tokens, user = await party.code(), await party.tokens(), await system.user()
        await settle(system.deps)
        base = f"/api/apis/oauth/{party.id}"
        mongo.kill()

        async def after(seconds: float, answer: Any) -> Answer:
            await asyncio.sleep(seconds)
            return await answer

        # The first write waits about eight seconds in case this is a change of primary; nobody waits for two such.
        async with asyncio.timeout(16):
            answers = await asyncio.gather(
                party.token(CREDENTIALS),
                after(1, party.token(CREDENTIALS)),
                after(3, party.token(CREDENTIALS)),
                party.exchange(code),
                party.refresh(tokens.refresh),
                party.password(user.username),
                party.revoke(tokens.refresh),
                system.call("POST", party.at("oauth/revoke_all"), headers=party.basic),
                party.verify(tokens.access),
                system.call("POST", "/oauth/introspect", data={"token": tokens.refresh}, headers=party.basic),
                party.authorize_client(),
                system.operator("POST", f"{base}/revoke", data={"token": tokens.access}),
                system.operator("POST", f"{base}/revoke_all"),
                system.operator("GET", f"{base}/tokens"),
                system.call("POST", "/nowhere/oauth/token", data=CREDENTIALS),
                system.call("GET", "/.well-known/oauth-authorization-server/nowhere"),
            )
            ready, alive = await asyncio.gather(system.call("GET", "/readyz"), system.call("GET", "/healthz"))
        assert all(unavailable(answer) for answer in answers)
        assert (ready.status, ready.body["bus"], ready.body["mongodb"] != "ok") == (503, "ok", True)
        assert alive.status == 200

        await mongo.restart()
        await eventually(lambda: is_ready(system))
        grant = await system.grant_of(code)
        assert (grant.state, grant.version) == (GrantState.PENDING, 1)
        assert (await party.verify(tokens.access)).status == 200
        assert (await party.exchange(code)).status == 200
        assert (await party.refresh(tokens.refresh)).status == 200
        assert (await party.token(CREDENTIALS)).status == 200


async def test_what_was_answered_before_a_crash_is_there_after_it(tmp_path: Path) -> None:
    """SIGKILL of mongod under load: every token that a client got works, every event is published, no 5xx but 503."""
    async with EmbeddedMongo(tmp_path) as mongo, open_system(mongo.url) as system:
        party = await system.party()
        started = asyncio.Event()
        answers: list[Answer] = []

        async def keep_asking() -> None:
            while not mongo_is_gone.is_set():
                answers.append(await party.token(CREDENTIALS))
                if len(answers) > 40:
                    started.set()

        mongo_is_gone = asyncio.Event()
        askers = [asyncio.create_task(keep_asking()) for _ in range(8)]
        await started.wait()
        mongo.kill()
        mongo_is_gone.set()
        await mongo.restart()
        await asyncio.gather(*askers)
        await eventually(lambda: is_ready(system))

        assert {answer.status for answer in answers} <= {200, 503}
        issued = [tokens_of(answer) for answer in answers if answer.status == 200]
        assert len(issued) > 40
        system.clock.advance(3)  # from now on the sweeper takes what the crash kept from being cleared
        for tokens in issued:
            assert (await party.verify(tokens.access)).status == 200
        grants = {(await system.grant_of(tokens.access)).grant_id for tokens in issued}

        def announced() -> set[str]:
            return {event["subject"] for event in system.heard.events if event["type"] == "io.tokenwire.token.new"}

        await eventually(lambda: grants <= announced())
        stored = await system.deps.store.mongo["grants"].distinct("_id")
        assert announced() <= set(stored)


# RabbitMQ


@asynccontextmanager
async def subscriber(amqp_url: str) -> AsyncIterator[list[dict[str, Any]]]:
    """The grants' events as a downstream system has them, in order of arrival."""
    events: list[dict[str, Any]] = []
    bus = RabbitBus(amqp_url, instance_name="downstream")

    async def hear(delivery: Delivery) -> None:
        event = orjson.loads(delivery.message.body)
        if event["id"] not in {known["id"] for known in events}:
            events.append(event)

    keys = ("token.#", "code.#", "grant.#")
    bus.subscribe(Subscription("downstream", Exchange.EVENTS, keys, hear, Mode.BROADCAST))
    await bus.open()
    try:
        await eventually(lambda: _answers(bus))
        yield events
    finally:
        await bus.close()


async def _answers(bus: RabbitBus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True


async def a_whole_life(party: Party) -> Tokens:
    """Code, exchange, refresh, revocation and a further refresh: five events of one grant."""
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    assert (await party.revoke(second.access)).status == 200
    return await party.refreshed(second.refresh)


LIFE = ["code.issued", "token.new", "token.refresh", "token.revoked", "token.refresh"]


async def test_without_rabbitmq_tokens_are_issued_and_their_events_wait(mongodb_url: str, amqp_url: str) -> None:
    """Row 115: nothing fails but `readyz`, which names the bus; when it is back all events come, once and in order."""
    there = URL(amqp_url)
    async with wire(there.port or 5672) as way, subscriber(amqp_url) as heard:
        bus = RabbitBus(str(there.with_port(way.port)), instance_name="cut-off")
        async with open_system(mongodb_url, bus=bus) as system:
            party = await system.party()
            before = await a_whole_life(party)
            await eventually(lambda: len(heard) == len(LIFE))

            await way.cut()
            await eventually(lambda: not_ready_for(system, "bus"))
            lives = []
            for _ in range(3):
                system.clock.advance(1)
                lives.append(await a_whole_life(party))
            own = [tokens_of(await party.token(CREDENTIALS)) for _ in range(20)]
            for tokens in (before, *lives, *own):
                assert (await party.verify(tokens.access)).status == 200
            assert (await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke_all")).status == 200
            assert (await party.verify(lives[0].access)).status == 403
            assert len(heard) == len(LIFE)

            system.clock.advance(3)  # from now on the sweeper takes them
            await way.mend()
            grants = [(await system.grant_of(tokens.access)).grant_id for tokens in (before, *lives)]
            revoked = 1 + len(lives) + len(own)
            await eventually(lambda: len(heard) == len(LIFE) * 4 + len(own) + revoked, within=30)
            for grant in grants:
                events = [event for event in heard if event["subject"] == grant]
                assert [event["type"].removeprefix("io.tokenwire.") for event in events] == [*LIFE, "grant.revoked"]
                assert [int(event["sequence"]) for event in events] == [1, 2, 3, 4, 5, 6]
            firsts = [next(n for n, event in enumerate(heard) if event["subject"] == grant) for grant in grants]
            assert firsts == sorted(firsts)
            await eventually(lambda: is_ready(system))
            await eventually(lambda: nothing_pending(system))


async def not_ready_for(system: System, name: str) -> bool:
    """Whether `readyz` is red because of this alone."""
    answer = await system.call("GET", "/readyz")
    assert answer.status == 503
    assert [part for part, state in answer.body.items() if state != "ok" and part != "status"] == [name]
    return (await system.call("GET", "/healthz")).status == 200


async def nothing_pending(system: System) -> bool:
    """Whether every event was cleared from its record."""
    return (await system.deps.store.grants.backlog())[0] == 0


async def test_a_start_without_rabbitmq_serves(mongodb_url: str, amqp_url: str, database_name: str) -> None:
    """What another process made is found, tokens are issued, and revocation counts; the bus is only late."""
    there = URL(amqp_url)
    async with open_system(mongodb_url, database_name) as maker:
        party = await maker.party()
    async with wire(there.port or 5672) as way, subscriber(amqp_url) as heard:
        await way.cut()
        bus = RabbitBus(str(there.with_port(way.port)), instance_name="late")
        async with open_system(mongodb_url, database_name, bus=bus, wait=False) as system:
            await eventually(lambda: not_ready_for(system, "bus"))
            asking = system.knows(party)
            tokens = await asking.tokens()
            assert (await asking.verify(tokens.access)).status == 200
            assert (await asking.revoke(tokens.refresh)).status == 200
            assert (await asking.verify(tokens.access)).status == 403
            assert refused(await asking.refresh(tokens.refresh), "invalid_grant")
            system.clock.advance(10)
            await way.mend()
            await eventually(lambda: len(heard) == 3, within=30)
            assert [event["type"].removeprefix("io.tokenwire.") for event in heard] == [
                "code.issued",
                "token.new",
                "grant.revoked",
            ]
            await eventually(lambda: is_ready(system))
