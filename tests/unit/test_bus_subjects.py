"""What an event is about, for caches that need to know no more."""

import pytest

from libs.bus.port import Delivery, Drop, Exchange, Message
from libs.bus.subjects import subject_of


def delivery(body: bytes) -> Delivery:
    return Delivery(Message("id", Exchange.EVENTS, "api.updated.a", body), redelivered=False)


def test_the_subject_is_read() -> None:
    """Whatever else there is."""
    assert subject_of(delivery(b'{"subject": "a", "data": 1}')) == "a"


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", b"[]", b"null", b'"subject"', b"{}", b'{"subject": ["a"]}'])
def test_what_is_no_event_is_dropped(body: bytes) -> None:
    """So it is parked with a reason, and not for a surprise."""
    with pytest.raises(Drop, match="not an event"):
        subject_of(delivery(body))
