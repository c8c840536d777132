"""Sessions in `key_rules`. A field that would restrict a token but is not supported is refused by name."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from contracts.clients import Client
from contracts.policies import Policy
from libs.oauth.errors import InvalidRequest
from libs.policies import KeyRules
from services.authorization.key_rules import MAX_APPLIED, GrantRules, parse_key_rules, require_narrower
from tests.unit.test_policies import ISSUING, OTHER, a_policy, an_api

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)

DOCUMENTED: dict[str, Any] = {
    "alias": "john",
    "last_check": 1399567002,
    "allowance": 1000,
    "rate": 1000,
    "per": 60,
    "throttle_interval": -1,
    "throttle_retry_limit": -1,
    "max_query_depth": -1,
    "date_created": "2026-03-13T03:56:46.568042549Z",
    "expires": 0,
    "quota_max": -1,
    "quota_renews": 1406121006,
    "quota_remaining": 5,
    "quota_renewal_rate": 60,
    "access_rights": {
        ISSUING: {
            "api_name": "Orders",
            "api_id": ISSUING,
            "versions": ["Default"],
            "allowed_urls": None,
            "restricted_types": [],
            "allowed_types": None,
            "disable_introspection": False,
            "limit": {
                "rate": 0,
                "per": 0,
                "throttle_interval": -1,
                "throttle_retry_limit": -1,
                "max_query_depth": -1,
                "quota_max": -1,
                "quota_renews": 0,
                "quota_remaining": 0,
                "quota_renewal_rate": -1,
            },
            "field_access_rights": [],
            "allowance_scope": "",
        }
    },
    "org_id": "53ac07777cbb8c2d53000002",
    "oauth_client_id": "",
    "oauth_keys": None,
    "certificate": "",
    "basic_auth_data": {"password": "", "hash_type": ""},
    "jwt_data": {"secret": ""},
    "hmac_enabled": False,
    "hmac_string": "",
    "enable_http_signature_validation": False,
    "is_inactive": False,
    "apply_policy_id": "",
    "apply_policies": None,
    "data_expires": 0,
    "monitor": {"trigger_limits": None},
    "enable_detailed_recording": False,
    "meta_data": {"tier": "gold"},
    "tags": ["gold"],
    "last_updated": "1399567002",
    "session_lifetime": 0,
    "smoothing": {"enabled": False, "threshold": 5},
}
"""A session as Tyk's gateway writes it, with every field."""


def parsed(**session: Any) -> GrantRules:
    """The rules of this session."""
    return parse_key_rules(json.dumps(session))


def refusal(text: str) -> str:
    """Why the session is refused."""
    with pytest.raises(InvalidRequest) as caught:
        parse_key_rules(text)
    return caught.value.description


def test_c1_a_session_as_tyk_writes_it_is_taken() -> None:
    """A complete Tyk session is accepted; supported fields are kept."""
    kept = parsed(**DOCUMENTED)
    assert set(kept.stored) == {"rate", "per", "quota_max", "quota_renewal_rate", "access_rights", "meta_data", "tags"}
    assert kept.stored["access_rights"] == {ISSUING: {"api_id": ISSUING, "api_name": "Orders", "versions": ["Default"]}}
    assert KeyRules.model_validate(kept.stored) == kept.rules
    assert kept.expires_at is None


@pytest.mark.parametrize(
    ("session", "named"),
    [
        ({"hmac_enabled": True}, "hmac_enabled"),
        ({"certificate": "abc"}, "certificate"),
        ({"basic_auth_data": {"password": "x"}}, "basic_auth_data"),
        ({"jwt_data": {"secret": "x"}}, "jwt_data"),
        ({"oauth_keys": {"a": "b"}}, "oauth_keys"),
        ({"throttle_interval": 1}, "throttle_interval"),
        ({"throttle_retry_limit": 3}, "throttle_retry_limit"),
        ({"max_query_depth": 2}, "max_query_depth"),
        ({"session_lifetime": 60}, "session_lifetime"),
        ({"data_expires": 60}, "data_expires"),
        ({"monitor": {"trigger_limits": [80]}}, "monitor"),
        ({"smoothing": {"enabled": True}}, "smoothing"),
        ({"enable_http_signature_validation": True}, "enable_http_signature_validation"),
        ({"mtls_static_certificate_bindings": ["a"]}, "mtls_static_certificate_bindings"),
        ({"Is_Inactive": True}, "Is_Inactive"),
        ({"apply_policy": "p"}, "apply_policy"),
        ({"policies": ["p"]}, "policies"),
        ({"session_lifetime": -1}, "session_lifetime"),
        ({"x": [[{"y": 1}]]}, "x"),
    ],
)
def test_c1_a_field_that_is_not_supported_is_refused_by_name(session: dict[str, Any], named: str) -> None:
    """The refusal names the field and what to do."""
    assert refusal(json.dumps(session)) == f"key_rules: {named} is not supported; leave it out"


@pytest.mark.parametrize(
    ("right", "named"),
    [
        ({"limit": {"rate": 5, "per": 1}}, "limit.rate"),
        ({"limit": {"quota_max": 5}}, "limit.quota_max"),
        ({"limit": {"throttle_interval": 1}}, "limit.throttle_interval"),
        ({"limit": {"smoothing": {"enabled": True}}}, "limit.smoothing"),
        ({"limit": 5}, "limit"),
        ({"endpoints": [{"path": "/a"}]}, "endpoints"),
        ({"restricted_types": [{"name": "Query", "fields": ["a"]}]}, "restricted_types"),
        ({"field_access_rights": [{"field_name": "a", "limits": {"max_query_depth": 1}}]}, "field_access_rights"),
        ({"disable_introspection": True}, "disable_introspection"),
        ({"allowance_scope": "x"}, "allowance_scope"),
        ({"allowed_urls": [{"url": "/a", "method": ["GET"]}]}, "allowed_urls.0.method"),
        ({"allowed_urls": [{"url": "/a"}, {"url": "/b", "headers": ["a"]}]}, "allowed_urls.1.headers"),
        ({"api_id": OTHER}, "api_id"),
    ],
)
def test_c1_inside_an_access_right_it_is_refused_by_its_path(right: dict[str, Any], named: str) -> None:
    """The refusal has the path: a misspelled `methods`, for instance, would allow every method."""
    said = refusal(json.dumps({"access_rights": {ISSUING: right}}))
    assert said.startswith(f"key_rules: access_rights.{ISSUING}.{named}")


@pytest.mark.parametrize("value", [None, "", 0, 0.0, False, [], {}, [None], {"a": {"b": [0, ""]}}])
def test_c1_fields_without_effect_are_accepted(value: Any) -> None:
    """A field without effect is accepted, whatever its name."""
    assert parsed(hmac_enabled=value, unheard_of=value).stored == {}


def test_c1_nesting_to_the_limit_costs_no_stack() -> None:
    """Deep nesting does not exhaust the stack."""
    assert parse_key_rules('{"unheard_of":' + '[{"a":' * 200 + "0" + "}]" * 200 + "}").stored == {}
    assert refusal('{"a":' + "[" * 1020 + "1" + "]" * 1020 + "}").startswith("key_rules")


@pytest.mark.parametrize(
    ("session", "applied"),
    [
        ({}, ()),
        ({"apply_policies": []}, ()),
        ({"apply_policies": ["b", "a", "b"]}, ("b", "a")),
        ({"apply_policy_id": "a"}, ("a",)),
        ({"apply_policy_id": "a", "apply_policies": []}, ("a",)),
        ({"apply_policy_id": "a", "apply_policies": ["b", "a"]}, ("b", "a")),
        ({"apply_policy_id": "", "apply_policies": ["b"]}, ("b",)),
    ],
)
def test_c1_both_spellings_apply_policies(session: dict[str, Any], applied: tuple[str, ...]) -> None:
    """`apply_policies`, or else `apply_policy_id`."""
    assert parsed(**session).rules.apply_policies == applied


@pytest.mark.parametrize(
    "session",
    [
        {"apply_policies": "a"},
        {"apply_policies": [1]},
        {"apply_policies": [None]},
        {"apply_policies": [""]},
        {"apply_policies": {"a": 1}},
        {"apply_policy_id": 1},
        {"apply_policy_id": ["a"]},
        {"apply_policy_id": "a b"},
        {"apply_policy_id": "a", "apply_policies": ["b"]},
        {"apply_policies": [f"p{number}" for number in range(MAX_APPLIED + 1)]},
        {"is_inactive": "perhaps"},
        {"expires": -2},
        {"expires": 1.5},
        {"expires": "soon"},
    ],
)
def test_c1_malformed_rules_are_refused_by_name(session: dict[str, Any]) -> None:
    """Malformed values are refused by name, never read as empty."""
    assert any(name in refusal(json.dumps(session)) for name in session)


@pytest.mark.parametrize(
    "text",
    ['{"apply_policies": ["a"], "apply_policies": []}', '{"access_rights": {"a": {"api_id": "a", "api_id": "a"}}}'],
)
def test_c1_a_repeated_name_is_refused(text: str) -> None:
    """A repeated name is refused."""
    assert refusal(text).endswith("is repeated")


# Against the client's policies


def narrower(rules: dict[str, Any], applied: list[Policy | None], of_client: list[Policy] | None = None) -> None:
    """Whether the rules narrow what a client with these policies has."""
    client = Client(
        client_id="app",
        api_id=ISSUING,
        policy_ids=tuple(policy.policy_id for policy in of_client or ()),
        created_at=NOW,
        updated_at=NOW,
    )
    api = an_api().model_copy(update={"org_id": "ours"})
    require_narrower(parsed(**rules).rules, api, client, of_client or [], applied, NOW)


@pytest.mark.parametrize("with_policy", [False, True])
def test_c1_unknown_and_foreign_policies_are_named(with_policy: bool) -> None:
    """Unknown policies, and those of another organisation if both name one, are refused by name."""
    of_client = [a_policy(ISSUING)] if with_policy else None
    for org_id in ("", "ours"):
        narrower({"apply_policies": ["p"]}, [a_policy(ISSUING, org_id=org_id)], of_client)
    for lost, reason in ((None, "no policy"), (a_policy(ISSUING, org_id="theirs"), "organisation")):
        with pytest.raises(InvalidRequest, match=f"'q'.*{reason}"):
            narrower({"apply_policies": ["p", "q"]}, [a_policy(ISSUING), lost], of_client)


def test_c1_without_a_policy_of_the_client_the_issuing_api_must_be_granted() -> None:
    """Without client policies the applied ones must grant the issuing API; with them the intersection decides."""
    useless = [a_policy(OTHER), a_policy(ISSUING, active=False), a_policy(ISSUING, partitions={"quota": True})]
    for policy in useless:
        with pytest.raises(InvalidRequest, match=r"'p'.*does not grant this API"):
            narrower({"apply_policies": ["p"]}, [policy])
        narrower({"apply_policies": ["p"]}, [policy], [a_policy(ISSUING)])
    narrower({"apply_policies": ["p", "q"]}, [useless[0], a_policy(ISSUING)])


def test_c1_an_end_in_the_past_is_refused() -> None:
    """An `expires` in the past is refused, with its unit."""
    with pytest.raises(InvalidRequest, match=r"expires is in the past.*Unix seconds"):
        narrower({"expires": int(NOW.timestamp())}, [])
    later = int(NOW.timestamp()) + 1
    narrower({"expires": later}, [])
    assert parsed(expires=later).expires_at == datetime.fromtimestamp(later, UTC)
    assert parsed(expires=2**62).expires_at is None
