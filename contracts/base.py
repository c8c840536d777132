"""Base classes and field types of all contracts: immutable, times in UTC, and strict about unknown fields or not."""

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)

_EVENT_ID = re.compile(r"^evt_[0-9a-f]{12,64}$")

FIRST_YEAR, LAST_YEAR = 1971, 9000
"""Years that a time may have. The margin to what `datetime` can represent keeps arithmetic and time zones from
overflowing."""


class Contract(BaseModel):
    """An immutable value; two with the same content are equal."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Request(Contract):
    """An OAuth request: unknown parameters are ignored (RFC 6749 §3.1, §3.2)."""

    model_config = ConfigDict(extra="ignore")


class AdminRequest(Contract):
    """A management request: unknown fields are refused, because they are usually misspelled ones."""

    model_config = ConfigDict(extra="forbid")


class Response(Contract):
    """The body of a response."""


def _printable(text: str) -> str:
    for character in text:
        if (character < " " and character not in "\t\r\n") or character == "\x7f":
            raise ValueError("control characters are not allowed")
    return text


def _whole_milliseconds(moment: datetime) -> datetime:
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"a time in the years {FIRST_YEAR} to {LAST_YEAR} is expected")
    if moment.tzinfo is UTC and moment.microsecond % 1000 == 0:
        return moment
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


Text = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_printable)]
"""Free text of at most 4096 characters, without control characters."""

Name = Annotated[str, StringConstraints(max_length=256, strip_whitespace=True), AfterValidator(_printable)]
"""A label of at most 256 characters."""

_LINE_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_BIDI_CONTROLS = re.compile(r"[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def _without_bidi_controls(text: str) -> str:
    if _BIDI_CONTROLS.search(text):
        raise ValueError("characters that change the text direction, such as U+202E, are not allowed")
    return text


def require_readable(text: str) -> str:
    """Return the text, which is displayed unchanged on one line.

    Raises ValueError if it has control characters, line breaks or characters that change the text direction: they could
    make a log or a list show something other than what is stored.
    """
    if _LINE_CONTROLS.search(text):
        raise ValueError("control characters and line breaks are not allowed")
    return _without_bidi_controls(text)


NewText = Annotated[Text, AfterValidator(_without_bidi_controls)]
"""Text in a request. Stored text is read without this check, since older records may not pass it."""

NewName = Annotated[Name, AfterValidator(require_readable)]
"""A label in a request. Stored labels are read without this check, since older records may not pass it."""

PublicId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""An id that is one segment of a URL path and one word of a routing key."""

_CLIENT_ID = re.compile(r"[!-.0-~](?:[ -.0-~]{0,126}[!-.0-~])?")
ClientId = Annotated[str, StringConstraints(pattern=f"^{_CLIENT_ID.pattern}$")]
"""A client identifier: the characters of RFC 6749 Appendix A.1 except `/`, without a space at either end."""


def is_client_id(text: str) -> bool:
    """Whether the text has the form of a client id. Anything else is neither looked up nor counted by the throttle."""
    return _CLIENT_ID.fullmatch(text) is not None


Scope = Annotated[
    str, StringConstraints(max_length=2048, pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*$")
]
"""Space-delimited scope tokens (RFC 6749 §3.3)."""

Moment = Annotated[AwareDatetime, AfterValidator(_whole_milliseconds)]
"""A time in UTC, cut to milliseconds, which is the precision of MongoDB."""


def _event_id(text: str) -> str:
    if not _EVENT_ID.fullmatch(text):
        raise ValueError("not a cursor of this list; send the `next` of the previous page unchanged")
    return text


EventCursor = Annotated[
    str, AfterValidator(_event_id), WithJsonSchema({"type": "string", "pattern": _EVENT_ID.pattern})
]
"""A cursor of lists whose entries have event ids; opaque to clients."""

Seconds = Annotated[timedelta, PlainSerializer(lambda value: int(value.total_seconds()), return_type=int)]
"""A duration, serialized as whole seconds."""


class Record(Contract):
    """A record that operators manage: an API, a client, a policy, a resource owner or an operator."""

    version: Annotated[int, Field(ge=1)] = 1
    """Incremented by every change; equals the `sequence` of the event that the change wrote."""
    created_at: Moment
    updated_at: Moment
