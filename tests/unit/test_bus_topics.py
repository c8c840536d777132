"""Matching of routing keys and binding keys as in a topic exchange."""

import pytest

from libs.bus.topics import matches


@pytest.mark.parametrize(
    ("binding", "key", "taken"),
    [
        pytest.param("token.new", "token.new", True, id="equal"),
        pytest.param("token.new", "token.new.x", False, id="longer"),
        pytest.param("token.new.x", "token.new", False, id="shorter"),
        pytest.param("token.*", "token.new", True, id="star-one"),
        pytest.param("token.*", "token", False, id="star-none"),
        pytest.param("token.*", "token.a.b", False, id="star-two"),
        pytest.param("token.*", "token.", True, id="star-empty-word"),
        pytest.param("*", "token", True, id="star-alone"),
        pytest.param("#", "", True, id="hash-empty-key"),
        pytest.param("#", "a.b.c", True, id="hash-all"),
        pytest.param("a.#", "a", True, id="hash-none"),
        pytest.param("a.#.c", "a.c", True, id="hash-between-none"),
        pytest.param("a.#.c", "a.b.b.c", True, id="hash-between-two"),
        pytest.param("a.#.c", "a.b.b", False, id="hash-then-other"),
        pytest.param("#.*", "a", True, id="hash-then-star"),
        pytest.param("a.b#", "a.bc", False, id="hash-inside-a-word-is-a-letter"),
        pytest.param("a.b*", "a.b*", True, id="star-inside-a-word-is-a-letter"),
    ],
)
def test_wildcards_match_dot_separated_words(binding: str, key: str, taken: bool) -> None:
    """`*` is one word and `#` any number of words; neither matches part of a word."""
    assert matches(binding, key) is taken


def test_a_binding_may_have_any_number_of_words() -> None:
    """Time is linear in the number of words, without recursion."""
    assert matches(".".join(["#"] * 5000), "token.new")
    assert not matches(".".join(["#"] * 5000 + ["x"]), "token.new")
