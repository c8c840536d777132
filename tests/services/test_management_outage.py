"""The management service without MongoDB, and in several instances over RabbitMQ."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp.test_utils import TestClient, TestServer

from contracts.events import ApiData, ApiDeleted
from contracts.operators import Permission
from libs.bus.local import LocalBus
from libs.bus.outbox import messages_of
from libs.bus.port import Outcome
from libs.event_encoding import new_event_id, pending
from libs.runtime import new_deps
from services.management.__main__ import create_app
from services.management.settings import ManagementSettings
from tests.builders import Caller, Response, api_document, make_api, make_client, make_operator, running, settings
from tests.eventually import eventually
from tests.provision.mongodb import Database
from tests.services.management import facts, management

KEY = "the-first-key-of-24-char"


@asynccontextmanager
async def away(mongodb: Database) -> AsyncIterator[None]:
    """Stop MongoDB during the block."""
    await mongodb.stop()
    try:
        yield
    finally:
        await mongodb.start()


async def is_ready(caller: Caller) -> bool:
    return (await caller("GET", "/readyz")).status == 200


def unavailable(response: Response) -> None:
    """Whether this is 503 in the management format with Retry-After."""
    assert (response.status, response.headers["Retry-After"]) == (503, "2"), response.raw
    assert response.message == "the database is not available"


async def test_a_start_without_mongodb_waits_for_it(mongodb: Database, database_name: str) -> None:
    """Started without MongoDB, the service reports it, responds 503, and recovers by itself."""
    configured = settings(ManagementSettings, mongodb.url, database_name, bootstrap_operator_key=KEY)
    deps = new_deps(configured, "management", bus=LocalBus())
    async with AsyncExitStack() as stack:
        async with away(mongodb):
            caller = Caller(await stack.enter_async_context(TestClient(TestServer(create_app(configured, deps)))))
            not_ready, refused = await asyncio.gather(
                caller("GET", "/readyz"), caller.with_key(KEY)("POST", "/api/apis", json=api_document())
            )
            assert (not_ready.status, not_ready.body["status"]) == (503, "unavailable")
            assert not_ready.body["bootstrap operator"] == "the operator 'bootstrap' does not exist yet"
            assert not_ready.body["bus"] == "ok"
            unavailable(refused)
            assert (await caller("GET", "/healthz")).status == 200
        await eventually(lambda: is_ready(caller))
        assert (await caller.with_key(KEY)("GET", "/api/operators")).body["operators"][0]["operator_id"] == "bootstrap"


async def test_an_outage_is_503_and_over_when_it_is_over(mongodb: Database) -> None:
    """During an outage reads and writes get 503 with Retry-After, nothing is half-written, and it recovers by
    itself.
    """
    async with management(mongodb.url) as service:
        document, api = api_document(), await make_api(service.deps)
        assert (await service.writer("GET", "/api/apis")).status == 200
        async with away(mongodb):
            responses = await asyncio.gather(
                service.writer("GET", "/api/apis"),
                service.writer("POST", "/api/apis", json=document),
                service.writer("POST", f"/api/apis/oauth/{api.api_id}", json={}),
                service.writer("DELETE", f"/api/apis/{api.api_id}"),
            )
            for response in responses:
                unavailable(response)
        await eventually(lambda: is_ready(service.anybody))
        assert (await service.writer("GET", f"/api/apis/{api.api_id}")).status == 200
        assert (await service.writer("GET", f"/api/apis/oauth/{api.api_id}")).body == {"apps": [], "pages": 0}
        assert (await service.writer("POST", "/api/apis", json=document)).status == 200


async def test_the_reaction_to_a_deletion_outlasts_an_outage(mongodb: Database) -> None:
    """The event of a deletion is requeued while MongoDB is away, and handled afterwards."""
    async with management(mongodb.url) as service:
        api = await make_api(service.deps)
        client, _ = await make_client(service.deps, api)
        now = service.deps.now()
        event = ApiDeleted(
            id=new_event_id(now),
            source="urn:tokenwire:tests",
            time=now,
            subject=api.api_id,
            sequence="0000000002",
            data=ApiData(api_id=api.api_id, listen_path=api.listen_path),
        )
        async with away(mongodb):
            messages = list(messages_of(pending(event, api.api_id, api.api_id)))
            assert await service.deps.bus.publish(messages) == [Outcome.UNKNOWN]

        async def gone() -> bool:
            return await service.deps.store.clients.get(client.client_id) is None

        await eventually(lambda: is_ready(service.anybody))
        await eventually(gone)


async def test_several_instances_over_rabbitmq(mongodb_url: str, amqp_url: str, database_name: str) -> None:
    """A change at one instance reaches all caches and streams, and is reacted to once."""
    configured = settings(ManagementSettings, mongodb_url, database_name, amqp_url=amqp_url)
    several = [new_deps(configured, "management") for _ in range(2)]
    async with AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(running(create_app(configured, deps))) for deps in several]
        key = await make_operator(several[0], Permission.ADMIN)
        first, second = (caller.with_key(key) for caller in callers)
        streams = [
            await stack.enter_async_context(
                caller.http.get("/api/events/stream?types=client.deleted", headers=caller.headers)
            )
            for caller in (first, second)
        ]
        api_id = (await first("POST", "/api/apis", json=api_document())).body["ID"]
        client_id = (await second("POST", f"/api/apis/oauth/{api_id}", json={})).body["client_id"]
        await first("DELETE", f"/api/apis/{api_id}")
        seen = set()
        for stream in streams:
            async with asyncio.timeout(20):
                async for line in stream.content:
                    if line.startswith(b"data: "):
                        seen.add(line)
                        break
        (data,) = seen
        event = json.loads(data.removeprefix(b"data: "))
        assert facts(event) == {"client_id": client_id, "api_id": api_id, "reason": "api_deleted"}
        assert (await second("GET", f"/api/apis/oauth/{api_id}")).status == 404
        operator_id = next(
            operator["operator_id"] for operator in (await second("GET", "/api/operators")).body["operators"]
        )
        other = await make_operator(several[1], Permission.ADMIN)
        assert (await first.with_key(other)("DELETE", f"/api/operators/{operator_id}")).status == 200

        async def locked_out() -> bool:
            return (await second("GET", "/api/apis")).status == 401

        await eventually(locked_out, within=3)
