"""Make a lone mongod a replica set of one: what majority writes and retryable writes need."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure, PyMongoError

NAME = "rs0"
_NOT_YET_INITIALIZED = 94
_INVALID_REPLICA_SET_CONFIG = 93


class NoPrimary(Exception):
    """The server did not become primary in time; the text is one line."""


async def become_primary(
    host: str, port: int, *, member: str | None = None, within: float = 30.0, name: str = NAME
) -> None:
    """The mongod at this address is the primary of a replica set of one, known as `member` (default host:port).

    Works on an empty server, and on one whose set was formed under another address: the set then moves here.
    Raises NoPrimary after `within` seconds.
    """
    deadline = time.monotonic() + within
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        host, port, directConnection=True, serverSelectionTimeoutMS=500, connectTimeoutMS=500
    )
    last = "it does not answer"
    try:
        while time.monotonic() < deadline:
            try:
                if await _advance(client, member or f"{host}:{port}", name):
                    return
                last = "no primary was elected"
            except PyMongoError as fault:
                last = str(fault).split(", full error")[0].split(", Topology")[0]
            await asyncio.sleep(0.05)
    finally:
        client.close()
    raise NoPrimary(f"the MongoDB at {host}:{port} did not become primary within {within:g} s: {last}")


async def _advance(client: "AsyncIOMotorClient[dict[str, Any]]", member: str, name: str) -> bool:
    """One step towards a primary; True when it is there."""
    hello = await client.admin.command("hello")
    if hello.get("isWritablePrimary") and hello.get("me") == member:
        return True
    configuration = await _configuration(client)
    if configuration is None:
        await client.admin.command("replSetInitiate", {"_id": name, "members": [{"_id": 0, "host": member}]})
    elif configuration["members"][0]["host"] != member:
        # The member cannot find itself in a configuration that names another port, so nobody can vote: force.
        await client.admin.command("replSetReconfig", _moved(configuration, member), force=True)
    return False


async def _configuration(client: "AsyncIOMotorClient[dict[str, Any]]") -> Mapping[str, Any] | None:
    try:
        answer = await client.admin.command("replSetGetConfig")
    except OperationFailure as refusal:
        if refusal.code == _NOT_YET_INITIALIZED:
            return None
        raise
    configuration: Mapping[str, Any] = answer["config"]
    return configuration


def _moved(configuration: Mapping[str, Any], member: str) -> dict[str, Any]:
    only, *_ = configuration["members"]
    return {**configuration, "version": configuration["version"] + 1, "members": [{**only, "host": member}]}
