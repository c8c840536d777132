"""Masks secrets in API definitions and URLs, for operators who may read but not write."""

import re
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit, urlunsplit

MASK = "********"
"""Replaces a secret."""
_SECRETS = frozenset(
    {"sharedSecret", "shared_secret", "clientSecret", "client_secret", "secret", "password", "jwt_source"}
)
_HEADERS = frozenset({"global_headers", "global_response_headers", "add_headers", "headers", "header_map"})
"""Members that are objects of header values by header name."""
_LISTED_HEADERS = frozenset({"add", "headers"})
"""Members that are lists of headers, each an object with `name` and `value`."""
_PUBLIC_URLS = frozenset({"authLoginRedirect", "auth_login_redirect", "authorizationUrl", "tokenUrl", "refreshUrl"})
"""URLs that are published to every client, so there is nothing to mask."""
_VARIABLES = re.compile(r"\s*(\$tyk_[a-z]+\.[\w.-]+\s*)*")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S+")
_RANDOM = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[A-Za-z0-9_~:.-]{16,}")
"""A path segment that looks like a secret: at least 16 characters, with letters and digits."""


def masked_url(url: str) -> str:
    """The URL without possible credentials: user name and password, query values, random-looking path segments."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return MASK
    _, at, host = parts.netloc.rpartition("@")
    path = "/".join(MASK if _RANDOM.fullmatch(segment) else segment for segment in parts.path.split("/"))
    query = "&".join(_masked_pair(pair) for pair in parts.query.split("&")) if parts.query else ""
    fragment = MASK if parts.fragment else ""
    return urlunsplit((parts.scheme, f"{MASK}@{host}" if at else host, path, query, fragment))


def _masked_pair(pair: str) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={MASK}" if equals else MASK


def masked(document: Any) -> Any:
    """The definition with its secrets masked: shared secrets, passwords, header values, parts of URLs."""
    return _masked(document, "")


def with_secrets_masked(document: Any) -> Any:
    """The definition as people edit it: shared secrets, passwords and header values masked, URLs as they are."""
    return _masked(document, "", urls=False)


def first_masked(document: Any) -> str | None:
    """The path of the first member whose value is a mask; None if there is none.

    An import is refused with it: the operator has sent back a definition that was shown to them masked, and storing it
    would destroy the secret.
    """
    return next((path for path, value in _strings(document, "") if _is_masked(value)), None)


def _masked(value: Any, key: str, *, urls: bool = True) -> Any:
    if isinstance(value, dict):
        if key in _HEADERS and all(isinstance(member, str) for member in value.values()):
            return {name: _masked_header(text) for name, text in value.items()}
        return {name: _masked(member, name, urls=urls) for name, member in value.items()}
    if isinstance(value, list):
        if key in _LISTED_HEADERS and all(map(_is_listed_header, value)):
            return [{**header, "value": _masked_header(header["value"])} for header in value]
        return [_masked(item, key, urls=urls) for item in value]
    return _masked_text(key, value, urls=urls) if isinstance(value, str) else value


def _is_listed_header(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("value"), str) and isinstance(item.get("name"), str)


def _masked_header(value: str) -> str:
    """The mask, unless the value is empty or consists of variables only."""
    return value if _VARIABLES.fullmatch(value) else MASK


def _masked_text(key: str, value: str, *, urls: bool) -> str:
    if key in _SECRETS:
        return MASK if value else value
    if urls and key not in _PUBLIC_URLS and _ADDRESS.fullmatch(value):
        return masked_url(value)
    return value


def _is_masked(value: str) -> bool:
    return value == MASK or (MASK in value and _ADDRESS.fullmatch(value) is not None)


def _strings(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, dict):
        for key, member in value.items():
            named = "".join(character if character.isprintable() else "?" for character in key[:64])
            yield from _strings(member, f"{path}.{named}" if path else named)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _strings(item, f"{path}[{index}]")
