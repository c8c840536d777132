"""`tokenwire apis`: API definitions."""

from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.progress import track

from cli.api_client import ApiClient, segment
from cli.calls import call, confirm, request, show_envelope
from cli.definitions import Document, documents
from cli.failures import FAILED, INCOMPLETE, Failure, Refused
from cli.lists import show_list
from cli.options import JSON, PROFILE, WATCH, YES, Listing
from cli.output import console, errors, show_json
from cli.profiles import DEFAULT_PROFILE
from contracts.operations import YAML

app = typer.Typer(help="APIs and their definitions.", no_args_is_help=True)
_PATH = "/api/apis"
_MASK = "********"
"""What the server shows in place of secrets if the key lacks `write`."""
_SOURCES = Annotated[
    list[str], typer.Argument(metavar="FILE", help="Files, directories of them, or - for the standard input.")
]


@app.command("list")
def list_apis(watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """List the APIs."""
    columns = ("api_id", "name", "listen_path", "active", "oauth")
    show_list(Listing(profile, as_json, watch), _PATH, "apis", columns, _row)


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    definition = entry.get("api_definition", entry)
    listen_path = definition.get("proxy", {}).get("listen_path")
    return {**definition, "listen_path": listen_path, "oauth": definition.get("use_oauth2", False)}


@app.command("show")
def show(api_id: str, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Show the definition of an API as JSON."""
    show_json(request(profile, "GET", f"{_PATH}/{segment(api_id)}"))


@app.command("delete")
def delete(api_id: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Delete an API with its client apps; all their tokens stop working."""
    confirm(f"Delete the API '{api_id}' and its client apps", yes)
    show_envelope(request(profile, "DELETE", f"{_PATH}/{segment(api_id)}"), as_json)


@app.command("import")
def import_(
    files: _SOURCES,
    replace: Annotated[bool, typer.Option("--replace", help="Replace APIs that exist.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be, and write nothing.")] = False,
    accept_unsupported: Annotated[
        bool, typer.Option("--accept-unsupported", help="Import although some protections are not enforced here.")
    ] = False,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Import definitions (Tyk OAS in JSON or YAML, Tyk Classic), and say which of their parts count.

    Status 1: none was imported; 4: some were not.
    """
    given = documents(files)
    switches = {"dry_run": dry_run, "accept_unsupported": accept_unsupported}
    query = {name: "true" for name, wanted in switches.items() if wanted}

    async def work(client: ApiClient) -> list[dict[str, Any]]:
        quiet = len(given) < 2 or not errors.is_terminal
        each = track(given, "Importing", console=errors, transient=True, disable=quiet)
        return [await _imported(client, document, replace, query) for document in each]

    reports = call(profile, work)
    if as_json:
        show_json(reports)
    else:
        for report in reports:
            _show_report(report, dry_run)
    refused = sum(report["result"] == "refused" for report in reports)
    if refused:
        raise typer.Exit(FAILED if refused == len(reports) else INCOMPLETE)


async def _imported(client: ApiClient, document: Document, replace: bool, query: dict[str, str]) -> dict[str, Any]:
    api_id = _id_of(document.value)
    known = replace and api_id and await client.get(f"{_PATH}/{segment(api_id)}") is not None
    kind = "/oas" if document.media_type == YAML else ""
    path = f"{_PATH}{kind}/{segment(api_id)}" if known else f"{_PATH}{kind}"
    raw = (document.content, document.media_type)
    try:
        envelope = await client("PUT" if known else "POST", path, query=query, raw=raw)
    except Refused as refused:
        if refused.http_status not in {400, 409, 413, 422}:
            raise
        return {"source": document.source, "api_id": api_id, "result": "refused", "reason": str(refused)} | _parts(
            refused.meta
        )
    result = "replaced" if known else "created"
    return {"source": document.source, "api_id": envelope.get("ID") or api_id, "result": result} | _parts(
        envelope["Meta"]
    )


def _parts(meta: Any) -> dict[str, Any]:
    names = ("warnings", "enforced", "unused", "refused")
    return {name: meta.get(name) or [] if isinstance(meta, dict) else [] for name in names}


def _id_of(value: Any) -> str:
    """The id in a definition; empty if it has none."""
    if not isinstance(value, dict):
        return ""
    value = value.get("api_definition", value)
    extension = value.get("x-tyk-api-gateway") if isinstance(value, dict) else None
    info = extension.get("info") if isinstance(extension, dict) else None
    found = info.get("id") if isinstance(info, dict) else value.get("api_id") if isinstance(value, dict) else ""
    return found if isinstance(found, str) else ""


def _show_report(report: dict[str, Any], dry_run: bool) -> None:
    out, result = console(), report["result"]
    if dry_run and result != "refused":
        result = f"would be {result}"
    out.print(f"{report['api_id'] or '(no id)'}: {result} ({report['source']})", markup=False)
    if report.get("reason"):
        out.print(f"  {report['reason']}", markup=False)
    for path in report["enforced"]:
        out.print(f"  enforced  {path}", markup=False)
    for kind in ("unused", "refused"):
        for part in report[kind]:
            out.print(f"  {kind:<8}  {part['path']}: {part['reason']}", markup=False)
    named = tuple(part["path"] for part in report["unused"])
    for warning in report["warnings"]:
        if not (named and warning.startswith(named)):
            out.print(f"  warning   {warning}", markup=False)


@app.command("export")
def export(
    api_ids: Annotated[list[str] | None, typer.Argument(metavar="API_ID", help="Without ids: all APIs.")] = None,
    to: Annotated[Path | None, typer.Option("--to", help="A directory for one file each, named by the id.")] = None,
    profile: PROFILE = DEFAULT_PROFILE,
) -> None:
    """Write definitions as JSON, as `tokenwire apis import` reads them."""

    async def work(client: ApiClient) -> dict[str, Any]:
        wanted = api_ids or [_row(entry)["api_id"] async for entry in client.every(_PATH, "apis")]
        quiet = len(wanted) < 2 or not errors.is_terminal
        each = track(wanted, "Exporting", console=errors, transient=True, disable=quiet)
        return {api_id: await client("GET", f"{_PATH}/{segment(api_id)}") for api_id in each}

    found = call(profile, work)
    if to is not None:
        _write(found, to)
    else:
        definitions = list(found.values())
        show_json(definitions[0] if api_ids and len(definitions) == 1 else definitions)
    if _MASK in str(found):
        errors.print("secrets are masked, since the key lacks `write`; these definitions cannot be imported")


def _write(found: dict[str, Any], directory: Path) -> None:
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for api_id, definition in found.items():
            text = orjson.dumps(definition, option=orjson.OPT_INDENT_2) + b"\n"
            (directory / f"{api_id}.json").write_bytes(text)
    except OSError as error:
        raise Failure(f"{directory} cannot be written to: {error.strerror}; name another directory with --to") from None
    console().print(f"{len(found)} definitions are in {directory}", markup=False)
