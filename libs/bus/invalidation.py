"""Invalidates caches when an event says that a record has changed."""

from collections.abc import Callable

import orjson

from libs.bus.port import Delivery, Drop


def invalidate(delivery: Delivery, changed: Callable[[str, str], None], clear: Callable[[], None]) -> None:
    """Call `changed` with the event's routing key and the id of the record that it is about.

    A message that is no event may be about any record: `clear` is called instead, and Drop is raised.
    """
    try:
        subject = subject_of(delivery)
    except Drop:
        clear()
        raise
    changed(delivery.message.key, subject)


def subject_of(delivery: Delivery) -> str:
    """The id of the record that the event is about. Raises Drop if the message is no event."""
    try:
        subject = orjson.loads(delivery.message.body)["subject"]
    except (ValueError, LookupError, TypeError) as error:
        raise Drop("not an event") from error
    if not isinstance(subject, str):
        raise Drop("not an event: its subject is not a string")
    return subject
