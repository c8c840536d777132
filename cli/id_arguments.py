"""Arguments that are ids of grants or tokens, which may begin with `-` and are no options all the same."""

import re
from typing import Any

from typer.core import TyperCommand

_ID = re.compile(r"-[A-Za-z0-9_-]{21}(\.\d+)?")
"""The id of a grant, 22 characters of base64url, or the public id of an access token, if it begins with `-`."""


class IdCommand(TyperCommand):
    """A command whose last argument is such an id."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read ids as arguments, wherever they stand."""
        ids = [each for each in args if _ID.fullmatch(each)]
        rest = [each for each in args if each not in ids]
        return super().parse_args(ctx, [*rest, "--", *ids] if ids else args)
