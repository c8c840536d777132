"""A complete definition for each grant type, in both formats."""

from collections.abc import Mapping
from typing import Any

_SCOPES = {"read": "Read orders", "write": "Change orders"}
_TOKEN = "/oauth/token"  # noqa: S105 - a path


def _oas(path: str, flow: str, scheme: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """A definition of Tyk OAS with this flow."""
    authorize = {"authorizationUrl": "/oauth/authorize"} if flow == "authorizationCode" else {}
    return {
        "openapi": "3.0.3",
        "info": {"title": "Orders", "version": "1.0.0"},
        "paths": {},
        "security": [{"oauth": []}],
        "components": {
            "securitySchemes": {
                "oauth": {"type": "oauth2", "flows": {flow: {**authorize, "tokenUrl": _TOKEN, "scopes": _SCOPES}}}
            }
        },
        "x-tyk-api-gateway": {
            "info": {"name": "Orders", "state": {"active": True}},
            "server": {
                "listenPath": {"value": path, "strip": True},
                "authentication": {
                    "enabled": True,
                    "securitySchemes": {
                        "oauth": {"enabled": True, "header": {"enabled": True, "name": "Authorization"}, **scheme}
                    },
                },
            },
            "upstream": {"url": "https://orders.internal.example.test/"},
        },
        **({"x-tokenwire": dict(own)} if own else {}),
    }


def _classic(path: str, grants: list[str], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A Tyk Classic definition with these grants."""
    return {
        "name": "Orders",
        "use_oauth2": True,
        "oauth_meta": {"allowed_access_types": grants, **extra},
        "proxy": {
            "listen_path": path,
            "target_url": "https://orders.internal.example.test/",
            "strip_listen_path": True,
        },
        "tokenwire": {"scopes": list(_SCOPES)},
    }


_LOGIN = "https://login.example.test/authorize"
_WEBHOOK = {
    "onKeyChangeUrl": "https://app.example.test/hooks/tokens",
    "sharedSecret": "a-secret-of-at-least-24-characters",
}

EXAMPLES: Mapping[str, dict[str, Any]] = {
    "Authorization code with refresh tokens and webhooks (Tyk OAS)": _oas(
        "/orders-code/",
        "authorizationCode",
        {
            "allowedAuthorizeTypes": ["code"],
            "refreshToken": True,
            "authLoginRedirect": _LOGIN,
            "notifications": _WEBHOOK,
        },
        {"accessTokenLifetime": 900, "pkceRequired": True},
    ),
    "Client credentials (Tyk OAS)": _oas("/orders-service/", "clientCredentials", {}, {"accessTokenLifetime": 600}),
    "Password with refresh tokens (Tyk OAS)": _oas("/orders-password/", "password", {"refreshToken": True}, {}),
    "Authorization code with refresh tokens (Tyk Classic)": _classic(
        "/orders-classic-code/",
        ["authorization_code", "refresh_token"],
        {"allowed_authorize_types": ["code"], "auth_login_redirect": _LOGIN},
    ),
    "Client credentials (Tyk Classic)": _classic("/orders-classic-service/", ["client_credentials"], {}),
    "Password with refresh tokens (Tyk Classic)": _classic(
        "/orders-classic-password/", ["password", "refresh_token"], {}
    ),
}
"""By the heading on the page."""
