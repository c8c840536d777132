"""The `X-Tokenwire-*` headers, which tell the upstream (or the proxy in front of it) whose call it is."""

import re
from urllib.parse import quote

from multidict import istr

from services.gateway.decision import Admitted

IDENTITY_HEADERS = tuple(
    istr(f"X-Tokenwire-{name}") for name in ("Api-Id", "Client-Id", "Grant-Id", "Subject", "Scope")
)
_API_ID, _CLIENT_ID, _GRANT_ID, _SUBJECT, _SCOPE = IDENTITY_HEADERS
_SAFE = "@"
"""Characters left unencoded, besides letters, digits and `-._~`. Not the space, which is lost at the ends of a header
value, and not `+`, which form decoding turns into a space."""
_PLAIN = re.compile(r"[A-Za-z0-9._~@-]+")


def identity_headers(admitted: Admitted) -> dict[str, str]:
    """The headers for an admitted call, percent-encoded; a value that is not known is empty.

    Every UTF-8 byte outside a safe set is encoded, so that two different subjects can never look the same upstream.
    """
    grant = admitted.grant
    if grant is None:
        return {_API_ID: admitted.api.api_id, _CLIENT_ID: "", _GRANT_ID: "", _SUBJECT: "", _SCOPE: ""}
    return {
        _API_ID: admitted.api.api_id,
        _CLIENT_ID: _encoded(grant.client_id),
        _GRANT_ID: grant.grant_id,
        _SUBJECT: _encoded(grant.subject) if grant.subject else "",
        _SCOPE: grant.scope or "",
    }


def _encoded(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE)
