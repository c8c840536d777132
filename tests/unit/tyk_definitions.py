"""The test definitions, and changes to them."""

import copy
import json
from pathlib import Path
from typing import Any

from contracts.apis import GrantType

DATA = Path(__file__).parent.parent / "data"

ABSENT = object()
"""As a value: remove the member."""
ORDERS_GRANTS = (
    GrantType.AUTHORIZATION_CODE,
    GrantType.CLIENT_CREDENTIALS,
    GrantType.PASSWORD,
    GrantType.REFRESH_TOKEN,
)
"""The grant types of the orders API, in both languages."""


def definition(name: str) -> dict[str, Any]:
    """A definition from the test data."""
    document: dict[str, Any] = json.loads((DATA / name).read_text())
    return document


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with this value at the path; keys are separated by slashes, missing objects are created."""
    copied = copy.deepcopy(document)
    *parents, last = path.split("/")
    place = copied
    for key in parents:
        place = place.setdefault(key, {})
    if value is ABSENT:
        del place[last]
    else:
        place[last] = value
    return copied


_ENDPOINT = {
    "allow": {"enabled": True},
    "block": {"enabled": True, "ignoreCase": True},
    "ignoreAuthentication": {"enabled": True},
    "internal": {"enabled": True},
    "rateLimit": {"enabled": True, "rate": 5, "per": "1m"},
    "requestSizeLimit": {"enabled": True, "value": 1000},
    "validateRequest": {"enabled": True},
}
_TYK = "x-tyk-api-gateway"
GUARDED_OAS: dict[str, Any] = {
    "paths": {"/things/{id}": {"get": {"operationId": "things"}}},
    f"{_TYK}/info/state/internal": True,
    f"{_TYK}/info/expiration": "2099-12-31 23:59",
    f"{_TYK}/server/ipAccessControl": {
        "enabled": True,
        "allow": ["10.0.0.0/8"],
        "block": ["10.0.0.7", "2001:db8::/32"],
    },
    f"{_TYK}/server/customDomain": {"enabled": True, "name": "{name:[a-z]+}.example.test"},
    f"{_TYK}/server/clientCertificates": {"enabled": True, "allowlist": ["a"]},
    f"{_TYK}/upstream/rateLimit": {"enabled": True, "rate": 10, "per": "1m"},
    f"{_TYK}/middleware/global/requestSizeLimit": {"enabled": True, "value": 5000},
    f"{_TYK}/middleware/operations": {"things": _ENDPOINT},
}
"""Every guard of Tyk OAS, by path (`changed`)."""

_LISTED = {"path": "/things/{id}", "method": "GET", "ignore_case": True}
GUARDED_VERSION: dict[str, Any] = {
    "expires": "2099-12-31 23:59",
    "paths": {"ignored": ["/a"], "white_list": ["/b"], "black_list": ["/c/[0-9]+"]},
    "use_extended_paths": True,
    "extended_paths": {
        "ignored": [_LISTED],
        "white_list": [{"path": "/b", "method_actions": {"GET": {"action": "no_action", "code": 200}}}],
        "black_list": [{"path": "/c", "method_actions": {}}, {"path": "/d", "disabled": True}],
        "internal": [_LISTED],
        "rate_limit": [{**_LISTED, "rate": 5, "per": 60}],
        "size_limits": [{**_LISTED, "size_limit": 1000}],
        "validate_json": [{**_LISTED, "schema": {"type": "object"}}],
    },
    "global_size_limit": 5000,
}
"""Every guard of a Tyk Classic version."""
GUARDED_CLASSIC: dict[str, Any] = {
    "internal": True,
    "domain": "api.example.test",
    "enable_ip_whitelisting": True,
    "allowed_ips": ["10.0.0.0/8"],
    "enable_ip_blacklisting": True,
    "blacklisted_ips": ["10.0.0.7", "2001:db8::/32"],
    "global_rate_limit": {"rate": 10, "per": 60},
    "use_mutual_tls_auth": True,
}
"""Every other guard of Tyk Classic, by path (`changed`)."""
