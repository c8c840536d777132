"""Deliveries are taken out of the broker's stream, whatever they hold and however they are cut; the rest is left."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pamqp.frame
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic, Channel, Connection
from pamqp.header import ContentHeader
from pamqp.heartbeat import Heartbeat

from libs.bus.rabbit.arrivals import Arrival, Properties, Stream

OURS, ANOTHER = 3, 4
SHORT = st.text(max_size=40)
PLAIN = st.dictionaries(SHORT.filter(bool), st.text(max_size=80), max_size=9)
ODD = st.dictionaries(
    SHORT.filter(bool), st.text(max_size=9) | st.integers(0, 2**31) | st.booleans() | st.none(), max_size=4
)
PROPERTIES = st.builds(
    Basic.Properties,
    content_type=SHORT,
    headers=PLAIN | ODD,
    delivery_mode=st.sampled_from([1, 2]),
    message_id=SHORT,
    message_type=SHORT,
    app_id=SHORT,
    priority=st.none() | st.integers(0, 9),
    timestamp=st.none() | st.just(datetime(2026, 5, 4, tzinfo=UTC)),
)


@dataclass
class Sent:
    """What a broker sends on one connection, and what of it are deliveries on our channel."""

    data: bytes = b""
    others: bytes = b""
    deliveries: list[Arrival] = field(default_factory=list)

    def other(self, frame: pamqp.frame.FrameTypes, channel: int) -> None:
        data = pamqp.frame.marshal(frame, channel)
        self.data += data
        self.others += data

    def delivery(
        self, tag: int, redelivered: bool, key: str, properties: Basic.Properties, parts: Sequence[bytes]
    ) -> None:
        body = b"".join(parts)
        frames: list[pamqp.frame.FrameTypes] = [
            Basic.Deliver("a consumer", tag, redelivered, "an exchange", key),
            ContentHeader(body_size=len(body), properties=properties),
            *map(ContentBody, parts),
        ]
        for frame in frames:
            self.data += pamqp.frame.marshal(frame, OURS)
        said = Properties(
            properties.content_type or "",
            properties.headers or {},
            properties.message_id or "",
            properties.message_type or "",
        )
        self.deliveries.append(Arrival(tag, redelivered, key, said, body))


OTHERS = st.sampled_from(
    [
        (Heartbeat(), 0),
        (Connection.Blocked("memory"), 0),
        (Basic.Ack(7, True), ANOTHER),
        (Basic.Deliver("another consumer", 1, False, "", "k"), ANOTHER),
        (ContentHeader(body_size=2), ANOTHER),
        (ContentBody(b"ok"), ANOTHER),
        (Basic.QosOk(), OURS),
        (Basic.ConsumeOk("a consumer"), OURS),
        (Basic.Cancel("a consumer"), OURS),
    ]
)
DELIVERIES = st.tuples(
    st.integers(1, 2**63 - 1),
    st.booleans(),
    SHORT,
    PROPERTIES,
    st.lists(st.binary(min_size=1, max_size=60), max_size=3),
)


async def fed(pieces: Sequence[bytes], channel: int = OURS) -> tuple[list[Arrival], bytes]:
    """What is taken of the pieces, and what is left to be read."""
    taken: list[Arrival] = []
    stream = Stream()
    stream.take(channel, taken.append)
    for piece in pieces:
        stream.feed_data(piece)
    stream.feed_eof()
    return taken, await stream.read()


def cut(data: bytes, places: Sequence[int]) -> list[bytes]:
    """The same in pieces."""
    ends = sorted({place % (len(data) + 1) for place in places} | {len(data)})
    return [data[start:end] for start, end in zip([0, *ends], ends, strict=False)]


@given(st.lists(OTHERS | DELIVERIES, max_size=8), st.lists(st.integers(0, 10_000), max_size=12))
async def test_deliveries_are_taken_and_the_rest_is_left(frames: list[tuple[object, ...]], places: list[int]) -> None:
    """Byte by byte; what is read of a delivery is what the standard encoder wrote."""
    sent = Sent()
    for frame in frames:
        if len(frame) == 2:
            sent.other(*frame)  # type: ignore[arg-type]
        else:
            sent.delivery(*frame)  # type: ignore[arg-type]
    taken, left = await fed(cut(sent.data, places))
    assert taken == sent.deliveries
    assert left == sent.others


async def test_a_closed_channel_takes_nothing_more() -> None:
    """Its number is free for another use; what comes on it then is for whoever reads the stream."""
    sent = Sent()
    sent.delivery(1, False, "k", Basic.Properties(), [b"first"])
    sent.other(Channel.CloseOk(), OURS)
    after = Sent()
    after.delivery(2, False, "k", Basic.Properties(), [b"second"])
    taken, left = await fed([sent.data + after.data])
    assert [arrival.body for arrival in taken] == [b"first"]
    assert left == sent.others + after.data


async def test_another_protocol_is_left_as_it_is() -> None:
    """A broker that wants another version says so in eight bytes that are no frame (AMQP 0-9-1 §4.2.2)."""
    assert await fed([b"AM", b"QP\0\0\x09\x01", b"and more"]) == ([], b"AMQP\0\0\x09\x01and more")


async def test_a_frame_without_its_end_is_an_error() -> None:
    """Whatever follows could be anything; the connection is given up."""
    sent = Sent()
    sent.delivery(1, False, "k", Basic.Properties(), [b"body"])
    with pytest.raises(ValueError, match="does not end"):
        await fed([sent.data[:-1] + b"\0"])


def nested(depth: int) -> bytes:
    """A table in a table, and so on."""
    table = b""
    for _ in range(depth):
        table = b"\x01aF" + len(table).to_bytes(4, "big") + table
    return len(table).to_bytes(4, "big") + table


@pytest.mark.parametrize(
    "properties",
    [
        pytest.param(b"\x80\x00\xff", id="a string that is longer than the frame"),
        pytest.param(b"\x20\x00\x00\x00\x00\x09\x01n?abcde", id="a table of a type that there is not"),
        pytest.param(b"\x20\x00\x00\x00\x00\x08\x01nS\x00\x00\x00\x01\xff", id="a value that is no text"),
        pytest.param(b"\x00\x01", id="flags without an end"),
        pytest.param(b"\x20\x00" + nested(5000), id="tables in tables in tables"),
    ],
)
async def test_properties_that_cannot_be_read_are_none(properties: bytes) -> None:
    """The message arrives all the same: the broker would bring it again for ever, to be refused in its handler."""
    method = pamqp.frame.marshal(Basic.Deliver("c", 5, True, "e", "k"), OURS)
    payload = b"\0\x3c\0\0" + (2).to_bytes(8, "big") + properties
    header = b"\x02\0\x03" + len(payload).to_bytes(4, "big") + payload + b"\xce"
    taken, left = await fed([method + header + pamqp.frame.marshal(ContentBody(b"ok"), OURS)])
    assert (taken, left) == ([Arrival(5, True, "k", Properties(), b"ok")], b"")


async def test_a_stream_of_nothing_but_deliveries_says_that_the_broker_lives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the library would count the connection as dead: the broker sends no heartbeat while it sends anything."""
    sent = Sent()
    taken: list[Arrival] = []
    sent.delivery(1, False, "k", Basic.Properties(), [b"body"])
    stream, now = Stream(), asyncio.get_running_loop().time()
    stream.take(OURS, taken.append)
    for seconds in (0.5, 1.5, 2, 2.4, 2.6):
        monkeypatch.setattr(stream, "_now", lambda seconds=seconds: now + seconds)
        stream.feed_data(sent.data)
    stream.feed_eof()
    beats = (await stream.read()).count(pamqp.frame.marshal(Heartbeat(), 0))
    assert (len(taken), beats) == (5, 2)
