"""What every contract is: frozen, aware of UTC, strict or tolerant about the unknown as its name says."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, PlainSerializer, StringConstraints

FIRST_YEAR, LAST_YEAR = 1971, 9000
"""Of a moment: whatever is added to or taken from it, and wherever it is on the clock, is a moment still."""


class Contract(BaseModel):
    """A value: equal by content, never changed in place."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


class Request(Contract):
    """An OAuth request: unknown parameters are ignored (RFC 6749 §3.1, §3.2)."""

    model_config = ConfigDict(extra="ignore")


class AdminRequest(Contract):
    """A management request: an unknown field is a mistake, and said so."""

    model_config = ConfigDict(extra="forbid")


class Response(Contract):
    """What a service answers."""


def _printable(text: str) -> str:
    for character in text:
        if (character < " " and character not in "\t\r\n") or character == "\x7f":
            raise ValueError("control characters are not allowed")
    return text


def _whole_milliseconds(moment: datetime) -> datetime:
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"a moment in the years {FIRST_YEAR} to {LAST_YEAR} is expected")
    if moment.tzinfo is UTC and moment.microsecond % 1000 == 0:
        return moment
    moment = moment.astimezone(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


Text = Annotated[str, StringConstraints(max_length=4096), AfterValidator(_printable)]
"""Human text: no control characters, at most 4096 characters."""

Name = Annotated[str, StringConstraints(max_length=256, strip_whitespace=True), AfterValidator(_printable)]
"""A short label."""

PublicId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]
"""An id that can stand in a URL path and in a routing key as one word."""

ClientId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._~-]{1,128}$")]
"""A client identifier (RFC 6749 §2.2) that needs no escaping in a path."""

Scope = Annotated[
    str, StringConstraints(max_length=2048, pattern=r"^[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*$")
]
"""Space-delimited scope tokens (RFC 6749 §3.3)."""

Moment = Annotated[AwareDatetime, AfterValidator(_whole_milliseconds)]
"""A point in time in UTC, to the millisecond (what MongoDB keeps)."""

Seconds = Annotated[timedelta, PlainSerializer(lambda value: int(value.total_seconds()), return_type=int)]
"""A duration; whole seconds on the wire."""


class Record(Contract):
    """Something an operator made, and may change: an API, a client, a policy, a resource owner, an operator."""

    version: Annotated[int, Field(ge=1)] = 1
    """Counts the changes; the `sequence` of the event that each of them wrote."""
    created_at: Moment
    updated_at: Moment
