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
    "endpoints": "limits of single endpoints are not enforced; set them in the definition of the API",
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
    return notes


def _unused(said: Mapping[str, Any], effects: Mapping[str, str], prefix: str) -> Iterator[str]:
    for name, effect in effects.items():
        value = said.get(name)
        if value != -1 and says_something(value):  # -1 is "not set" at Tyk
            yield f"{prefix}{name}: {effect}"
