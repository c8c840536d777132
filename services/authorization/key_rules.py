"""`key_rules`: a Tyk session with which the identity server narrows one grant; it can never widen what policies allow.

An unsupported field that would restrict the token is refused: if it were ignored, the token would allow more than the
identity server intended (docs/adr/0023).
"""

import json
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import orjson
from pydantic import ValidationError

from contracts.apis import Api
from contracts.clients import Client
from contracts.policies import Policy
from libs.allowances import Allowance, quota_allowance, rate_allowance
from libs.http.error_responses import first_fault
from libs.oauth.errors import AccessDenied, InvalidRequest
from libs.policies import KeyRules, first_unusable, grants

MAX_EXPRESSIONS = 64
"""Maximum number of regular expressions (`allowed_urls`) in one session."""
LONGEST_EXPRESSION = 512
LONGEST_EXPRESSIONS = 8192
"""Maximum total length of all of them, in characters."""
MAX_APPLIED = 32
"""Maximum number of policies in `apply_policies`."""
_LEVELS_ABOVE = 16
"""Nesting levels kept free for the documents and events that contain the rules."""
_LONGEST_NAME = 64
"""Characters of a field's name that an error message repeats."""
_LAST_END = 10**11
"""Unix seconds (the year 5138). A later `expires` means that the grant does not expire by it."""
_POLICY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")

_APPLY_ONE = "apply_policy_id"
_SUPPORTED = frozenset(KeyRules.model_fields) | {_APPLY_ONE}
_DESCRIPTIVE = frozenset(
    {
        "alias",
        "allowance",
        "date_created",
        "hmac_string",
        "last_check",
        "last_updated",
        "oauth_client_id",
        "org_id",
        "quota_remaining",
        "quota_renews",
    }
)
"""Fields of Tyk's session that restrict nothing: descriptions, and values that Tyk itself overwrites."""
_RIGHT_SUPPORTED = frozenset({"api_id", "api_name", "versions", "allowed_urls"})
_URL_SUPPORTED = frozenset({"url", "methods"})
_LIMIT_DESCRIPTIVE = frozenset({"per", "quota_remaining", "quota_renewal_rate", "quota_renews", "set_by_policy"})
_UNLIMITED_AT_MINUS_ONE = frozenset({"max_query_depth", "throttle_interval", "throttle_retry_limit"})
_OF_POLICIES = frozenset({"rate", "quota_max", "endpoints"})
"""Restrictions that a policy can have, and `key_rules` cannot."""
_LIMITS = frozenset({"rate", "quota_max"}) | _UNLIMITED_AT_MINUS_ONE


@dataclass(frozen=True, slots=True)
class GrantRules:
    """The parsed rules of one grant."""

    rules: KeyRules
    stored: dict[str, Any]
    """The JSON object that is stored with the grant."""

    @property
    def expires_at(self) -> datetime | None:
        """The latest end of the grant; None if the rules set none."""
        return datetime.fromtimestamp(self.rules.expires, UTC) if 0 < self.rules.expires < _LAST_END else None


def parse_key_rules(text: str) -> GrantRules:
    """The rules in the JSON text of the request. Takes up to tens of milliseconds, so it is called in a thread.

    Raises InvalidRequest for text that is not a session, and for an unsupported field that would restrict the token.
    """
    rules = _parsed(text)
    if len(rules.apply_policies) > MAX_APPLIED:
        raise InvalidRequest(f"key_rules: apply_policies names over {MAX_APPLIED} policies; combine them")
    _check_expressions(rules)
    return GrantRules(rules, _kept(rules))


def require_narrower(
    rules: KeyRules,
    api: Api,
    client: Client,
    of_client: Sequence[Policy | None],
    applied: Sequence[Policy | None],
    now: datetime,
) -> None:
    """Return if the rules allow no more than the client's policies do. `api` is the one that issues the code.

    `of_client` and `applied` are the policies of the client and of `apply_policies`, with None for one that does not
    exist. Raises InvalidRequest for rules under which no token would work, AccessDenied for rules that widen access.
    """
    if 0 < rules.expires <= now.timestamp():
        raise InvalidRequest("key_rules: expires is in the past; send a later time in Unix seconds, or leave it out")
    _check_applied(rules.apply_policies, applied, api, needs_api=not client.policy_ids)
    sets = [[policy for policy in policies if policy] for policies in (of_client, applied) if policies]
    _check_apis(rules, api.api_id, sets)
    for policies in filter(None, sets):
        _check_limits(rules, policies)


def _check_applied(policy_ids: Sequence[str], applied: Sequence[Policy | None], api: Api, *, needs_api: bool) -> None:
    """Return if every policy exists and belongs to the API's organisation, and one grants the API if `needs_api`.

    Raises InvalidRequest.
    """
    for policy_id, policy in zip(policy_ids, applied, strict=True):
        if policy is None:
            raise InvalidRequest(f"key_rules: apply_policies names '{policy_id}', and there is no policy of that id")
        if policy.org_id and api.org_id and policy.org_id != api.org_id:
            raise InvalidRequest(
                f"key_rules: apply_policies names '{policy_id}', which is a policy of another organisation (org_id)"
            )
    granting = any(policy and policy.active and grants(policy, api.api_id) for policy in applied)
    if needs_api and applied and not granting:
        named = "', '".join(policy_ids)
        raise InvalidRequest(
            f"key_rules: the client has no policy, and apply_policies ('{named}') does not grant this API; "
            "name an active policy that does"
        )


def _check_apis(rules: KeyRules, api_id: str, sets: Sequence[Sequence[Policy]]) -> None:
    """Return if every set of policies grants all APIs that the rules name. Raises AccessDenied."""
    granted = [{granted_id for policy in policies for granted_id in policy.access_rights} for policies in sets]
    for named in rules.access_rights or {}:
        if not (all(named in each for each in granted) if granted else named == api_id):
            raise AccessDenied(
                f"key_rules: access_rights.{named}: the policies of the client or of apply_policies do "
                "not grant this API"
            )


def _check_expressions(rules: KeyRules) -> None:
    """Return if the regular expressions are within the limits and usable. Raises InvalidRequest."""
    rights = (rules.access_rights or {}).values()
    expressions = [allowed.url for right in rights for allowed in right.allowed_urls]
    if len(expressions) > MAX_EXPRESSIONS:
        raise InvalidRequest(f"key_rules: there are over {MAX_EXPRESSIONS} allowed_urls; combine them, or use a policy")
    if any(len(expression) > LONGEST_EXPRESSION for expression in expressions):
        raise InvalidRequest(f"key_rules: an expression in allowed_urls is over {LONGEST_EXPRESSION} characters")
    if sum(map(len, expressions)) > LONGEST_EXPRESSIONS:
        raise InvalidRequest(f"key_rules: the expressions in allowed_urls have over {LONGEST_EXPRESSIONS} characters")
    if fault := first_unusable(rights):
        raise InvalidRequest(f"key_rules: {fault}")


def _parsed(text: str) -> KeyRules:
    try:
        session = orjson.loads(text)  # stricter than json: refuses lone surrogates and NaN
        json.loads(text, object_pairs_hook=_without_repetition)
        if not isinstance(session, dict):
            raise InvalidRequest("key_rules must be a JSON object")
        return KeyRules.model_validate(_supported(session))
    except (json.JSONDecodeError, RecursionError) as error:
        raise InvalidRequest("key_rules is not JSON, or is nested too deep") from error
    except ValidationError as error:
        raise InvalidRequest(f"key_rules: {first_fault(error)}") from error


def _without_repetition(members: list[tuple[str, object]]) -> None:
    """Raises InvalidRequest if a name is repeated: which value counts would depend on the JSON parser."""
    names = set()
    for name, _ in members:
        if name in names:
            raise InvalidRequest(f"key_rules: {name[:_LONGEST_NAME]} is repeated")
        names.add(name)


def _supported(session: object) -> dict[str, Any]:
    """The supported fields of the session, without nulls. Raises InvalidRequest if another field has an effect."""
    if not isinstance(session, dict):
        raise InvalidRequest("key_rules is not a JSON object")
    _refuse_unsupported(session, _SUPPORTED | _DESCRIPTIVE, "")
    said = {name: value for name, value in session.items() if name in _SUPPORTED and value is not None}
    said["apply_policies"] = _applied(said.pop(_APPLY_ONE, ""), said.get("apply_policies", []))
    rights = said.get("access_rights")
    if isinstance(rights, dict):
        said["access_rights"] = {api_id: _right(api_id, right) for api_id, right in rights.items()}
    return said


def _applied(one: object, several: object) -> object:
    """The ids in `apply_policies`, each once; without any, the one in `apply_policy_id`. Raises InvalidRequest."""
    if one != "" and not (isinstance(one, str) and _POLICY_ID.fullmatch(one)):
        raise InvalidRequest(f"key_rules: {_APPLY_ONE} is not the id of a policy")
    if not isinstance(several, list) or not all(isinstance(each, str) for each in several):
        raise InvalidRequest("key_rules: apply_policies is not a list of the ids of policies")
    if not several:
        return [one] if one else []
    if one and one not in several:
        raise InvalidRequest(f"key_rules: {_APPLY_ONE} and apply_policies name different policies; send one of the two")
    return list(dict.fromkeys(several))


def _right(api_id: str, right: object) -> object:
    """The supported fields of one entry of `access_rights`. Raises InvalidRequest."""
    if not isinstance(right, dict):
        return right
    path = f"access_rights.{api_id[:_LONGEST_NAME]}"
    limit, urls = right.get("limit"), right.get("allowed_urls")
    _refuse_unsupported(right, _RIGHT_SUPPORTED | {"limit"}, f"{path}.")
    if isinstance(limit, dict):
        _refuse_unsupported(limit, _LIMIT_DESCRIPTIVE, f"{path}.limit.", _LIMITS)
    elif not _has_no_effect(limit):
        raise InvalidRequest(f"key_rules: {path}.limit is not an object")
    for number, url in enumerate(urls if isinstance(urls, list) else ()):
        if isinstance(url, dict):
            _refuse_unsupported(url, _URL_SUPPORTED, f"{path}.allowed_urls.{number}.")
    said = {name: value for name, value in right.items() if name in _RIGHT_SUPPORTED and value is not None}
    if said.setdefault("api_id", api_id) != api_id:
        raise InvalidRequest(f"key_rules: {path}.api_id: differs from the API id that it is listed under")
    return said


def _refuse_unsupported(
    fields: dict[str, Any],
    accepted: Collection[str],
    path: str,
    unlimited_at_minus_one: Collection[str] = _UNLIMITED_AT_MINUS_ONE,
) -> None:
    """Return if no other field has an effect. Raises InvalidRequest that names the first one that has."""
    for name, value in fields.items():
        if name in accepted or _has_no_effect(value) or (name in unlimited_at_minus_one and value == -1):
            continue
        remedy = "name a policy with this limit in apply_policies" if name in _OF_POLICIES else "leave it out"
        raise InvalidRequest(f"key_rules: {path}{name[:_LONGEST_NAME]} is not supported; {remedy}")


def _has_no_effect(value: object) -> bool:
    """Whether the value is null, false, zero or empty, contains only such values, or has `enabled: false`."""
    values = [value]
    while values:
        each = values.pop()
        if isinstance(each, dict):
            values += () if each.get("enabled") is False else each.values()
        elif isinstance(each, list):
            values += each
        elif each:
            return False
    return True


def _kept(rules: KeyRules) -> dict[str, Any]:
    """The JSON object to store with the grant. Raises InvalidRequest if it is nested too deep to be stored."""
    try:
        kept: dict[str, Any] = rules.model_dump(mode="json", exclude_defaults=True)
        document: dict[str, Any] = kept
        for _ in range(_LEVELS_ABOVE):
            document = {"": document}
        orjson.dumps(document)
    except (ValueError, orjson.JSONEncodeError) as error:
        raise InvalidRequest("key_rules are nested too deep") from error
    return kept


def _check_limits(rules: KeyRules, policies: Sequence[Policy]) -> None:
    """Return if each limit is at least as strict as the limit of one of the policies. Raises AccessDenied."""
    if rules.rate is not None or rules.per is not None:
        rates = [rate_allowance(policy.rate, policy.per) for policy in policies]
        if not any(_is_within(rules.rate, rules.per, allowed) for allowed in rates):
            raise AccessDenied("key_rules widen the rate limit")
    if rules.quota_max is not None or rules.quota_renewal_rate is not None:
        quotas = [quota_allowance(policy.quota_max, policy.quota_renewal_rate) for policy in policies]
        if not any(_is_within(rules.quota_max, rules.quota_renewal_rate, allowed) for allowed in quotas):
            raise AccessDenied("key_rules widen the quota")


def _is_within(most: float | None, seconds: float | None, allowed: Allowance) -> bool:
    """Whether these calls per seconds are within the allowance; None stands for the allowance's own value."""
    given = replace(
        allowed,
        most=allowed.most if most is None else most,
        seconds=allowed.seconds if seconds is None else seconds,
    )
    return given.is_within(allowed)
