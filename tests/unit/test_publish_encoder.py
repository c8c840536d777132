"""Our encoding of a publish is read back by the client library's decoder."""

from collections.abc import Sequence

import pamqp.frame
import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st
from pamqp.body import ContentBody
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from libs.bus.port import Exchange, Message
from libs.bus.rabbit.publish_encoder import PROVEN_WITH, encode, is_supported

SHORT = st.text(max_size=60)
MESSAGES = st.builds(
    Message,
    id=SHORT.filter(bool),
    exchange=st.sampled_from(Exchange),
    key=SHORT,
    body=st.binary(max_size=300),
    headers=st.dictionaries(SHORT.filter(bool), st.text(max_size=100), max_size=12),
    content_type=SHORT.filter(bool),
    type=SHORT,
)


def decoded(data: bytes) -> Sequence[tuple[int, object]]:
    """Channel and frame, one by one."""
    found = []
    while data:
        consumed, channel, frame = pamqp.frame.unmarshal(data)
        found.append((channel, frame))
        data = data[consumed:]
    return found


@given(MESSAGES, st.integers(1, 65535), st.booleans())
def test_every_message_is_read_back_as_it_is(message: Message, channel: int, mandatory: bool) -> None:
    """Any text in any field and any body is decoded to the same persistent message on the right channel."""
    read = decoded(encode(message, channel=channel, mandatory=mandatory, frame_max=4096 * 8))

    assert {number for number, _ in read} == {channel}
    method, header, *bodies = (frame for _, frame in read)
    assert isinstance(method, Basic.Publish)
    assert isinstance(header, ContentHeader)
    properties = header.properties
    assert (method.exchange, method.routing_key) == (message.exchange.value, message.key)
    assert (method.mandatory, method.immediate, properties.delivery_mode) == (mandatory, False, 2)
    assert (properties.message_id, properties.message_type) == (message.id, message.type)
    assert (properties.content_type, properties.headers) == (message.content_type, dict(message.headers))
    assert properties.app_id == message.headers.get("cloudEvents_source", "")
    assert header.body_size == len(message.body)
    assert b"".join(body.value for body in bodies if isinstance(body, ContentBody)) == message.body


@pytest.mark.parametrize("size", [0, 1, 4088, 4089, 8176, 8177, 20_000])
def test_no_frame_is_longer_than_agreed(size: int) -> None:
    """No frame exceeds frame_max including its eight bytes of overhead; an empty body has no frame."""
    message = Message("1", Exchange.EVENTS, "k", b"x" * size)

    data = encode(message, channel=1, mandatory=False, frame_max=4096)

    lengths = []
    while data:
        consumed, _, _ = pamqp.frame.unmarshal(data)
        lengths.append(consumed)
        data = data[consumed:]
    assert max(lengths) <= 4096
    assert len(lengths) == 2 + -(-size // 4088)


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(Message("1", Exchange.EVENTS, "k" * 256, b""), id="key"),
        pytest.param(Message("i" * 256, Exchange.EVENTS, "k", b""), id="id"),
        pytest.param(Message("1", Exchange.EVENTS, "k", b"", headers={"n" * 256: ""}), id="header-name"),
        pytest.param(Message("1", Exchange.EVENTS, "k", b"", headers={"n": "v" * 5000}), id="headers-over-a-frame"),
        pytest.param(Message("1", Exchange.EVENTS, "\ud800", b""), id="not-unicode"),
    ],
)
def test_a_message_that_cannot_be_encoded_is_refused(message: Message) -> None:
    """A message that cannot be encoded raises ValueError before anything is written."""
    with pytest.raises(ValueError):
        encode(message, channel=1, mandatory=False, frame_max=4096)


def test_another_version_of_a_library_falls_back_and_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the versions that the encoder was proven with; the log has one warning, however often it is asked."""
    is_supported.cache_clear()
    try:
        assert is_supported()
        is_supported.cache_clear()
        monkeypatch.setitem(PROVEN_WITH, "aiormq", "0.0.1")
        with structlog.testing.capture_logs() as logs:
            assert [is_supported(), is_supported()] == [False, False]
        assert [(line["event"], line["log_level"]) for line in logs] == [("publish_encoder_not_used", "warning")]
    finally:
        is_supported.cache_clear()
