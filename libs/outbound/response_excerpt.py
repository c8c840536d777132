"""The start of a webhook response, kept for operators without any secret that the endpoint may have sent back."""

import html
import re
from collections.abc import Iterable, Iterator
from json import dumps, loads
from urllib.parse import quote, quote_plus

from libs.masking import MASK

KEPT_CHARACTERS = 1024
READ_BYTES = 4096
"""Bytes of a response that are looked at: more than is kept, so that a secret at the end is seen whole."""
_SHORTEST_SECRET = 8
"""Shorter values of a notification are no secrets: `new`, `refresh`, and the `test` of a test webhook."""
_OURS = re.compile(r"(?:tw_(?:at|rt|ac|ok)_|whsec_)[A-Za-z0-9+/=_-]+")
_CONTROLS = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def excerpt(start: bytes, sent: Iterable[str]) -> str | None:
    """The first 1024 characters of a body that begins like this, as text; None if it is empty.

    The values that were `sent` are masked, also if they come back encoded for JSON, HTML or a URL, and so is whatever
    looks like a code, a token, an operator key or a signing secret of this server.
    """
    text = start.decode(errors="replace")
    forms = {form for value in sent if len(value) >= _SHORTEST_SECRET for form in _spelled(value)}
    for form in sorted(forms, key=len, reverse=True):
        text = text.replace(form, MASK)
    if len(start) >= READ_BYTES:
        text = text[: -max(map(len, forms), default=1)]  # it may end with a part of a secret
    return _CONTROLS.sub("\ufffd", _OURS.sub(MASK, text))[:KEPT_CHARACTERS] or None


def values_in(body: bytes) -> Iterator[str]:
    """The values of a notification that was sent, which is an object in JSON."""
    try:
        document = loads(body)
    except ValueError:
        return
    if isinstance(document, dict):
        yield from (value for value in document.values() if isinstance(value, str))


def _spelled(value: str) -> Iterator[str]:
    yield value
    yield dumps(value)[1:-1]
    yield dumps(value, ensure_ascii=False)[1:-1]
    yield html.escape(value)
    yield quote(value, safe="")
    yield quote_plus(value)
