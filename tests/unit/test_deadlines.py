"""The recovery windows follow from our own time-outs, and those from the edge's."""

import re
from pathlib import Path

from libs import deadlines
from libs.oauth.errors import TemporarilyUnavailable
from libs.store import mongo

EDGE = Path(__file__).parents[2] / "edge" / "http.conf"


def test_b2_no_request_outlasts_the_edge_s_time_out() -> None:
    """REQUEST_WITHIN equals nginx's time-out."""
    found = re.search(r"^proxy_read_timeout (\d+)s;", EDGE.read_text(), re.MULTILINE)
    assert found is not None
    assert float(found.group(1)) == deadlines.REQUEST_WITHIN


def test_b2_the_window_covers_retry_after() -> None:
    """The window covers two requests that fail as late as possible, each with its Retry-After."""
    assert TemporarilyUnavailable.retry_after == deadlines.RETRY_AFTER
    assert mongo.AMBIGUITY_DEADLINE + mongo.OPERATION_TIMEOUT_MS / 1000 == deadlines.WRITE_WITHIN
    reads_and_write = 2 * deadlines.OPERATION_WITHIN + deadlines.WRITE_WITHIN
    assert reads_and_write < deadlines.REQUEST_WITHIN
    attempts = 2 * (deadlines.REQUEST_WITHIN + deadlines.RETRY_AFTER)
    assert deadlines.UNSENT_RESPONSE_WINDOW.total_seconds() >= attempts


def test_b2_a_second_request_waits_for_the_note_of_the_first() -> None:
    """A second request waits until the first one's note is written, with time for the write."""
    assert deadlines.IN_FLIGHT_WITHIN >= 3 * deadlines.NOTE_WITHIN
