"""Header fields: how an upstream may read their names, and who is allowed to send which header to the upstream."""

import re
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache

RawHeaders = Iterable[tuple[bytes, bytes]]

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Headers for one connection only (RFC 9110 §7.6.1), besides those that `Connection` lists."""
METHOD_OVERRIDES = frozenset({"x-http-method", "x-http-method-override", "x-method-override"})
"""Headers that replace the method of the request line, folded."""
OUR_PREFIX = "x-tokenwire-"
_OVERRIDES = re.compile(
    r"x-http-(?:method|verb|url|uri|path|destinationurl)"
    r"|(?:x-)?(?:http-)?(?:method|verb|url|uri|path)-override|x-http-override"
    r"|x-(?:rest-|http-rest-|tunneled-)?(?:method|verb)"
    r"|x-(?:original|rewrite|override|envoy-original|forwarded)-(?:method|verb|url|uri)"
    r"|x-(?:original|rewrite|override|envoy-original)-(?:path|query)"
    r"|x-(?:sendfile-type|accel-mapping)"
)
"""Headers that make some servers use another method, URL or path than the request line says.

Forwarded from a caller, they would lead past the decision, which is about the request line.
"""
_META_VARIABLES = re.compile(
    r"(?:x-|orig-)?(?:path-(?:info|translated)|query-string|request-(?:method|verb|url|uri|path|name|filename|scheme)"
    r"|script-(?:name|filename|url|uri|path))|document-(?:root|uri)|raw-uri|unencoded-url"
    r"|remote-(?:addr|host|ident|user|port)|server-(?:name|port|port-secure|addr|protocol|software|admin|signature)"
    r"|auth-(?:type|user|password)|logon-user|gateway-interface|context-(?:prefix|document-root)|https"
    r"|(?:redirect|php|wsgi|uwsgi|asgi|fcgi|scgi|iis|appl|ssl|http)-.+"  # HTTP_HOST, HTTP_AUTHORIZATION, …
    r"|proxy"  # becomes HTTP_PROXY
)
"""Names of variables that CGI (RFC 3875 §4.1), WSGI, FastCGI or a server itself sets for an application.

Some servers take a header of such a name for the variable: gunicorn, for example, strips `SCRIPT_NAME` from the path.
"""
_ABOUT_THE_CALLER = re.compile(
    r"(?:x-)?forwarded(?:-.+)?|x-forwardedfor|x-(?:original-)?host|x-http-host-override|host-override"
    r"|x-(?:real|true|remote|originating|client|cluster-client|proxyuser|source)-?(?:ip|addr|address|host|port|user)"
    r"|(?:x-)?(?:(?:true|cluster|fastly|fly|akamai|ali-cdn|proxy|wl-proxy|azure|sucuri|nf|original|envoy)-)?"
    r"client-?(?:connection-)?ip"
    r"|(?:cf|do)-(?:connecting-.+|pseudo-ipv4|visitor|ipcountry)|x-azure-socketip|x-envoy-(?:external-address|internal)"
    r"|x-appengine-.+|x-original-(?:forwarded-.+|remote-.+|for|proto|scheme|port)"
    r"|front-end-https|wl-proxy-ssl|x-(?:url-)?scheme|x-https|x-arr-ssl"
    r"|client-cert(?:-chain)?|x-(?:arr-)?client-?cert.*|x-ssl-.+|x-amzn-mtls-.+"
)
"""Headers in which a proxy describes the caller: its address, host, scheme or certificate (RFC 9440).

Upstreams trust them, so they are forwarded only from a trusted proxy.
"""
_EXACT_SPELLING = frozenset(
    {
        "host",
        "expect",
        "via",
        "authorization",
        "cookie",
        "content-encoding",
        "content-length",
        "content-type",
        "traceparent",
        "tracestate",
        "x-request-id",
        *HOP_BY_HOP,
    }
)
"""Headers of which no other spelling is forwarded, such as `Content_Length`: it could override the checked one."""
_MAX_CACHED_LENGTH = 64
"""Longest header name that is cached: 1024 names take at most 0.3 MB."""
_CONTROL = {code: " " for code in (*range(0x20), 0x7F) if code != 0x09}
_FOLDED = str.maketrans(dict.fromkeys("!#$%&'*+._`|~^", "-"))


class Sender(Enum):
    """Who may set a header of the request to the upstream."""

    CALLER = "caller"
    PROXY = "proxy"
    """A trusted proxy in front."""
    DEFINITION = "definition"
    """The API definition, which adds the header or allows it by name."""
    GATEWAY = "gateway"
    """Only the gateway itself."""


def folded(name: str) -> str:
    """The name in a form that is equal for all spellings that some upstream treats as the same header.

    Case is insignificant (RFC 9110 §5.1), and servers that turn headers into variables replace punctuation (RFC 3875
    §4.1.18): to them `X_User`, `X.User` and `x-user` are one.
    """
    return name.lower().translate(_FOLDED)


def reading(name: str) -> tuple[str, Sender]:
    """The folded name of a header, and who may send it to the upstream."""
    return _cached_reading(name) if len(name) <= _MAX_CACHED_LENGTH else _reading(name)


def _reading(name: str) -> tuple[str, Sender]:
    lower, plain = name.lower(), folded(name)
    if plain.startswith(OUR_PREFIX) or (plain != lower and plain in _EXACT_SPELLING):
        return plain, Sender.GATEWAY
    if _OVERRIDES.fullmatch(plain) or _META_VARIABLES.fullmatch(plain):
        return plain, Sender.DEFINITION
    if _ABOUT_THE_CALLER.fullmatch(plain):
        return plain, Sender.PROXY if plain == lower else Sender.GATEWAY
    return plain, Sender.CALLER


_cached_reading = lru_cache(maxsize=1024)(_reading)


def connection_options(headers: Iterable[tuple[str, str]]) -> frozenset[str]:
    """The header names that `Connection` lists, in lower case."""
    return frozenset(
        option.strip().lower() for name, value in headers if name.lower() == "connection" for option in value.split(",")
    )


def end_to_end(raw: RawHeaders) -> list[tuple[str, str]]:
    """The headers without hop-by-hop ones; order, spelling and repetitions are kept."""
    headers = [(as_text(name), as_text(value)) for name, value in raw]
    # RFC 9110 §7.6.1: "intermediaries MUST parse a received Connection header field before a message is forwarded
    # and, for each connection-option in this field, remove any header".
    removed = HOP_BY_HOP | connection_options(headers)
    return [pair for pair in headers if pair[0].lower() not in removed]


def as_text(raw: bytes) -> str:
    """Decode a header or reason phrase: UTF-8, else Latin-1; control characters become spaces (RFC 9110 §5.5)."""
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    return text if text.isprintable() else text.translate(_CONTROL)
