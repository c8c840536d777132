"""Traces as the rest of the program sees them: spans are started with their parent and ended with their outcome."""

import enum
from collections.abc import Mapping, Sequence
from typing import Protocol

Attributes = Mapping[str, str | int]
"""Named as the semantic conventions of OpenTelemetry say. Never a secret, a code, a token, a query or a body."""

TRACEPARENT = "traceparent"
"""The header of W3C Trace Context, in HTTP and on the bus."""
NO_ATTRIBUTES: Attributes = {}
_SAMPLED = 1


class Kind(enum.Enum):
    """Which side of which communication a span is about."""

    SERVER = "server"
    CLIENT = "client"
    PRODUCER = "producer"
    CONSUMER = "consumer"


class Span(Protocol):
    """A started span."""

    @property
    def traceparent(self) -> str:
        """Its trace context (W3C), to be passed on: whatever follows from it becomes its child."""

    def end(self, attributes: Attributes = NO_ATTRIBUTES, *, error: str | None = None) -> None:
        """End it with these further attributes. `error` says what kind of failure it was; None: none."""


class Tracer(Protocol):
    """Starts spans, and exports those that were sampled in the background."""

    def start(
        self,
        kind: Kind,
        name: str,
        parent: str | None,
        attributes: Attributes = NO_ATTRIBUTES,
        links: Sequence[str | None] = (),
    ) -> Span:
        """Start a span. `parent` and `links` are trace contexts (W3C).

        Without a valid parent it starts a new trace. Links that are None or malformed are left out.
        """

    def open(self) -> None:
        """Start to export; call it in the event loop."""

    async def close(self) -> None:
        """Export what has ended so far, for a few seconds at most. Idempotent."""


def is_sampled(traceparent: str) -> bool:
    """Whether the participant that made this trace context has recorded a span."""
    try:
        return bool(int(traceparent[-2:], 16) & _SAMPLED)
    except ValueError:
        return False
