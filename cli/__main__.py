"""`tokenwire`: the command line."""

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer

from cli import apis, audit, clients, deliveries, events, grants, operators, policies, profiles, tokens, users
from cli.api_client import tokenwire
from cli.doctor import doctor
from cli.failures import Failure
from cli.migrate import command as migrate
from cli.options import PROFILE
from cli.output import console, errors
from cli.profiles import Profile
from libs.version import VERSION

SERVER_COMMANDS = {
    "run": "Run every service in one process.",
    "config-lint": "Check settings and records for what weakens security.",
    "dead-letters": "Count the messages of each pool that could not be handled.",
    "redrive": "Handle dead letters again.",
    "reencrypt": "Encrypt stored secrets with the newest key.",
    "backup": "Copy the database as of one moment.",
    "restore": "Restore a backup.",
}
"""Commands that run beside the database instead of through the management API; `python -m services` has them."""

app = typer.Typer(
    name="tokenwire",
    help="Manage Tokenwire through its management API, and run its services.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,  # they may be secrets
)
GROUPS = {
    "apis": apis,
    "clients": clients,
    "policies": policies,
    "users": users,
    "operators": operators,
    "tokens": tokens,
    "grants": grants,
    "deliveries": deliveries,
    "events": events,
    "audit": audit,
    "migrate": migrate,
}
for _group, _module in GROUPS.items():
    app.add_typer(_module.app, name=_group)


config = typer.Typer(help="The configuration of the services.", no_args_is_help=True)
app.add_typer(config, name="config", rich_help_panel="Server")


@config.callback()
def _config() -> None:
    """The configuration of the services."""


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tokenwire {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options of all commands."""


@app.command()
def login(
    url: Annotated[str, typer.Option(help="Where Tokenwire is reached.")] = "http://127.0.0.1:8080",
    key: Annotated[str, typer.Option(help="The operator key; asked for if it is not given.", envvar=profiles.KEY)] = "",
    profile: PROFILE = profiles.DEFAULT_PROFILE,
) -> None:
    """Check an operator key and keep it in a profile."""
    if not key:
        key = typer.prompt("Operator key", hide_input=True)
    if not url.startswith(("http://", "https://")):
        raise typer.BadParameter(f"'{url}' does not begin with https:// or http://", param_hint="--url")
    wanted = Profile(url.rstrip("/"), key.strip())

    async def check() -> None:
        async with tokenwire(wanted) as call:
            await call("GET", "/api/apis", query={"p": "1"})

    asyncio.run(check())
    console().print(f"Logged in to {wanted.url}; the key is kept in {profiles.save(profile, wanted)}")


app.command()(doctor)


def _replace_by(name: str, arguments: Sequence[str]) -> NoReturn:
    """Run a server command in place of this process, so that signals and the exit status are its own."""
    os.execv(sys.executable, [sys.executable, "-m", "services", *_command(name, arguments)])  # noqa: S606 - no shell


def _command(name: str, arguments: Sequence[str]) -> list[str]:
    """`dead-letters list` is `dead-letters`, and `dead-letters redrive` is `redrive`."""
    if name == "dead-letters" and arguments[:1] in (["list"], ["redrive"]):
        return ["redrive" if arguments[0] == "redrive" else name, *arguments[1:]]
    return [name, *arguments]


def _server_command(name: str, help_text: str) -> None:
    settings = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}

    @app.command(name, help=help_text, context_settings=settings, rich_help_panel="Server")
    def run(context: typer.Context) -> None:
        _replace_by(name, context.args)


@config.command(
    "lint",
    help=SERVER_COMMANDS["config-lint"],
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []},
)
def _lint(context: typer.Context) -> None:
    _replace_by("config-lint", context.args)


for _name, _help in SERVER_COMMANDS.items():
    _server_command(_name, _help)


def main() -> None:
    """Run the command. A failure is one sentence on the standard error, and its exit status."""
    try:
        app()
    except Failure as failure:
        errors.print(f"tokenwire: {failure}", style="red", markup=False)
        sys.exit(failure.status)


if __name__ == "__main__":
    main()
