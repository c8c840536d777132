"""What the rows with queues in trouble complain about."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from libs.event_encoding import new_event_id
from tests.faults.queues import Phases, held_up, too_many_duplicates
from tests.faults.rows import SHORT
from tests.faults.witnesses import Heard, Webhook

BEGAN = datetime(2026, 5, 4, 12, tzinfo=UTC)
PHASES = Phases(quiet_from=BEGAN.timestamp(), troubled_from=BEGAN.timestamp() + 10)


def heard(seconds: float, late: float) -> Heard:
    """An event made this many seconds after the start, which arrived this much later."""
    made = BEGAN + timedelta(seconds=seconds)
    return Heard(new_event_id(made), "token.new", "grant", 1, {}, made.timestamp() + late)


@pytest.mark.parametrize(
    ("late", "complaints"),
    [
        pytest.param(0.2, 0, id="as-before"),
        pytest.param(0.39, 0, id="less-than-twice"),
        pytest.param(0.6, 1, id="more-than-twice"),
    ],
)
def test_a_delayed_consumer_is_named(late: float, complaints: int) -> None:
    """A consumer is named if its delays of events made during the trouble are more than twice those before."""
    events = [heard(second, 0.2) for second in range(10)] + [heard(10 + second, late) for second in range(10)]
    webhooks = [Webhook(event.id, "/", {}, True, event.at) for event in events]
    for found in (held_up(PHASES, events, (), slack=0.3), held_up(PHASES, (), webhooks, slack=0.3)):
        assert [len(each) for each in found] == [complaints, 0]
    assert held_up(PHASES, events, webhooks, slack=1.0) == ([], [])
    assert held_up(Phases(), events, webhooks, slack=0.3) == ([], [])


def test_on_a_machine_of_any_speed_a_delay_is_a_remark() -> None:
    """Without a slack, however late events come is noted and never a complaint; so is it in `make test`."""
    events = [heard(0, 0.2), heard(11, 60.0)]
    complaints, remarks = held_up(PHASES, events, (), SHORT.slack)
    assert (complaints, remarks) == ([], ["events came after 60.00 s (p99), without the trouble after 0.20 s"])


def test_one_duplicate_in_twenty_is_no_complaint() -> None:
    """One duplicate in twenty is no complaint. More are, unless refused events were published again before."""
    events = [heard(second, 0.1) for second in range(40)]
    few, many = [*events, *events[:2]], [*events, *events[:3]]
    assert too_many_duplicates(PHASES, few, allowed=0.05) == []
    assert too_many_duplicates(PHASES, many, allowed=0.05) == ["3 duplicates of 40 events"]
    assert too_many_duplicates(PHASES, many, allowed=0.1) == []
    released = Phases(released_at=BEGAN.timestamp() + 100)
    again = [replace(each, at=released.released_at + 1) for each in events[:3]]
    assert too_many_duplicates(released, [*events, *again], allowed=0.05) == []
