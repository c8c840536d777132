"""Finds secrets in everything a system has written, in clear or in any encoding that does not protect them."""

import base64
import binascii
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import quote

import aio_pika
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo import AsyncMongoClient

from libs.oauth.token_formats import SECRET_BYTES, TAG_BYTES
from tests.acceptance.stack import INSTANCES, Stack

_PREFIXES = ("tw_at_", "tw_rt_", "tw_ac_")
_SHORTEST_CORE = 12
"""Shortest base64 fragment searched for; shorter ones would be found by chance."""
Found = Mapping[str, set[tuple[str, str]]]
"""For each place: the secrets found there, and how they are encoded."""


def spellings(secret: str) -> dict[str, bytes]:
    """The encodings of the secret from which anyone could recover it."""
    forms = dict(_of_bytes("text", secret.encode())) | {"text": secret.encode(), "url": quote(secret, safe="").encode()}
    if secret.startswith(_PREFIXES):
        raw = base64.urlsafe_b64decode(secret[6:] + "==")
        forms["body"] = secret[6:].encode()
        forms |= _of_bytes("random part", raw[-TAG_BYTES - SECRET_BYTES : -TAG_BYTES])
    elif (key := _decoded(secret)) is not None:
        forms |= _of_bytes("key", key)
    return forms


def _of_bytes(name: str, value: bytes) -> dict[str, bytes]:
    forms = {f"{name}, hex": value.hex().encode(), f"{name}, HEX": value.hex().upper().encode()}
    for offset in range(3):
        core = _base64_core(value, offset)
        if len(core) >= _SHORTEST_CORE:
            forms[f"{name}, base64 +{offset}"] = core
            forms[f"{name}, base64url +{offset}"] = core.translate(bytes.maketrans(b"+/", b"-_"))
    return forms | {f"{name}, bytes": value}


def _base64_core(value: bytes, offset: int) -> bytes:
    """The characters of the value's base64 that do not depend on the bytes before and after, at this offset."""
    whole = (len(value) + offset) // 3 * 3 - offset
    return base64.b64encode(bytes(offset) + value[:whole])[(0, 2, 3)[offset] :]


def _decoded(secret: str) -> bytes | None:
    """The bytes of a base64 key."""
    try:
        raw = base64.b64decode(secret, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == 32 else None


class Scan:
    """Searches for these secrets."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._forms = [(secret, name, form) for secret in secrets for name, form in spellings(secret).items()]

    def found_in(self, written: bytes) -> set[tuple[str, str]]:
        """The secrets in this text, and how they are encoded."""
        return {(secret, name) for secret, name, form in self._forms if form in written}

    async def found(self, places: AsyncIterator[tuple[str, bytes]]) -> Found:
        """The places that contain secrets."""
        found: dict[str, set[tuple[str, str]]] = {}
        async for place, written in places:
            if there := self.found_in(written):
                found.setdefault(place, set()).update(there)
        return found


async def everything_written(stack: Stack, queues: Iterable[str]) -> AsyncIterator[tuple[str, bytes]]:
    """Everything written: MongoDB and its oplog, the queues, the processes' logs, the metrics."""
    async for place, written in stored(stack.servers.mongodb_url, stack.servers.database):
        yield place, written
    async for place, written in queued(stack.servers.amqp_url, queues):
        yield place, written
    for name in (*INSTANCES, "edge"):
        yield f"log of {name}", stack.logs(name).encode()
    for name in INSTANCES:
        yield f"metrics of {name}", (await stack.service(name)("GET", "/metrics")).raw


async def stored(mongodb_url: str, database: str) -> AsyncIterator[tuple[str, bytes]]:
    """Every document of every collection as bytes, and the earlier versions in the oplog."""
    raw = CodecOptions(document_class=RawBSONDocument)
    async with AsyncMongoClient[RawBSONDocument](mongodb_url) as client:
        for name in await client[database].list_collection_names():
            async for document in client[database].get_collection(name, raw).find():
                yield f"mongodb {name}", bytes(document.raw)
        log = client["local"].get_collection("oplog.rs", raw)
        ours = {"$or": [{"ns": {"$regex": f"^{database}\\."}}, {"o.applyOps.ns": {"$regex": f"^{database}\\."}}]}
        async for operation in log.find(ours):
            yield "mongodb's log of operations", bytes(operation.raw)


async def queued(amqp_url: str, queues: Iterable[str]) -> AsyncIterator[tuple[str, bytes]]:
    """Every message in these queues with all properties; the messages stay in the queues."""
    for queue in queues:
        async with channel(amqp_url) as opened:
            source = await opened.get_queue(queue)
            while (message := await source.get(fail=False)) is not None:
                yield f"queue {queue}", b"\n".join(_of_message(message))


def _of_message(message: AbstractIncomingMessage) -> Iterator[bytes]:
    yield message.body
    yield repr(message.info()).encode()
    yield repr(message.headers).encode()


@asynccontextmanager
async def channel(amqp_url: str) -> AsyncIterator[AbstractChannel]:
    """A channel. Messages that were not acknowledged return to their queues when it closes."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        yield await connection.channel()
