"""The exchanges, and the routing key of each event type."""

from collections.abc import Mapping
from typing import Any

from contracts.base import PublicId
from contracts.events import Event

EVENTS_EXCHANGE = "tokenwire.events"
NOTIFY_EXCHANGE = "tokenwire.notify"
NOTIFY_KEY = "notify"

WORDS: Mapping[str, tuple[Any, str]] = {
    "api_id": (PublicId, "The id of the API that the event is about."),
    "policy_id": (PublicId, "The id of the policy."),
    "operator_id": (PublicId, "The id of the operator."),
}
"""The ids that may end a routing key: their form, and their description."""


def address(event: type[Event]) -> str:
    """The routing key of events of this type: the type without the vendor prefix, and one word more."""
    return f"{event.stem}.{event.last_word}"
