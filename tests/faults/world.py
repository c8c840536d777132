"""Everything that a row needs: servers of its own that may be broken, the system on them, and the witnesses."""

import asyncio
import secrets
import tempfile
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from motor.motor_asyncio import AsyncIOMotorClient, AsyncIOMotorCollection

from contracts.apis import GrantType
from contracts.grants import GrantState
from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.stack import Servers
from tests.faults.judge import Committed
from tests.faults.nursery import Nursery
from tests.faults.stack import Stack
from tests.faults.witnesses import Receiver, Recorder, receiver, recorder
from tests.provision import mongodb, rabbitmq
from tests.provision.replica_set import ReplicaSet

ASK_WITHIN = 15.0
"""Seconds after which a client takes a request for lost."""
_FIELDS = {"generation": 1, "sequence": 1, "access.digest": 1, "grant_type": 1, "state": 1}


@dataclass(frozen=True)
class World:
    """A running system, what it stands on, and who watches it."""

    stack: Stack
    broker: rabbitmq.Broker
    mongo: mongodb.Database | None
    """None on a replica set."""
    replica_set: ReplicaSet | None
    receiver: Receiver
    recorder: Recorder
    grants: "AsyncIOMotorCollection[dict[str, Any]]"

    async def committed(self, client_ids: Collection[str]) -> dict[str, Committed]:
        """The grants of these clients, as a majority of MongoDB has them."""
        found = self.grants.find({"client_id": {"$in": list(client_ids)}}, _FIELDS)
        return {document["_id"]: _committed(document) async for document in found}


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
async def world(names: tuple[str, ...], *, replica_set: bool = False) -> AsyncIterator[World]:
    """These processes on a RabbitMQ and a MongoDB of their own; all gone at the end."""
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
        servers = Servers(url, f"tokenwire_faults_{secrets.token_hex(4)}", broker.url)
        connector = aiohttp.TCPConnector(limit=0)
        session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=ASK_WITHIN),
        )
        http = await opened.enter_async_context(session)
        nursery = opened.enter_context(Nursery())
        stack = opened.enter_context(Stack(servers, home, Caller(http, "", Secrets()), nursery))
        await stack.have(names)
        webhooks = await opened.enter_async_context(receiver())
        events = await opened.enter_async_context(recorder(broker.url))
        await asyncio.to_thread(broker.settle)
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(url, readConcernLevel="majority")
        opened.callback(client.close)
        yield World(stack, broker, one, three, webhooks, events, client[servers.database]["grants"])
