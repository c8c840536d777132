"""C1: policies of client and user, applied policies and `key_rules`: parts narrow, and their order does not matter."""

from collections.abc import Sequence
from itertools import product
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api, OAuthSettings, Versioning
from contracts.limits import Limits
from contracts.policies import Policy
from libs.allowances import quota_allowance, rate_allowance
from libs.policies import ApiAccess, KeyRules, PolicySets, access_on
from libs.store.counters import has_rate
from services.gateway.calls import Call
from services.gateway.endpoint_limits import EndpointRates
from tests.fuzz.extent import examples
from tests.unit.test_policies import ACCEPTING, ISSUING, OTHER, a_policy, an_api

METHODS = ("GET", "POST")
NAMES = ("a", "b", "c")
VERSIONS = ("v1", "v2")
APIS = (
    an_api(ISSUING, oauth=OAuthSettings()),
    an_api(ACCEPTING, auth_token=True),
    an_api(OTHER, oauth=OAuthSettings(), versioning=Versioning(location="header", key="v", names=VERSIONS)),
)
Sets = list[list[Policy]]

_urls = st.lists(
    st.builds(
        lambda names, methods: {"url": f"/({'|'.join(names)})$", "methods": methods},
        st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True),
        st.lists(st.sampled_from(METHODS), max_size=1),
    ),
    max_size=2,
)
_limits = st.fixed_dictionaries(
    {},
    optional={
        "rate": st.sampled_from([-1, 0, 0.5, 1, 7, 10, 19, 100]),
        "per": st.sampled_from([0, 0.5, 1, 7, 60]),
        "quota_max": st.sampled_from([-1, 0, 1, 3, 19, 100]),
        "quota_renewal_rate": st.sampled_from([-1, 0, 60, 3600]),
    },
)
_rates = st.fixed_dictionaries(
    {"rate": st.sampled_from([-1, 0, 0.5, 1, 7, 100]), "per": st.sampled_from([0, 1, 7, 60])}
)
_endpoints = st.lists(
    st.builds(
        lambda path, methods: {
            "path": path,
            "methods": [{"name": name, "limit": limit} for name, limit in methods.items()],
        },
        st.sampled_from(["/a", "^/b$", "/{any}", "/c"]),
        st.dictionaries(st.sampled_from(["GET", "post"]), _rates, max_size=2),
    ),
    max_size=3,
)
_right = st.fixed_dictionaries(
    {"allowed_urls": _urls, "versions": st.lists(st.sampled_from(VERSIONS), max_size=2, unique=True)},
    optional={"limit": st.none() | _limits, "endpoints": _endpoints},
)
_rights = st.dictionaries(st.sampled_from([ISSUING, ACCEPTING, OTHER]), _right, max_size=3)
_partitions = st.sampled_from([{}, {"acl": True}, {"quota": True}, {"rate_limit": True}, {"per_api": True}])
_policy = st.builds(
    lambda rights, limits, partitions, inactive: a_policy(
        rights=rights, partitions=partitions, is_inactive=inactive, **limits
    ),
    _rights,
    _limits,
    _partitions,
    st.sampled_from([False, False, False, True]),
)
_set = st.lists(_policy, min_size=1, max_size=3)
_rules = st.none() | st.builds(
    lambda rights, limits, inactive: KeyRules.model_validate(
        {"access_rights": rights, "is_inactive": inactive, **limits}
    ),
    st.none() | _rights.map(lambda rights: {api_id: {**right, "api_id": api_id} for api_id, right in rights.items()}),
    _limits,
    st.booleans(),
)
_client = st.none() | _set
_others = st.lists(_set, max_size=2)


def access(api: Api, client: Sequence[Policy] | None, others: Sets, rules: KeyRules | None) -> ApiAccess | None:
    return access_on(api, ISSUING, PolicySets(client, tuple(others)), rules, {})


def admitted(found: ApiAccess | None) -> set[tuple[str, str, str]]:
    """Which of all calls are admitted, limits aside."""
    if found is None or found.inactive:
        return set()
    return {
        (version, method, name)
        for version in VERSIONS
        for method in METHODS
        for name in NAMES
        if found.allows_version(version) and found.allows(method, [f"/{name}"])
    }


def is_within(narrow: Limits, wide: Limits) -> bool:
    rate = rate_allowance(narrow.rate, narrow.per).is_within(rate_allowance(wide.rate, wide.per))
    quota = quota_allowance(narrow.quota_max, narrow.quota_renewal_rate)
    return rate and quota.is_within(quota_allowance(wide.quota_max, wide.quota_renewal_rate))


def counted(found: ApiAccess, api: Api) -> dict[tuple[str, str], dict[str, Limits]]:
    """The rates that each call counts against, by the name of the counter."""
    common = {"": found.limits} if has_rate(found.limits) else {}
    endpoints = EndpointRates.of(found)
    rates: dict[tuple[str, str], dict[str, Limits]] = {}
    for method, name in product(METHODS, NAMES):
        if endpoints is None:
            rates[method, name] = common
        else:
            of_call = endpoints.counted(Call(method, f"{api.listen_path}{name}", ""), api)
            rates[method, name] = of_call.limits | (common if of_call.counts_for_rate else {})
    return rates


def require_rates_within(after: ApiAccess, before: ApiAccess, api: Api) -> None:
    """Every call counts at least against the counters that it counted against before, with limits as strict."""
    now = counted(after, api)
    for call, rates in counted(before, api).items():
        for counter, limits in rates.items():
            if has_rate(limits):
                assert is_within(now[call][counter], limits.model_copy(update={"quota_max": -1}))


def require_narrower(api: Api, after: ApiAccess | None, before: ApiAccess | None) -> None:
    """`after` opens nothing that `before` does not, and admits no more calls."""
    assert admitted(after) <= admitted(before)
    if after is not None and admitted(after):
        assert before is not None
        assert is_within(after.limits, before.limits)
        require_rates_within(after, before, api)


@examples(100)
@given(st.sampled_from(APIS), _client, _others, _rules, _set)
def test_c1_a_further_holder_opens_nothing(
    api: Api, client: list[Policy] | None, others: Sets, rules: KeyRules | None, further: list[Policy]
) -> None:
    """The policies of a user, or policies applied to the grant, open nothing that was closed without them.

    The one exception is the decision for clients without policies: the first set defines which other APIs are open.
    """
    before, after = access(api, client, others, rules), access(api, client, [*others, further], rules)
    if client is None and not others and api.api_id != ISSUING:
        assert before is None
        return
    require_narrower(api, after, before)


@examples(100)
@given(st.sampled_from(APIS), _client, _others, _rules)
def test_c1_rules_open_nothing(api: Api, client: list[Policy] | None, others: Sets, rules: KeyRules | None) -> None:
    """`key_rules` open nothing, whatever they contain, and whatever the policies are by now."""
    require_narrower(api, access(api, client, others, rules), access(api, client, others, None))


@examples(100)
@given(st.sampled_from(APIS), _set, _others, _rules)
def test_c1_a_client_with_policies_has_no_more_than_one_without_on_its_own_api(
    api: Api, client: list[Policy], others: Sets, rules: KeyRules | None
) -> None:
    """Giving a client policies opens nothing on the API that issues its tokens."""
    if api.api_id == ISSUING:
        require_narrower(api, access(api, client, others, rules), access(api, None, others, rules))


@examples(100)
@given(st.sampled_from(APIS), _client, _others, _rules, st.randoms(use_true_random=False))
def test_c1_the_order_of_parts_does_not_matter(
    api: Api, client: list[Policy] | None, others: Sets, rules: KeyRules | None, random: Random
) -> None:
    """Policies of one holder, and the holders, in another order: the same calls and limits."""
    before = access(api, client, others, rules)
    shuffled = [random.sample(policies, len(policies)) for policies in random.sample(others, len(others))]
    mine = None if client is None else random.sample(client, len(client))
    everyone = [(mine, shuffled)]
    if mine is not None and shuffled:
        everyone.append((shuffled[0], [mine, *shuffled[1:]]))  # who the client is makes no difference either
    for whose, rest in everyone:
        after = access(api, whose, rest, rules)
        assert admitted(after) == admitted(before)
        if admitted(before):
            assert after is not None
            assert before is not None
            assert (after.limits, after.own_limits) == (before.limits, before.own_limits)
            assert counted(after, api) == counted(before, api)


def test_c1_crossing_limits_of_three_holders() -> None:
    """A third limit makes the combination of two that cross stricter, never looser."""

    def limit(**limits: Any) -> list[Policy]:
        return [a_policy(ISSUING, **limits)]

    client, user, applied = limit(rate=10, per=1), limit(rate=19, per=60), limit(rate=1, per=0.1)
    two, three = (access(APIS[0], client, others, None) for others in ([user], [user, applied]))
    assert two is not None
    assert three is not None
    assert two.limits == Limits(rate=10, per=60)
    assert is_within(three.limits, two.limits)


@pytest.mark.parametrize(
    ("policies", "call", "expected"),
    [
        pytest.param([[{"/a": 5}]], ("GET", "a"), [5], id="its-own-in-place-of-the-policy-s"),
        pytest.param([[{"/a": 5}]], ("GET", "b"), [10], id="others-have-the-policy-s"),
        pytest.param([[{"/a": 5}]], ("POST", "a"), [10], id="another-method"),
        pytest.param([[{"/a": 5}]], ("HEAD", "a"), [5], id="head-counts-as-get"),
        pytest.param([[{"/a": 500}]], ("GET", "a"), [500], id="also-if-it-is-higher"),
        pytest.param([[{"/a": -1}]], ("GET", "a"), [], id="unlimited"),
        pytest.param([[{"/.*": 3, "/a": 5}]], ("GET", "a"), [3], id="the-first-that-matches"),
        pytest.param([[{"/{id}": 3}]], ("GET", "a"), [3], id="a-parameter"),
        pytest.param([[{"/issuing/a": 3}]], ("GET", "a"), [10], id="the-listen-path-does-not-count"),
        pytest.param([[{"/a": 5}, {"/a": 7}]], ("GET", "a"), [7], id="the-higher-of-two-policies-of-one-holder"),
        pytest.param([[{"/a": 5}, {}]], ("GET", "a"), [5], id="one-of-two-policies-says-something"),
        pytest.param([[{"/a": 5}], [{"/a": 7}]], ("GET", "a"), [5], id="the-stricter-of-two-holders"),
        pytest.param([[{"/a": 5}], [{"/.": 7}]], ("GET", "a"), [5, 7], id="each-holder-s"),
        pytest.param([[{"/a": 50}], [{}]], ("GET", "a"), [10, 50], id="the-other-holder-s-rate-remains"),
    ],
)
def test_c1_endpoint_limits_count_as_at_tyk(
    policies: list[list[dict[str, int]]], call: tuple[str, str], expected: list[int]
) -> None:
    """Which rates a call counts against: with a rate of 10 in every policy, and these of endpoints for GET."""
    sets = [
        [
            a_policy(
                rights={
                    ISSUING: {
                        "endpoints": [
                            {"path": path, "methods": [{"name": "GET", "limit": {"rate": rate, "per": 60}}]}
                            for path, rate in endpoints.items()
                        ]
                    }
                },
                rate=10,
                per=60,
            )
            for endpoints in holder
        ]
        for holder in policies
    ]
    api = APIS[0]
    found = access(api, sets[0], sets[1:], None)
    assert found is not None
    endpoints = EndpointRates.of(found)
    assert endpoints is not None
    method, name = call
    of_call = endpoints.counted(Call(method, f"/issuing/{name}", ""), api)
    rates = [limits.rate for limits in of_call.limits.values() if limits.rate]
    assert sorted(rates + ([found.limits.rate] if of_call.counts_for_rate else [])) == sorted(expected)


def test_c1_an_endpoint_has_no_say_without_the_rate_partition() -> None:
    """A policy whose rate does not count limits no endpoint either; a rate in `key_rules` is for all endpoints."""
    limited = {"endpoints": [{"path": "/a", "methods": [{"name": "GET", "limit": {"rate": 5, "per": 60}}]}]}
    rights_only = [a_policy(rights={ISSUING: limited}, rate=10, per=60, partitions={"acl": True})]
    found = access(APIS[0], rights_only, [], None)
    assert found is not None
    assert found.endpoints == ()
    narrowed = access(APIS[0], [a_policy(rights={ISSUING: limited})], [], KeyRules(rate=1, per=60))
    assert narrowed is not None
    assert counted(narrowed, APIS[0])["GET", "a"].keys() > {""}
