"""Matches routing keys against binding keys as a topic exchange does."""


def matches(binding: str, key: str) -> bool:
    """Whether `binding` matches `key`: `*` stands for exactly one dot-separated word, `#` for any number of words."""
    words = key.split(".")
    matched = {0}
    """Every number of words that the parts of the binding so far can match."""
    for part in binding.split("."):
        if part == "#":
            matched = {more for less in matched for more in range(less, len(words) + 1)}
        else:
            matched = {less + 1 for less in matched if less < len(words) and part in ("*", words[less])}
    return len(words) in matched
