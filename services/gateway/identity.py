"""Whose call it is, as the proxy in front and the upstream are told."""

from urllib.parse import quote

from services.gateway.decision import Admitted


def identity_headers(admitted: Admitted) -> dict[str, str]:
    """`X-Tokenwire-*` of an admitted call."""
    headers = {"X-Tokenwire-Api-Id": admitted.api.api_id}
    if grant := admitted.grant:
        headers["X-Tokenwire-Client-Id"] = grant.client_id
        headers["X-Tokenwire-Grant-Id"] = grant.grant_id
        if grant.subject:
            headers["X-Tokenwire-Subject"] = quote(grant.subject, safe="@+ ")
        if grant.scope:
            headers["X-Tokenwire-Scope"] = grant.scope
    return headers
