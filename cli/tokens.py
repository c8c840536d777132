"""`tokenwire tokens`: access tokens of a client app."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from cli.api_client import ApiClient, segment
from cli.calls import confirm, request, show_envelope
from cli.id_arguments import IdCommand
from cli.lists import show_records
from cli.options import JSON, PROFILE, WATCH, YES, Listing
from cli.profiles import DEFAULT_PROFILE

app = typer.Typer(help="Access tokens of a client app.", no_args_is_help=True)


@app.command("list")
def list_tokens(client_id: str, watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """List up to 500 live access tokens of a client app."""

    async def read(client: ApiClient) -> tuple[list[dict[str, Any]], bool]:
        return await client("GET", f"/api/apis/oauth/{segment(client_id)}/tokens"), False

    show_records(Listing(profile, as_json, watch), read, ("code", "expires", "subject", "scope"), _row)


def _row(token: dict[str, Any]) -> dict[str, Any]:
    return {**token, "expires": f"{datetime.fromtimestamp(token['expires'], UTC):%Y-%m-%dT%H:%M:%SZ}"}


@app.command("revoke", cls=IdCommand)
def revoke_token(
    client_id: str,
    token: Annotated[str, typer.Argument(help="The token, or its `code` in the list.")],
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Revoke a token of a client app; a refresh token revokes the whole grant."""
    path = f"/api/apis/oauth/{segment(client_id)}/revoke"
    show_envelope(request(profile, "POST", path, form={"token": token}), as_json)


@app.command("revoke-all")
def revoke_all_tokens(
    client_id: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False
) -> None:
    """Revoke all tokens of a client app, on all of its APIs."""
    confirm(f"Revoke all tokens of the client app '{client_id}'", yes)
    path = f"/api/apis/oauth/{segment(client_id)}/revoke_all"
    show_envelope(request(profile, "POST", path, form={}), as_json)
