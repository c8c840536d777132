"""`tokenwire policies`."""

from typing import Annotated, Any

import typer
from rich.progress import track

from cli.api_client import ApiClient, segment
from cli.calls import call, confirm, request, show_envelope
from cli.definitions import Document, documents
from cli.failures import Failure
from cli.lists import show_list
from cli.options import JSON, PROFILE, WATCH, YES, Listing
from cli.output import console, errors, show_json
from cli.profiles import DEFAULT_PROFILE

app = typer.Typer(help="Policies: what tokens may call, and how often.", no_args_is_help=True)
_PATH = "/api/portal/policies"


@app.command("list")
def list_policies(watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """List the policies."""
    show_list(Listing(profile, as_json, watch), _PATH, "Data", ("id", "name", "active", "rate", "per", "apis"), _row)


def _row(policy: dict[str, Any]) -> dict[str, Any]:
    limited = policy.get("rate", -1) > 0
    numbers = {name: f"{policy[name]:g}" if limited else "unlimited" for name in ("rate", "per")}
    return {**policy, **numbers, "per": f"{policy['per']:g} s" if limited else "", "apis": [*policy["access_rights"]]}


@app.command("show")
def show(policy_id: str, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Show a policy as JSON."""
    show_json(request(profile, "GET", f"{_PATH}/{segment(policy_id)}"))


@app.command("delete")
def delete(policy_id: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Delete a policy; tokens lose what it grants at once."""
    confirm(f"Delete the policy '{policy_id}'", yes)
    show_envelope(request(profile, "DELETE", f"{_PATH}/{segment(policy_id)}"), as_json)


@app.command("apply")
def apply(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE", help="Files, directories of them, or - for the standard input.")
    ],
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Create or replace policies, each by its `id`, from JSON or YAML. It applies to tokens already issued."""
    given = documents(files)
    for document in given:
        if not isinstance(document.value, dict) or not isinstance(document.value.get("id"), str):
            raise Failure(f"{document.source} is no policy with an `id`; write the id that the policy is to have")

    async def work(client: ApiClient) -> list[dict[str, Any]]:
        quiet = len(given) < 2 or not errors.is_terminal
        each = track(given, "Applying", console=errors, transient=True, disable=quiet)
        return [await _applied(client, document) for document in each]

    results = call(profile, work)
    if as_json:
        show_json(results)
        return
    for result in results:
        console().print(f"{result['id']}: {result['result']}", markup=False)
        for warning in result["warnings"]:
            console().print(f"  warning  {warning}", markup=False)


async def _applied(client: ApiClient, document: Document) -> dict[str, Any]:
    policy_id: str = document.value["id"]
    path = f"{_PATH}/{segment(policy_id)}"
    known = await client.get(path) is not None
    try:
        envelope = await client("PUT" if known else "POST", path if known else _PATH, document.value)
    except Failure as failure:
        raise Failure(f"{document.source}: {failure}", failure.status) from None
    meta = envelope.get("Meta")
    warnings = meta.get("warnings", []) if isinstance(meta, dict) else []
    return {"id": policy_id, "result": "replaced" if known else "created", "warnings": warnings}
