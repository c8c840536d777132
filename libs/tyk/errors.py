"""The refusal of an API definition."""


class InvalidDefinition(ValueError):
    """A definition that cannot become an API. The message names the field's path and never repeats its value."""


def shown(key: str) -> str:
    """The key as a message may repeat it: printable, at most 64 characters."""
    printable = "".join(character if character.isprintable() else "?" for character in key)
    return printable if len(printable) <= 64 else f"{printable[:64]}…"
