"""Operators: who may use the management API and this console, and for what."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from aiohttp import web

from contracts.operators import BOOTSTRAP_OPERATOR_ID, OperatorList, OperatorView, Permission
from libs.runtime import utc_now
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, WrongForm, needs

PERMISSIONS = {
    Permission.READ: "See everything but secrets.",
    Permission.WRITE: "Change APIs, client apps, policies and users; send webhooks again; see secrets.",
    Permission.AUTHORIZE: "Ask for authorization codes: for identity servers.",
    Permission.REVOKE: "Revoke tokens.",
    Permission.ADMIN: "All of these, and manage operators.",
}

SOON = timedelta(days=14)
"""A key that expires within this time is marked."""
_MINUTE = "%Y-%m-%dT%H:%M"
"""What a browser's field for a date and a time contains."""


async def list_operators(visit: Visit) -> web.StreamResponse:
    """GET /operators."""
    found = await visit.api.get(OperatorList, "/api/operators", {"after": visit.query.get("after", "")})
    return visit.page("operator_list.html", rows=found.operators, next=found.next, tone=_tone)


async def show_operator(visit: Visit) -> web.StreamResponse:
    """GET /operators/{operator_id}."""
    return _form(visit, await visit.api.get(OperatorView, _path(visit)))


async def new_operator(visit: Visit) -> web.StreamResponse:
    """GET /operators/new."""
    return _form(visit, None)


async def add_operator(visit: Visit) -> web.StreamResponse:
    """POST /operators: the page after it is the only one that ever shows the key."""
    try:
        document = {**_document(visit), "expires_at": _moment(visit.form.get("expires_at", ""))}
        made = await visit.api.change("POST", "/api/operators", document)
    except (CallRefused, WrongForm) as refused:
        return _refused(visit, None, refused)
    return _key(visit, OperatorView.model_validate(made), "The operator was created.")


async def edit(visit: Visit) -> web.StreamResponse:
    """POST /operators/{operator_id}."""
    try:
        await visit.api.change("PUT", _path(visit), _document(visit) | _new_expiry(visit.form))
    except (CallRefused, WrongForm) as refused:
        return _refused(visit, await visit.api.get(OperatorView, _path(visit)), refused)
    return visit.done("The operator was changed; it applies to the next request with its key.", "/operators")


async def confirm_rotation(visit: Visit) -> web.StreamResponse:
    """GET /operators/{operator_id}/rotate."""
    return _rotation(visit, await visit.api.get(OperatorView, _path(visit)))


async def rotate(visit: Visit) -> web.StreamResponse:
    """POST /operators/{operator_id}/rotate: the page after it is the only one that ever shows the new key."""
    try:
        document = {"overlap": _seconds(visit.form.get("overlap", "")), **_new_expiry(visit.form)}
        made = await visit.api.change("POST", f"{_path(visit)}/rotate", document)
    except (CallRefused, WrongForm) as refused:
        return _rotation(visit, await visit.api.get(OperatorView, _path(visit)), _reason(refused))
    operator = OperatorView.model_validate(made)
    if operator.operator_id == visit.operator.operator_id:
        # Else this session would end with its key, before the new one was copied.
        visit.session = visit.session.model_copy(update={"key": operator.key})
    return _key(visit, operator, "The key was rotated.")


def _key(visit: Visit, operator: OperatorView, done: str) -> web.Response:
    return visit.page("operator_key.html", made=operator, done=done)


def _rotation(visit: Visit, operator: OperatorView, problem: str = "") -> web.Response:
    values = visit.form if problem else {"expires_at": "", "overlap": "0"}
    return visit.page(
        "operator_rotate.html", 400 if problem else 200, subject=operator, values=values, problem_text=problem
    )


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


def _new_expiry(form: Mapping[str, str]) -> dict[str, Any]:
    """The expiry that was filled in; nothing if it is as it was shown, so that seconds that a form lacks are kept."""
    text = form.get("expires_at", "")
    return {} if text == form.get("expires_before", "") else {"expires_at": _moment(text)}


def _moment(text: str) -> str | None:
    """The time in UTC that a form's field has; None if it is empty. Raises WrongForm."""
    if not text.strip():
        return None
    try:
        return datetime.fromisoformat(text.strip()).replace(tzinfo=UTC).isoformat()
    except ValueError:
        raise WrongForm("Key expires: a date and a time are expected, as in 2030-12-31T23:59.") from None


def _seconds(hours: str) -> int:
    """The seconds of a number of hours. Raises WrongForm."""
    if not hours.strip().isdecimal() or int(hours) > 2160:
        raise WrongForm("Hours: a whole number from 0 to 2160 (90 days) is expected.")
    return int(hours) * 3600


def _tone(expires_at: datetime) -> str:
    """How the expiry is marked: past, soon, or neither."""
    left = expires_at - utc_now()
    return "bad" if left <= timedelta(0) else "wait" if left <= SOON else "plain"


def _reason(refused: CallRefused | WrongForm) -> str:
    if isinstance(refused, CallRefused) and refused.status not in {400, 409}:
        raise refused
    return str(refused)


def _refused(visit: Visit, operator: OperatorView | None, refused: CallRefused | WrongForm) -> web.Response:
    return _form(visit, operator, _reason(refused))


def _form(visit: Visit, operator: OperatorView | None, problem: str = "") -> web.Response:
    expires_at = operator.expires_at.strftime(_MINUTE) if operator and operator.expires_at else ""
    values = visit.form if problem else {"name": operator.name if operator else "", "expires_at": expires_at}
    held = visit.form.get("permissions", "").splitlines() if problem else (operator.permissions if operator else ())
    return visit.page(
        "operator_form.html",
        400 if problem else 200,
        subject=operator,
        expires_before=expires_at,
        is_setting=operator is not None and operator.operator_id == BOOTSTRAP_OPERATOR_ID,
        tone=_tone,
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
    "GET /operators/{operator_id}/rotate": needs(Permission.ADMIN, confirm_rotation),
    "POST /operators/{operator_id}/rotate": needs(Permission.ADMIN, rotate),
    "GET /operators/{operator_id}/delete": needs(Permission.ADMIN, confirm_deletion),
    "POST /operators/{operator_id}/delete": needs(Permission.ADMIN, delete),
}
