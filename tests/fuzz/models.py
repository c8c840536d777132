"""Valid requests by operation, from which variations start."""

from collections.abc import Mapping, Sequence
from typing import Any

from tests.builders import CALLBACK
from tests.services.system import CHALLENGE, PASSWORD
from tests.unit.tyk_definitions import changed, definition

Document = dict[str, Any]

RIGHT: Document = {
    "api_id": "orders-api",
    "versions": ["Default", "v2"],
    "allowed_urls": [
        {"url": "^/orders/(get|list)/[0-9]+$", "methods": ["GET", "POST"]},
        {"url": "/things", "methods": []},
    ],
    "limit": {"rate": 5, "per": 1, "quota_max": 100, "quota_renewal_rate": 3600},
    "endpoints": [{"path": "/get/{id}", "methods": [{"name": "GET", "limit": {"rate": 2, "per": 60}}]}],
}
META_DATA: Document = {"tier": "gold", "name": "Jürgen\r\n", "deep": {"a": [1]}, "flag": True}
POLICY: Document = {
    "_id": "5ead7120575961000181867e",
    "name": "Gold",
    "org_id": "org-1",
    "active": True,
    "is_inactive": False,
    "access_rights": {"orders-api": RIGHT},
    "rate": 1000,
    "per": 60,
    "quota_max": 10000,
    "quota_renewal_rate": 3600,
    "partitions": {"quota": False, "rate_limit": False, "acl": False, "per_api": True},
    "tags": ["a"],
    "meta_data": META_DATA,
}
RULES: Document = {
    "apply_policies": ["known"],
    "is_inactive": False,
    "expires": -1,
    "access_rights": {
        "orders-api": {
            **RIGHT,
            "endpoints": [],
            "limit": {"rate": 0, "per": 0, "quota_max": -1, "quota_renewal_rate": -1},
        }
    },
    "rate": 1,
    "per": 2.5,
    "quota_max": 5,
    "quota_renewal_rate": 60,
    "tags": ["x"],
    "meta_data": META_DATA,
}

_CLIENT = {"client_id": "REAL_CLIENT_ID", "client_secret": "REAL_SECRET"}
_CODE: Document = {
    "response_type": "code",
    "client_id": "REAL_CLIENT_ID",
    "redirect_uri": CALLBACK,
    "scope": "read write",
    "state": "xyz",
    "code_challenge": CHALLENGE,
    "code_challenge_method": "S256",
}
_ISSUED: Document = _CODE | {
    "subject": "alice",
    "key_rules": {
        **RULES,
        "apply_policies": [],
        "access_rights": {"REAL_API_ID": {"api_id": "REAL_API_ID"}},
    },
}
_REVOKED: Sequence[Document] = (
    {"token": "REAL_ACCESS", "token_type_hint": "access_token"},
    {"token": "REAL_REFRESH", **_CLIENT},
    {"token": "REAL_TOKEN_ID", "client_id": "REAL_CLIENT_ID"},
)
_WHEN = {"from": "2026-01-01T00:00:00Z", "to": "2026-05-04T12:00:00.5+02:00"}


def _oas(api_id: str, place: str) -> Document:
    document = changed(definition("orders-oas.json"), "x-tyk-api-gateway/info/id", api_id)
    return changed(document, "x-tyk-api-gateway/server/listenPath/value", f"/{place}/")


def _classic(api_id: str, place: str) -> Document:
    return changed(changed(definition("orders-classic.json"), "api_id", api_id), "proxy/listen_path", f"/{place}/")


_OAS, _OAS_AGAIN = _oas("REAL_NEW", "REAL_NEW"), _oas("REAL_API_ID", "REAL_API_REF")
_CLASSIC, _CLASSIC_AGAIN = _classic("REAL_NEW", "REAL_NEW"), _classic("REAL_API_ID", "REAL_API_REF")
_POLICY = {**POLICY, "_id": "REAL_NEW", "access_rights": {"REAL_API_ID": {**RIGHT, "api_id": "REAL_API_ID"}}}
_POLICY_AGAIN = {**_POLICY, "_id": "REAL_POLICY_ID"}
_NEW_CLIENT: Document = {
    "client_id": "REAL_NEW",
    "secret": "a secret of at least 24 characters",
    "redirect_uri": f"{CALLBACK};http://127.0.0.1/cb",
    "policy_ids": ["REAL_POLICY_ID"],
    "scope": "read write",
    "meta_data": {"tier": "gold", "deep": {"a": [1, None]}},
    "description": "An app",
    "client_name": "App",
    "resource_server": True,
}
_EDITED_CLIENT = {name: value for name, value in _NEW_CLIENT.items() if name not in {"client_id", "secret"}}
_OWNER: Document = {"password": PASSWORD, "active": True, "policy_ids": ["REAL_POLICY_ID"], "meta_data": {"a": 1}}

BODIES: Mapping[str, Sequence[Document]] = {
    "authorizeByPost": [_CODE],
    **dict.fromkeys(
        ("issueCode", "issueCodeOnShortPath", "issueCodeOnListenPath"),
        (
            _ISSUED,
            _CODE,
        ),
    ),
    "issueToken": [
        {"grant_type": "authorization_code", "code": "REAL_CODE", "redirect_uri": CALLBACK},
        {"grant_type": "refresh_token", "refresh_token": "REAL_REFRESH", "scope": "read"},
        {"grant_type": "password", "username": "REAL_USERNAME", "password": PASSWORD, **_CLIENT},
        {"grant_type": "client_credentials", "scope": "read", **_CLIENT},
    ],
    **dict.fromkeys(("revokeToken", "revokeTokenOfClient", "introspect"), _REVOKED),
    **dict.fromkeys(
        ("revokeAllTokens", "revokeAllTokensOfClient"),
        (
            _CLIENT,
            {},
        ),
    ),
    "importApi": (_OAS, _CLASSIC, {"api_definition": _CLASSIC}),
    "replaceApi": (_OAS_AGAIN, _CLASSIC_AGAIN, {"api_definition": _CLASSIC_AGAIN}),
    "importOasApi": (_OAS,),
    "replaceOasApi": (_OAS_AGAIN,),
    "registerClient": [_NEW_CLIENT],
    "editClient": [_EDITED_CLIENT],
    "rotateSigningSecret": [{"overlap": 60}],
    "rotateOperatorKey": [{"overlap": 60, "expires_at": "2036-01-01T00:00:00Z"}],
    "lookUpGrant": [{"token": "REAL_REFRESH"}, {"token": "REAL_CODE"}],
    "rotateClientSecret": [{"overlap": 60, "secret": "another secret of 24 characters"}],
    "addPolicy": [_POLICY],
    "previewPolicies": [
        {"api_id": "REAL_API_ID", "client_id": "REAL_CLIENT_ID", "policy_ids": ["REAL_POLICY_ID"]},
        {"api_id": "REAL_API_ID", "username": "REAL_USERNAME"},
    ],
    "replacePolicy": [_POLICY_AGAIN],
    **dict.fromkeys(("addResourceOwner", "editResourceOwner"), (_OWNER,)),
    **dict.fromkeys(("addOperator", "replaceOperator"), ({"name": "Somebody", "permissions": ["read", "write"]},)),
    "redeliverAll": [{"api_id": "REAL_API_ID", "since": "2026-01-01T00:00:00Z", "state": "pending"}],
}

QUERIES: Mapping[str, Document] = {
    "authorize": _CODE,
    "listTokens": {"page": "1"},
    "listTokensOnShortPath": {"page": "2"},
    "streamEvents": {"types": "token.*,grant.revoked", "api_id": "REAL_API_ID", "from": "REAL_NOW"},
    "listEvents": {**_WHEN, "types": "token.*,grant.revoked", "api_id": "REAL_API_ID", "limit": "2", "after": "evt_0"},
    "reconcileEvents": {"from": "REAL_NOW"},
    "getClientUsage": {**_WHEN, "per": "day", "api_id": "REAL_API_ID", "limit": "2", "after": "2026-05-04.a.b"},
    "listChanges": {**_WHEN, "operator": "REAL_OPERATOR_ID", "action": "client.*", "limit": "3", "after": "evt_0"},
    "listEndpoints": {"api_id": "REAL_API_ID", "limit": "2", "after": "a"},
    "lintConfig": {"limit": "2", "max_age": "60"},
    "listDeliveries": {**_WHEN, "api_id": "REAL_API_ID", "state": "pending", "limit": "2", "after": "REAL_DELIVERY_ID"},
}
"""Query parameters; lists without an entry have `p`."""

HEADERS: Mapping[str, Document] = {
    "verify": {"X-Forwarded-Uri": "/REAL_URI?a=b", "X-Forwarded-Method": "POST", "X-Forwarded-For": "203.0.113.7"},
}
