"""`tokenwire clients`: client apps."""

from typing import Annotated, Any

import typer

from cli import calls
from cli.api_client import segment
from cli.calls import confirm, request, show_envelope
from cli.lists import show_list
from cli.options import API, JSON, POLICIES, PROFILE, SOME_API, WATCH, YES, Listing, given, ids
from cli.output import show_json
from cli.profiles import DEFAULT_PROFILE

app = typer.Typer(help="Client apps.", no_args_is_help=True)

_SHOWN = (
    "client_id",
    "secret",
    "api_id",
    "client_name",
    "description",
    "redirect_uris",
    "policy_ids",
    "scope",
    "public",
)
_URIS = Annotated[
    list[str] | None,
    typer.Option("--redirect-uri", metavar="URI", help="May be repeated. An empty one removes all."),
]
_SCOPE = Annotated[str | None, typer.Option("--scope", help="Scopes that it may request, separated by spaces.")]
_NAME = Annotated[str | None, typer.Option("--name", help="What people call it.")]
_DESCRIPTION = Annotated[str | None, typer.Option("--description")]
_RESOURCE_SERVER = Annotated[
    bool | None,
    typer.Option("--resource-server/--no-resource-server", help="May introspect every access token of the API."),
]


def _path(api: str, client_id: str = "") -> str:
    return f"/api/apis/oauth/{segment(api)}" + (f"/{segment(client_id)}" if client_id else "")


@app.command("list")
def list_clients(
    api: SOME_API = "", watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False
) -> None:
    """List client apps."""
    columns = ("client_id", "api_id", "client_name", "policy_ids", "public")
    show_list(Listing(profile, as_json, watch), _path(api) if api else "/api/clients", "apps", columns)


@app.command("show")
def show_client(client_id: str, api: SOME_API = "", profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Show a client app as JSON; without --api as each of its APIs sees it."""
    show_json(request(profile, "GET", _path(api, client_id) if api else f"/api/clients/{segment(client_id)}"))


@app.command("create")
def create(
    api: API,
    client_id: Annotated[str, typer.Option("--id", help="Its client_id; generated if it is not given.")] = "",
    name: _NAME = None,
    description: _DESCRIPTION = None,
    redirect_uri: _URIS = None,
    policy: POLICIES = None,
    scope: _SCOPE = None,
    public: Annotated[bool, typer.Option("--public", help="Without a secret: only codes, with PKCE.")] = False,
    resource_server: _RESOURCE_SERVER = None,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Register a client app on an API, and show its secret."""
    body = _fields(name, description, redirect_uri, policy, scope, resource_server)
    body |= given(client_id=client_id, public=public or None)
    calls.show(request(profile, "POST", _path(api), body), as_json, _SHOWN)


@app.command("update")
def update(
    client_id: str,
    api: API,
    name: _NAME = None,
    description: _DESCRIPTION = None,
    redirect_uri: _URIS = None,
    policy: POLICIES = None,
    scope: _SCOPE = None,
    resource_server: _RESOURCE_SERVER = None,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Change what is given of a client app on an API, and nothing else."""
    body = _fields(name, description, redirect_uri, policy, scope, resource_server)
    if not body:
        raise typer.BadParameter("nothing to change was given; see `tokenwire clients update --help`")
    calls.show(request(profile, "PUT", _path(api, client_id), body), as_json, _SHOWN[:1] + _SHOWN[2:])


def _fields(
    name: str | None,
    description: str | None,
    redirect_uris: list[str] | None,
    policies: list[str] | None,
    scope: str | None,
    resource_server: bool | None,
) -> dict[str, Any]:
    fields = {
        "client_name": name,
        "description": description,
        "redirect_uris": ids(redirect_uris),
        "policy_ids": ids(policies),
        "scope": scope,
        "resource_server": resource_server,
    }
    return {name: value for name, value in fields.items() if value is not None}


@app.command("rotate")
def rotate_secret(
    client_id: str,
    api: API,
    overlap: Annotated[int, typer.Option(help="Seconds for which the old secret still works.")] = 0,
    profile: PROFILE = DEFAULT_PROFILE,
) -> None:
    """Give a client app a new secret, and show it."""
    show_json(request(profile, "PUT", f"{_path(api, client_id)}/rotate", {"overlap": overlap}))


@app.command("delete")
def delete_client(
    client_id: str, api: API, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False
) -> None:
    """Delete a client app from an API; its tokens stop working at once."""
    confirm(f"Delete the client app '{client_id}' from the API '{api}'", yes)
    show_envelope(request(profile, "DELETE", _path(api, client_id)), as_json)
