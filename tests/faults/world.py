"""What a row needs: servers of its own that may be broken, the system on them, and the witnesses."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import aiohttp
from aiohttp.abc import AbstractResolver
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection

from contracts.apis import GrantType
from contracts.grants import GrantState
from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.stack import Servers
from tests.faults.fork_server import ForkServer
from tests.faults.judge import Committed
from tests.faults.stack import Arming, Stack
from tests.faults.witnesses import Receiver, Recorder, receiver, recorder
from tests.provision import mongodb, rabbitmq
from tests.provision.replica_set import ReplicaSet
from tests.store.slow import Slow

ASK_WITHIN = 30.0
"""Seconds after which a client considers a request lost."""
_FIELDS = {"generation": 1, "sequence": 1, "access.digest": 1, "grant_type": 1, "state": 1}


class System(Protocol):
    """Running services behind an edge."""

    anybody: Caller
    """Calls the edge without a key."""
    operator: Caller
    """Calls the edge with every permission."""

    async def have(self, names: tuple[str, ...], armings: tuple[Arming, ...] = ()) -> None:
        """Make exactly these processes run, armed as given, and wait until they are ready."""

    async def ready(self, *names: str) -> None:
        """Wait until these processes are ready for requests."""


@dataclass(frozen=True)
class Watched:
    """A running system with its witnesses."""

    system: System
    receiver: Receiver
    recorder: Recorder
    grants: "AsyncIOMotorCollection[dict[str, Any]]"

    async def committed(self, client_ids: Collection[str]) -> dict[str, Committed]:
        """The grants of these clients, read with majority concern."""
        found = self.grants.find({"client_id": {"$in": list(client_ids)}}, _FIELDS)
        return {document["_id"]: _committed(document) async for document in found}


@dataclass(frozen=True)
class World(Watched):
    """The system in processes, with its servers."""

    stack: Stack
    broker: rabbitmq.Broker
    mongo: mongodb.Database | None
    """None on a replica set."""
    replica_set: ReplicaSet | None
    way: Slow | None = None
    """The proxy between the services and MongoDB, if responses are to be delayed."""


def _committed(document: dict[str, Any]) -> Committed:
    return Committed(
        grant_id=document["_id"],
        generation=document.get("generation", 0),
        sequence=document["sequence"],
        access_digest=bytes(document["access"]["digest"]) if document.get("access") else None,
        notified=document["grant_type"] != GrantType.CLIENT_CREDENTIALS,
        ended=document["state"] == GrantState.REVOKED,
    )


@asynccontextmanager
async def world(names: tuple[str, ...], *, replica_set: bool = False, slow: bool = False) -> AsyncIterator[World]:
    """Run these processes on their own RabbitMQ and MongoDB until the block ends.

    `slow`: MongoDB is a single server behind a proxy that can delay its responses.
    """
    async with AsyncExitStack() as opened:
        home = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="tokenwire-faults-")))
        broker = await asyncio.to_thread(rabbitmq.own)
        opened.callback(broker.close)
        three = await opened.enter_async_context(ReplicaSet()) if replica_set else None
        one = None
        if three is None:
            one = await mongodb.own()
            opened.push_async_callback(one.close)
        url = three.url if three is not None else one.url if one is not None else ""
        way = opened.enter_context(Slow(url).running()) if slow else None
        servers = Servers(way.url if way is not None else url, f"tokenwire_faults_{secrets.token_hex(4)}", broker.url)
        http = await opened.enter_async_context(clients())
        fork_server = opened.enter_context(ForkServer())
        stack = opened.enter_context(Stack(servers, home, Caller(http, "", Secrets()), fork_server))
        await stack.have(names)
        webhooks = await opened.enter_async_context(receiver())
        events = await opened.enter_async_context(recorder(broker.url))
        await asyncio.to_thread(broker.settle)
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(url, readConcernLevel="majority")
        opened.callback(client.close)
        yield World(stack, webhooks, events, client[servers.database]["grants"], stack, broker, one, three, way)


def clients(resolver: AbstractResolver | None = None) -> aiohttp.ClientSession:
    """A session for all clients. With a resolver, every new connection asks it again."""
    connector = aiohttp.TCPConnector(limit=0, resolver=resolver, use_dns_cache=resolver is None)
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=ASK_WITHIN)
    )
