"""`key_rules`: a session the identity server asks for; it may narrow what the policies allow, never widen it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
from pydantic import ValidationError

from contracts.policies import Policy
from libs.http.errors import first_fault
from libs.oauth.errors import AccessDenied, InvalidRequest
from libs.policies import Allowance, KeyRules, first_unusable, quota_allowance, rate_allowance

_LEVELS_ABOVE = 16
"""Room for what they are part of."""


def parse_key_rules(text: str, api_id: str, policies: Sequence[Policy]) -> dict[str, Any]:
    """The rules to keep with the grant.

    Raises InvalidRequest where they are no session, AccessDenied where they name an API that neither a policy of the
    client nor the issuing API grants.
    """
    rules = _parsed(text)
    granted = {granted_id for policy in policies for granted_id in policy.access_rights} if policies else {api_id}
    if rules.access_rights is not None and not set(rules.access_rights) <= granted:
        raise AccessDenied("key_rules grant an API that the client's policies do not")
    if fault := first_unusable((rules.access_rights or {}).values()):
        raise InvalidRequest(f"key_rules: {fault}")
    if policies:
        _check_limits(rules, policies)
    return _kept(rules)


def _parsed(text: str) -> KeyRules:
    try:
        return KeyRules.model_validate(orjson.loads(text))
    except orjson.JSONDecodeError as error:
        raise InvalidRequest("key_rules is not JSON") from error
    except ValidationError as error:
        raise InvalidRequest(f"key_rules: {first_fault(error)}") from error


def _kept(rules: KeyRules) -> dict[str, Any]:
    """As they are written with the grant; found out here, not then, whether they can be."""
    try:
        kept: dict[str, Any] = rules.model_dump(mode="json", exclude_none=True)
        document: dict[str, Any] = kept
        for _ in range(_LEVELS_ABOVE):
            document = {"": document}
        orjson.dumps(document)
    except (ValueError, orjson.JSONEncodeError) as error:
        raise InvalidRequest("key_rules are nested too deep") from error
    return kept


def _check_limits(rules: KeyRules, policies: Sequence[Policy]) -> None:
    """Return where each limit is at least as tight as that of one of the policies. Raises AccessDenied."""
    if rules.rate is not None or rules.per is not None:
        rates = [rate_allowance(policy.rate, policy.per) for policy in policies]
        if not any(_is_within(rules.rate, rules.per, allowed) for allowed in rates):
            raise AccessDenied("key_rules widen the rate limit")
    if rules.quota_max is not None or rules.quota_renewal_rate is not None:
        quotas = [quota_allowance(policy.quota_max, policy.quota_renewal_rate) for policy in policies]
        if not any(_is_within(rules.quota_max, rules.quota_renewal_rate, allowed) for allowed in quotas):
            raise AccessDenied("key_rules widen the quota")


def _is_within(most: float | None, seconds: float | None, allowed: Allowance) -> bool:
    """Whether it is no wider; what is not given is as in the other."""
    given = replace(
        allowed,
        most=allowed.most if most is None else most,
        seconds=allowed.seconds if seconds is None else seconds,
    )
    return given.is_within(allowed)
