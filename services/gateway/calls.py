"""A call to a protected API: parsed once, so that the decision and the forwarded request can never differ (ADR 15)."""

import re
from collections.abc import Set
from dataclasses import dataclass, field

from aiohttp import hdrs, web
from multidict import CIMultiDict, MultiMapping

from libs.oauth.errors import InvalidRequest
from services.gateway.header_fields import METHOD_OVERRIDES, RawHeaders, connection_options, end_to_end, folded, reading
from services.gateway.paths import ORIGIN_FORM, readings
from services.gateway.queries import overriding_methods

_ABSOLUTE_FORM = re.compile(r"(?i:https?)://(?P<host>[^/?#@\\]+)(?P<target>[/?].*)?")
"""A request target in absolute form (RFC 9112 §3.2.2)."""
_LENGTHS_OF_OVERRIDES = frozenset(map(len, METHOD_OVERRIDES))


@dataclass(slots=True, eq=False)
class Call:
    """One call. Treat it as immutable; it is not a frozen dataclass only because those take longer to create."""

    method: str
    path: str
    """As it was sent."""
    query: str
    """As it was sent, without the question mark."""
    headers: MultiMapping[str] = field(default_factory=CIMultiDict)
    raw_headers: RawHeaders = ()
    host: str = ""
    """The requested host: the authority of an absolute target, else the `Host` header (RFC 9112 §3.2.2)."""
    is_forwarded_by_proxy: bool = False
    """True for `/verify`: a proxy in front asks, and forwards the call itself with all of its headers."""

    _paths: frozenset[str] | None = field(default=None, init=False, repr=False)
    _fields: list[tuple[str, str]] | None = field(default=None, init=False, repr=False)

    @property
    def paths(self) -> frozenset[str]:
        """Every way in which servers may read the path; empty if there are too many to check."""
        if self._paths is None:
            self._paths = readings(self.path)
        return self._paths

    @property
    def fields(self) -> list[tuple[str, str]]:
        """The end-to-end headers, in order. Only these can be forwarded."""
        if self._fields is None:
            self._fields = end_to_end(self.raw_headers)
        return self._fields

    def is_for_this_connection(self, name: str) -> bool:
        """Whether `Connection` lists this header, in any spelling. It is then hop-by-hop (RFC 9110 §7.6.1).

        Proxies remove such a header, so a decision based on it could differ from what the upstream sees.
        """
        if hdrs.CONNECTION not in self.headers:
            return False
        options = connection_options(("connection", value) for value in self.headers.getall(hdrs.CONNECTION))
        return folded(name) in map(folded, options)

    def values(self, name: str) -> list[str]:
        """The values of all headers that some upstream may take for the header of this name."""
        wanted = folded(name)
        return [value for other, value in self.fields if folded(other) == wanted]

    def methods(self, *, overridable: bool) -> Set[str]:
        """Every method that the upstream may take the call for.

        The method itself, the one in a `_method` query parameter, and those in method-override headers if these headers
        are forwarded (`overridable`, or by the proxy that asks).
        """
        found = {self.method}
        if self.query:
            found.update(overriding_methods(self.query))
        if overridable or self.is_forwarded_by_proxy:
            for name, value in self.headers.items():
                # Folding keeps the length of a name and its letters, so the two cheap comparisons exclude most names.
                if len(name) in _LENGTHS_OF_OVERRIDES and name[0] in "xX" and reading(name)[0] in METHOD_OVERRIDES:
                    found.add(value.strip().upper())
        found.discard("")
        return found


def received_call(request: web.Request) -> Call:
    """The call for this request. Raises InvalidRequest if its target is neither in origin form nor in absolute form, or
    if there is more than one Host header.
    """
    headers = request.headers
    hosts = headers.getall(hdrs.HOST, ())
    if len(hosts) > 1:
        # RFC 9112 §3.2: "A server MUST respond with a 400 (Bad Request) status code ... to any request message that
        # contains more than one Host header field line".
        raise InvalidRequest("the Host header occurs more than once; send it once (RFC 9112 section 3.2)")
    target, host = request.raw_path, hosts[0] if hosts else ""
    if absolute := None if target.startswith("/") else _ABSOLUTE_FORM.fullmatch(target):
        target, host = absolute["target"] or "/", absolute["host"]
        target = target if target.startswith("/") else f"/{target}"
    if not ORIGIN_FORM.fullmatch(target):
        raise InvalidRequest("the target is not a path with a query (RFC 9112 section 3.2.1)")
    path, _, query = target.partition("?")
    return Call(request.method, path, query, headers, request.raw_headers, host)
