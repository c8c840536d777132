"""Where events travel: the exchanges, and the routing key of each event."""

from collections.abc import Mapping
from typing import Any, get_args

from contracts.base import PublicId
from contracts.events import AnyEvent, Event

EVENTS_EXCHANGE = "tokenwire.events"
NOTIFY_EXCHANGE = "tokenwire.notify"
NOTIFY_KEY = "notify"

EVENTS: tuple[type[Event], ...] = get_args(get_args(AnyEvent)[0])
"""Every class of event."""

WORDS: Mapping[str, tuple[Any, str]] = {
    "api_id": (PublicId, "The id of the API that the event is about."),
    "policy_id": (PublicId, "The id of the policy."),
    "operator_id": (PublicId, "The id of the operator."),
}
"""What may end a routing key: what it may be, and what it is."""

_LAST_WORDS = {"policy": "{policy_id}", "operator": "{operator_id}", "resource_owner": "user"}


def address(event: type[Event]) -> str:
    """The routing key of such events: the type without the vendor prefix, and one word more."""
    return f"{event.stem}.{_LAST_WORDS.get(event.stem.partition('.')[0], '{api_id}')}"
