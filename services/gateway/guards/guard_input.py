"""The input of the guards: the facts of a call that they check."""

from collections.abc import Collection
from dataclasses import dataclass

from contracts.apis import Api
from libs.http.context import current
from services.gateway.calls import Call
from services.gateway.refusals import Denial
from services.gateway.versions import requested_versions

_MOST_DIGITS = 19


@dataclass(frozen=True, slots=True)
class GuardInput:
    """A call as the guards see it. Methods, paths and versions are all that some server may read from it."""

    methods: Collection[str]
    paths: Collection[str]
    versions: Collection[str]
    """Empty for an API without versions."""
    address: str
    """The caller's address: the peer's, or the one that trusted proxies report."""
    size: int | None
    """Bytes of the body; None if unknown."""


def guard_input(call: Call, api: Api) -> GuardInput | Denial:
    """The input for this call and API; a Denial if the call's version is ambiguous."""
    versions = requested_versions(call, api, api.versioning) if api.versioning else ()
    if isinstance(versions, Denial):
        return versions
    return GuardInput(
        methods=call.methods(overridable=api.method_override),
        paths=call.paths,
        versions=versions,
        address=current().address,
        size=_size(call),
    )


def requested_hosts(call: Call) -> tuple[str, ...]:
    """The requested hosts. For a call that a proxy asks about, they are in its X-Forwarded-Host, else in Host."""
    if call.is_forwarded_by_proxy and (forwarded := call.headers.getall("X-Forwarded-Host", ())):
        return tuple(host.strip() for value in forwarded for host in value.split(","))
    return (call.headers.get("Host", "") if call.is_forwarded_by_proxy else call.host,)


def _size(call: Call) -> int | None:
    """Bytes of the body according to the headers; None if they do not tell."""
    headers = call.headers
    if call.is_forwarded_by_proxy:
        # The request to /verify has no body. A proxy that does not send this header must limit the size itself.
        length = headers.get("X-Original-Content-Length", "0") or "0"
    elif "Transfer-Encoding" in headers:
        return None
    else:
        length = headers.get("Content-Length", "0")
    return int(length) if length.isdecimal() and len(length) < _MOST_DIGITS else None
