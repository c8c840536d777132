"""What a policy of Tyk's says that has no effect here."""

from collections.abc import Iterator, Mapping
from typing import Any

from libs.tyk.members import says_something

_AT_ONCE = "calls over the limit are refused at once, not held back"
_GRAPHQL = "the fields and types of GraphQL are not checked"
_OF_POLICY = {
    "throttle_interval": _AT_ONCE,
    "throttle_retry_limit": _AT_ONCE,
    "max_query_depth": "the depth of GraphQL queries is not limited",
    "key_expires_in": "has no effect on OAuth tokens, as in Tyk; their lifetime belongs to the API",
    "hmac_enabled": "HMAC signatures are not checked",
    "enable_http_signature_validation": "signatures of calls are not checked",
    "smoothing": "the rate limit does not change with the load",
}
_OF_RIGHT = {
    "restricted_types": _GRAPHQL,
    "allowed_types": _GRAPHQL,
    "field_access_rights": _GRAPHQL,
    "disable_introspection": "introspection of GraphQL is not refused",
}
"""Members of an access right."""


def policy_notes(said: Mapping[str, Any]) -> list[str]:
    """One sentence for each part of the policy that would restrict calls at Tyk and does not here."""
    rights = said.get("access_rights")
    notes = [*_unused(said, _OF_POLICY, "")]
    for api_id, right in rights.items() if isinstance(rights, Mapping) else ():
        if isinstance(right, Mapping):
            notes += _unused(right, _OF_RIGHT, f"access_rights.{api_id}.")
            notes += _idle_endpoints(right.get("endpoints"), f"access_rights.{api_id}.endpoints")
    return notes


def _idle_endpoints(endpoints: Any, prefix: str) -> Iterator[str]:
    """Entries that limit nothing although they seem to, at Tyk and here."""
    for number, endpoint in enumerate(endpoints if isinstance(endpoints, list) else ()):
        methods = endpoint.get("methods") if isinstance(endpoint, Mapping) else None
        if not methods:
            yield f"{prefix}.{number}: names no method, so it limits nothing"
        for method in methods if isinstance(methods, list) else ():
            limit = (method.get("limit") if isinstance(method, Mapping) else None) or {}
            rate, per = (limit.get(key) or 0 for key in ("rate", "per"))
            if rate > 0 >= per:
                yield f"{prefix}.{number}: a limit of {method.get('name')} has no period (per), so it does not count"
            elif rate <= 0:
                yield f"{prefix}.{number}: {method.get('name')} has no limit there, not even the policy's, as at Tyk"


def _unused(said: Mapping[str, Any], effects: Mapping[str, str], prefix: str) -> Iterator[str]:
    for name, effect in effects.items():
        value = said.get(name)
        if value != -1 and says_something(value):  # -1 is "not set" at Tyk
            yield f"{prefix}{name}: {effect}"
