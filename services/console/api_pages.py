"""APIs: the list, one API, import with its warnings before saving, deletion with what it ends."""

import asyncio
from collections.abc import Mapping

import orjson
from aiohttp import web

from contracts.apis import ApiList
from contracts.clients import ClientList
from contracts.operators import Permission
from contracts.usage import UsageReport
from services.console.definition_view import DefinitionView, InvalidDefinition, read_definition
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, needs


async def list_apis(visit: Visit) -> web.StreamResponse:
    """GET /apis."""
    found = await visit.api.get(ApiList, "/api/apis", {"after": visit.query.get("after", "")})
    rows = [entry["api_definition"] for entry in found.apis]
    return visit.page("api_list.html", rows=rows, next=found.next)


async def show_api(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}."""
    api_id = visit.named("api_id")
    definition, clients, usage = await asyncio.gather(
        visit.api.send("GET", f"/api/apis/{segment(api_id)}"),
        visit.api.get(ClientList, f"/api/apis/oauth/{segment(api_id)}"),
        visit.api.get(UsageReport, "/api/analytics/clients", {"api_id": api_id, "per": "total", "limit": "1"}),
    )
    view = await _read(definition.decode(), api_id)
    shown = clients.apps[:10]
    return visit.page("api_show.html", view=view, api=view.api, clients=shown, more=clients, total=usage.total)


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
    return visit.page("api_import.html", text=text, problem_text="", view=view, api=view.api)


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
        if refused.status not in {400, 409}:
            raise
        return visit.page("api_import.html", refused.status, text=text, problem_text=refused.message, view=None)
    return visit.done("The API was imported. Next, register a client app.", f"/apis/{_id_in(saved)}")


async def confirm_deletion(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/delete."""
    api_id = visit.named("api_id")
    clients = await visit.api.get(ClientList, f"/api/apis/oauth/{segment(api_id)}")
    number = f"{len(clients.apps)}{'+' if clients.next else ''}"
    return visit.page(
        "confirm.html",
        title=f"Delete the API {api_id}?",
        lines=[
            f"Its client apps ({number}) are deleted with it, and every token of theirs stops working at once.",
            "Calls to its listen path are refused from then on. This cannot be undone.",
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
    return visit.done(f"The API {api_id} was deleted. Its client apps and their grants are being ended.", "/apis")


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
