"""Reading an event's subject, for caches that need nothing else."""

import pytest

from libs.bus.invalidation import subject_of
from libs.bus.port import Delivery, Drop, Exchange, Message


def delivery(body: bytes) -> Delivery:
    return Delivery(Message("id", Exchange.EVENTS, "api.updated.a", body), redelivered=False)


def test_the_subject_is_read() -> None:
    """The subject is read, whatever else the event contains."""
    assert subject_of(delivery(b'{"subject": "a", "data": 1}')) == "a"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b'"subject"', b"{}", b'{"subject": ["a"]}'])
def test_a_malformed_event_is_dropped(body: bytes) -> None:
    """An unreadable event is dead-lettered with a reason."""
    with pytest.raises(Drop, match="not an event"):
        subject_of(delivery(body))
