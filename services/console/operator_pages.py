"""Operators: who may use the management API and this console, and for what."""

from collections.abc import Mapping
from typing import Any

from aiohttp import web

from contracts.operators import OperatorList, OperatorView, Permission
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, needs

PERMISSIONS = {
    Permission.READ: "See everything but secrets.",
    Permission.WRITE: "Change APIs, client apps, policies and users; send webhooks again; see secrets.",
    Permission.AUTHORIZE: "Ask for authorization codes: for identity servers.",
    Permission.REVOKE: "Revoke tokens.",
    Permission.ADMIN: "All of these, and manage operators.",
}


async def list_operators(visit: Visit) -> web.StreamResponse:
    """GET /operators."""
    found = await visit.api.get(OperatorList, "/api/operators", {"after": visit.query.get("after", "")})
    return visit.page("operator_list.html", rows=found.operators, next=found.next)


async def show_operator(visit: Visit) -> web.StreamResponse:
    """GET /operators/{operator_id}."""
    return _form(visit, await visit.api.get(OperatorView, _path(visit)))


async def new_operator(visit: Visit) -> web.StreamResponse:
    """GET /operators/new."""
    return _form(visit, None)


async def add_operator(visit: Visit) -> web.StreamResponse:
    """POST /operators: the page after it is the only one that ever shows the key."""
    try:
        made = await visit.api.change("POST", "/api/operators", _document(visit))
    except CallRefused as refused:
        return _refused(visit, None, refused)
    return visit.page("operator_key.html", made=OperatorView.model_validate(made))


async def edit(visit: Visit) -> web.StreamResponse:
    """POST /operators/{operator_id}."""
    try:
        await visit.api.change("PUT", _path(visit), _document(visit))
    except CallRefused as refused:
        return _refused(visit, await visit.api.get(OperatorView, _path(visit)), refused)
    return visit.done("The operator was changed; it applies to the next request with its key.", "/operators")


async def confirm_deletion(visit: Visit) -> web.StreamResponse:
    """GET /operators/{operator_id}/delete."""
    operator = await visit.api.get(OperatorView, _path(visit))
    return visit.page(
        "confirm.html",
        title=f"Delete the operator {operator.name}?",
        lines=["Its key stops working at once, here too: whoever is signed in with it is signed out."],
        fields=[],
        problem_text="",
        action="Delete the operator",
        dangerous=True,
        back=visit.link(f"/operators/{segment(operator.operator_id)}"),
    )


async def delete(visit: Visit) -> web.StreamResponse:
    """POST /operators/{operator_id}/delete."""
    await visit.api.change("DELETE", _path(visit))
    return visit.done("The operator was deleted.", "/operators")


def _path(visit: Visit) -> str:
    return f"/api/operators/{segment(visit.named('operator_id'))}"


def _document(visit: Visit) -> dict[str, Any]:
    return {
        "name": visit.form.get("name", "").strip(),
        "permissions": [line for line in visit.form.get("permissions", "").splitlines() if line],
    }


def _refused(visit: Visit, operator: OperatorView | None, refused: CallRefused) -> web.Response:
    if refused.status not in {400, 409}:
        raise refused
    return _form(visit, operator, refused.message)


def _form(visit: Visit, operator: OperatorView | None, problem: str = "") -> web.Response:
    values = visit.form if problem else {"name": operator.name if operator else ""}
    held = visit.form.get("permissions", "").splitlines() if problem else (operator.permissions if operator else ())
    return visit.page(
        "operator_form.html",
        400 if problem else 200,
        subject=operator,
        values=values,
        held=[str(permission) for permission in held],
        permissions={str(permission): text for permission, text in PERMISSIONS.items()},
        problem_text=problem,
    )


PAGES: Mapping[str, Page] = {
    "GET /operators": needs(Permission.ADMIN, list_operators),
    "POST /operators": needs(Permission.ADMIN, add_operator),
    "GET /operators/new": needs(Permission.ADMIN, new_operator),
    "GET /operators/{operator_id}": needs(Permission.ADMIN, show_operator),
    "POST /operators/{operator_id}": needs(Permission.ADMIN, edit),
    "GET /operators/{operator_id}/delete": needs(Permission.ADMIN, confirm_deletion),
    "POST /operators/{operator_id}/delete": needs(Permission.ADMIN, delete),
}
