"""Scopes: what a client may request, and what it is granted (RFC 6749 §3.3)."""

import re
from collections.abc import Collection

from libs.oauth.errors import InvalidScope

# scope-token = 1*( %x21 / %x23-5B / %x5D-7E )
_SCOPE = re.compile(r"[\x21\x23-\x5B\x5D-\x7E]+( [\x21\x23-\x5B\x5D-\x7E]+)*")
_LONGEST = 2048


def parse_scope(text: str | None) -> str | None:
    """The requested scope, each value once; None where none was requested. Raises InvalidScope."""
    if not text:
        return None
    if len(text) > _LONGEST or not _SCOPE.fullmatch(text):
        raise InvalidScope("scope is malformed")
    return " ".join(dict.fromkeys(text.split(" ")))


def allowed_scopes(registered: str | None, declared: Collection[str]) -> Collection[str]:
    """The scope values that a client may request now: those that the API declares and the client is registered for.

    `registered` None: the client is registered for all of them.
    """
    if registered is None:
        return declared
    return [scope for scope in dict.fromkeys(registered.split(" ")) if scope in declared]


def grant_scope(requested: str | None, registered: str | None, declared: Collection[str]) -> str | None:
    """The scope of a new grant: the requested one or, where none was requested, all that the client is registered for.

    `declared` lists the scopes of the API's definition; no other is ever granted. Raises InvalidScope.
    """
    if requested is None:
        return " ".join(allowed_scopes(registered, declared)) or None if registered is not None else None
    wanted = requested.split(" ")
    if not all(scope in declared for scope in wanted):
        raise InvalidScope("scope has a value that the API's definition does not declare")
    if registered is not None and not set(wanted) <= set(registered.split(" ")):
        raise InvalidScope("scope has a value that the client is not registered for")
    return requested


def narrow_scope(requested: str | None, granted: str | None, allowed: Collection[str]) -> str | None:
    """The scope of new tokens of a grant: the requested part of it, or all, without values no longer `allowed`.

    Raises InvalidScope for a value that was not granted, and if nothing of the requested scope is left.
    """
    original = granted.split(" ") if granted else []
    wanted = original if requested is None else requested.split(" ")
    # RFC 6749 §6: the requested scope "MUST NOT include any scope not originally granted by the resource owner".
    if not set(wanted) <= set(original):
        raise InvalidScope("scope exceeds what was granted")
    kept = [scope for scope in wanted if scope in allowed]
    if requested is not None and not kept:
        raise InvalidScope("scope has no value that the client may still have")
    return " ".join(kept) or None
