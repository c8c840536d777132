"""Redirect URIs are compared as exact strings; only the port of a loopback URI may differ (RFC 8252 §7.3)."""

import re
from collections.abc import Mapping, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import NamedTuple
from urllib.parse import urlencode

from libs.oauth.errors import InvalidRequest

_PRINTABLE_ASCII = re.compile(r"[\x21-\x7e]+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_PRIVATE_USE_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+", re.IGNORECASE)
_AUTHORITY = re.compile(r"(?P<host>\[[^\[\]]*\]|[^\[\]:]*)(:(?P<port>.*))?", re.DOTALL)
_LABEL = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "[::1]"})
_LONGEST = 2048


class _WebUri(NamedTuple):
    """The parts of an http or https URI, each as it is spelled, except that scheme and host are in lower case."""

    scheme: str
    host: str
    rest: str
    """Path and query."""


def check_registrable(uri: str) -> str:
    """The URI, if a client may register it: http, https, or a private-use scheme with a dot (RFC 8252 §7.1).

    Raises ValueError with the reason.
    """
    if len(uri) > _LONGEST or not _PRINTABLE_ASCII.fullmatch(uri) or "\\" in uri:
        raise ValueError("a redirect URI is printable ASCII without spaces or backslashes, at most 2048 characters")
    # RFC 6749 §3.1.2: "The endpoint URI MUST NOT include a fragment component."
    if "#" in uri:
        raise ValueError("a redirect URI has no fragment")
    scheme = _SCHEME.match(uri)
    if scheme and scheme[1].lower() in {"http", "https"}:
        _web_uri(uri)
    elif scheme is None or not _PRIVATE_USE_SCHEME.fullmatch(scheme[1]):
        raise ValueError("a redirect URI is http, https, or a private-use scheme such as com.example.app:")
    return uri


def _web_uri(uri: str) -> _WebUri:
    """The parts of an http or https URI whose host cannot be misread. Raises ValueError.

    Not urlsplit: for a malformed authority such as `evil.test[::1]`, its host depends on Python's version and differs
    from the one that a browser connects to.
    """
    scheme, separator, after = uri.partition("://")
    end = next((index for index, character in enumerate(after) if character in "/?#"), len(after))
    authority = after[:end]
    if not separator or not authority:
        raise ValueError("a redirect URI names its host")
    if "@" in authority:
        raise ValueError("a redirect URI has no user information")
    parts = _AUTHORITY.fullmatch(authority)
    if parts is None or not _is_host(parts["host"]):
        raise ValueError(
            "the host of a redirect URI is a DNS name without a dot at its end, an IPv4 address of four decimal "
            "numbers, or an IPv6 address in brackets without a zone"
        )
    port = parts["port"]
    if port is not None and not (_PORT.fullmatch(port) and int(port) <= 65535):
        raise ValueError("the port of a redirect URI is a number from 1 to 65535 without leading zeros")
    return _WebUri(scheme.lower(), parts["host"].lower(), after[end:])


def _is_host(host: str) -> bool:
    """Whether every parser finds the same host in it: no escapes, no zone, no unusual spelling of an IPv4 address."""
    try:
        if host.startswith("["):
            return "%" not in host and bool(IPv6Address(host[1:-1]))
        labels = host.split(".")
        if _NUMBER.fullmatch(labels[-1]):
            # Browsers take a host whose last label is a number for an IPv4 address (decimal, octal or hexadecimal, one
            # to four parts): only the usual spelling with four decimal numbers is accepted.
            return bool(IPv4Address(host))
    except AddressValueError:
        return False
    return len(host) <= 253 and all(map(_LABEL.fullmatch, labels))


def _loopback(uri: str, *, localhost: bool) -> _WebUri | None:
    try:
        parts = _web_uri(check_registrable(uri))
    except ValueError:
        return None
    is_loopback = parts.host in _LOOPBACK_HOSTS or (localhost and parts.host == "localhost")
    return parts if parts.scheme == "http" and is_loopback else None


def _matches(requested: str, registered: str, *, localhost: bool) -> bool:
    if requested == registered:
        return True
    # RFC 8252 §7.3: the server "MUST allow any port to be specified at the time of the request for loopback IP".
    mine = _loopback(requested, localhost=localhost)
    return mine is not None and mine == _loopback(registered, localhost=localhost)


def match_redirect_uri(requested: str | None, registered: Sequence[str], *, localhost_any_port: bool = False) -> str:
    """The redirect URI to use: the requested one if it is registered, or the only registered one if none is requested.

    The port of a loopback address may differ; with `localhost_any_port` the port of `localhost` may, too. Raises
    InvalidRequest.
    """
    if not registered:
        raise InvalidRequest("the client has no redirect URI")
    if not requested:
        if len(registered) > 1:
            raise InvalidRequest("redirect_uri is required, as the client has several")
        return _checked(registered[0])
    # RFC 9700 §2.1: the server "MUST utilize exact string matching except for port numbers in localhost redirection
    # URIs of native apps".
    if not any(_matches(requested, uri, localhost=localhost_any_port) for uri in registered):
        raise InvalidRequest("redirect_uri is not registered for this client")
    return _checked(requested)


def _checked(uri: str) -> str:
    """The URI, checked again: it may have been registered when the rules were less strict. Raises InvalidRequest."""
    try:
        return check_registrable(uri)
    except ValueError as error:
        raise InvalidRequest(f"redirect_uri: {error}") from error


def with_query(uri: str, parameters: Mapping[str, str]) -> str:
    """The URI with these parameters appended to its query (RFC 6749 §4.1.2)."""
    # Parsing and rebuilding the URI would change `com.example.app:///callback`.
    return with_raw_query(uri, urlencode(parameters))


def with_raw_query(uri: str, query: str) -> str:
    """The URI with this text appended to its query, before the fragment if it has one."""
    base, hash_mark, fragment = uri.partition("#")
    if not query:
        return uri
    separator = "" if base.endswith(("?", "&")) else "&" if "?" in base else "?"
    return f"{base}{separator}{query}{hash_mark}{fragment}"
