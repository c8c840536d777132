"""`tokenwire apis | clients | policies | users | operators | tokens`: list, show, delete and revoke."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from cli import profiles
from cli.api_client import ApiClient, segment, tokenwire
from cli.options import JSON, PROFILE, YES
from cli.output import console, show_json, show_table
from cli.profiles import DEFAULT_PROFILE

API = Annotated[str, typer.Option("--api", help="The API's id.")]


def add_to(app: typer.Typer) -> None:
    """Add a group of commands for each kind of record."""
    _add(app, "apis", "APIs", "/api/apis", "apis", ("api_id", "name", "listen_path", "active"), _api_row)
    _add(app, "policies", "Policies", "/api/portal/policies", "Data", ("id", "name", "active", "rate", "per"))
    _add(
        app,
        "users",
        "Users of the password grant",
        "/api/apis/keys/basic",
        "users",
        ("username", "active", "policy_ids"),
    )
    _add(app, "operators", "Operators", "/api/operators", "operators", ("operator_id", "name", "permissions"))
    app.add_typer(clients, name="clients")
    app.add_typer(tokens, name="tokens")


def _call(profile: str, work: Callable[[ApiClient], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        async with tokenwire(profiles.load(profile)) as call:
            return await work(call)

    return asyncio.run(run())


def _api_row(entry: dict[str, Any]) -> dict[str, Any]:
    definition = entry.get("api_definition", entry)
    return {**definition, "listen_path": definition.get("proxy", {}).get("listen_path")}


def _list(profile: str, path: str, member: str, columns: tuple[str, ...], row: Any, as_json: bool) -> None:
    async def work(call: ApiClient) -> list[Any]:
        return [record async for record in call.every(path, member)]

    found = _call(profile, work)
    if as_json:
        show_json(found)
    else:
        show_table(map(row, found), columns)


def _confirm(what: str, yes: bool) -> None:
    if not yes:
        typer.confirm(f"{what}?", abort=True)


def _add(
    app: typer.Typer,
    name: str,
    what: str,
    path: str,
    member: str,
    columns: tuple[str, ...],
    row: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> None:
    group = typer.Typer(help=f"{what}.", no_args_is_help=True)

    @group.command("list", help=f"List all {name}.")
    def list_all(profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
        _list(profile, path, member, columns, row, as_json)

    @group.command("show", help="Show one as JSON.")
    def show(key: str, profile: PROFILE = DEFAULT_PROFILE) -> None:
        show_json(_call(profile, lambda call: call("GET", f"{path}/{segment(key)}")))

    @group.command("delete", help="Delete one.")
    def delete(key: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE) -> None:
        _confirm(f"Delete '{key}'", yes)
        console().print(_call(profile, lambda call: call("DELETE", f"{path}/{segment(key)}"))["Message"])

    app.add_typer(group, name=name)


clients = typer.Typer(help="Client apps.", no_args_is_help=True)
tokens = typer.Typer(help="Access tokens.", no_args_is_help=True)
_COLUMNS = ("client_id", "client_name", "redirect_uris", "policy_ids", "public")


@clients.command("list")
def list_clients(api: API, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """List the clients of an API."""
    _list(profile, f"/api/apis/oauth/{segment(api)}", "apps", _COLUMNS, dict, as_json)


@clients.command("show")
def show_client(client_id: str, api: API, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Show a client as JSON."""
    show_json(_call(profile, lambda call: call("GET", f"/api/apis/oauth/{segment(api)}/{segment(client_id)}")))


@clients.command("rotate")
def rotate_secret(
    client_id: str,
    api: API,
    overlap: Annotated[int, typer.Option(help="Seconds for which the old secret still works.")] = 0,
    profile: PROFILE = DEFAULT_PROFILE,
) -> None:
    """Give a client a new secret, and show it."""
    path = f"/api/apis/oauth/{segment(api)}/{segment(client_id)}/rotate"
    show_json(_call(profile, lambda call: call("PUT", path, {"overlap": overlap})))


@clients.command("delete")
def delete_client(client_id: str, api: API, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Delete a client from an API; its tokens stop working at once."""
    _confirm(f"Delete the client '{client_id}'", yes)
    path = f"/api/apis/oauth/{segment(api)}/{segment(client_id)}"
    console().print(_call(profile, lambda call: call("DELETE", path))["Message"])


@tokens.command("list")
def list_tokens(client_id: str, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """List up to 500 live access tokens of a client."""
    found = _call(profile, lambda call: call("GET", f"/api/apis/oauth/{segment(client_id)}/tokens"))
    if as_json:
        show_json(found)
    else:
        show_table(found, ("code", "expires", "subject", "scope"))


@tokens.command("revoke")
def revoke_token(
    client_id: str,
    token: Annotated[str, typer.Argument(help="The token, or its `code` in the list.")],
    profile: PROFILE = DEFAULT_PROFILE,
) -> None:
    """Revoke a token of a client; a refresh token revokes the whole grant."""
    path = f"/api/apis/oauth/{segment(client_id)}/revoke"
    console().print(_call(profile, lambda call: call("POST", path, form={"token": token}))["Message"])


@tokens.command("revoke-all")
def revoke_all_tokens(client_id: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Revoke all tokens of a client, on all of its APIs."""
    _confirm(f"Revoke all tokens of the client '{client_id}'", yes)
    path = f"/api/apis/oauth/{segment(client_id)}/revoke_all"
    console().print(_call(profile, lambda call: call("POST", path, form={}))["Message"])
