"""Options that several commands share."""

from typing import Annotated

import typer

PROFILE = Annotated[str, typer.Option("--profile", help="The profile to use.", envvar="TOKENWIRE_PROFILE")]
JSON = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.")]
YES = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
