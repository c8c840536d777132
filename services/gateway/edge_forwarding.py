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
    received = _received(call)
    if received is None:
        return None
    passed_on, replaced = received
    values: CIMultiDict[str] = CIMultiDict()
    others: list[tuple[str, str]] = []
    for name, value in wanted.items():
        if name.lower() in OWN:
            values.add(name, value)
        else:
            others.append((name, value))
    known = len(passed_on)
    if len(others) - known > MAX_HEADERS or [(name.lower(), value) for name, value in others[:known]] != passed_on:
        return None
    told = {"X-Edge-Target": url.raw_path_qs, "X-Edge-Host": values.pop("Host", url.host_port_subcomponent or "")}
    for number, (name, value) in enumerate(others[known:], 1):
        told[f"X-Edge-Header-{number}"] = f"{name}: {value}"
    for name in OF_THE_EDGE:
        if values.popall(name, []) != replaced.getall(name, []):
            return None
    for name, variable in KEPT.items():
        of_caller, kept = replaced.getall(name, []), values.popall(name, [])
        if len(of_caller) > 1 or len(kept) > 1 or kept == [REMOVED]:
            return None
        if kept != of_caller:
            told[variable] = kept[0] if kept else REMOVED
    if via := values.popall("Via", []):
        told["X-Edge-Via"] = ", ".join(via)
    for name, value in values.items():
        given = GIVEN.get(name.lower()) or _IDENTITY.get(name.lower())
        if given is None or given in told:
            return None
        told[given] = value
    return told if _fits(told) else None


def _received(call: Call) -> tuple[list[tuple[str, str]], CIMultiDict[str]] | None:
    """The headers that nginx will pass on, by lower-case name, and those that it will replace.

    None if the built-in proxy would decode and encode one anew.
    """
    passed_on: list[tuple[str, str]] = []
    replaced: CIMultiDict[str] = CIMultiDict()
    for raw_name, raw_value in call.raw_headers:
        value = raw_value.decode("latin-1")
        if not (value.isascii() and value.isprintable()):
            return None
        name = raw_name.decode("latin-1").lower()
        if name in OWN:
            replaced.add(name, value)
        else:
            passed_on.append((name, value))
    return passed_on, replaced


def _fits(told: dict[str, str]) -> bool:
    """Whether nginx can read the values as they are: without blanks at the ends, which are no part of a header."""
    text = "".join(told.values())
    whole = all(value == value.strip() for value in told.values())
    return whole and len(text) <= MAX_BYTES and text.isascii() and text.isprintable()
