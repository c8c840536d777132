"""`tokenwire operators`: the users of the management API, and their keys."""

from typing import Annotated, Any

import typer

from cli.api_client import segment
from cli.calls import confirm, request, show_envelope
from cli.lists import show_list
from cli.options import JSON, PROFILE, WATCH, YES, Listing, given
from cli.output import console, errors, show_json, show_record
from cli.profiles import DEFAULT_PROFILE
from contracts.operators import Permission

app = typer.Typer(help="Operators of the management API, and their keys.", no_args_is_help=True)
_PATH = "/api/operators"
_EXPIRES = Annotated[str, typer.Option("--expires-at", metavar="TIME", help="When the key stops working (RFC 3339).")]


@app.command("list")
def list_operators(watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """List the operators; their keys are never shown."""
    columns = ("operator_id", "name", "permissions", "key_created_at", "expires_at")
    show_list(Listing(profile, as_json, watch), _PATH, "operators", columns)


@app.command("show")
def show_operator(
    operator_id: Annotated[str, typer.Argument(help="An id; without one, the operator whose key is used.")] = "self",
    profile: PROFILE = DEFAULT_PROFILE,
) -> None:
    """Show an operator as JSON."""
    show_json(request(profile, "GET", f"{_PATH}/{segment(operator_id)}"))


@app.command("create")
def create(
    name: Annotated[str, typer.Argument(help="A person, or a program.")],
    permission: Annotated[
        list[Permission], typer.Option("--permission", "-p", help="What the key may do; may be repeated.")
    ],
    expires_at: _EXPIRES = "",
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Create an operator. Its key is shown once, and never again."""
    body = {"name": name, "permissions": [str(each) for each in permission], **given(expires_at=expires_at)}
    _show_key(request(profile, "POST", _PATH, body), as_json)


@app.command("rotate")
def rotate(
    operator_id: str,
    overlap: Annotated[int, typer.Option(help="Seconds for which the old key still works.")] = 0,
    expires_at: _EXPIRES = "",
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Give an operator a new key. It is shown once, and never again."""
    body = {"overlap": overlap, **given(expires_at=expires_at)}
    _show_key(request(profile, "POST", f"{_PATH}/{segment(operator_id)}/rotate", body), as_json)


@app.command("revoke")
def revoke(operator_id: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Delete an operator; its key stops working at once."""
    confirm(f"Delete the operator '{operator_id}' and revoke its key", yes)
    show_envelope(request(profile, "DELETE", f"{_PATH}/{segment(operator_id)}"), as_json)


def _show_key(operator: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_json(operator)
        return
    show_record(operator, ("operator_id", "name", "permissions", "expires_at", "previous_expires_at"))
    console().print(f"key                  {operator['key']}", markup=False)
    errors.print("The key is not shown again: keep it now.")
