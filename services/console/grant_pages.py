"""Grants: found by client app, user or a pasted token; the life of one, from its code to its end."""

from collections.abc import Mapping

from aiohttp import web

from contracts.grant_views import FoundGrant, GrantList, GrantTimeline
from contracts.grants import GrantState
from contracts.operations import Service
from contracts.operators import Permission
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, needs

_FILTERS = ("client_id", "api_id", "subject", "state", "after")


async def list_grants(visit: Visit) -> web.StreamResponse:
    """GET /grants?client_id=…&api_id=…&subject=…&state=…"""
    return await _list(visit)


async def look_up(visit: Visit) -> web.StreamResponse:
    """POST /grants: to the grant of a pasted token or code, which is in no URL and no log."""
    token = visit.form.get("token", "").strip()
    if not token:
        return await _list(visit, "Paste a token, a code, or the public id of a token.")
    try:
        answer = await visit.api.change("POST", "/api/grants/lookup", {"token": token})
    except CallRefused as refused:
        if refused.status not in {400, 404}:
            raise
        return await _list(visit, refused.message)
    found = FoundGrant.model_validate(answer)
    kind = str(found.kind).replace("_", " ")
    worth = "It works now." if found.valid else "It does not work any more."
    message = f"This is the grant of the {kind} that you pasted (generation {found.generation}). {worth}"
    return visit.done(message, f"/grants/{segment(found.grant.grant_id)}")


async def show_grant(visit: Visit) -> web.StreamResponse:
    """GET /grants/{grant_id}: its life, oldest first."""
    timeline = await visit.api.get(GrantTimeline, f"/api/grants/{segment(visit.named('grant_id'))}/timeline")
    return visit.page(
        "grant_show.html",
        grant=timeline.grant,
        entries=timeline.entries,
        complete=timeline.complete,
        refused=timeline.refused,
    )


async def confirm_revocation(visit: Visit) -> web.StreamResponse:
    """GET /grants/{grant_id}/revoke."""
    grant_id = visit.named("grant_id")
    return visit.page(
        "confirm.html",
        title="Revoke this grant?",
        lines=["Its access token and its refresh token stop working at once. This cannot be undone."],
        fields=[],
        problem_text="",
        action="Revoke the grant",
        dangerous=True,
        back=visit.link(f"/grants/{segment(grant_id)}"),
    )


async def revoke_grant(visit: Visit) -> web.StreamResponse:
    """POST /grants/{grant_id}/revoke."""
    path = f"/grants/{segment(visit.named('grant_id'))}"
    await visit.api.change("POST", f"/api{path}/revoke", service=Service.REVOCATION)
    return visit.done("The grant was revoked.", path)


async def confirm_user(visit: Visit) -> web.StreamResponse:
    """GET /grants/users/{subject}/revoke."""
    subject = visit.named("subject")
    return visit.page(
        "confirm.html",
        title=f"Sign {subject} out everywhere?",
        lines=[
            "Every grant of this user, with every client app on every API, ends at once; codes, access tokens and "
            "refresh tokens stop working. The user can authorize anew."
        ],
        fields=[],
        problem_text="",
        action="Revoke all grants of the user",
        dangerous=True,
        back=visit.link("/grants", subject=subject),
    )


async def revoke_user(visit: Visit) -> web.StreamResponse:
    """POST /grants/users/{subject}/revoke."""
    subject = visit.named("subject")
    await visit.api.change("POST", f"/api/users/{segment(subject)}/revoke_all", service=Service.REVOCATION)
    return visit.done(f"All grants of {subject} were revoked.", "/grants", subject=subject)


async def _list(visit: Visit, problem: str = "") -> web.Response:
    query = visit.filters(*_FILTERS)
    try:
        found = await visit.api.get(GrantList, "/api/grants", query)
    except CallRefused as refused:
        if refused.status != 400:
            raise
        found, problem = GrantList(grants=[]), refused.message
    return visit.page(
        "grant_list.html",
        400 if problem else 200,
        rows=found.grants,
        next=found.next,
        states=[("", "any"), *((str(state), str(state)) for state in GrantState)],
        filtering=any(query.values()),
        problem_text=problem,
    )


PAGES: Mapping[str, Page] = {
    "GET /grants": list_grants,
    "POST /grants": look_up,
    "GET /grants/{grant_id}": show_grant,
    "GET /grants/{grant_id}/revoke": needs(Permission.REVOKE, confirm_revocation),
    "POST /grants/{grant_id}/revoke": needs(Permission.REVOKE, revoke_grant),
    "GET /grants/users/{subject}/revoke": needs(Permission.REVOKE, confirm_user),
    "POST /grants/users/{subject}/revoke": needs(Permission.REVOKE, revoke_user),
}
