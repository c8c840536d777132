"""`tokenwire migrate tyk`."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from cli import profiles
from cli.api_client import ApiClient, tokenwire
from cli.failures import INCOMPLETE, Failure
from cli.migrate.plan import Action, Options, Step, Target, apply, plan_of
from cli.migrate.report import as_json, markdown, named
from cli.migrate.tyk_export import TykExport, from_files, from_gateway
from cli.options import JSON, PROFILE
from cli.output import console, errors, show_json, show_table
from cli.profiles import DEFAULT_PROFILE

app = typer.Typer(help="Bring APIs, policies and client apps from another system.", no_args_is_help=True)
REPORT = Path("tyk-migration.md")


@app.callback()
def _group() -> None:
    """Bring APIs, policies and client apps from another system."""


@app.command()
def tyk(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Exported files, or directories of them: definitions, policies, client apps."),
    ] = None,
    gateway: Annotated[str, typer.Option(help="Read a running Tyk gateway at this URL instead of files.")] = "",
    secret: Annotated[
        str, typer.Option(help="The gateway's secret; asked for if it is not given.", envvar="TYK_GATEWAY_SECRET")
    ] = "",
    do_apply: Annotated[
        bool, typer.Option("--apply", help="Carry the plan out; without it nothing is written.")
    ] = False,
    accept_unsupported: Annotated[
        bool, typer.Option(help="Import APIs although some of their protections are not enforced here.")
    ] = False,
    separator: Annotated[
        str, typer.Option("--redirect-separator", help="Between several redirect URIs (oauth_redirect_uri_separator).")
    ] = ";",
    report: Annotated[Path, typer.Option(help="Where to write the report in Markdown.")] = REPORT,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json_: JSON = False,
) -> None:
    """Move a Tyk gateway's APIs, policies and client apps, with their ids and secrets.

    Shows what would be created, what needs attention and what cannot move; --apply carries it out and can be repeated.
    Status 4: something cannot move.
    """
    if bool(files) == bool(gateway):
        raise typer.BadParameter("give either files or directories, or --gateway")
    if gateway and not secret:
        secret = typer.prompt("Secret of the Tyk gateway", hide_input=True)
    options = Options(accept_unsupported, separator)
    steps, export = asyncio.run(_migrate(files or [], gateway, secret, profile, options, do_apply))
    source = gateway or ", ".join(map(str, files or []))
    try:
        report.write_text(markdown(steps, export.notes, source, applied=do_apply), encoding="utf-8")
    except OSError as error:
        raise Failure(
            f"the report cannot be written to {report}: {error.strerror}; name another file with --report"
        ) from None
    if as_json_:
        show_json(as_json(steps, export.notes, applied=do_apply))
    else:
        _show(steps, export, report, applied=do_apply)
    if not all(step.moves for step in steps):
        raise typer.Exit(INCOMPLETE)


async def _migrate(
    files: list[Path], gateway: str, secret: str, profile: str, options: Options, do_apply: bool
) -> tuple[list[Step], TykExport]:
    if gateway:
        async with ApiClient.open(gateway, {"X-Tyk-Authorization": secret}, "Tyk") as tyk_call:
            export = await from_gateway(tyk_call)
    else:
        export = from_files(files)
    try:
        wanted = profiles.load(profile)
    except Failure:
        if do_apply:
            raise
        export.notes.append("no Tokenwire is known (`tokenwire login`), so the plan supposes that it is empty")
        return await plan_of(export, Target(None), options), export
    async with tokenwire(wanted) as call:
        steps = await plan_of(export, Target(call), options)
        if do_apply:
            with Progress(console=errors, transient=True) as progress:
                for step in progress.track(steps, description="Moving"):
                    await apply(step, call, options)
    return steps, export


def _show(steps: list[Step], export: TykExport, report: Path, *, applied: bool) -> None:
    rows = [
        {
            "kind": step.kind,
            "id": step.key,
            "name": f"of {step.api_id}" if step.api_id else step.name,
            "action": named(step.action, applied=applied),
            "remarks": _remark(step),
        }
        for step in steps
    ]
    show_table(rows, ("id", "kind", "name", "action", "remarks"))
    out = console()
    for step in steps:
        if not step.moves:
            out.print(f"{step.kind} {step.key} {named(step.action, applied=applied)}: {step.reason}", markup=False)
    for note in export.notes:
        out.print(note, markup=False)
    warned = " with all warnings" if any(step.warnings for step in steps) else ""
    out.print(f"The {'report' if applied else 'plan'}{warned} is in {report}.", markup=False)
    if not applied and any(step.action in {Action.CREATE, Action.UPDATE} for step in steps):
        out.print("Nothing has been written; repeat the command with --apply to carry the plan out.")


def _remark(step: Step) -> str:
    """What the table says of the record; the reason of one that does not move is a sentence below it."""
    if not step.moves:
        return "see below"
    count = len(step.warnings)
    return f"{count} warning{'s' if count > 1 else ''}" if count else ""
