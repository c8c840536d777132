"""Without MongoDB or RabbitMQ: responses during the outage, and nothing lost or half-done afterwards."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from yarl import URL

from contracts.grants import GrantState
from libs.bus.port import BusUnavailable, Delivery, Exchange, Mode, Subscription
from libs.bus.rabbit import RabbitBus
from services.embedded import EmbeddedMongo
from tests.builders import Response, settle
from tests.eventually import eventually
from tests.services.system import Party, System, Tokens, open_system, refused, tokens_of
from tests.wire import wire

CREDENTIALS = {"grant_type": "client_credentials"}


async def is_ready(system: System) -> bool:
    """Whether everything is ready, including the bus."""
    response = await system.call("GET", "/readyz")
    return (response.status, response.body["status"]) == (200, "ok")


# MongoDB


def unavailable(response: Response) -> bool:
    """Whether this is 503 with Retry-After, in its path's format."""
    assert (response.status, response.headers["Retry-After"]) == (503, "2"), response.raw
    assert response.headers["Cache-Control"] == "no-store"
    if "Status" in response.body:
        return response.message == "the database is not available"
    assert set(response.body) == {"error", "error_description"}
    return bool(response.body["error"] == "temporarily_unavailable")


async def test_without_mongodb_every_endpoint_sends_retry_after(tmp_path: Path) -> None:
    """Every endpoint responds 503 with Retry-After (row 77: revocation too), soon, also under load; then all recovers.

    Codes and refresh tokens sent meanwhile are still valid: nothing was half-written.
    """
    async with EmbeddedMongo(tmp_path) as mongo, open_system(mongo.url) as system:
        party = await system.party()
        code, tokens, user = await party.code(), await party.tokens(), await system.user()
        await settle(system.deps)
        base = f"/api/apis/oauth/{party.id}"
        mongo.kill()

        async def after(seconds: float, response: Awaitable[Response]) -> Response:
            await asyncio.sleep(seconds)
            return await response

        # The first write waits about eight seconds in case the primary changes; no request must wait for two such.
        async with asyncio.timeout(16):
            responses = await asyncio.gather(
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
        assert all(unavailable(response) for response in responses)
        assert (ready.status, ready.body["status"]) == (503, "unavailable")
        assert (ready.body["bus"], ready.body["mongodb"] != "ok") == ("ok", True)
        assert alive.status == 200

        await mongo.restart()
        await eventually(lambda: is_ready(system))
        grant = await system.grant_of(code)
        assert (grant.state, grant.version) == (GrantState.PENDING, 1)
        assert (await party.verify(tokens.access)).status == 200
        assert (await party.exchange(code)).status == 200
        assert (await party.refresh(tokens.refresh)).status == 200
        assert (await party.token(CREDENTIALS)).status == 200


async def test_issued_tokens_survive_a_crash(tmp_path: Path) -> None:
    """SIGKILL of mongod under load: every issued token works, every event is published, and no 5xx but 503."""
    async with EmbeddedMongo(tmp_path) as mongo, open_system(mongo.url) as system:
        party = await system.party()
        started = asyncio.Event()
        responses: list[Response] = []

        async def keep_asking() -> None:
            while not mongo_is_gone.is_set():
                responses.append(await party.token(CREDENTIALS))
                if len(responses) > 40:
                    started.set()

        mongo_is_gone = asyncio.Event()
        askers = [asyncio.create_task(keep_asking()) for _ in range(8)]
        await started.wait()
        mongo.kill()
        mongo_is_gone.set()
        await mongo.restart()
        await asyncio.gather(*askers)
        await eventually(lambda: is_ready(system))

        assert {response.status for response in responses} <= {200, 503}
        issued = [tokens_of(response) for response in responses if response.status == 200]
        assert len(issued) > 40
        system.clock.advance(3)  # from now on the sweeper publishes what the crash left
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
    """A subscriber to the grants' events, in order of arrival."""
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
        await eventually(lambda: _responses(bus))
        yield events
    finally:
        await bus.close()


async def _responses(bus: RabbitBus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True


async def a_whole_life(party: Party) -> Tokens:
    """Code, exchange, refresh, refresh and revocation: five events of one grant."""
    first = await party.tokens()
    second = await party.refreshed(first.refresh)
    assert (await party.revoke(second.access)).status == 200
    return await party.refreshed(second.refresh)


LIFE = ["code.issued", "token.new", "token.refresh", "token.revoked", "token.refresh"]


async def test_without_rabbitmq_tokens_are_issued_and_their_events_wait(mongodb_url: str, amqp_url: str) -> None:
    """Row 115: without RabbitMQ tokens are issued and `readyz` is degraded; afterwards all events come in order."""
    there = URL(amqp_url)
    async with wire(there.port or 5672) as way, subscriber(amqp_url) as heard:
        bus = RabbitBus(str(there.with_port(way.port)), instance_name="cut-off")
        async with open_system(mongodb_url, bus=bus) as system:
            party = await system.party()
            before = await a_whole_life(party)
            await eventually(lambda: len(heard) == len(LIFE))

            await way.cut()
            await eventually(lambda: degraded_by(system, "bus"))
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

            system.clock.advance(3)  # from now on the sweeper publishes them
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


async def degraded_by(system: System, name: str) -> bool:
    """Whether the system is ready with `readyz` naming only this."""
    response = await system.call("GET", "/readyz")
    assert (response.status, response.body["status"]) == (200, "degraded")
    assert [part for part, state in response.body.items() if state != "ok" and part != "status"] == [name]
    return (await system.call("GET", "/healthz")).status == 200


async def nothing_pending(system: System) -> bool:
    """Whether every event has been cleared from its record."""
    return (await system.deps.store.grants.backlog())[0] == 0


async def test_a_start_without_rabbitmq_serves(mongodb_url: str, amqp_url: str, database_name: str) -> None:
    """A service started without RabbitMQ issues, finds and revokes tokens; only events are late."""
    there = URL(amqp_url)
    async with open_system(mongodb_url, database_name) as maker:
        party = await maker.party()
    async with wire(there.port or 5672) as way, subscriber(amqp_url) as heard:
        await way.cut()
        bus = RabbitBus(str(there.with_port(way.port)), instance_name="late")
        async with open_system(mongodb_url, database_name, bus=bus, wait=False) as system:
            await eventually(lambda: degraded_by(system, "bus"))
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
