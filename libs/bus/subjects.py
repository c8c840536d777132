"""What an event is about, for who needs to know no more of it."""

import orjson

from libs.bus.port import Delivery, Drop


def subject_of(delivery: Delivery) -> str:
    """The id of the record whose change the event is. Raises Drop for what is no event."""
    try:
        subject = orjson.loads(delivery.message.body)["subject"]
    except (ValueError, LookupError, TypeError) as error:
        raise Drop("not an event") from error
    if not isinstance(subject, str):
        raise Drop("not an event: its subject is no text")
    return subject
