"""`key_rules`: a session the identity server asks for; it may narrow what the policies allow, never widen it."""

from collections.abc import Sequence
from typing import Annotated, Any

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.base import PublicId
from contracts.policies import AccessRight, Policy
from libs.http.errors import first_fault
from libs.oauth.errors import AccessDenied, InvalidRequest


class KeyRules(BaseModel):
    """The part of Tyk's session JSON that means something here; other fields are ignored."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    access_rights: dict[PublicId, AccessRight] | None = None
    rate: Annotated[float, Field(ge=-1)] | None = None
    per: Annotated[float, Field(ge=-1)] | None = None
    quota_max: Annotated[int, Field(ge=-1)] | None = None
    quota_renewal_rate: Annotated[int, Field(ge=-1)] | None = None
    tags: tuple[str, ...] | None = None
    meta_data: dict[str, Any] | None = None


def parse_key_rules(text: str, api_id: str, policies: Sequence[Policy]) -> dict[str, Any]:
    """The rules to keep with the grant.

    Raises InvalidRequest where they are no session, AccessDenied where they name an API that neither a policy of the
    client nor the issuing API grants.
    """
    try:
        rules = KeyRules.model_validate(orjson.loads(text))
        kept: dict[str, Any] = rules.model_dump(mode="json", exclude_none=True)
        orjson.dumps(kept)  # what is nested too deep to be written is refused here, not when the grant is
    except (orjson.JSONDecodeError, orjson.JSONEncodeError, RecursionError) as error:
        raise InvalidRequest("key_rules is not JSON") from error
    except ValidationError as error:
        raise InvalidRequest(f"key_rules: {first_fault(error)}") from error
    granted = {granted_id for policy in policies for granted_id in policy.access_rights} if policies else {api_id}
    if rules.access_rights is not None and not set(rules.access_rights) <= granted:
        raise AccessDenied("key_rules grant an API that the client's policies do not")
    if policies:
        _check_limits(rules, policies)
    return kept


def _check_limits(rules: KeyRules, policies: Sequence[Policy]) -> None:
    """A limit is kept only where it is at least as tight as the loosest of the policies'."""
    if rules.quota_max is not None and not _within(rules.quota_max, [policy.quota_max for policy in policies]):
        raise AccessDenied("key_rules widen the quota")
    if rules.rate is None:
        return
    asked = _rate(rules.rate, rules.per if rules.per is not None else 1)
    if not _within(asked, [_rate(policy.rate, policy.per) for policy in policies]):
        raise AccessDenied("key_rules widen the rate limit")


def _rate(rate: float, per: float) -> float:
    return rate / per if rate > 0 and per > 0 else -1


def _within(asked: float, allowed: Sequence[float]) -> bool:
    unlimited = any(limit <= 0 for limit in allowed)
    return unlimited or 0 < asked <= max(allowed)
