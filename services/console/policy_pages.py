"""Policies: what tokens may do."""

import asyncio
from collections.abc import Mapping
from typing import Any

import orjson
from aiohttp import web

from contracts.operators import Permission
from contracts.policy_preview import PolicyPreview, PolicyUsage
from services.console.policy_view import ShownPolicies, ShownPolicy
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, WrongForm, needs

_FIELDS = {"rate", "per", "quota_max", "quota_renewal_rate"}
_EXAMPLE = '{\n  "<api id>": {}\n}'
_NEW = {
    "active": "1",
    "access_rights": _EXAMPLE,
    "text": '{\n  "name": "",\n  "active": true,\n  "access_rights": {\n    "<api id>": {}\n  }\n}',
}
"""The forms of a new policy."""


async def list_policies(visit: Visit) -> web.StreamResponse:
    """GET /policies."""
    found = await visit.api.get(ShownPolicies, "/api/portal/policies", {"after": visit.query.get("after", "")})
    return visit.page("policy_list.html", rows=found.Data, next=found.next)


async def show_policy(visit: Visit) -> web.StreamResponse:
    """GET /policies/{policy_id}."""
    policy, usage = await asyncio.gather(visit.api.get(ShownPolicy, _path(visit)), _usage(visit))
    return visit.page("policy_show.html", policy=policy, usage=usage)


async def preview(visit: Visit) -> web.StreamResponse:
    """GET /policies/preview?api_id=…&client_id=…&policy_ids=…&username=…; empty policies: those of the client app."""
    found, problem, status = None, "", 200
    if visit.query.get("api_id"):
        try:
            found = PolicyPreview.model_validate(
                await visit.api.change("POST", "/api/portal/policies/preview", _wanted(visit.query))
            )
        except CallRefused as refused:
            if refused.status not in {400, 404}:
                raise
            problem, status = refused.message, refused.status
    return visit.page("policy_preview.html", status, found=found, problem_text=problem)


def _wanted(query: Mapping[str, str]) -> dict[str, object]:
    wanted: dict[str, object] = {
        name: query[name].strip() for name in ("api_id", "client_id", "username") if name in query
    }
    if policy_ids := query.get("policy_ids", "").replace(",", " ").split():
        wanted["policy_ids"] = policy_ids
    return wanted


async def _usage(visit: Visit) -> PolicyUsage:
    return await visit.api.get(PolicyUsage, f"{_path(visit)}/usage")


async def new_policy(visit: Visit) -> web.StreamResponse:
    """GET /policies/new."""
    return _form(visit, _NEW, new=True)


async def add_policy(visit: Visit) -> web.StreamResponse:
    """POST /policies: from the fields, or from the text."""
    try:
        document = _text_or_fields(visit.form)
        if "text" not in visit.form and visit.form.get("id"):
            document["id"] = visit.form["id"].strip()
        made = await visit.api.change("POST", "/api/portal/policies", document)
    except (CallRefused, WrongForm) as refused:
        return _form(visit, _typed(visit, _NEW), new=True, problem=_reason(refused))
    return visit.done("The policy was created.", f"/policies/{segment(made['ID'])}")


async def edit_form(visit: Visit) -> web.StreamResponse:
    """GET /policies/{policy_id}/edit."""
    return _form(visit, await _stored(visit), new=False)


async def edit(visit: Visit) -> web.StreamResponse:
    """POST /policies/{policy_id}/edit: replaces what the fields have, and keeps every other one; or all by the text."""
    try:
        kept = {} if "text" in visit.form else await visit.api.read(_path(visit))
        await visit.api.change("PUT", _path(visit), kept | _text_or_fields(visit.form))
    except (CallRefused, WrongForm) as refused:
        return _form(visit, _typed(visit, await _stored(visit)), new=False, problem=_reason(refused))
    return visit.done(
        "The policy was changed. It applies at once, also to tokens that were issued before.",
        f"/policies/{segment(visit.named('policy_id'))}",
    )


async def confirm_deletion(visit: Visit) -> web.StreamResponse:
    """GET /policies/{policy_id}/delete."""
    policy_id, usage = visit.named("policy_id"), await _usage(visit)
    return visit.page(
        "confirm.html",
        title=f"Delete the policy {policy_id}?",
        lines=[
            f"{_many(usage.client_count, 'client app')} and {_many(usage.user_count, 'user')} have it. Where it is the "
            "only policy, every call is refused from then on.",
            "It grants nothing any more, also to tokens that were issued before. This cannot be undone.",
        ],
        fields=[],
        problem_text="",
        action="Delete the policy",
        dangerous=True,
        back=visit.link(f"/policies/{segment(policy_id)}"),
    )


async def delete(visit: Visit) -> web.StreamResponse:
    """POST /policies/{policy_id}/delete."""
    await visit.api.change("DELETE", _path(visit))
    return visit.done(f"The policy {visit.named('policy_id')} was deleted.", "/policies")


def _many(number: int, noun: str) -> str:
    return f"1000 or more {noun}s" if number > 1000 else f"{number} {noun}{'' if number == 1 else 's'}"


def _path(visit: Visit) -> str:
    return f"/api/portal/policies/{segment(visit.named('policy_id'))}"


def _form(visit: Visit, values: Mapping[str, str], *, new: bool, problem: str = "") -> web.Response:
    return visit.page("policy_form.html", 400 if problem else 200, new=new, values=values, problem_text=problem)


def _values(policy: ShownPolicy) -> dict[str, str]:
    rights = {api_id: right.model_dump(mode="json") for api_id, right in policy.access_rights.items()}
    return {
        "name": policy.name,
        **({"active": "1"} if policy.active and not policy.is_inactive else {}),
        **{name: f"{getattr(policy, name):g}" for name in _FIELDS},
        "tags": "\n".join(policy.tags),
        "access_rights": orjson.dumps(rights, option=orjson.OPT_INDENT_2).decode(),
        "meta_data": orjson.dumps(policy.meta_data, option=orjson.OPT_INDENT_2).decode(),
    }


def _document(form: Mapping[str, str]) -> dict[str, Any]:
    """The form as the management API takes it. Raises WrongForm."""
    active = "active" in form
    return {
        "name": form.get("name", "").strip(),
        "active": active,
        "is_inactive": not active,
        **{name: _number(name, form.get(name, "")) for name in _FIELDS},
        "tags": [line.strip() for line in form.get("tags", "").splitlines() if line.strip()],
        "access_rights": _object("Access rights", form.get("access_rights", "")),
        "meta_data": _object("Metadata", form.get("meta_data", "")),
    }


def _text_or_fields(form: Mapping[str, str]) -> dict[str, Any]:
    """What one of the two forms says. Raises WrongForm."""
    if "text" not in form:
        return _document(form)
    document = _object("The text", form["text"])
    if not isinstance(document, dict):
        raise WrongForm("The text: a JSON object is expected.")
    return document


async def _stored(visit: Visit) -> dict[str, str]:
    document = await visit.api.read(_path(visit))
    text = orjson.dumps(document, option=orjson.OPT_INDENT_2).decode()
    return _values(ShownPolicy.model_validate(document)) | {"text": text}


def _typed(visit: Visit, before: Mapping[str, str]) -> Mapping[str, str]:
    """The form that was sent, as it was typed, and the other one as it was before."""
    return {**before, **visit.form} if "text" in visit.form else {"text": before["text"], **visit.form}


def _number(name: str, text: str) -> int | float:
    try:
        number = float(text.strip() or 0)
    except ValueError:
        raise WrongForm(f"{name}: a number is expected; 0 for none, -1 for unlimited.") from None
    return int(number) if number.is_integer() else number


def _object(label: str, text: str) -> Any:
    try:
        return orjson.loads(text.strip() or "{}")
    except orjson.JSONDecodeError as error:
        raise WrongForm(f"{label}: not JSON ({error.msg}, line {error.lineno}). An object is expected.") from None


def _reason(refused: CallRefused | WrongForm) -> str:
    if isinstance(refused, CallRefused) and refused.status not in {400, 409}:
        raise refused
    return str(refused)


PAGES: Mapping[str, Page] = {
    "GET /policies": list_policies,
    "POST /policies": needs(Permission.WRITE, add_policy),
    "GET /policies/new": needs(Permission.WRITE, new_policy),
    "GET /policies/preview": preview,
    "GET /policies/{policy_id}": show_policy,
    "GET /policies/{policy_id}/edit": needs(Permission.WRITE, edit_form),
    "POST /policies/{policy_id}/edit": needs(Permission.WRITE, edit),
    "GET /policies/{policy_id}/delete": needs(Permission.WRITE, confirm_deletion),
    "POST /policies/{policy_id}/delete": needs(Permission.WRITE, delete),
}
