"""A downstream system that follows Tokenwire's events.

    python -m examples.subscriber --name billing 'token.*.my-api' 'grant.revoked.#'     over RabbitMQ
    python -m examples.subscriber --stream http://127.0.0.1:8080 'token.#'              over HTTP

Over RabbitMQ it declares its own durable quorum queue, `sub.<name>`, and binds it to the topic exchange
`tokenwire.events`. Events wait in the queue while the subscriber is not running. Two processes with the same name share
the events of one queue. Over HTTP it reads `GET /api/events/stream` (server-sent events) with an operator key. That
needs no broker. After a lost connection it continues where it was, from the stored events, which have only ids as their
`data`; when it is started again, it begins anew.

A routing key is the event's type without `io.tokenwire.`, followed by the API's id (for events of a policy or an
operator, its own id; for resource owners, `user`). `*` matches one word, `#` any number of words.

Delivery is at least once, so an event id that was seen is not shown again. `sequence` counts the changes of one record
(the event's `subject`). A gap means that an event was lost, does not match the routing keys, or is still on its way.
"""

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import sys
from collections import OrderedDict
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aio_pika
from aio_pika.abc import AbstractIncomingMessage
from aiohttp import ClientError, ClientSession, ClientTimeout, StreamReader

EXCHANGE = "tokenwire.events"
VENDOR = "io.tokenwire."
PREFETCH = 32
DELIVERY_LIMIT = 20
REMEMBERED = 100_000
SILENCE_SECONDS = 90
RECONNECT_SECONDS = 2.0

Event = dict[str, Any]
"""A CloudEvent as JSON."""


# Events


def read_event(text: bytes | str) -> Event:
    """Parse one of Tokenwire's CloudEvents. Raises ValueError for anything else."""
    event = json.loads(text)
    if not isinstance(event, dict) or not isinstance(event.get("data"), dict):
        raise ValueError("not an object with an object `data`")
    for name in ("id", "type", "time", "subject", "sequence"):
        if not isinstance(event.get(name), str):
            raise ValueError(f"{name} is not a string")
    int(event["sequence"])
    return event


class Remembered:
    """A bounded map: it forgets the least recently used keys."""

    def __init__(self, most: int = REMEMBERED) -> None:
        self._most = most
        self._values: OrderedDict[str, int] = OrderedDict()

    def get(self, key: str) -> int | None:
        return self._values.get(key)

    def put(self, key: str, value: int) -> None:
        self._values[key] = value
        self._values.move_to_end(key)
        if len(self._values) > self._most:
            self._values.popitem(last=False)


@dataclass(frozen=True)
class Ledger:
    """Tracks which events were seen, and gaps in the sequence of each record."""

    ids: Remembered = field(default_factory=Remembered)
    sequences: Remembered = field(default_factory=Remembered)

    def is_new(self, event: Event) -> bool:
        """False if the event was seen before."""
        if self.ids.get(event["id"]) is not None:
            return False
        self.ids.put(event["id"], 1)
        return True

    def missing_before(self, event: Event) -> range:
        """The sequence numbers missing between this record's latest event and this one; empty if unknown."""
        sequence = int(event["sequence"])
        latest = self.sequences.get(event["subject"])
        self.sequences.put(event["subject"], max(sequence, latest or 0))
        return range(latest + 1, sequence) if latest is not None else range(0)


def described(event: Event, missing: range) -> str:
    """One line: time, type, ids, and any gap before it."""
    facts = " ".join(f"{name}={value}" for name, value in event["data"].items())
    hole = f"   (not seen before it: {', '.join(map(str, missing))})" if missing else ""
    stem = event["type"].removeprefix(VENDOR)
    return f"{event['time']}  {stem:<24} #{int(event['sequence'])} {facts}{hole}"


def show(ledger: Ledger, event: Event) -> None:
    """Print an event unless it was seen before."""
    if ledger.is_new(event):
        print(described(event, ledger.missing_before(event)), flush=True)


# Over RabbitMQ


async def from_queue(url: str, name: str, keys: list[str], handle: Callable[[Event], None]) -> None:
    """Run `handle` for every event of the subscriber's queue, then acknowledge it. Returns only by cancellation."""
    connection = await aio_pika.connect_robust(url)
    async with connection:
        channel = await connection.channel()
        await channel.set_qos(prefetch_count=PREFETCH)
        # Passive, because the exchange is Tokenwire's: a subscriber's user may only read it and own queues of its name.
        exchange = await channel.get_exchange(EXCHANGE)
        queue = await channel.declare_queue(
            f"sub.{name}", durable=True, arguments={"x-queue-type": "quorum", "x-delivery-limit": DELIVERY_LIMIT}
        )
        for key in keys:
            await queue.bind(exchange, key)
        print(f"sub.{name} is bound to {EXCHANGE} with {', '.join(keys)}", file=sys.stderr, flush=True)
        async with queue.iterator() as messages:
            async for message in messages:
                await _handled(message, handle)


async def _handled(message: AbstractIncomingMessage, handle: Callable[[Event], None]) -> None:
    try:
        event = read_event(message.body)
    except ValueError as error:
        print(f"not an event: {message.message_id}: {error}", file=sys.stderr, flush=True)
        await message.reject(requeue=False)
        return
    handle(event)
    await message.ack()


# Over HTTP


async def from_stream(
    base: str, operator_key: str, *, connected: Callable[[], None] = lambda: None
) -> AsyncIterator[Event]:
    """Yield every event from the first connection on; reconnect when the connection is lost, after the last event.

    Raises PermissionError if the operator key is refused.
    """
    last_id = ""

    def seen(event_id: str) -> None:
        nonlocal last_id
        last_id = event_id

    headers = {"Authorization": operator_key, "Accept": "text/event-stream"}
    async with ClientSession(timeout=ClientTimeout(total=None, sock_connect=10, sock_read=SILENCE_SECONDS)) as http:
        while True:
            resumed = headers | ({"Last-Event-ID": last_id} if last_id else {})
            try:
                async with http.get(f"{base}/api/events/stream", headers=resumed) as response:
                    if response.status in {401, 403}:
                        raise PermissionError(f"the operator key is refused: {await response.text()}")
                    response.raise_for_status()
                    connected()
                    async for event in server_sent_events(noted(lines_of(response.content), seen)):
                        yield event
            except (ClientError, TimeoutError) as error:
                print(f"the stream broke: {error!r}", file=sys.stderr, flush=True)
            await asyncio.sleep(RECONNECT_SECONDS)


async def lines_of(content: StreamReader) -> AsyncIterator[bytes]:
    """Yield each line with its line end; stop when the connection closes."""
    while line := await content.readline():
        yield line


async def noted(lines: AsyncIterable[bytes], note: Callable[[str], None]) -> AsyncIterator[bytes]:
    """The same lines; `note` gets each `id`, of which the first is the place in the stream before any event."""
    async for line in lines:
        if line.startswith(b"id:"):
            note(line.decode().removeprefix("id:").strip())
        yield line


async def server_sent_events(lines: AsyncIterable[bytes]) -> AsyncIterator[Event]:
    """The `data` of each server-sent event; comments and other fields are ignored."""
    data: list[str] = []
    async for line in lines:
        text = line.decode().rstrip("\r\n")
        if text.startswith("data:"):
            data.append(text.removeprefix("data:").removeprefix(" "))
        elif not text and data:
            yield read_event("\n".join(data))
            data.clear()


def routing_key(event: Event) -> str:
    """The event's routing key on the exchange."""
    ids = (event["data"].get(name) for name in ("api_id", "policy_id", "operator_id"))
    return f"{event['type'].removeprefix(VENDOR)}.{next(filter(None, ids), 'user')}"


def matches(pattern: str, key: str) -> bool:
    """Match as a topic exchange does: `*` is one word, `#` is any number of words."""
    expression = ""
    for word in pattern.split("."):
        expression += {"*": r"\.[^.]+", "#": r"(?:\.[^.]+)*"}.get(word, rf"\.{re.escape(word)}")
    return re.fullmatch(expression, f".{key}") is not None


# The command


async def follow(options: argparse.Namespace) -> None:
    """Print events until cancelled."""
    ledger = Ledger()
    if options.stream is None:
        await from_queue(options.amqp, options.name, options.keys, lambda event: show(ledger, event))
        return

    def connected() -> None:
        print(f"following {options.stream}/api/events/stream", file=sys.stderr, flush=True)

    async for event in from_stream(options.stream.rstrip("/"), _operator_key(options), connected=connected):
        if any(matches(pattern, routing_key(event)) for pattern in options.keys):
            show(ledger, event)


def _operator_key(options: argparse.Namespace) -> str:
    if options.operator_key_file is not None:
        return str(options.operator_key_file.read_text().strip())
    if key := os.environ.get("TOKENWIRE_OPERATOR_KEY"):
        return key
    raise SystemExit("an operator key is needed: --operator-key-file FILE, or TOKENWIRE_OPERATOR_KEY")


async def _until_told_to_stop(options: argparse.Namespace) -> None:
    following = asyncio.ensure_future(follow(options))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, following.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await following


def main() -> None:
    """Follow events until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.subscriber", description="Follows token events.")
    parser.add_argument("keys", nargs="*", default=["#"], metavar="KEY", help="routing keys; default: everything")
    parser.add_argument("--name", default="example", help="the queue is sub.NAME; default: %(default)s")
    parser.add_argument(
        "--amqp",
        default=os.environ.get("TOKENWIRE_AMQP_URL", "amqp://guest:guest@127.0.0.1/"),
        metavar="URL",
        help="the broker; default: TOKENWIRE_AMQP_URL, or guest on this machine",
    )
    parser.add_argument("--stream", metavar="URL", help="follow over HTTP instead, from this Tokenwire")
    parser.add_argument("--operator-key-file", type=Path, help="for --stream; default: TOKENWIRE_OPERATOR_KEY")
    options = parser.parse_args()
    try:
        asyncio.run(_until_told_to_stop(options))
    except (aio_pika.exceptions.AMQPError, OSError) as error:
        raise SystemExit(f"cannot follow: {error}") from None


if __name__ == "__main__":
    main()
