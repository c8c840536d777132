"""The designer: a form for OAuth settings beside the definition's text, and the review of changes before they count."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import orjson
from aiohttp import hdrs, web

from contracts.apis import DefinitionFormat
from contracts.operators import Permission
from libs.tyk.definition_text import format_of
from services.console.definition_changes import Line, client_changes, line_difference
from services.console.definition_drafts import Draft, Drafts, draft_of, edited
from services.console.definition_fields import WrongField, has_secret, new_definition, values_of
from services.console.definition_secrets import shown_change, shown_text
from services.console.definition_view import NO_ID, DefinitionView, InvalidDefinition, read_definition
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit, needs

DRAFTS: web.AppKey[Drafts] = web.AppKey("drafts", Drafts)
_CHANGED_MEANWHILE = (
    "The definition was changed by somebody else since you opened it. Nothing was replaced. Below is what your draft "
    "changes in the definition that is stored now: lines that are removed may be theirs."
)
_NOT_ACCEPTED = (
    "Nothing was saved: the definition has protections that would not be enforced. Accept that with the box below, or "
    "go back and remove them."
)
_REFUSALS = {400, 409, 413}


@dataclass(frozen=True, slots=True)
class Report:
    """What an import says of the definition's parts, without importing it."""

    enforced: Sequence[str] = ()
    refused: Sequence[Mapping[str, str]] = ()
    """Protections that are not enforced."""
    accepted: bool = True
    """Whether the definition itself accepts that."""


@dataclass(frozen=True, slots=True)
class Review:
    """A draft beside the stored definition, ready to be saved."""

    draft: Draft
    view: DefinitionView
    report: Report
    changes: Sequence[str] = ()
    lines: Sequence[Line] = ()


async def new_api(visit: Visit) -> web.StreamResponse:
    """GET /apis/new?format=oas|classic."""
    form = DefinitionFormat.CLASSIC if visit.query.get("format") == "classic" else DefinitionFormat.OAS
    return await _designer(visit, draft_of(new_definition(form)))


async def design_new(visit: Visit) -> web.StreamResponse:
    """POST /apis/new: review the new API, or show the form and the text again, each with the other's changes."""
    return await _design(visit, _opened(visit))


async def design_form(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/design."""
    return await _designer(visit, await _stored(visit))


async def design(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/design: the same for an API that exists. Without a draft, the text is a new definition."""
    return await _design(visit, _opened(visit) if "draft" in visit.form else await _stored(visit))


async def save_new(visit: Visit) -> web.StreamResponse:
    """POST /apis/new/save: create the API that was reviewed."""
    return await _save(visit, "POST", "The API was created. Next, register a client app.")


async def replace(visit: Visit) -> web.StreamResponse:
    """POST /apis/{api_id}/replace: replace the definition, if it still is the one that was reviewed."""
    return await _save(visit, "PUT", "The definition was replaced. It applies from now on.")


async def export(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/export: the definition as a file; the services mask its secrets for those who only read."""
    definition = await visit.api.read(_path(visit))
    # The id has only characters that a quoted file name may have.
    headers = {hdrs.CONTENT_DISPOSITION: f'attachment; filename="{visit.named("api_id")}.json"'}
    body = orjson.dumps(definition, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    return web.Response(body=body, content_type="application/json", headers=headers)


async def _design(visit: Visit, draft: Draft) -> web.StreamResponse:
    try:
        changed = await asyncio.to_thread(edited, draft, visit.form)
    except (InvalidDefinition, WrongField) as error:
        return await _designer(visit, draft, str(error), typed=visit.form)
    if visit.form.get("action") != "review":
        return await _designer(visit, changed)
    try:
        return await _review(visit, changed)
    except CallRefused as refused:
        if refused.status not in _REFUSALS:
            raise
        return await _designer(visit, changed, refused.message, status=refused.status)


async def _save(visit: Visit, method: str, done: str) -> web.StreamResponse:
    draft = _opened(visit)
    accepts = "true" if "accept_unsupported" in visit.form else ""
    try:
        saved = await visit.api.send(
            method,
            _path(visit),
            query={"accept_unsupported": accepts},
            body=draft.definition.encode(),
            version=draft.version,
        )
    except CallRefused as refused:
        if refused.status == 412:
            return await _review(visit, draft)
        if refused.status == 400 and _asks_to_accept(refused):
            return await _review(visit, draft, _NOT_ACCEPTED)
        if refused.status not in _REFUSALS:
            raise
        return await _designer(visit, draft, refused.message, status=refused.status)
    return visit.done(done, f"/apis/{segment(orjson.loads(saved)['ID'])}")


async def _designer(
    visit: Visit, draft: Draft, problem: str = "", typed: Mapping[str, str] | None = None, status: int = 400
) -> web.Response:
    """The form and the text of the draft; what was typed stays, if it could not be read."""
    document = draft.document
    values = await asyncio.to_thread(values_of, document)
    text = await asyncio.to_thread(shown_text, document)
    secret = has_secret(document)
    if typed is not None:
        text = typed.get("text", text)
        values = {name: typed.get(name, "") for name in values} if "form" in typed else values
    return visit.page(
        "api_design.html",
        status if problem else 200,
        api_id=visit.request.match_info.get("api_id"),
        values=values,
        text=text,
        has_secret=secret,
        oas=format_of(document) is DefinitionFormat.OAS,
        draft=_sealed(visit, draft),
        problem_text=problem,
    )


async def _review(visit: Visit, draft: Draft, problem: str = "") -> web.Response:
    """What the draft changes, before it is saved. Raises CallRefused if it would be refused, InvalidDefinition."""
    stored, version = b"", ""
    if "api_id" in visit.request.match_info:
        stored, version = await visit.api.read_version(_path(visit))
    report = await _dry_run(visit, draft)
    is_outdated = draft.version not in {"", version}
    reviewed = draft_of(draft.document, version)
    review = await asyncio.to_thread(_compared, visit.request.match_info.get("api_id", NO_ID), reviewed, stored, report)
    return visit.page(
        "api_review.html",
        409 if is_outdated else 400 if problem else 200,
        api_id=visit.request.match_info.get("api_id"),
        review=review,
        view=review.view,
        api=review.view.api,
        text=shown_text(review.draft.document),
        draft=_sealed(visit, review.draft),
        problem_text=_CHANGED_MEANWHILE if is_outdated else problem,
    )


def _compared(api_id: str, draft: Draft, stored: bytes, report: Report) -> Review:
    view = read_definition(draft.definition, api_id)
    if not stored:
        return Review(draft, view, report)
    before = read_definition(stored.decode(), api_id)
    old, new = shown_change(before.document, draft.document)
    return Review(draft, view, report, client_changes(before.api, view.api), line_difference(old, new))


async def _stored(visit: Visit) -> Draft:
    text, version = await visit.api.read_version(_path(visit))
    return Draft(definition=text.decode(), version=version)


async def _dry_run(visit: Visit, draft: Draft) -> Report:
    """What the import would say. Raises CallRefused, unless only protections are to be accepted."""
    method = "PUT" if "api_id" in visit.request.match_info else "POST"
    try:
        said = await visit.api.send(method, _path(visit), query={"dry_run": "true"}, body=draft.definition.encode())
        meta, accepted = orjson.loads(said)["Meta"], True
    except CallRefused as refused:
        meta, accepted = refused.meta, False
        if refused.status != 400 or not _asks_to_accept(refused):
            raise
    found = meta if isinstance(meta, dict) else {}
    return Report(found.get("enforced", ()), found.get("refused", ()), accepted)


def _asks_to_accept(refused: CallRefused) -> bool:
    """Whether the import is refused only because of protections that are not enforced."""
    return isinstance(refused.meta, dict) and bool(refused.meta.get("refused"))


def _path(visit: Visit) -> str:
    api_id = visit.request.match_info.get("api_id")
    return f"/api/apis/{segment(api_id)}" if api_id else "/api/apis"


def _sealed(visit: Visit, draft: Draft) -> str:
    return visit.request.config_dict[DRAFTS].sealed(draft, visit.session.id)


def _opened(visit: Visit) -> Draft:
    """The draft in the form. Raises HTTPBadRequest."""
    try:
        return visit.request.config_dict[DRAFTS].opened(visit.form.get("draft", ""), visit.session.id)
    except WrongField as error:
        raise web.HTTPBadRequest(reason=str(error)) from None


PAGES: Mapping[str, Page] = {
    "GET /apis/new": needs(Permission.WRITE, new_api),
    "POST /apis/new": needs(Permission.WRITE, design_new),
    "POST /apis/new/save": needs(Permission.WRITE, save_new),
    "GET /apis/{api_id}/design": needs(Permission.WRITE, design_form),
    "POST /apis/{api_id}/design": needs(Permission.WRITE, design),
    "POST /apis/{api_id}/replace": needs(Permission.WRITE, replace),
    "GET /apis/{api_id}/export": export,
}
