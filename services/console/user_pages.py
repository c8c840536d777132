"""Users: the resource owners of the password grant."""

from collections.abc import Mapping

from aiohttp import web

from contracts.operators import Permission
from contracts.resource_owners import ResourceOwnerList, ResourceOwnerView
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, needs

_USERS = "/api/apis/keys/basic"


async def list_users(visit: Visit) -> web.StreamResponse:
    """GET /users."""
    found = await visit.api.get(ResourceOwnerList, _USERS, {"after": visit.query.get("after", "")})
    return visit.page("user_list.html", rows=found.users, next=found.next)


async def show_user(visit: Visit) -> web.StreamResponse:
    """GET /users/{username}."""
    user = await visit.api.get(ResourceOwnerView, _path(visit))
    return visit.page("user_show.html", user=user, problem_text="")


async def new_user(visit: Visit) -> web.StreamResponse:
    """GET /users/new."""
    return visit.page("user_form.html", values={}, problem_text="")


async def add_user(visit: Visit) -> web.StreamResponse:
    """POST /users."""
    username = visit.form.get("username", "").strip()
    document = {"password": visit.form.get("password", ""), "policy_ids": visit.form.get("policy_ids", "").split()}
    try:
        if not username or username in {".", ".."}:
            raise CallRefused(400, "Name: a user name has 1 to 256 characters, without slashes.")
        made = await visit.api.change("POST", f"{_USERS}/{segment(username)}", document)
    except CallRefused as refused:
        if refused.status not in {400, 404, 409}:
            raise
        values = {"username": username, "policy_ids": visit.form.get("policy_ids", "")}
        return visit.page("user_form.html", 400, values=values, problem_text=refused.message)
    return visit.done(f"The user {made['username']} was created.", f"/users/{segment(made['username'])}")


async def edit(visit: Visit) -> web.StreamResponse:
    """POST /users/{username}/edit: whether the user may log in, and the policies."""
    changes = {"active": "active" in visit.form, "policy_ids": visit.form.get("policy_ids", "").split()}
    return await _changed(visit, changes, "The user was changed.")


async def set_password(visit: Visit) -> web.StreamResponse:
    """POST /users/{username}/password."""
    done = "The password was changed. Refresh tokens for the old one have stopped working."
    return await _changed(visit, {"password": visit.form.get("password", "")}, done)


async def _changed(visit: Visit, changes: Mapping[str, object], done: str) -> web.StreamResponse:
    try:
        await visit.api.change("PUT", _path(visit), changes)
    except CallRefused as refused:
        if refused.status not in {400, 409}:
            raise
        user = await visit.api.get(ResourceOwnerView, _path(visit))
        return visit.page("user_show.html", 400, user=user, problem_text=refused.message)
    return visit.done(done, f"/users/{segment(visit.named('username'))}")


async def confirm_deletion(visit: Visit) -> web.StreamResponse:
    """GET /users/{username}/delete."""
    username = visit.named("username")
    return visit.page(
        "confirm.html",
        title=f"Delete the user {username}?",
        lines=["The user can no longer log in, and all tokens of the user stop working. This cannot be undone."],
        fields=[],
        problem_text="",
        action="Delete the user",
        dangerous=True,
        back=visit.link(f"/users/{segment(username)}"),
    )


async def delete(visit: Visit) -> web.StreamResponse:
    """POST /users/{username}/delete."""
    await visit.api.change("DELETE", _path(visit))
    return visit.done(f"The user {visit.named('username')} was deleted.", "/users")


def _path(visit: Visit) -> str:
    return f"{_USERS}/{segment(visit.named('username'))}"


PAGES: Mapping[str, Page] = {
    "GET /users": list_users,
    "POST /users": needs(Permission.WRITE, add_user),
    "GET /users/new": needs(Permission.WRITE, new_user),
    "GET /users/{username}": show_user,
    "POST /users/{username}/edit": needs(Permission.WRITE, edit),
    "POST /users/{username}/password": needs(Permission.WRITE, set_password),
    "GET /users/{username}/delete": needs(Permission.WRITE, confirm_deletion),
    "POST /users/{username}/delete": needs(Permission.WRITE, delete),
}
