"""Event ids: unique, and sorted by time."""

import os
from datetime import UTC, datetime, timedelta

from libs.event_encoding import first_event_id, moment_of, new_event_id

NOW = datetime(2026, 5, 4, 12, 0, 0, 123000, tzinfo=UTC)


def test_ids_are_unique_and_say_when() -> None:
    """Many ids are unique, and each contains its time to the millisecond."""
    ids = [new_event_id(NOW) for _ in range(1000)]
    assert len(set(ids)) == 1000
    assert {len(each) for each in ids} == {36}
    assert {moment_of(each) for each in ids} == {NOW}


def test_ids_sort_by_time() -> None:
    """Ids of a moment lie between its bound and the next one's."""
    bounds = first_event_id(NOW), first_event_id(NOW + timedelta(milliseconds=1))
    assert all(bounds[0] <= new_event_id(NOW) < bounds[1] for _ in range(200))


def test_a_forked_process_draws_ids_of_its_own() -> None:
    """A forked process does not repeat its parent's ids."""
    new_event_id(NOW)
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.write(writing, "\n".join(new_event_id(NOW) for _ in range(100)).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        theirs = set(pipe.read().split())
    assert os.waitpid(child, 0)[1] == 0
    ours = {new_event_id(NOW) for _ in range(100)}
    assert (len(theirs), len(ours)) == (100, 100)
    assert not theirs & ours
