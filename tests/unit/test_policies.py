"""Combined policies: Tyk's rules, narrowed by key_rules and never widened."""

import math
from datetime import UTC, datetime
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from contracts.apis import Api, DefinitionFormat, Versioning
from contracts.limits import Limits
from contracts.policies import Policy
from libs.allowances import Allowance, quota_allowance, rate_allowance, strictest
from libs.policies import (
    ApiAccess,
    KeyRules,
    PolicySets,
    access_on,
    compiled,
    counted_under,
    counter_of,
    first_unusable,
)

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
    """A policy that grants these APIs, or these rights on them."""
    rights = fields.pop("rights", {})
    granted = {api_id: {"api_id": api_id, **rights.get(api_id, {})} for api_id in {*api_ids, *rights}}
    return Policy(policy_id="p", access_rights=granted, created_at=NOW, updated_at=NOW, **fields)


def opened(*policies: Policy, api: Api | None = None, rules: dict[str, Any] | None = None, **client: Any) -> ApiAccess:
    """The access that these policies give on the issuing API."""
    access = may(*policies, api=api, rules=rules, **client)
    assert access is not None
    return access


def may(
    *policies: Policy,
    api: Api | None = None,
    rules: dict[str, Any] | None = None,
    others: tuple[list[Policy], ...] = (),
    **client: Any,
) -> ApiAccess | None:
    """The same, or None."""
    parsed = None if rules is None else KeyRules.model_validate(rules)
    return access_on(api or an_api(), ISSUING, PolicySets(policies or None, others), parsed, client)


# APIs


def test_without_a_policy_the_issuing_api_alone_is_open_and_without_limit() -> None:
    """No access rights at all: the API that issued the token, without limits."""
    assert opened() == ApiAccess()
    assert may(api=an_api(ACCEPTING, auth_token=True)) is None


def test_a_policy_opens_what_any_of_them_names() -> None:
    """Access rights are a union; empty ones grant nothing."""
    accepting = an_api(ACCEPTING, auth_token=True)
    assert may(a_policy(ISSUING), a_policy(ACCEPTING), api=accepting) is not None
    assert may(a_policy(ISSUING), a_policy(ACCEPTING)) is not None
    assert may(a_policy(ISSUING), api=accepting) is None
    assert may(a_policy()) is None


def test_an_api_that_issues_tokens_accepts_no_other_api_s_tokens() -> None:
    """Only Auth Token APIs accept other APIs' tokens, whatever the policy says."""
    assert may(a_policy(ISSUING, OTHER), api=an_api(OTHER)) is None


def test_a_policy_that_is_partitioned_grants_only_with_its_acl_part() -> None:
    """A partitioned policy grants access only with its acl part; its other parts still apply."""
    limits = a_policy(ISSUING, rate=5, per=1, partitions={"rate_limit": True})
    assert may(limits) is None
    both = opened(limits, a_policy(ISSUING, rate=9, per=1, partitions={"acl": True}))
    assert (both.limits.rate, both.limits.per) == (5, 1)


def test_a_rate_that_is_next_to_nothing_is_one_request_in_a_very_long_time() -> None:
    """A tiny rate becomes one request in a very long, but representable, time."""
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
    """As in Tyk: a regular expression searched in the full path, and exact methods."""
    right = {"allowed_urls": [{"url": url, "methods": methods} for url, methods in urls]}
    assert opened(a_policy(rights={ISSUING: right})).allows(method, [path]) is allowed


def test_every_reading_of_a_path_must_be_allowed() -> None:
    """Every reading of a path must be allowed, so that encoding bypasses no rule."""
    access = opened(a_policy(rights={ISSUING: {"allowed_urls": [{"url": "^/issuing/a"}]}}))
    assert access.allows("GET", ["/issuing/a", "/issuing/a/"])
    assert not access.allows("GET", ["/issuing/a/../b", "/issuing/b"])


def test_the_urls_of_all_policies_are_open() -> None:
    """Allowed URLs are a union, as in Tyk; a policy without any adds none."""
    first = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/a", "methods": ["GET"]}]}})
    second = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/b", "methods": ["POST"]}]}})
    both = opened(first, second, a_policy(ISSUING))
    assert both.allows("GET", ["/issuing/a"])
    assert both.allows("POST", ["/issuing/b"])
    assert not both.allows("DELETE", ["/issuing/c"])


@pytest.mark.parametrize("url", ["(", "a{2000}", "[", "(?<=a)b", "\\1"])
def test_an_expression_that_cannot_be_matched_is_named(url: str) -> None:
    """An expression must be valid RE2, which matches in linear time."""
    with pytest.raises(ValueError, match="is not a valid RE2 regular expression"):
        compiled(url)
    right = a_policy(rights={ISSUING: {"allowed_urls": [{"url": url}]}}).access_rights[ISSUING]
    assert str(first_unusable([right])).startswith("access_rights.issuing.allowed_urls: '")
    access = opened(a_policy(rights={ISSUING: {"allowed_urls": [{"url": url}]}}))
    assert not access.allows("GET", ["/issuing/a"]), "what was stored before it was checked opens nothing"


def test_the_version_must_be_listed_where_the_api_has_versions() -> None:
    """The version must be listed if the API has versions."""
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
    """The highest rate and the highest quota apply, separately, as in Tyk."""
    access = opened(*(a_policy(ISSUING, **fields) for fields in policies))
    assert (access.limits, access.own_limits) == (expected, False)


def test_an_apis_own_limit_stands_in_place_of_the_common_one() -> None:
    """An API's own limit replaces the common one and is counted separately; missing parts are the policy's."""
    right = {"limit": {"rate": 5, "per": 1, "throttle_interval": -1}}
    access = opened(a_policy(rights={ISSUING: right}, rate=100, per=1, quota_max=7))
    assert (access.limits, access.own_limits) == (Limits(rate=5, per=1, quota_max=7), True)
    accepting = an_api(ACCEPTING, auth_token=True)
    other = opened(a_policy(ACCEPTING, rights={ISSUING: right}, rate=100, per=1), api=accepting)
    assert (other.limits, other.own_limits) == (Limits(rate=100, per=1), False)


def test_per_api_counts_each_api_apart() -> None:
    """per_api counts each API separately with the policy's numbers."""
    access = opened(a_policy(ISSUING, rate=100, per=1, partitions={"per_api": True}))
    assert (access.limits, access.own_limits) == (Limits(rate=100, per=1), True)


# Metadata and inactivity


def test_policies_overwrite_the_rules_which_overwrite_the_client() -> None:
    """Policies override rules, which override the client."""
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
    """One inactive policy makes the grant inactive, as in Tyk."""
    assert opened(a_policy(ISSUING), a_policy(ISSUING, is_inactive=True)).inactive
    assert not opened(a_policy(ISSUING)).inactive


# key_rules


def test_rules_narrow_apis_urls_versions_and_limits() -> None:
    """Rules narrow each of APIs, URLs, versions and limits; missing parts stay."""
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
    """A URL must be allowed by both rules and policies."""
    policy = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "^/issuing/a"}]}})
    access = opened(policy, rules={"access_rights": {ISSUING: {"api_id": ISSUING, "allowed_urls": [{"url": ".*"}]}}})
    assert not access.allows("GET", ["/issuing/b"])


def test_rules_that_became_wider_than_an_edited_policy_count_no_more() -> None:
    """If the policy was tightened since, its own limit applies."""
    access = opened(a_policy(ISSUING, rate=2, per=1, quota_max=3), rules={"rate": 5, "per": 1, "quota_max": 4})
    assert access.limits == Limits(rate=2, per=1, quota_max=3)


def test_rules_narrow_where_there_is_no_policy() -> None:
    """Without policies, rules narrow the issuing API."""
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
    """Which of some calls are allowed."""
    return {(method, path) for method in METHODS for path in PATHS if access and access.allows(method, [path])}


def widths(limits: Limits) -> tuple[float, float]:
    """Rate and quota in the long run."""
    rate, quota = rate_allowance(limits.rate, limits.per), quota_allowance(limits.quota_max, limits.quota_renewal_rate)
    return rate.pace, quota.most if not quota.is_unlimited else math.inf


@given(st.lists(_policies, min_size=1, max_size=4), st.randoms())
def test_the_order_of_policies_does_not_matter(policies: list[Policy], random: Any) -> None:
    """Order and repetition of policies do not matter."""
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
    """The resulting limit is one that a policy has, and the highest."""
    access = may(*policies)
    if access is None:
        return
    said = [rate_allowance(policy.rate, policy.per).pace for policy in policies if policy.rate]
    assert widths(access.limits)[0] == max(said, default=math.inf)


@given(st.lists(_policies, max_size=3), _rules)
def test_rules_never_widen(policies: list[Policy], rules: dict[str, Any]) -> None:
    """Rules never allow more calls, rate or quota."""
    with_rules, without = may(*policies, rules=rules), may(*policies)
    assert calls(with_rules) <= calls(without)
    if with_rules and without:
        narrow, wide = with_rules.limits, without.limits
        assert rate_allowance(narrow.rate, narrow.per).is_within(rate_allowance(wide.rate, wide.per))
        assert quota_allowance(narrow.quota_max, narrow.quota_renewal_rate).is_within(
            quota_allowance(wide.quota_max, wide.quota_renewal_rate)
        )


# Policies of client and user


def test_a6_a_user_without_the_api_opens_nothing() -> None:
    """An API must be granted by both, if both have policies."""
    elsewhere = [a_policy(OTHER)]
    assert may(a_policy(ISSUING), others=(elsewhere,)) is None
    assert may(others=(elsewhere,)) is None
    assert may(a_policy(OTHER), others=([a_policy(ISSUING)],)) is None


def test_a6_a_users_policies_define_the_rights_where_the_client_has_none() -> None:
    """Without client policies, the user's grant other APIs only together with the issuing one."""
    accepting = an_api(ACCEPTING, auth_token=True)
    assert may(api=accepting, others=([a_policy(ISSUING, ACCEPTING)],)) is not None
    assert may(api=accepting, others=([a_policy(ACCEPTING)],)) is None
    assert may(api=accepting, others=([a_policy(ISSUING, ACCEPTING)], [a_policy(ACCEPTING)])) is None
    limited = may(others=([a_policy(ISSUING, rate=5, per=1)],))
    assert limited is not None
    assert limited.limits == Limits(rate=5, per=1)


def test_a6_urls_and_versions_of_client_and_user_must_both_allow_a_call() -> None:
    """URLs and versions must be allowed by both."""
    api = an_api(versioning=Versioning(location="header", key="v", names=("v1", "v2", "v3")))
    client = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/a$"}, {"url": "/b$"}], "versions": ["v1", "v2"]}})
    user = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/(b|c)$"}], "versions": ["v2", "v3"]}})
    for access in (may(client, api=api, others=([user],)), may(user, api=api, others=([client],))):
        assert access is not None
        assert [access.allows("GET", [f"/issuing/{name}"]) for name in "abc"] == [False, True, False]
        assert [access.allows_version(version) for version in ("v1", "v2", "v3")] == [False, True, False]


@pytest.mark.parametrize(
    ("client", "user", "expected"),
    [
        pytest.param({"rate": 10, "per": 1}, {"rate": 5, "per": 1}, Limits(rate=5, per=1), id="rate"),
        pytest.param({"rate": 5, "per": 1}, {}, Limits(rate=5, per=1), id="user-without"),
        pytest.param({"rate": -1, "per": 1}, {"rate": 7, "per": 2}, Limits(rate=7, per=2), id="client-unlimited"),
        pytest.param({"rate": 10, "per": 1}, {"rate": 100, "per": 60}, Limits(rate=10, per=6), id="neither-is-within"),
        pytest.param({"rate": 5, "per": 1}, {"quota_max": 9}, Limits(rate=5, per=1, quota_max=9), id="one-of-each"),
        pytest.param(
            {"quota_max": 10, "quota_renewal_rate": 60},
            {"quota_max": 4, "quota_renewal_rate": 3600},
            Limits(quota_max=4, quota_renewal_rate=3600),
            id="quota",
        ),
        pytest.param(
            {"quota_max": 3, "quota_renewal_rate": 10},
            {"quota_max": 10, "quota_renewal_rate": 100},
            Limits(quota_max=3, quota_renewal_rate=34),
            id="quotas-neither-within",
        ),
    ],
)
def test_a6_the_stricter_limit_counts(client: dict[str, Any], user: dict[str, Any], expected: Limits) -> None:
    """The stricter limit applies; if neither is stricter, one within both."""
    for first, second in ((client, user), (user, client)):
        access = may(a_policy(ISSUING, **first), others=([a_policy(ISSUING, **second)],))
        assert access is not None
        assert access.limits == expected


def test_a6_limits_are_an_apis_own_only_where_all_that_limit_say_so() -> None:
    """A limit is per API only if all limiting policies say so, because a common limit counts all APIs' calls."""
    own = {"rights": {ISSUING: {"limit": {"rate": 1, "per": 1}}}}
    for other, expected in (({}, True), ({"rate": 5, "per": 1}, False)):
        access = may(a_policy(**own), others=([a_policy(ISSUING, **other)],))
        assert access is not None
        assert access.own_limits is expected


def test_a6_one_inactive_policy_of_either_makes_the_grant_inactive() -> None:
    """One inactive policy of either makes the grant inactive."""
    access = may(a_policy(ISSUING), others=([a_policy(ISSUING, is_inactive=True)],))
    assert access is not None
    assert access.inactive


_allowances = st.builds(
    Allowance,
    st.sampled_from([-1, 0, 0.5, 1, 2, 3, 7, 10, 99, 100, 10**6]),
    st.sampled_from([0, 0.25, 1, 3, 7, 60, 3600, 86_400]),
    st.sampled_from([0, math.inf]),
)


@given(st.lists(_allowances, min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_a6_the_strictest_allowance_is_within_all(allowances: list[Allowance], random: Random) -> None:
    """The strictest allowance is within all, in whatever order they are given."""
    found = strictest(allowances)
    assert all(map(found.is_within, allowances))
    random.shuffle(allowances)
    shuffled = strictest(allowances)
    assert shuffled == found or (shuffled.is_unlimited and found.is_unlimited)


@given(st.lists(_allowances, min_size=1, max_size=4), _allowances)
def test_c1_a_further_limit_never_admits_more(allowances: list[Allowance], further: Allowance) -> None:
    """Limits that cross are combined to one that is within the combination of fewer of them."""
    assert strictest([*allowances, further]).is_within(strictest(allowances))


@given(st.lists(_policies, max_size=3), st.lists(_policies, min_size=1, max_size=3))
def test_a6_both_policies_together_allow_no_more_than_each(client: list[Policy], user: list[Policy]) -> None:
    """Together they allow no more than each alone."""
    both = may(*client, others=(user,))
    for alone in (may(*client), may(*user)):
        assert calls(both) <= calls(alone)
        if both and alone:
            narrow, wide = both.limits, alone.limits
            assert rate_allowance(narrow.rate, narrow.per).is_within(rate_allowance(wide.rate, wide.per))
            assert quota_allowance(narrow.quota_max, narrow.quota_renewal_rate).is_within(
                quota_allowance(wide.quota_max, wide.quota_renewal_rate)
            )


# Counters

_names = st.text(st.sampled_from("ab.:1 \0é"), max_size=4)


@given(st.tuples(_names, _names, st.none() | _names), st.tuples(_names, _names, st.none() | _names))
def test_a5_no_two_subjects_share_a_counter(
    first: tuple[str, str, str | None], second: tuple[str, str, str | None]
) -> None:
    """No two subjects or APIs share a counter, whatever separators their ids contain."""
    names = [counter_of(*first), counter_of(*second)]
    assert (names[0] == names[1]) is (first == second)
    apart = [counted_under(name, "x", ApiAccess(own_limits=True)) for name in names]
    assert not set(apart) & set(names)


# key_rules with policies


def test_c1_applied_policies_are_one_more_set() -> None:
    """A call must be allowed by client, user and applied policies; the strictest limit applies."""
    client = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/(a|b|c)$"}]}}, rate=10, per=1)
    user = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/(b|c|d)$"}]}}, rate=5, per=1)
    applied = a_policy(rights={ISSUING: {"allowed_urls": [{"url": "/(c|d|e)$"}]}}, rate=2, per=1)
    access = may(client, others=([user], [applied]))
    assert access is not None
    assert [name for name in "abcde" if access.allows("GET", [f"/issuing/{name}"])] == ["c"]
    assert access.limits == Limits(rate=2, per=1)


def test_c1_inactive_rules_make_the_grant_inactive() -> None:
    """Inactive rules make the grant inactive, with or without policies."""
    assert opened(rules={"is_inactive": True}).inactive
    assert opened(a_policy(ISSUING), rules={"is_inactive": True}).inactive
    assert not opened(a_policy(ISSUING), rules={"is_inactive": False}).inactive


# Every part, every holder

VERSIONS = ("v1", "v2")
VERSIONED = an_api(versioning=Versioning(location="header", key="x-api-version", names=VERSIONS))
_own_limits = st.none() | _limit
_full_rights = st.fixed_dictionaries(
    {"versions": st.lists(st.sampled_from(VERSIONS), max_size=2, unique=True), "limit": _own_limits},
    optional={"allowed_urls": _rights.map(lambda rights: rights["allowed_urls"])},
)
_partitions = st.fixed_dictionaries(
    {}, optional={part: st.booleans() for part in ("acl", "rate_limit", "quota", "complexity")}
) | st.fixed_dictionaries({"per_api": st.booleans()})
_full_policies = st.builds(
    lambda rights, limit, partitions, inactive: a_policy(
        rights=rights, partitions=partitions, is_inactive=inactive, **limit
    ),
    st.dictionaries(st.sampled_from([ISSUING, OTHER]), _full_rights, max_size=2),
    _limit,
    _partitions,
    st.sampled_from([False, False, False, True]),
)
_set = st.lists(_full_policies, min_size=1, max_size=2)
_others = st.lists(_set, max_size=2)
_full_rules = st.builds(
    lambda rights, limit, inactive: {
        **({"access_rights": rights} if rights is not None else {}),
        **limit,
        "is_inactive": inactive,
    },
    st.none() | st.dictionaries(st.sampled_from([ISSUING, OTHER]), _full_rights.map(lambda r: {**r, "api_id": "x"})),
    _limit,
    st.booleans(),
)


def reach(access: ApiAccess | None) -> set[tuple[str, str, str]]:
    """Which of some calls of some versions are admitted."""
    if access is None or access.inactive:
        return set()
    return {(*call, version) for call in calls(access) for version in VERSIONS if access.allows_version(version)}


def require_within(narrow: ApiAccess | None, wide: ApiAccess | None) -> None:
    """The first admits no call, no rate and no quota that the second does not."""
    assert reach(narrow) <= reach(wide)
    if narrow and wide:
        slow, fast = narrow.limits, wide.limits
        assert rate_allowance(slow.rate, slow.per).is_within(rate_allowance(fast.rate, fast.per))
        assert quota_allowance(slow.quota_max, slow.quota_renewal_rate).is_within(
            quota_allowance(fast.quota_max, fast.quota_renewal_rate)
        )


def on_versions(client: list[Policy] | None, others: list[list[Policy]], rules: dict[str, Any] | None) -> Any:
    return may(*(client or ()), api=VERSIONED, others=tuple(others), rules=rules)


@given(st.none() | _set, _others, st.none() | _full_rules, st.randoms(use_true_random=False))
def test_c1_neither_the_order_of_holders_nor_of_their_policies_matters(
    client: list[Policy] | None, others: list[list[Policy]], rules: dict[str, Any] | None, random: Random
) -> None:
    """Client, user and applied policies give the same access however they are ordered."""
    first = on_versions(client, others, rules)
    sets = [random.sample(each, len(each)) for each in ([client] if client else []) + others]
    random.shuffle(sets)
    # Where the client has a policy, it may change places with the others.
    second = on_versions(sets[0], sets[1:], rules) if client else on_versions(None, sets, rules)
    assert reach(first) == reach(second)
    require_within(first, second)
    require_within(second, first)


@given(st.none() | _set, _others, _set, st.none() | _full_rules)
def test_c1_a_further_holder_opens_nothing(
    client: list[Policy] | None, others: list[list[Policy]], further: list[Policy], rules: dict[str, Any] | None
) -> None:
    """Policies of the user and applied policies narrow calls, versions and limits of the issuing API."""
    require_within(on_versions(client, [*others, further], rules), on_versions(client, others, rules))


@given(st.none() | _set, _others, _full_rules)
def test_c1_key_rules_open_no_call_and_no_version(
    client: list[Policy] | None, others: list[list[Policy]], rules: dict[str, Any]
) -> None:
    """Each part of them, alone or together, narrows what all policies allow."""
    without = on_versions(client, others, None)
    require_within(on_versions(client, others, rules), without)
    for name, value in rules.items():
        require_within(on_versions(client, others, {name: value}), without)


@given(_set, st.sampled_from(["allowed_urls", "versions"]), st.data())
def test_c1_a_right_with_a_narrower_list_opens_nothing(client: list[Policy], part: str, data: Any) -> None:
    """Of the allowed URLs or versions of a policy, a part of those that are listed opens no more than all of them."""
    wide = on_versions(client, [], None)
    index = data.draw(st.integers(0, len(client) - 1))
    rights = client[index].access_rights
    if ISSUING not in rights or not getattr(rights[ISSUING], part):
        return
    listed = getattr(rights[ISSUING], part)
    # An empty list of URLs means all of them, so at least one is left.
    kept = data.draw(st.lists(st.sampled_from(listed), min_size=1, max_size=len(listed)))
    right = rights[ISSUING].model_copy(update={part: tuple(kept)})
    narrowed = client[index].model_copy(update={"access_rights": {**rights, ISSUING: right}})
    require_within(on_versions([*client[:index], narrowed, *client[index + 1 :]], [], None), wide)
