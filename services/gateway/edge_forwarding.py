"""What nginx must send to an upstream, so that it gets the same request as from the built-in proxy.

The headers are made by the same code. What nginx would send by itself is compared with them, and the differences become
the values of variables in `edge/forwarding.conf`. If a difference cannot be expressed there, the edge does not forward
the call.
"""

from multidict import CIMultiDict
from yarl import URL

from services.gateway.calls import Call
from services.gateway.header_fields import HOP_BY_HOP
from services.gateway.identity_headers import IDENTITY_HEADERS

MAX_HEADERS = 8
"""Headers besides those that have a variable of their own; `edge/forwarding.conf` has as many places."""
MAX_BYTES = 12 * 1024
"""Characters of all values together. nginx reads at most 16 KiB of a response's head."""
REMOVED = "-"
"""Tells nginx to remove the caller's header."""
OF_THE_EDGE = frozenset({"x-request-id", "x-real-ip", "x-forwarded-proto", "x-forwarded-host"})
"""The edge sends these with the values that it has sent to the gateway."""
GIVEN = {name.lower(): f"X-Edge-{name}" for name in ("Via", "X-Forwarded-For", "Traceparent", "Tracestate")}
"""Headers that have a variable; without a value they are not sent."""
KEPT = {"authorization": "X-Edge-Authorization", "cookie": "X-Edge-Cookie"}
"""Headers that have a variable; without a value the edge sends the caller's."""
_IDENTITY = {name.lower(): name for name in IDENTITY_HEADERS}
NEVER_SENT = frozenset(
    {
        *HOP_BY_HOP,
        *("content-length", "expect", "forwarded", "host"),
        *("x-forwarded-method", "x-forwarded-uri", "x-original-method", "x-original-uri", "x-original-url"),
        *("x-edge-connection", "x-edge-upgrade", "x-edge-body", "x-edge-timeouts"),
    }
)
"""The edge removes these, or makes its own."""
OWN = NEVER_SENT | OF_THE_EDGE | GIVEN.keys() | KEPT.keys() | _IDENTITY.keys()
"""Every header that `edge/forwarding.conf` sets; nginx sends all others as it got them from the caller."""


def instructions(call: Call, url: URL, wanted: CIMultiDict[str]) -> dict[str, str] | None:
    """Response headers that make nginx send exactly this request; None if it cannot.

    `call.raw_headers` is what nginx got from the caller, with the edge's own headers in place of the caller's.
    """
    if url.scheme != "http" or url.user is not None or url.password is not None:
        return None
    sent: list[tuple[str, str]] = []
    received: CIMultiDict[str] = CIMultiDict()
    for raw, value in call.raw_headers:
        # The built-in proxy would decode and encode others anew.
        if not (value.isascii() and (text := value.decode()).isprintable()):
            return None
        name = raw.decode().lower()
        if name not in OWN:
            sent.append((name, text))
        elif name in KEPT or name in OF_THE_EDGE:
            received.add(name, text)
    told = {"X-Edge-Target": url.raw_path_qs}
    others: list[tuple[str, str]] = []
    values: dict[str, str] = {}
    for name, value in wanted.items():
        lower = name.lower()
        if lower not in OWN:
            others.append((name, value))
        elif lower in values:
            if lower not in {"via", "cookie"}:
                return None
            values[lower] += (", " if lower == "via" else "; ") + value
        else:
            values[lower] = value
    known = len(sent)
    if len(others) - known > MAX_HEADERS or [(name.lower(), value) for name, value in others[:known]] != sent:
        return None
    for number, (name, value) in enumerate(others[known:], 1):
        told[f"X-Edge-Header-{number}"] = f"{name}: {value}"
    told["X-Edge-Host"] = values.pop("host", None) or _authority(url)
    for name in OF_THE_EDGE:
        if received.getall(name, []) != [values.pop(name, None)]:
            return None
    for name, variable in KEPT.items():
        value, of_caller = values.pop(name, ""), "; ".join(received.getall(name, ()))
        if value == of_caller:
            continue
        if value == REMOVED:
            return None
        told[variable] = value or REMOVED
    for name, value in values.items():
        variable = GIVEN.get(name) or _IDENTITY.get(name)
        if variable is None:
            return None
        told[variable] = value
    return told if _fits(told) else None


def _authority(url: URL) -> str:
    """What aiohttp's client sends as `Host`."""
    return url.host_port_subcomponent or ""


def _fits(told: dict[str, str]) -> bool:
    """Whether nginx can read the values as they are: without blanks at the ends, which are no part of a header."""
    text = "".join(told.values())
    return len(text) <= MAX_BYTES and text.isascii() and text.isprintable() and all(
        value == value.strip() for value in told.values()
    )

