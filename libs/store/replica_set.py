"""Initiates a replica set of one member, which majority writes and retryable writes need."""

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import OperationFailure, PyMongoError

NAME = "rs0"
_NOT_YET_INITIALIZED = 94
_USER_EXISTS = 51003


class NoPrimary(Exception):
    """The server did not become primary in time; the text is one line for the operator."""


async def become_primary(
    host: str,
    port: int,
    *,
    member: str | None = None,
    within: float = 30.0,
    name: str = NAME,
    key: str | None = None,
) -> None:
    """Make the mongod at this address the primary of a replica set of one, named `member` (default host:port).

    Works on an empty server, and on one whose set was initiated under another address, which is then changed. `key` is
    the content of the key file, for a server that demands authentication. Raises NoPrimary after `within` seconds.
    """
    deadline = time.monotonic() + within
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        host, port, directConnection=True, serverSelectionTimeoutMS=500, connectTimeoutMS=500, **_member_of_the_set(key)
    )
    last = "it does not respond"
    try:
        while time.monotonic() < deadline:
            try:
                if await _advance(client, member or f"{host}:{port}", name):
                    return
                last = "no primary was elected"
            except PyMongoError as fault:
                last = _first_part(fault)
            await asyncio.sleep(0.05)
    finally:
        client.close()
    raise NoPrimary(f"the MongoDB at {host}:{port} did not become primary within {within:g} s: {last}")


async def ensure_administrator(host: str, port: int, *, key: str, username: str, password: str) -> None:
    """Create the user with this password and the role root, or set its password; `key` is the key file's content.

    Raises NoPrimary if the server does not respond, or refuses.
    """
    client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(
        host, port, directConnection=True, serverSelectionTimeoutMS=5_000, **_member_of_the_set(key)
    )
    try:
        try:
            await client.admin.command("createUser", username, pwd=password, roles=["root"])
        except OperationFailure as refusal:
            if refusal.code != _USER_EXISTS:
                raise
            await client.admin.command("updateUser", username, pwd=password, roles=["root"])
    except PyMongoError as fault:
        raise NoPrimary(f"the MongoDB at {host}:{port} refuses to create a user: {_first_part(fault)}") from fault
    finally:
        client.close()


def _member_of_the_set(key: str | None) -> dict[str, Any]:
    """Credentials of a member: with the key file's content, a client authenticates as the user `__system`."""
    if key is None:
        return {}
    return {"username": "__system", "password": key, "authSource": "local", "authMechanism": "SCRAM-SHA-256"}


def _first_part(fault: PyMongoError) -> str:
    return str(fault).split(", full error")[0].split(", Topology")[0]


async def _advance(client: "AsyncIOMotorClient[dict[str, Any]]", member: str, name: str) -> bool:
    """One step towards a primary; True if the server is primary."""
    hello = await client.admin.command("hello")
    if hello.get("isWritablePrimary") and hello.get("me") == member:
        return True
    configuration = await _configuration(client)
    if configuration is None:
        await client.admin.command("replSetInitiate", {"_id": name, "members": [{"_id": 0, "host": member}]})
    elif configuration["members"][0]["host"] != member:
        # Forced: the configuration names another address, so the member does not find itself in it and cannot vote.
        await client.admin.command("replSetReconfig", _moved(configuration, member), force=True)
    return False


async def _configuration(client: "AsyncIOMotorClient[dict[str, Any]]") -> Mapping[str, Any] | None:
    try:
        reply = await client.admin.command("replSetGetConfig")
    except OperationFailure as refusal:
        if refusal.code == _NOT_YET_INITIALIZED:
            return None
        raise
    configuration: Mapping[str, Any] = reply["config"]
    return configuration


def _moved(configuration: Mapping[str, Any], member: str) -> dict[str, Any]:
    only, *_ = configuration["members"]
    return {**configuration, "version": configuration["version"] + 1, "members": [{**only, "host": member}]}
