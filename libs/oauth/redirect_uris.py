"""Redirect URIs: registered exactly, matched exactly, with one exception for native apps (RFC 8252 §7.3)."""

import re
from collections.abc import Mapping, Sequence
from urllib.parse import SplitResult, urlencode, urlsplit

from libs.oauth.errors import InvalidRequest

_PRINTABLE_ASCII = re.compile(r"[\x21-\x7e]+")
_PRIVATE_USE_SCHEME = re.compile(r"[a-z][a-z0-9+-]*(\.[a-z0-9+-]+)+", re.IGNORECASE)
_LOOPBACK_HOSTS = frozenset({"127.0.0.1", "::1"})
_LONGEST = 2048


def check_registrable(uri: str) -> str:
    """The URI, if a client may register it; http(s), or a private-use scheme with a dot (RFC 8252 §7.1).

    Raises ValueError with what is wrong.
    """
    if len(uri) > _LONGEST or not _PRINTABLE_ASCII.fullmatch(uri) or "\\" in uri:
        raise ValueError("a redirect URI is printable ASCII without spaces or backslashes, at most 2048 characters")
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018 - raises ValueError for a bad port
    except ValueError as error:
        raise ValueError("a redirect URI is an absolute URI") from error
    # RFC 6749 §3.1.2: "The endpoint URI MUST NOT include a fragment component."
    if "#" in uri:
        raise ValueError("a redirect URI has no fragment")
    if parts.scheme in {"http", "https"}:
        if not parts.hostname:
            raise ValueError("a redirect URI names its host")
        if parts.username is not None or parts.password is not None:
            raise ValueError("a redirect URI has no user information")
    elif not _PRIVATE_USE_SCHEME.fullmatch(parts.scheme):
        raise ValueError("a redirect URI is http, https, or a private-use scheme such as com.example.app:")
    return uri


def _loopback(uri: str) -> SplitResult | None:
    try:
        parts = urlsplit(uri)
        parts.port  # noqa: B018 - raises ValueError for a bad port
    except ValueError:
        return None
    plain = parts.scheme == "http" and parts.hostname in _LOOPBACK_HOSTS and "@" not in parts.netloc
    return parts if plain else None


def _same(requested: str, registered: str) -> bool:
    if requested == registered:
        return True
    # RFC 8252 §7.3: the server "MUST allow any port to be specified at the time of the request for loopback IP".
    mine, theirs = _loopback(requested), _loopback(registered)
    if mine is None or theirs is None or "#" in requested or not _PRINTABLE_ASCII.fullmatch(requested):
        return False
    return (mine.hostname, mine.path, mine.query) == (theirs.hostname, theirs.path, theirs.query)


def match_redirect_uri(requested: str | None, registered: Sequence[str]) -> str:
    """The redirect URI to use: the requested one if registered, or the only registered one where none was requested.

    Raises InvalidRequest.
    """
    if not registered:
        raise InvalidRequest("the client has no redirect URI")
    if not requested:
        if len(registered) > 1:
            raise InvalidRequest("redirect_uri is required, as the client has several")
        return registered[0]
    if not any(_same(requested, uri) for uri in registered):
        raise InvalidRequest("redirect_uri is not registered for this client")
    return requested


def with_query(uri: str, parameters: Mapping[str, str]) -> str:
    """The URI with parameters added to the query it already has (RFC 6749 §4.1.2)."""
    # Not taken apart and put together again: that would change `com.example.app:///callback`.
    return with_raw_query(uri, urlencode(parameters))


def with_raw_query(uri: str, query: str) -> str:
    """The URI with this added to the query it already has, before its fragment."""
    base, hash_mark, fragment = uri.partition("#")
    if not query:
        return uri
    separator = "" if base.endswith(("?", "&")) else "&" if "?" in base else "?"
    return f"{base}{separator}{query}{hash_mark}{fragment}"
