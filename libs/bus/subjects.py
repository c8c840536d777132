"""What an event is about, for who needs to know no more of it."""

from collections.abc import Callable

import orjson

from libs.bus.port import Delivery, Drop


def tell(delivery: Delivery, changed: Callable[[str, str], None], forget: Callable[[], None]) -> None:
    """`changed` is told the event's routing key and subject; where it has none, all is to be forgotten. Raises Drop."""
    try:
        subject = subject_of(delivery)
    except Drop:
        forget()
        raise
    changed(delivery.message.key, subject)


def subject_of(delivery: Delivery) -> str:
    """The id of the record whose change the event is. Raises Drop for what is no event."""
    try:
        subject = orjson.loads(delivery.message.body)["subject"]
    except (ValueError, LookupError, TypeError) as error:
        raise Drop("not an event") from error
    if not isinstance(subject, str):
        raise Drop("not an event: its subject is no text")
    return subject
