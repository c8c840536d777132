"""Path rules: matched as their expressions say, at a cost that does not grow with their number."""

import re2
from hypothesis import given
from hypothesis import strategies as st

from contracts.guards import PathRule
from libs.tyk.oas import read_oas
from services.gateway.guards.literals import FEW, Literals
from services.gateway.guards.path_lists import CompiledRule, RuleList, Spellings, literal_of
from tests.builders import api_document
from tests.unit.test_tyk_oas import NOW
from tests.unit.tyk_definitions import changed

API = read_oas(api_document(), api_id="guarded", now=NOW)
SEGMENTS = st.sampled_from(["a", "ab", "b-c", "users", "7", "x.y", "([^/]+)", ".*", "[a-z]+", "a?", "(a|b)"])
PATTERNS = st.builds(
    lambda segments, whole: f"^(?:/{'/'.join(segments)})/?$" if whole else f"/{'/'.join(segments)}",
    st.lists(SEGMENTS, min_size=1, max_size=4),
    st.booleans(),
)
PATHS = st.lists(st.sampled_from(["a", "ab", "b-c", "users", "7", "x.y", "xzy", "", "administrators"]), max_size=6).map(
    lambda segments: "/" + "/".join(segments)
)


@given(st.lists(PATTERNS, min_size=1, max_size=3 * FEW), PATHS)
def test_a8_rules_are_found_as_their_expressions_say(patterns: list[str], path: str) -> None:
    """The search for literals never skips a matching expression."""
    place = API.listen_path.rstrip("/")
    rules = RuleList(PathRule(pattern=pattern) for pattern in patterns)
    expected = any(re2.search(pattern.encode(), path.encode()) for pattern in patterns)
    assert rules.match("GET", Spellings(place + path, API)) is expected


TEXTS = st.text("ab/", min_size=1, max_size=6).map(str.encode)


@given(st.sets(TEXTS, min_size=1, max_size=60), st.text("ab/é", max_size=80).map(str.encode))
def test_a8_texts_are_found_together_as_one_by_one(texts: set[bytes], text: bytes) -> None:
    """Literals are found alike together and one by one."""
    ordered = sorted(texts)
    assert {ordered[place] for place in Literals(ordered).found(text)} == {each for each in ordered if each in text}


def test_a8_of_thousands_of_rules_few_are_matched() -> None:
    """Only expressions whose literal is in the path are tried."""
    rules = RuleList(PathRule(pattern=f"/resource{number}/([^/]+)/sub") for number in range(3000))
    searched: list[bytes] = []

    class Counted(CompiledRule[PathRule]):
        def is_found(self, spellings: Spellings) -> bool:
            searched.append(self.literal)
            return super().is_found(spellings)

    alternatives = rules._any_method
    alternatives._with_literal = tuple(Counted(each.rule) for each in alternatives._with_literal)
    place = API.listen_path.rstrip("/")
    assert not rules.match("GET", Spellings(f"{place}/orders/7", API))
    assert searched == []
    assert not rules.match("GET", Spellings(place + "/resource5/x/other" * 60, API))
    assert searched == [b"/resource5/"]
    assert rules.match("GET", Spellings(f"{place}/resource2999/x/sub", API))


def test_a8_only_plain_templates_tell_a_literal() -> None:
    """An expression that may omit a text does not have it as its literal."""
    assert literal_of("/users/([^/]+)/orders") == b"/users/"
    assert literal_of("^(?:/users/([^/]+))/?$") == b"/users/"
    assert literal_of("/a.b/.*") == b"/a"
    for pattern in ("/ab?c", "/a|/b", "/(a|b)", "(?i)/admin", "/a{2}", "/[a-z]+", "/a*", "/a+b", r"/a\d"):
        assert literal_of(pattern) == b"", pattern


def test_a8_escapes_at_the_end_of_a_path_stay_whole() -> None:
    """OpenAPI paths that end with escaped characters work."""
    for path, found in ((r"/a\$", "/a$"), (r"/a\/", "/a/"), ("/a$", "/a"), ("/a/", "/a"), ("^/a", "/a/")):
        document = api_document(paths={path: {"get": {"operationId": "a"}}})
        on = {"a": {"ignoreAuthentication": {"enabled": True, "ignoreCase": True}}}
        document = changed(document, "x-tyk-api-gateway/middleware/operations", on)
        api = read_oas(document, api_id="guarded", now=NOW)
        assert api.guards is not None
        place = api.listen_path.rstrip("/")
        rules = RuleList(api.guards.paths[0].ignored)
        assert rules.match("GET", Spellings(place + found.upper(), api)), path
        assert not rules.match("GET", Spellings(f"{place}/a/b", api)), path
