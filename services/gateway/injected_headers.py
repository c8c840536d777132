"""The headers that the API definition adds to calls or removes from them."""

import re
from collections.abc import Mapping
from typing import Any

from contracts.apis import Api

_METADATA = re.compile(r"\$tyk_meta\.([A-Za-z0-9_-]+)")
_UNSAFE = re.compile(r"[^\x20-\x7e]|%(?=[0-9A-Fa-f]{2})")
"""Characters that a header cannot hold, and `%` where it would look like the beginning of an encoded character."""


def injected_headers(api: Api, meta_data: Mapping[str, Any]) -> dict[str, str]:
    """Headers by name: those that the definition adds, with `$tyk_meta.<key>` replaced by the grant's metadata.

    An empty value means that the upstream must not get the header: the definition removes it, or has no value for it.
    Characters of metadata that a header cannot hold (RFC 9110 §5.5) are percent-encoded: bytes other than printable
    ASCII, spaces at either end, and `%` before two hexadecimal digits, so that different values stay different.
    """
    named = {name.lower(): (name, "") for name in api.removed_request_headers}
    for header in api.request_headers:
        value = _METADATA.sub(lambda match: _text(meta_data.get(match[1])), header.value).strip()
        named[header.name.lower()] = (header.name, value)
    return dict(named.values())


def _text(value: Any) -> str:
    if value is None or isinstance(value, dict | list):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    inner = text.strip(" ")
    before, after = len(text) - len(text.lstrip(" ")), len(text) - len(text.rstrip(" "))
    if not inner:
        return "%20" * len(text)
    return "%20" * before + _UNSAFE.sub(_percent_encoded, inner) + "%20" * after


def _percent_encoded(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode(errors="replace"))
