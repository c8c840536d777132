"""Guards of definitions, whatever they are: a further one never admits a call, and their order makes no difference."""

from collections.abc import Iterator
from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from contracts.apis import Api
from libs.tyk.classic import read_classic
from libs.tyk.oas import read_oas
from services.gateway.guards.chain import ApiGuards, GuardResult
from services.gateway.guards.guard_input import GuardInput
from tests.unit.test_tyk_oas import NOW
from tests.unit.tyk_definitions import changed, definition

TYK = "x-tyk-api-gateway"
PATHS = ("/a", "/a/7", "/a/7/b", "/c")
OPERATIONS = {path: f"{method}{number}" for number, path in enumerate(("/a", "/a/{id}", "/c")) for method in ("get",)}
METHODS, ADDRESSES, SIZES, HOSTS = ("GET", "POST"), ("10.0.0.7", "192.0.2.1"), (0, 2000), ("a.test", "b.test")
DOCUMENT = changed(
    definition("orders-oas.json"),
    "paths",
    {path: {"get": {"operationId": name}} for path, name in OPERATIONS.items()},
)
VERSION = "version_data/versions/Default"

ON: dict[str, Any] = {"enabled": True}
_closing = st.one_of(
    st.tuples(st.just(f"{TYK}/info/state/internal"), st.just(True)),
    st.tuples(st.just(f"{TYK}/info/expiration"), st.sampled_from(["2020-01-01 00:00", "2090-01-01 00:00"])),
    st.tuples(
        st.just(f"{TYK}/server/ipAccessControl"),
        st.sampled_from([{**ON, "allow": ["10.0.0.0/8"]}, {**ON, "block": ["10.0.0.7"]}, {**ON, "allow": ["::1"]}]),
    ),
    st.tuples(st.just(f"{TYK}/server/customDomain"), st.just({**ON, "name": "a.test"})),
    st.tuples(st.just(f"{TYK}/middleware/global/requestSizeLimit"), st.just({**ON, "value": 1000})),
    st.tuples(
        st.sampled_from(
            [
                f"{TYK}/middleware/operations/{name}/{key}"
                for name in OPERATIONS.values()
                for key in ("block", "internal")
            ]
        ),
        st.just(ON),
    ),
    st.tuples(
        st.sampled_from([f"{TYK}/middleware/operations/{name}/requestSizeLimit" for name in OPERATIONS.values()]),
        st.sampled_from([{**ON, "value": 1000}, ON]),
    ),
)
_opening = st.tuples(
    st.sampled_from(
        [
            f"{TYK}/middleware/operations/{name}/{key}"
            for name in OPERATIONS.values()
            for key in ("allow", "ignoreAuthentication")
        ]
    ),
    st.just(ON),
)


def api_of(members: list[tuple[str, Any]]) -> Api:
    document = DOCUMENT
    for path, value in members:
        document = changed(document, path, value)
    return read_oas(document, api_id="guarded", now=NOW)


def admitted(api: Api) -> set[tuple[str, str, str, int, str, bool]]:
    """The calls that the guards admit, each with whether it needs no token."""
    return set(_admitted(api))


def _admitted(api: Api) -> Iterator[tuple[str, str, str, int, str, bool]]:
    guards = None if api.guards is None else ApiGuards(api, api.guards)
    place = api.listen_path.rstrip("/")
    for method, path, address, size, host in product(METHODS, PATHS, ADDRESSES, SIZES, HOSTS):
        if guards is None:
            yield (method, path, address, size, host, False)
        elif guards.host_refusal(lambda host=host: (host,)) is None:  # type: ignore[misc]
            result = guards.check(GuardInput((method,), (place + path,), (), address, size), NOW)
            if isinstance(result, GuardResult):
                yield (method, path, address, size, host, result.needs_no_token)


@given(st.lists(_closing | _opening, max_size=5), _closing)
def test_c2_a_further_guard_admits_no_further_call(members: list[tuple[str, Any]], further: tuple[str, Any]) -> None:
    """Whatever the definition has, a part that closes something opens nothing, and makes no path public."""
    kept = [(path, value) for path, value in members if not path.startswith(further[0])]
    assert admitted(api_of([*kept, further])) <= admitted(api_of(kept))


@given(st.lists(_closing | _opening, max_size=6, unique_by=lambda member: member[0]), st.randoms(use_true_random=False))
def test_c2_the_order_in_a_definition_makes_no_difference(members: list[tuple[str, Any]], random: Any) -> None:
    """Neither of operations nor of other parts: Tyk's precedence counts."""
    shuffled = random.sample(members, len(members))
    assert admitted(api_of(members)) == admitted(api_of(shuffled))


_LISTED = st.fixed_dictionaries({"path": st.sampled_from(["/a", "/a/{id}", "/c"]), "method": st.sampled_from(METHODS)})


@given(
    st.dictionaries(
        st.sampled_from(["ignored", "white_list", "black_list", "internal"]), st.lists(_LISTED, max_size=2)
    ),
    st.sampled_from(["black_list", "internal"]),
    _LISTED,
)
def test_c2_a_further_path_in_a_closing_list_admits_no_further_call(
    lists: dict[str, list[dict[str, str]]], name: str, further: dict[str, str]
) -> None:
    """The same for the lists of Tyk Classic."""

    def read(paths: dict[str, list[dict[str, str]]]) -> Api:
        document = changed(definition("orders-classic.json"), f"{VERSION}/extended_paths", paths)
        return read_classic(document, api_id="guarded", now=NOW)

    wider = {**lists, name: [*lists.get(name, []), further]}
    assert admitted(read(wider)) <= admitted(read(lists))
