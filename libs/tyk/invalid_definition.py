"""The error for API definitions that cannot be imported."""


class InvalidDefinition(ValueError):
    """The definition is not valid. The message names the field's path, and never its value, which may be secret."""


_LONGEST = 160
"""Characters; names that tools make of paths have more than a hundred, and the end tells them apart."""


def shown(key: str) -> str:
    """The key for use in messages: printable and of limited length, since the definition is untrusted input."""
    printable = "".join(character if character.isprintable() else "?" for character in key)
    return printable if len(printable) <= _LONGEST else f"{printable[:_LONGEST]}…"
