"""What policies open together: Tyk's combination, narrowed by key_rules and never widened."""

import math
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from contracts.apis import Api, DefinitionFormat, Versioning
from contracts.limits import Limits
from contracts.policies import Policy
from libs.policies import ApiAccess, KeyRules, access_on, compiled, first_unusable, quota_allowance, rate_allowance

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ISSUING, ACCEPTING, OTHER = "issuing", "accepting", "other"
METHODS = ("GET", "POST", "DELETE")
PATHS = ("/issuing/a", "/issuing/b", "/issuing/a/b")


def an_api(api_id: str = ISSUING, **fields: Any) -> Api:
    """An API of this id."""
    known = {"listen_path": f"/{api_id}/", "upstream_url": "http://up.example.test/", "format": DefinitionFormat.OAS}
    own = {"name": api_id, "definition": SecretStr("{}"), "created_at": NOW, "updated_at": NOW, **fields}
    return Api(api_id=api_id, **known, **own)


def a_policy(*api_ids: str, **fields: Any) -> Policy:
    """A policy that grants these APIs, or what `rights` says of them."""
    rights = fields.pop("rights", {})
    granted = {api_id: {"api_id": api_id, **rights.get(api_id, {})} for api_id in {*api_ids, *rights}}
    return Policy(policy_id="p", access_rights=granted, created_at=NOW, updated_at=NOW, **fields)  # type: ignore[arg-type]


def opened(*policies: Policy, api: Api | None = None, rules: dict[str, Any] | None = None, **client: Any) -> ApiAccess:
    """What these open on the issuing API."""
    access = may(*policies, api=api, rules=rules, **client)
    assert access is not None
    return access


def may(
    *policies: Policy, api: Api | None = None, rules: dict[str, Any] | None = None, **client: Any
) -> ApiAccess | None:
    """The same, or None."""
    parsed = None if rules is None else KeyRules.model_validate(rules)
    return access_on(api or an_api(), ISSUING, policies or None, parsed, client)


# Which APIs


def test_without_a_policy_the_issuing_api_alone_is_open_and_without_limit() -> None:
    """product.md section 5."""
    assert opened() == ApiAccess()
    assert may(api=an_api(ACCEPTING, auth_token=True)) is None


def test_a_policy_opens_what_any_of_them_names() -> None:
    """Access rights are a union; empty ones grant nothing."""
    accepting = an_api(ACCEPTING, auth_token=True)
    assert may(a_policy(ISSUING), a_policy(ACCEPTING), api=accepting) is not None
    assert may(a_policy(ISSUING), a_policy(ACCEPTING)) is not None
    assert may(a_policy(ISSUING), api=accepting) is None
    assert may(a_policy()) is None


def test_an_api_that_issues_takes_no_other_apis_tokens() -> None:
    """Only the Auth Token method does, whatever the policy says."""
    assert may(a_policy(ISSUING, OTHER), api=an_api(OTHER)) is None


def test_a_policy_that_is_partitioned_grants_only_with_its_acl_part() -> None:
    """The other parts of it count all the same."""
    limits = a_policy(ISSUING, rate=5, per=1, partitions={"rate_limit": True})
    assert may(limits) is None
    both = opened(limits, a_policy(ISSUING, rate=9, per=1, partitions={"acl": True}))
    assert (both.limits.rate, both.limits.per) == (5, 1)


def test_a_rate_that_is_next_to_nothing_is_one_request_in_a_very_long_time() -> None:
    """Seconds that a number can say."""
    limits = opened(a_policy(ISSUING, rate=1e-320, per=60)).limits
    assert (limits.rate, limits.per) == (1, 2.0**63)


# URLs and versions


@pytest.mark.parametrize(
    ("urls", "method", "path", "allowed"),
    [
        pytest.param([], "PATCH", "/issuing/x", True, id="none-is-all"),
        pytest.param([("/issuing/a", ["GET"])], "GET", "/issuing/a", True, id="named"),
        pytest.param([("/issuing/a", ["GET"])], "POST", "/issuing/a", False, id="other-method"),
        pytest.param([("/issuing/a", ["GET"])], "get", "/issuing/a", False, id="case-of-the-method"),
        pytest.param([("/issuing/a", ["GET"])], "GET", "/issuing/b", False, id="other-path"),
        pytest.param([("/a", ["GET"])], "GET", "/issuing/a/b", True, id="unanchored"),
        pytest.param([("^/a", ["GET"])], "GET", "/issuing/a", False, id="anchored-at-the-listen-path"),
        pytest.param([("^/issuing/a$", ["GET"])], "GET", "/issuing/a/b", False, id="anchored-at-the-end"),
        pytest.param([("/issuing/a", [])], "PATCH", "/issuing/a", True, id="every-method"),
        pytest.param([("/a", ["GET"]), ("/b", ["POST"])], "POST", "/issuing/b", True, id="the-second"),
        pytest.param([("/a", ["GET"]), ("/b", ["POST"])], "GET", "/issuing/b", False, id="not-mixed"),
    ],
)
def test_a_url_is_allowed_with_its_methods(urls: list[Any], method: str, path: str, allowed: bool) -> None:
    """tyk-compat.md section 6: a regular expression found in the full path, and exact methods."""
    right = {"allowed_urls": [{"url": url, "methods": methods} for url, methods in urls]}
    assert opened(a_policy(rights={ISSUING: right})).allows(method, [path]) is allowed


def test_every_reading_of_a_path_must_be_allowed() -> None:
    """Otherwise an encoded path would lead past the rule."""
    access = opened(a_policy(rights={ISSUING: {"allowed_urls": [{"url": "^/issuing/a"}]}}))
    assert access.allows("GET", ["/issuing/a", "/issuing/a/"])
    assert not access.allows("GET", ["/issuing/a/../b", "/issuing/b"])


def test_the_urls_of_all_policies_are_open() -> None:
    """A union, as in Tyk: a policy without any adds none."""
    first = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/a", "methods": ["GET"]}]}})
    second = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/b", "methods": ["POST"]}]}})
    both = opened(first, second, a_policy(ISSUING))
    assert both.allows("GET", ["/issuing/a"])
    assert both.allows("POST", ["/issuing/b"])
    assert not both.allows("DELETE", ["/issuing/c"])


@pytest.mark.parametrize("url", ["(", "a{2000}", "[", "(?<=a)b", "\\1"])
def test_an_expression_that_cannot_be_matched_is_named(url: str) -> None:
    """RE2's syntax, in which no expression takes more than linear time."""
    with pytest.raises(ValueError, match="is no regular expression of RE2"):
        compiled(url)
    right = a_policy(rights={ISSUING: {"allowed_urls": [{"url": url}]}}).access_rights[ISSUING]
    assert str(first_unusable([right])).startswith("access_rights.issuing.allowed_urls: '")
    access = opened(a_policy(rights={ISSUING: {"allowed_urls": [{"url": url}]}}))
    assert not access.allows("GET", ["/issuing/a"]), "what was stored before it was checked opens nothing"


def test_the_version_must_be_listed_where_the_api_has_versions() -> None:
    """And nowhere else."""
    policy = a_policy(rights={ISSUING: {"versions": ["v1"]}})
    versioned = an_api(versioning=Versioning(location="header", key="x-api-version", default="v2"))
    access = opened(policy, api=versioned)
    assert access.allows_version("v1")
    assert not access.allows_version("v2")
    assert opened(policy).allows_version("anything")
    both = opened(policy, a_policy(rights={ISSUING: {"versions": ["v2"]}}), api=versioned)
    assert both.allows_version("v2")


# Limits


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        pytest.param([{}], Limits(), id="unsaid-is-unlimited"),
        pytest.param([{"rate": 10, "per": 60}], Limits(rate=10, per=60), id="one"),
        pytest.param([{"rate": 10, "per": 60}, {"rate": 1, "per": 1}], Limits(rate=1, per=1), id="highest-pace"),
        pytest.param([{"rate": 10, "per": 60}, {}], Limits(rate=10, per=60), id="unsaid-says-nothing"),
        pytest.param([{"rate": 10, "per": 60}, {"rate": -1, "per": 1}], Limits(), id="minus-one-is-highest"),
        pytest.param([{"rate": 0.5, "per": 1}], Limits(rate=1, per=2), id="half-a-request"),
        pytest.param([{"rate": 2.7, "per": 1}], Limits(rate=2, per=1), id="whole-requests"),
        pytest.param(
            [{"quota_max": 5, "quota_renewal_rate": 60}, {"quota_max": 6, "quota_renewal_rate": 60}],
            Limits(quota_max=6, quota_renewal_rate=60),
            id="highest-quota",
        ),
        pytest.param([{"quota_max": 5}], Limits(quota_max=5, quota_renewal_rate=0), id="never-renewed"),
        pytest.param([{"quota_max": 5}, {"quota_max": -1}], Limits(), id="quota-unlimited"),
        pytest.param(
            [{"rate": 9, "per": 1, "partitions": {"quota": True, "acl": True}, "quota_max": 3}],
            Limits(quota_max=3),
            id="only-the-parts-that-are-set",
        ),
        pytest.param([{"rate": 9, "per": 1}, {"quota_max": 3}], Limits(rate=9, per=1, quota_max=3), id="one-each"),
    ],
)
def test_the_highest_limits_count(policies: list[dict[str, Any]], expected: Limits) -> None:
    """Tyk's rule, for rate and quota apart."""
    access = opened(*(a_policy(ISSUING, **fields) for fields in policies))
    assert (access.limits, access.own_limits) == (expected, False)


def test_an_apis_own_limit_stands_in_place_of_the_common_one() -> None:
    """Counted apart; what it leaves unsaid is as in the whole policy."""
    right = {"limit": {"rate": 5, "per": 1, "throttle_interval": -1}}
    access = opened(a_policy(rights={ISSUING: right}, rate=100, per=1, quota_max=7))
    assert (access.limits, access.own_limits) == (Limits(rate=5, per=1, quota_max=7), True)
    accepting = an_api(ACCEPTING, auth_token=True)
    other = opened(a_policy(ACCEPTING, rights={ISSUING: right}, rate=100, per=1), api=accepting)
    assert (other.limits, other.own_limits) == (Limits(rate=100, per=1), False)


def test_per_api_counts_each_api_apart() -> None:
    """The partition, with the policy's own numbers."""
    access = opened(a_policy(ISSUING, rate=100, per=1, partitions={"per_api": True}))
    assert (access.limits, access.own_limits) == (Limits(rate=100, per=1), True)


# Metadata, inactivity


def test_policies_overwrite_the_rules_which_overwrite_the_client() -> None:
    """tyk-compat.md section 3."""
    policy = a_policy(ISSUING, meta_data={"plan": "gold"})
    access = opened(
        policy,
        rules={"meta_data": {"plan": "rules", "user": "rules"}},
        plan="client",
        user="client",
        team="client",
    )
    assert access.meta_data == {"plan": "gold", "user": "rules", "team": "client"}


def test_one_inactive_policy_makes_the_grant_inactive() -> None:
    """As in Tyk."""
    assert opened(a_policy(ISSUING), a_policy(ISSUING, is_inactive=True)).inactive
    assert not opened(a_policy(ISSUING)).inactive


# key_rules


def test_rules_narrow_apis_urls_versions_and_limits() -> None:
    """Each of them; what they leave out stays."""
    policy = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/a"}, {"url": "/b"}]}}, rate=10, per=1, quota_max=9)
    narrow = {"access_rights": {ISSUING: {"api_id": ISSUING, "allowed_urls": [{"url": "/a", "methods": ["GET"]}]}}}
    access = opened(policy, rules={**narrow, "rate": 5, "per": 1})
    assert access.allows("GET", ["/issuing/a"])
    assert not access.allows("POST", ["/issuing/a"])
    assert not access.allows("GET", ["/issuing/b"])
    assert access.limits == Limits(rate=5, per=1, quota_max=9)
    assert may(policy, rules={"access_rights": {OTHER: {"api_id": OTHER}}}) is None
    assert may(policy, rules={"access_rights": {}}) is None


def test_rules_cannot_open_a_url_that_the_policies_do_not() -> None:
    """Both must allow it."""
    policy = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "^/issuing/a"}]}})
    access = opened(policy, rules={"access_rights": {ISSUING: {"api_id": ISSUING, "allowed_urls": [{"url": ".*"}]}}})
    assert not access.allows("GET", ["/issuing/b"])


def test_rules_that_became_wider_than_an_edited_policy_count_no_more() -> None:
    """The policy was tightened after the grant: its own limit counts."""
    access = opened(a_policy(ISSUING, rate=2, per=1, quota_max=3), rules={"rate": 5, "per": 1, "quota_max": 4})
    assert access.limits == Limits(rate=2, per=1, quota_max=3)


def test_rules_narrow_where_there_is_no_policy() -> None:
    """The issuing API, with a limit."""
    assert opened(rules={"rate": 5, "per": 1}).limits == Limits(rate=5, per=1)


# Properties

_rights = st.fixed_dictionaries(
    {
        "allowed_urls": st.lists(
            st.fixed_dictionaries(
                {
                    "url": st.sampled_from(["/a", "/b$", "^/issuing/a", ".*", "/nowhere"]),
                    "methods": st.lists(st.sampled_from(METHODS), max_size=2),
                }
            ),
            max_size=2,
        )
    }
)
_limit = st.fixed_dictionaries(
    {
        "rate": st.sampled_from([0, -1, 1, 5, 100]),
        "per": st.sampled_from([1, 10, 60]),
        "quota_max": st.sampled_from([0, -1, 1, 50]),
        "quota_renewal_rate": st.sampled_from([0, -1, 60, 3600]),
    }
)
_policies = st.builds(
    lambda granted, rights, limit: a_policy(**({"rights": {ISSUING: rights}} if granted else {}), **limit),
    st.booleans(),
    _rights,
    _limit,
)
_rules = st.builds(
    lambda rights, limit: {**({"access_rights": rights} if rights is not None else {}), **limit},
    st.none() | st.dictionaries(st.sampled_from([ISSUING, OTHER]), _rights.map(lambda r: {**r, "api_id": ISSUING})),
    _limit,
)


def calls(access: ApiAccess | None) -> set[tuple[str, str]]:
    """Which of some calls pass."""
    return {(method, path) for method in METHODS for path in PATHS if access and access.allows(method, [path])}


def widths(limits: Limits) -> tuple[float, float]:
    """Rate and quota in the long run."""
    rate, quota = rate_allowance(limits.rate, limits.per), quota_allowance(limits.quota_max, limits.quota_renewal_rate)
    return rate.pace, quota.most if not quota.is_unlimited else math.inf


@given(st.lists(_policies, min_size=1, max_size=4), st.randoms())
def test_the_order_of_policies_does_not_matter(policies: list[Policy], random: Any) -> None:
    """Neither does naming one twice."""
    shuffled = [*policies, policies[0]]
    random.shuffle(shuffled)
    first, second = may(*policies), may(*shuffled)
    assert (first is None) is (second is None)
    if first and second:
        assert calls(first) == calls(second)
        assert widths(first.limits)[0] == widths(second.limits)[0]
        assert first.own_limits is second.own_limits


@given(st.lists(_policies, min_size=1, max_size=3))
def test_a_limit_is_one_that_a_policy_says(policies: list[Policy]) -> None:
    """No rate comes out that nobody wrote, and none below the highest that somebody did."""
    access = may(*policies)
    if access is None:
        return
    said = [rate_allowance(policy.rate, policy.per).pace for policy in policies if policy.rate]
    assert widths(access.limits)[0] == max(said, default=math.inf)


@given(st.lists(_policies, max_size=3), _rules)
def test_rules_never_widen(policies: list[Policy], rules: dict[str, Any]) -> None:
    """Whatever they say: no call, no rate and no quota more than without them."""
    with_rules, without = may(*policies, rules=rules), may(*policies)
    assert calls(with_rules) <= calls(without)
    if with_rules and without:
        narrow, wide = with_rules.limits, without.limits
        assert rate_allowance(narrow.rate, narrow.per).is_within(rate_allowance(wide.rate, wide.per))
        assert quota_allowance(narrow.quota_max, narrow.quota_renewal_rate).is_within(
            quota_allowance(wide.quota_max, wide.quota_renewal_rate)
        )
