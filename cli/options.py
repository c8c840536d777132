"""Options that several commands share."""

from dataclasses import dataclass
from typing import Annotated

import typer

PROFILE = Annotated[str, typer.Option("--profile", help="The profile to use.", envvar="TOKENWIRE_PROFILE")]
JSON = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
YES = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
WATCH = Annotated[
    float,
    typer.Option("--watch", metavar="SECONDS", min=0, help="Show the list anew every so many seconds, until Ctrl-C."),
]
LIMIT = Annotated[int, typer.Option("--limit", min=0, help="Show at most so many; 0: all.")]
API = Annotated[str, typer.Option("--api", help="The API's id.")]
SOME_API = Annotated[str, typer.Option("--api", help="Only of the API with this id.")]
SOME_CLIENT = Annotated[str, typer.Option("--client", help="Only of the client app with this id.")]
SINCE = Annotated[str, typer.Option("--since", metavar="TIME", help="From this time on: RFC 3339, or 15m, 2h, 7d ago.")]
UNTIL = Annotated[str, typer.Option("--until", metavar="TIME", help="Before this time.")]
POLICIES = Annotated[
    list[str] | None,
    typer.Option("--policy", metavar="ID", help="A policy; may be repeated. An empty one removes all."),
]


@dataclass(frozen=True, slots=True)
class Listing:
    """How a list is shown."""

    profile: str
    as_json: bool
    watch: float
    limit: int = 0
    """0: all."""


def given(**values: object) -> dict[str, object]:
    """The values that were given as options: not None, and not empty texts."""
    return {name: value for name, value in values.items() if value is not None and value != ""}


def ids(values: list[str] | None) -> list[str] | None:
    """Repeated values of an option, without empty ones; None if the option was not given."""
    return None if values is None else [value for value in values if value]
