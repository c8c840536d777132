"""The headers that the upstream gets with a call, as the API's definition has them."""

import re
from collections.abc import Mapping
from typing import Any

from contracts.apis import Api

_METADATA = re.compile(r"\$tyk_meta\.([A-Za-z0-9_-]+)")
_UNSAFE = re.compile(r"[^\x20-\x7e]")


def injected_headers(api: Api, meta_data: Mapping[str, Any]) -> dict[str, str]:
    """The definition's request headers, with the grant's metadata in place of `$tyk_meta.<key>`.

    Nothing stands for what the metadata does not have; a header of which nothing is left is not sent. What cannot be
    in a header (RFC 9110 §5.5) is percent-encoded.
    """
    headers = {}
    for header in api.request_headers:
        value = _METADATA.sub(lambda match: _text(meta_data.get(match[1])), header.value).strip()
        if value:
            headers[header.name] = value
    return headers


def _text(value: Any) -> str:
    if value is None or isinstance(value, dict | list):
        return ""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return _UNSAFE.sub(lambda match: "".join(f"%{byte:02X}" for byte in match[0].encode(errors="replace")), text)
