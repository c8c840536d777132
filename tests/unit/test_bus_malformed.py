"""A malformed message is decoded as far as possible, and what follows it is decoded as it is."""

import pamqp.frame
import pytest
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from libs.bus.rabbit.malformed import tolerate_malformed_messages

PROPERTIES = Basic.Properties(
    content_type="application/json", headers={"name": "value"}, message_id="an id", message_type="a type"
)


@pytest.mark.parametrize(
    ("written", "malformed", "found"),
    [
        pytest.param(b"application/json", b"application/js\xff\xfe", ("content_type", "application/js\ufffd\ufffd")),
        pytest.param(b"name", b"na\xff\xfe", ("headers", {})),
    ],
    ids=["text", "header-name"],
)
def test_the_rest_of_a_malformed_message_is_read(written: bytes, malformed: bytes, found: tuple[str, object]) -> None:
    """The field itself is replaced or empty; the fields after it are as they were written."""
    tolerate_malformed_messages()
    data = pamqp.frame.marshal(ContentHeader(body_size=0, properties=PROPERTIES), 1).replace(written, malformed)

    _, _, header = pamqp.frame.unmarshal(data)

    assert isinstance(header, ContentHeader)
    name, value = found
    assert getattr(header.properties, name) == value
    assert (header.properties.message_id, header.properties.message_type) == ("an id", "a type")


def test_a_time_out_of_range_is_none() -> None:
    """No calendar has it."""
    tolerate_malformed_messages()
    properties = Basic.Properties(message_id="an id", message_type="a type")
    data = pamqp.frame.marshal(ContentHeader(body_size=0, properties=properties), 1)
    header = data[7:-1]
    flags = int.from_bytes(header[12:14], "big") | Basic.Properties.flags["timestamp"]
    at = header.index(b"\x06a type")
    malformed = header[:12] + flags.to_bytes(2, "big") + header[14:at] + b"\xff" * 8 + header[at:]

    read = ContentHeader()
    read.unmarshal(malformed)

    assert (read.properties.timestamp, read.properties.message_type) == (None, "a type")
