"""Whose call it is, as the proxy in front and the upstream are told."""

from urllib.parse import quote

from services.gateway.decision import Admitted


def identity_headers(admitted: Admitted) -> dict[str, str]:
    """`X-Tokenwire-*` of an admitted call."""
    headers = {"X-Tokenwire-Api-Id": admitted.api.api_id}
    if admitted.grant and admitted.access:
        headers["X-Tokenwire-Client-Id"] = admitted.grant.client_id
        headers["X-Tokenwire-Grant-Id"] = admitted.grant.grant_id
        if admitted.grant.subject:
            headers["X-Tokenwire-Subject"] = quote(admitted.grant.subject, safe="@+ ")
        if admitted.access.scope:
            headers["X-Tokenwire-Scope"] = admitted.access.scope
    return headers
