"""APIs: the list, one API, import with its warnings before saving, deletion with what it ends."""

import asyncio
from collections.abc import Mapping

import orjson
from aiohttp import web

from contracts.apis import ApiList
from contracts.clients import ClientList
from contracts.grant_views import GrantList
from contracts.operators import Permission
from contracts.usage import UsageReport
from libs.runtime import utc_now
from services.console.definition_secrets import shown_text
from services.console.definition_view import DefinitionView, InvalidDefinition, read_definition
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, needs


async def list_apis(visit: Visit) -> web.StreamResponse:
    """GET /apis?q=…: all, or those with this text in their id, name or listen path."""
    query = {name: visit.query.get(name, "").strip() for name in ("q", "after")}
    try:
        found, problem = await visit.api.get(ApiList, "/api/apis", query), ""
    except CallRefused as refused:
        if refused.status != 400:
            raise
        found, problem = ApiList(apis=[], pages=0), refused.message
    rows = [entry["api_definition"] for entry in found.apis]
    return visit.page(
        "api_list.html", 400 if problem else 200, rows=rows, next=found.next, q=query["q"], problem_text=problem
    )


async def show_api(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}."""
    api_id = visit.named("api_id")
    definition, clients, usage = await asyncio.gather(
        visit.api.send("GET", f"/api/apis/{segment(api_id)}"),
        visit.api.get(ClientList, f"/api/apis/oauth/{segment(api_id)}"),
        visit.api.get(UsageReport, "/api/analytics/clients", {"api_id": api_id, "per": "total", "limit": "1"}),
    )
    view = await _read(definition.decode(), api_id)
    return visit.page(
        "api_show.html",
        view=view,
        api=view.api,
        text=await asyncio.to_thread(shown_text, view.document),
        clients=clients.apps[:10],
        more=clients,
        total=usage.total,
    )


async def import_form(visit: Visit) -> web.StreamResponse:
    """GET /apis/import."""
    return visit.page("api_import.html", text="", problem_text="", view=None)


async def check_import(visit: Visit) -> web.StreamResponse:
    """POST /apis/import: what the definition means and what of it has no effect; nothing is saved yet."""
    text = visit.files.get("file") or visit.form.get("text", "")
    try:
        view = await _read(text)
    except InvalidDefinition as error:
        return visit.page("api_import.html", 400, text=text, problem_text=str(error), view=None)
    existing = await _existing(visit, view)
    return visit.page("api_import.html", text=text, problem_text="", view=view, api=view.api, existing=existing)


async def save_import(visit: Visit) -> web.StreamResponse:
    """POST /apis: import the definition that was checked."""
    text, accepted = visit.form.get("text", ""), "accept_unsupported" in visit.form
    try:
        saved = await visit.api.send(
            "POST",
            "/api/apis",
            query={"accept_unsupported": "true" if accepted else ""},
            body=text.encode(),
            media_type="application/octet-stream",
        )
    except CallRefused as refused:
        if refused.status not in {400, 409, 413}:
            raise
        return visit.page("api_import.html", refused.status, text=text, problem_text=refused.message, view=None)
    return visit.done("The API was imported. Next, register a client app.", f"/apis/{_id_in(saved)}")


async def confirm_deletion(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/delete."""
    api_id = visit.named("api_id")
    text, clients, grants = await asyncio.gather(
        visit.api.send("GET", f"/api/apis/{segment(api_id)}"),
        visit.api.get(ClientList, f"/api/apis/oauth/{segment(api_id)}"),
        visit.api.get(GrantList, "/api/grants", {"api_id": api_id, "state": "active", "limit": "200"}),
    )
    api = (await _read(text.decode(), api_id)).api
    return visit.page(
        "confirm.html",
        title=f"Delete the API {api.name}?",
        lines=[
            *_what_ends(clients, grants),
            f"Calls and token requests to {api.listen_path} are refused from then on. This cannot be undone.",
        ],
        fields=[],
        problem_text="",
        action="Delete the API",
        dangerous=True,
        back=visit.link(f"/apis/{api_id}"),
    )


async def delete_api(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/delete."""
    api_id = visit.named("api_id")
    await visit.api.change("DELETE", f"/api/apis/{segment(api_id)}")
    return visit.done(
        f"The API {api_id} was deleted. Its client apps and their grants are being ended.",
        f"/apis/{segment(api_id)}/ending",
    )


def _what_ends(clients: ClientList, grants: GrantList) -> list[str]:
    now = utc_now()
    live = [grant for grant in grants.grants if not grant.expired]
    access = sum(1 for grant in live if grant.access and not grant.access.revoked and grant.access.expires_at > now)
    refresh = sum(1 for grant in live if grant.refresh and grant.refresh.expires_at > now)
    apps, more = _number(len(clients.apps), "client app", clients.next), grants.next
    tokens = f"{_number(access, 'access token', more)} and {_number(refresh, 'refresh token', more)}"
    return [
        f"Deleted with it: {apps}.",
        f"Ended at once: {_number(len(live), 'live grant', more)}, with {tokens}.",
    ]


def _number(counted: int, what: str, more: str | None) -> str:
    """The number, which is a lower bound if there are more pages."""
    return f"{counted}{' or more' if more else ''} {what}{'' if counted == 1 and not more else 's'}"


async def _existing(visit: Visit, view: DefinitionView) -> str:
    """The id of the API that the definition would replace; empty if there is none."""
    if not view.has_id:
        return ""
    try:
        await visit.api.send("GET", f"/api/apis/{segment(view.api.api_id)}")
    except CallRefused as refused:
        if refused.status != 404:
            raise
        return ""
    return view.api.api_id


async def _read(text: str, api_id: str = "") -> DefinitionView:
    """Read the definition in a thread: a large one would hold up every other page."""
    return await asyncio.to_thread(read_definition, text, *([api_id] if api_id else []))


def _id_in(body: bytes) -> str:
    return str(orjson.loads(body)["ID"])


PAGES: Mapping[str, Page] = {
    "GET /apis": list_apis,
    "POST /apis": needs(Permission.WRITE, save_import),
    "GET /apis/import": needs(Permission.WRITE, import_form),
    "POST /apis/import": needs(Permission.WRITE, check_import),
    "GET /apis/{api_id}": show_api,
    "GET /apis/{api_id}/delete": needs(Permission.WRITE, confirm_deletion),
    "POST /apis/{api_id}/delete": needs(Permission.WRITE, delete_api),
}
