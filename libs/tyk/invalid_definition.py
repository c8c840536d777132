"""The error for API definitions that cannot be imported."""


class InvalidDefinition(ValueError):
    """The definition is not valid. The message names the field's path, and never its value, which may be secret."""


def shown(key: str) -> str:
    """The key for use in messages: printable and at most 64 characters, since the definition is untrusted input."""
    printable = "".join(character if character.isprintable() else "?" for character in key)
    return printable if len(printable) <= 64 else f"{printable[:64]}…"
