"""`key_rules`: a session the identity server asks for; it may narrow what the policies allow, never widen it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Self

import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from contracts.base import PublicId
from contracts.policies import AccessRight, Policy
from libs.http.errors import first_fault
from libs.oauth.errors import AccessDenied, InvalidRequest

_LEVELS_ABOVE = 16
"""Room for what they are part of."""


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
    rules = _parsed(text)
    granted = {granted_id for policy in policies for granted_id in policy.access_rights} if policies else {api_id}
    if rules.access_rights is not None and not set(rules.access_rights) <= granted:
        raise AccessDenied("key_rules grant an API that the client's policies do not")
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
        allowed = [_Limit(policy.rate, policy.per) for policy in policies]
        if not any(_Limit.of(rules.rate, rules.per, limit).is_within(limit) for limit in allowed):
            raise AccessDenied("key_rules widen the rate limit")
    if rules.quota_max is not None or rules.quota_renewal_rate is not None:
        allowed = [_Limit(policy.quota_max, policy.quota_renewal_rate, math.inf) for policy in policies]
        if not any(_Limit.of(rules.quota_max, rules.quota_renewal_rate, limit).is_within(limit) for limit in allowed):
            raise AccessDenied("key_rules widen the quota")


@dataclass(frozen=True, slots=True)
class _Limit:
    """So many calls in so many seconds; not positive: without limit."""

    most: float
    seconds: float
    unset: float = 0
    """What `seconds` that are not positive mean: a quota that is never renewed, a rate that is none."""

    @classmethod
    def of(cls, most: float | None, seconds: float | None, other: Self) -> Self:
        """What is not given is as in the other."""
        given = other.most if most is None else most, other.seconds if seconds is None else seconds
        return cls(*given, other.unset)

    @property
    def period(self) -> float:
        return self.seconds if self.seconds > 0 else self.unset

    def is_within(self, other: Self) -> bool:
        """Whether it never admits more than the other does in any period of the other's."""
        if other.most <= 0 or other.period == 0:
            return True
        if self.most <= 0 or self.period == 0:
            return False
        return self.most * self._periods_in(other.period) <= other.most

    def _periods_in(self, seconds: float) -> float:
        if self.period == math.inf:
            return 1
        return math.inf if seconds == math.inf else math.ceil(seconds / self.period)
