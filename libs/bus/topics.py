"""Which routing keys a binding key takes in, as a topic exchange decides it."""


def matches(binding: str, key: str) -> bool:
    """True when `binding` takes in `key`: `*` stands for exactly one dot-separated word, `#` for any number of them."""
    words = key.split(".")
    taken = {0}
    """How many words the binding may have taken in so far."""
    for part in binding.split("."):
        if part == "#":
            taken = {more for less in taken for more in range(less, len(words) + 1)}
        else:
            taken = {less + 1 for less in taken if less < len(words) and part in ("*", words[less])}
    return len(words) in taken
