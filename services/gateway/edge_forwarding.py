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
GIVEN = {name.lower(): f"X-Edge-{name}" for name in ("Via", "X-Forwarded-For", "Traceparent", "Tracestate")} | {
    name.lower(): str(name) for name in IDENTITY_HEADERS
}
"""Headers that have a variable, and where its value is; without a value they are not sent."""
KEPT = {"authorization": "X-Edge-Authorization", "cookie": "X-Edge-Cookie"}
"""Headers that have a variable; without a value the edge sends the caller's."""
NEVER_SENT = frozenset(
    {
        *HOP_BY_HOP,
        *("content-length", "expect", "forwarded", "host"),
        *("x-forwarded-method", "x-forwarded-uri", "x-original-method", "x-original-uri", "x-original-url"),
        *("x-edge-connection", "x-edge-upgrade", "x-edge-body", "x-edge-timeouts"),
    }
)
"""The edge removes these, or makes its own."""
ONCE = OF_THE_EDGE | KEPT.keys()
"""Headers of the caller or the edge that are compared, and so may not occur twice."""
OWN = NEVER_SENT | OF_THE_EDGE | GIVEN.keys() | KEPT.keys()
"""Every header that `edge/forwarding.conf` sets; nginx sends all others as it got them from the caller."""


def instructions(call: Call, url: URL, wanted: CIMultiDict[str]) -> dict[str, str] | None:
    """Response headers that make nginx send exactly this request; None if it cannot.

    `call.raw_headers` is what nginx got from the caller, with the edge's own headers in place of the caller's.
    """
    if url.scheme != "http" or url.user is not None or url.password is not None:
        return None
    received = _received(call)
    if received is None:
        return None
    passed_on, replaced = received
    values: dict[str, str] = {}
    others: list[tuple[str, str]] = []
    for name, value in wanted.items():
        lower = name.lower()
        if lower not in OWN:
            others.append((name, value))
        elif lower not in values:
            values[lower] = value
        elif lower == "via":
            values[lower] += f", {value}"
        else:
            return None
    known = len(passed_on)
    if len(others) - known > MAX_HEADERS or [(name.lower(), value) for name, value in others[:known]] != passed_on:
        return None
    told = {"X-Edge-Target": url.raw_path_qs, "X-Edge-Host": values.pop("host", url.host_port_subcomponent or "")}
    for number, (name, value) in enumerate(others[known:], 1):
        told[f"X-Edge-Header-{number}"] = f"{name}: {value}"
    for name in OF_THE_EDGE:
        if values.pop(name, None) != replaced.get(name):
            return None
    for name, variable in KEPT.items():
        kept = values.pop(name, "")
        if kept == REMOVED:
            return None
        if kept != replaced.get(name, ""):
            told[variable] = kept or REMOVED
    for name, value in values.items():
        given = GIVEN.get(name)
        if given is None:
            return None
        told[given] = value
    return told if _fits(told) else None


def _received(call: Call) -> tuple[list[tuple[str, str]], dict[str, str]] | None:
    """The headers that nginx will pass on, by lower-case name, and those that it will replace.

    None if the built-in proxy would decode and encode one anew, or one that nginx replaces occurs twice.
    """
    passed_on: list[tuple[str, str]] = []
    replaced: dict[str, str] = {}
    for raw_name, raw_value in call.raw_headers:
        value = raw_value.decode("latin-1")
        if not (value.isascii() and value.isprintable()):
            return None
        name = raw_name.decode("latin-1").lower()
        if name not in OWN:
            passed_on.append((name, value))
        elif name in replaced and name in ONCE:
            return None
        else:
            replaced[name] = value
    return passed_on, replaced


def _fits(told: dict[str, str]) -> bool:
    """Whether nginx can read the values as they are: without blanks at the ends, which are no part of a header."""
    text = f"~{'~'.join(told.values())}~"
    return len(text) <= MAX_BYTES and text.isascii() and text.isprintable() and not ("~ " in text or " ~" in text)
