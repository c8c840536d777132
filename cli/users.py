"""`tokenwire users`: users of the password grant, and the end of all grants of any user."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from cli import calls
from cli.api_client import segment
from cli.calls import confirm, request, show_envelope
from cli.failures import Failure
from cli.lists import show_list
from cli.options import JSON, POLICIES, PROFILE, WATCH, YES, Listing, given, ids
from cli.output import console, show_json
from cli.profiles import DEFAULT_PROFILE

app = typer.Typer(help="Users of the password grant; and the grants of any user.", no_args_is_help=True)

_COLUMNS = ("username", "active", "policy_ids", "created_at")
_PASSWORD_FILE = Annotated[
    str,
    typer.Option("--password-file", metavar="FILE", help="Read the password from this file (-: standard input)."),
]


def _path(username: str) -> str:
    return f"/api/apis/keys/basic/{segment(username)}"


@app.command("list")
def list_users(watch: WATCH = 0, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """List the users."""
    show_list(Listing(profile, as_json, watch), "/api/apis/keys/basic", "users", _COLUMNS)


@app.command("show")
def show_user(username: str, profile: PROFILE = DEFAULT_PROFILE) -> None:
    """Show a user as JSON; never the password."""
    show_json(request(profile, "GET", _path(username)))


@app.command("create")
def create(
    username: str,
    policy: POLICIES = None,
    password_file: _PASSWORD_FILE = "",
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """Create a user; asks for the password."""
    body = {"password": _password(password_file), **given(policy_ids=ids(policy))}
    calls.show(request(profile, "POST", _path(username), body), as_json, _COLUMNS)


@app.command("password")
def password(
    username: str, password_file: _PASSWORD_FILE = "", profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False
) -> None:
    """Give a user a new password; asks for it. Tokens stay valid."""
    _edit(profile, username, {"password": _password(password_file)}, as_json)


@app.command("disable")
def disable(username: str, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Refuse new logins of a user. `tokenwire users revoke-all` ends the tokens, too."""
    _edit(profile, username, {"active": False}, as_json)
    if not as_json:
        console().print(f"tokens that {username} has stay valid: `tokenwire users revoke-all` ends them", markup=False)


@app.command("enable")
def enable(username: str, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Allow a user to log in again."""
    _edit(profile, username, {"active": True}, as_json)


@app.command("delete")
def delete(username: str, yes: YES = False, profile: PROFILE = DEFAULT_PROFILE, as_json: JSON = False) -> None:
    """Delete a user."""
    confirm(f"Delete the user '{username}'", yes)
    show_envelope(request(profile, "DELETE", _path(username)), as_json)


@app.command("revoke-all")
def revoke_all(
    subject: Annotated[str, typer.Argument(help="The user, exactly as the identity server names them.")],
    yes: YES = False,
    profile: PROFILE = DEFAULT_PROFILE,
    as_json: JSON = False,
) -> None:
    """End every grant of a user, on all APIs and for all client apps."""
    confirm(f"End all grants of the user '{subject}'", yes)
    show_envelope(request(profile, "POST", f"/api/users/{segment(subject)}/revoke_all"), as_json)


def _edit(profile: str, username: str, body: dict[str, Any], as_json: bool) -> None:
    calls.show(request(profile, "PUT", _path(username), body), as_json, _COLUMNS)


def _password(file: str) -> str:
    """The password: from the file, or asked for twice."""
    if not file:
        return str(typer.prompt("Password", hide_input=True, confirmation_prompt=True))
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Failure(
            f"the password cannot be read from {file}: {error}; name another file with --password-file"
        ) from None
    return text.rstrip("\r\n")
