"""The cookies of a call (RFC 6265 §5.4)."""

from urllib.parse import unquote

from multidict import MultiMapping


def first_cookie(headers: MultiMapping[str], name: str) -> str | None:
    """The value of the first cookie of this name, without quotes and percent-encoding; None if there is none.

    A value may contain spaces. Python's parsers end it there, and let the last of several cookies count.
    """
    for line in headers.getall("Cookie", ()):
        for pair in line.split(";"):
            given, equals, value = pair.partition("=")
            if equals and given.strip() == name:
                return unquote(value.strip().removeprefix('"').removesuffix('"'))
    return None
