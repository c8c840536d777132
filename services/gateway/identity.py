"""Whose call it is, as the proxy in front and the upstream are told."""

from urllib.parse import quote

from multidict import istr

from services.gateway.decision import Admitted

_API_ID, _CLIENT_ID, _GRANT_ID, _SUBJECT, _SCOPE = (
    istr(f"X-Tokenwire-{name}") for name in ("Api-Id", "Client-Id", "Grant-Id", "Subject", "Scope")
)


def identity_headers(admitted: Admitted) -> dict[str, str]:
    """`X-Tokenwire-*` of an admitted call."""
    headers: dict[str, str] = {_API_ID: admitted.api.api_id}
    if grant := admitted.grant:
        headers[_CLIENT_ID] = grant.client_id
        headers[_GRANT_ID] = grant.grant_id
        if grant.subject:
            headers[_SUBJECT] = quote(grant.subject, safe="@+ ")
        if grant.scope:
            headers[_SCOPE] = grant.scope
    return headers
