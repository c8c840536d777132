"""Client apps: the list, one client app, registration, editing, rotation, revocation and deletion."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson
from aiohttp import web
from pydantic import TypeAdapter

from contracts.apis import Api, GrantType
from contracts.clients import ClientList, OAuthClient
from contracts.grants import IssuedToken
from contracts.operations import Service
from contracts.operators import Permission
from contracts.usage import UsageReport
from services.console.charts import usage_charts
from services.console.definition_view import read_definition
from services.console.policy_view import ShownPolicies
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, WrongForm, go_to, needs

_TOKENS: TypeAdapter[list[IssuedToken]] = TypeAdapter(list[IssuedToken])
_SHOWN_TOKENS = 50


async def list_clients(visit: Visit) -> web.StreamResponse:
    """GET /clients?api_id=…&q=…: all, or those of one API; all, or those with this text in what is known of them."""
    api_id, query = visit.query.get("api_id", ""), {name: visit.query.get(name, "").strip() for name in ("q", "after")}
    path = f"/api/apis/oauth/{segment(api_id)}" if api_id else "/api/clients"
    try:
        found, problem = await visit.api.get(ClientList, path, query), ""
    except CallRefused as refused:
        if refused.status != 400:
            raise
        found, problem = ClientList(apps=[], pages=0), refused.message
    return _listed(visit, found, api_id, query["q"], problem)


async def find_client(visit: Visit) -> web.StreamResponse:
    """GET /clients/find?client_id=…: to the client app with this id, or the list of its APIs if there are several."""
    client_id = visit.query.get("client_id", "")
    if not client_id.strip("./"):  # such a path would name the list
        return go_to(visit.link("/clients"))
    try:
        found = await visit.api.get(ClientList, f"/api/clients/{segment(client_id)}")
    except CallRefused as refused:
        # Pasted with blanks around it; but a client id may also begin or end with one.
        if refused.status != 404 or client_id == client_id.strip():
            raise
        found = await visit.api.get(ClientList, f"/api/clients/{segment(client_id.strip())}")
    if len(found.apps) > 1:
        return _listed(visit, found, "", "")
    (only,) = found.apps
    return go_to(visit.link(f"/apis/{segment(only.api_id)}/clients/{segment(only.client_id)}"))


def _listed(visit: Visit, found: ClientList, api_id: str, text: str, problem: str = "") -> web.Response:
    return visit.page(
        "client_list.html",
        400 if problem else 200,
        rows=found.apps,
        next=found.next,
        api_id=api_id,
        q=text,
        problem_text=problem,
    )


async def show_client(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/clients/{client_id}."""
    path, client_id = _path(visit), visit.named("client_id")
    client, tokens, usage = await asyncio.gather(
        visit.api.get(OAuthClient, path),
        visit.api.send("GET", f"{path}/tokens", service=Service.REVOCATION),
        visit.api.get(UsageReport, "/api/analytics/clients", {"client_id": client_id, "limit": "1000"}),
    )
    live = _TOKENS.validate_json(tokens)
    return visit.page(
        "client_show.html",
        client=client,
        tokens=live[:_SHOWN_TOKENS],
        live=len(live),
        charts=usage_charts(usage, usage.clients),
        total=usage.total,
    )


async def new_client(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/clients/new."""
    return await _registration(visit, {})


async def register(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/clients: the page after it is the only one that shows the secret without being asked."""
    try:
        document = _document(visit.form) | {"public": visit.form.get("kind") == "public"}
        if visit.form.get("client_id"):
            document["client_id"] = visit.form["client_id"].strip()
        made = await visit.api.change("POST", f"/api/apis/oauth/{segment(visit.named('api_id'))}", document)
    except (CallRefused, WrongForm) as refused:
        return await _registration(visit, visit.form, _reason(refused))
    return await _secret_page(visit, OAuthClient.model_validate(made), "The client app was registered.")


async def edit_form(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/clients/{client_id}/edit."""
    client = await visit.api.get(OAuthClient, _path(visit))
    return await _edit(visit, _fields(client))


async def edit(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/clients/{client_id}/edit."""
    try:
        await visit.api.change("PUT", _path(visit), _document(visit.form))
    except (CallRefused, WrongForm) as refused:
        return await _edit(visit, visit.form, _reason(refused))
    return visit.done("The client app was changed.", _place(visit))


async def show_secret(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/clients/{client_id}/secret: a POST, so that no link and no reload shows it."""
    client = await visit.api.get(OAuthClient, _path(visit))
    return await _secret_page(visit, client, "")


async def confirm_rotation(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/clients/{client_id}/rotate."""
    return visit.page(
        "confirm.html",
        title=f"Rotate the secret of {visit.named('client_id')}?",
        lines=["A new secret is generated and shown. Tokens that were issued stay valid."],
        fields=[("overlap", "Hours for which the old secret still works", "0: it stops working at once.", "24")],
        problem_text="",
        action="Rotate the secret",
        dangerous=False,
        back=visit.link(_place(visit)),
    )


async def rotate(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/clients/{client_id}/rotate."""
    hours = visit.form.get("overlap", "0").strip() or "0"
    if not hours.isdecimal() or int(hours) > 90 * 24:
        raise web.HTTPBadRequest(reason="The overlap is a whole number of hours, at most 2160.")
    made = await visit.api.change("PUT", f"{_path(visit)}/rotate", {"overlap": int(hours) * 3600})
    return await _secret_page(visit, OAuthClient.model_validate(made), "The secret was rotated.")


async def confirm_revocation(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/clients/{client_id}/revoke."""
    return visit.page(
        "confirm.html",
        title=f"Revoke all tokens of {visit.named('client_id')}?",
        lines=[
            "Every access and refresh token of this client app stops working at once, also those of users, on every "
            "API on which it is registered."
        ],
        fields=[],
        problem_text="",
        action="Revoke all tokens",
        dangerous=True,
        back=visit.link(_place(visit)),
    )


async def revoke_all(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/clients/{client_id}/revoke."""
    client_id = visit.named("client_id")
    await visit.api.change("POST", f"/api/apis/oauth/{segment(client_id)}/revoke_all", service=Service.REVOCATION)
    return visit.done("All tokens of this client app were revoked.", _place(visit))


async def confirm_token(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/clients/{client_id}/revoke-token?token=…&grant_id=…: the token by its public id."""
    token, grant_id = visit.query.get("token", ""), visit.query.get("grant_id", "")
    return visit.page(
        "confirm.html",
        title="Revoke this access token?",
        lines=[
            f"The access token {token} stops working at once. This cannot be undone.",
            "The grant goes on: a refresh token still gets a new access token. To end it, too, revoke the grant.",
        ],
        fields=[],
        hidden={"token": token, "grant_id": grant_id},
        problem_text="",
        action="Revoke the token",
        dangerous=True,
        back=visit.link(_after_revocation(visit, grant_id)),
    )


async def revoke_token(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/clients/{client_id}/revoke-token: back to the page of the grant, if it came from there."""
    path = f"/api/apis/oauth/{segment(visit.named('client_id'))}/revoke"
    await visit.api.change("POST", path, {"token": visit.form.get("token", "")}, service=Service.REVOCATION)
    return visit.done("The token was revoked.", _after_revocation(visit, visit.form.get("grant_id", "")))


def _after_revocation(visit: Visit, grant_id: str) -> str:
    return f"/grants/{segment(grant_id)}" if grant_id else _place(visit)


async def confirm_deletion(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/clients/{client_id}/delete."""
    return visit.page(
        "confirm.html",
        title=f"Delete the client app {visit.named('client_id')}?",
        lines=[
            f"It is removed from the API {visit.named('api_id')}, and all its tokens of this API stop working at once.",
            "Without another API, it is gone. This cannot be undone.",
        ],
        fields=[],
        problem_text="",
        action="Delete the client app",
        dangerous=True,
        back=visit.link(_place(visit)),
    )


async def delete(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/clients/{client_id}/delete."""
    await visit.api.change("DELETE", _path(visit))
    return visit.done(
        f"The client app {visit.named('client_id')} was deleted.", "/clients", api_id=visit.named("api_id")
    )


async def _registration(visit: Visit, values: Mapping[str, str], problem: str = "") -> web.Response:
    api, policies = await _api_and_policies(visit)
    status = 400 if problem else 200
    return visit.page(
        "client_form.html", status, new=True, api=api, policies=policies, values=values, problem_text=problem
    )


async def _edit(visit: Visit, values: Mapping[str, str], problem: str = "") -> web.Response:
    api, policies = await _api_and_policies(visit)
    status = 400 if problem else 200
    return visit.page(
        "client_form.html", status, new=False, api=api, policies=policies, values=values, problem_text=problem
    )


async def _api_and_policies(visit: Visit) -> tuple[Api, Sequence[Any]]:
    api_id = visit.named("api_id")
    definition, policies = await asyncio.gather(
        visit.api.send("GET", f"/api/apis/{segment(api_id)}"), visit.api.get(ShownPolicies, "/api/portal/policies")
    )
    view = await asyncio.to_thread(read_definition, definition.decode(), api_id)
    return view.api, policies.Data


async def _secret_page(visit: Visit, client: OAuthClient, message: str) -> web.Response:
    definition = await visit.api.send("GET", f"/api/apis/{segment(client.api_id)}")
    view = await asyncio.to_thread(read_definition, definition.decode(), client.api_id)
    return visit.page(
        "client_secret.html",
        client=client,
        api=view.api,
        done=message,
        base=f"{visit.request.scheme}://{visit.request.host}",
        grants=[str(each) for each in (view.api.oauth.grant_types if view.api.oauth else ())],
        code_grant=str(GrantType.AUTHORIZATION_CODE),
    )


def _path(visit: Visit) -> str:
    return f"/api/apis/oauth/{segment(visit.named('api_id'))}/{segment(visit.named('client_id'))}"


def _place(visit: Visit) -> str:
    return f"/apis/{segment(visit.named('api_id'))}/clients/{segment(visit.named('client_id'))}"


def _reason(refused: CallRefused | WrongForm) -> str:
    if isinstance(refused, CallRefused) and refused.status not in {400, 409}:
        raise refused
    return str(refused)


def _fields(client: OAuthClient) -> dict[str, str]:
    """The values of the form for an existing client app."""
    return {
        "client_name": client.client_name,
        "description": client.description,
        "redirect_uris": "\n".join(client.redirect_uris),
        "policy_ids": "\n".join(client.policy_ids),
        "scope": client.scope or "",
        "meta_data": orjson.dumps(client.meta_data, option=orjson.OPT_INDENT_2).decode() if client.meta_data else "",
        **({"resource_server": "1"} if client.resource_server else {}),
        **({"localhost_any_port": "1"} if client.localhost_any_port else {}),
    }


def _document(form: Mapping[str, str]) -> dict[str, Any]:
    """The form as the management API takes it, for a registration and for an edit. Raises WrongForm."""
    try:
        meta_data = orjson.loads(form.get("meta_data", "").strip() or "{}")
    except orjson.JSONDecodeError as error:
        raise WrongForm(f"Metadata: not JSON ({error.msg}, line {error.lineno}). An object is expected.") from None
    return {
        "client_name": form.get("client_name", "").strip(),
        "description": form.get("description", "").strip(),
        "redirect_uris": lines(form.get("redirect_uris", "")),
        "policy_ids": lines(form.get("policy_ids", "")),
        "scope": " ".join(form.get("scope", "").split()) or None,
        "meta_data": meta_data,
        "resource_server": "resource_server" in form,
        "localhost_any_port": "localhost_any_port" in form,
    }


def lines(text: str) -> list[str]:
    """The lines of the text that say something."""
    return [line.strip() for line in text.splitlines() if line.strip()]


_CLIENT = "/apis/{api_id}/clients/{client_id}"
PAGES: Mapping[str, Page] = {
    "GET /clients": list_clients,
    "GET /clients/find": find_client,
    "GET /apis/{api_id}/clients/new": needs(Permission.WRITE, new_client),
    "POST /apis/{api_id}/clients": needs(Permission.WRITE, register),
    f"GET {_CLIENT}": show_client,
    f"GET {_CLIENT}/edit": needs(Permission.WRITE, edit_form),
    f"POST {_CLIENT}/edit": needs(Permission.WRITE, edit),
    f"POST {_CLIENT}/secret": needs(Permission.WRITE, show_secret),
    f"GET {_CLIENT}/rotate": needs(Permission.WRITE, confirm_rotation),
    f"POST {_CLIENT}/rotate": needs(Permission.WRITE, rotate),
    f"GET {_CLIENT}/revoke": needs(Permission.REVOKE, confirm_revocation),
    f"POST {_CLIENT}/revoke": needs(Permission.REVOKE, revoke_all),
    f"GET {_CLIENT}/revoke-token": needs(Permission.REVOKE, confirm_token),
    f"POST {_CLIENT}/revoke-token": needs(Permission.REVOKE, revoke_token),
    f"GET {_CLIENT}/delete": needs(Permission.WRITE, confirm_deletion),
    f"POST {_CLIENT}/delete": needs(Permission.WRITE, delete),
}
