"""C1: policies of client and user, applied policies and `key_rules`: parts narrow, and their order does not matter."""

from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api, OAuthSettings, Versioning
from contracts.limits import Limits
from contracts.policies import Policy
from libs.policies import ApiAccess, KeyRules, PolicySets, access_on, quota_allowance, rate_allowance
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
_right = st.fixed_dictionaries(
    {"allowed_urls": _urls, "versions": st.lists(st.sampled_from(VERSIONS), max_size=2, unique=True)},
    optional={"limit": st.none() | _limits},
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


def require_narrower(after: ApiAccess | None, before: ApiAccess | None) -> None:
    """`after` opens nothing that `before` does not, and admits no more calls."""
    assert admitted(after) <= admitted(before)
    if after is not None and admitted(after):
        assert before is not None
        assert is_within(after.limits, before.limits)


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
    require_narrower(after, before)


@examples(100)
@given(st.sampled_from(APIS), _client, _others, _rules)
def test_c1_rules_open_nothing(api: Api, client: list[Policy] | None, others: Sets, rules: KeyRules | None) -> None:
    """`key_rules` open nothing, whatever they contain, and whatever the policies are by now."""
    require_narrower(access(api, client, others, rules), access(api, client, others, None))


@examples(100)
@given(st.sampled_from(APIS), _set, _others, _rules)
def test_c1_a_client_with_policies_has_no_more_than_one_without_on_its_own_api(
    api: Api, client: list[Policy], others: Sets, rules: KeyRules | None
) -> None:
    """Giving a client policies opens nothing on the API that issues its tokens."""
    if api.api_id == ISSUING:
        require_narrower(access(api, client, others, rules), access(api, None, others, rules))


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
