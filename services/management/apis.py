"""/api/apis and /api/apis/oas: import, list, read, replace, delete."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from aiohttp import hdrs, web

from contracts.apis import Api, ApiList, DefinitionFormat, ImportQuery
from contracts.error_bodies import Envelope
from contracts.operations import JSON, YAML, Parameters, RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.pages import ApiQuery
from libs.access import permits
from libs.event_encoding import EventContext
from libs.http.error_responses import BadRequest, ChangedByOthers, NotFound, NotThatVersion, Taken
from libs.http.operations import operator_of, operator_operation
from libs.store.apis import Apis
from libs.store.mongo import Conflict
from libs.store.optimistic import retry_on_conflict
from services.management.definitions import Imported, dashboard_entry, definition_of, definition_text, read_api
from services.management.request_bodies import read_text
from services.management.signing_secrets import new_signing_secret
from services.management.success_responses import PAGE, Listed, as_it_is, enveloped, is_true, list_of, listed, shown

_API, _OAS_API = "/api/apis/{api_id}", "/api/apis/oas/{api_id}"
_IMPORT = Parameters(model=ImportQuery)
_ANY_DEFINITION = RequestBody(
    media_types=(JSON, YAML), description="A Tyk OAS or Tyk Classic definition, bare or wrapped in `api_definition`."
)
_OAS_DEFINITION = RequestBody(media_types=(JSON, YAML), description="A Tyk OAS definition.")
_IMPORTED = ResponseSpec(description="API imported.", models=(Envelope,))
_REPLACED = ResponseSpec(description="API definition replaced.", models=(Envelope,))
_DELETED = ResponseSpec(description="API deleted.", models=(Envelope,))
_DEFINITION = ResponseSpec(
    description="The definition.", headers={"ETag": "The version of the API, for `If-Match` of a replacement."}
)
_IMPORT_RESULT = (
    "`Meta` is the API's id, or an object with `api_id`, `warnings` and the paths of parts of the definition that are "
    "`enforced`, `unused` and `refused`. A definition with protections that are not enforced is refused, unless "
    "`accept_unsupported=true`. With `dry_run=true` the response is the same, and nothing is written."
)
_IF_MATCH = "With `If-Match` and the `ETag` of a GET, only that version is replaced: 412 if the API was changed since."
_MASKED = "Secrets are masked unless the operator has `write`."


@dataclass(frozen=True, slots=True)
class ApiEndpoints:
    """APIs. GET returns the definition as it was imported, plus its id; without `write`, secrets are masked."""

    apis: Apis
    event_context: Callable[[], EventContext]

    @operator_operation(
        "POST",
        "/api/apis",
        "importApi",
        Permission.WRITE,
        tag="APIs",
        summary="Import an API",
        description=f"The body is a Tyk OAS or Tyk Classic definition. {_IMPORT_RESULT}",
        parameters=_IMPORT,
        body=_ANY_DEFINITION,
        response=_IMPORTED,
        errors=(409,),
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /api/apis: Classic, bare or wrapped, or OAS."""
        return await self._add(request, oas_only=False)

    @operator_operation(
        "POST",
        "/api/apis/oas",
        "importOasApi",
        Permission.WRITE,
        tag="APIs",
        summary="Import an API from a Tyk OAS definition",
        description=_IMPORT_RESULT,
        parameters=_IMPORT,
        body=_OAS_DEFINITION,
        response=_IMPORTED,
        errors=(409,),
    )
    async def add_oas(self, request: web.Request) -> web.Response:
        """POST /api/apis/oas: OAS as JSON or YAML."""
        return await self._add(request, oas_only=True)

    @operator_operation(
        "GET",
        "/api/apis",
        "listApis",
        Permission.READ,
        tag="APIs",
        summary="List APIs",
        description="Every API in the Dashboard's format: Classic definitions in full, OAS definitions as a summary. "
        f"`q` selects by id, name and listen path. {_MASKED}",
        parameters=Parameters(model=ApiQuery),
        response=list_of(ApiList),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/apis: every API, in the Dashboard's format."""
        with_secrets = _reads_secrets(request)
        page = await self._listed(request)
        return _shown(page, [dashboard_entry(api, with_secrets=with_secrets) for api in page.records])

    @operator_operation(
        "GET",
        "/api/apis/oas",
        "listOasApis",
        Permission.READ,
        tag="APIs",
        summary="List Tyk OAS definitions",
        description=f"The definitions of all APIs that were imported as Tyk OAS. {_MASKED}",
        parameters=PAGE,
        response=list_of(ApiList),
        errors=(400,),
    )
    async def list_oas(self, request: web.Request) -> web.Response:
        """GET /api/apis/oas: the OAS definitions."""
        with_secrets = _reads_secrets(request)
        page = await listed(request, partial(self.apis.page_of_format, DefinitionFormat.OAS))
        return _shown(page, [definition_of(api, with_secrets=with_secrets) for api in page.records])

    @operator_operation(
        "GET",
        _API,
        "getApi",
        Permission.READ,
        tag="APIs",
        summary="Get an API definition",
        description=f"Returns the definition as it was imported, plus its id. {_MASKED}",
        response=_DEFINITION,
        errors=(404,),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/{api_id}: the imported definition, OAS or Classic."""
        with_secrets = _reads_secrets(request)
        return _definition(await self._named(request), with_secrets=with_secrets)

    @operator_operation(
        "GET",
        _OAS_API,
        "getOasApi",
        Permission.READ,
        tag="APIs",
        summary="Get a Tyk OAS definition",
        description=f"Returns the definition as it was imported, plus its id; 400 for a Tyk Classic API. {_MASKED}",
        response=_DEFINITION,
        errors=(400, 404),
    )
    async def get_oas(self, request: web.Request) -> web.Response:
        """GET /api/apis/oas/{api_id}: the OAS definition."""
        with_secrets = _reads_secrets(request)
        api = await self._named(request)
        if api.format is not DefinitionFormat.OAS:
            raise BadRequest("this is a Tyk Classic API; read it at /api/apis/{api_id}")
        return _definition(api, with_secrets=with_secrets)

    @operator_operation(
        "PUT",
        _API,
        "replaceApi",
        Permission.WRITE,
        tag="APIs",
        summary="Replace an API definition",
        description="The body is a Tyk OAS or Tyk Classic definition. Clients and tokens stay. "
        f"{_IF_MATCH} {_IMPORT_RESULT}",
        parameters=_IMPORT,
        body=_ANY_DEFINITION,
        response=_REPLACED,
        errors=(404, 409, 412),
    )
    async def replace(self, request: web.Request) -> web.Response:
        """PUT /api/apis/{api_id}: replace the definition, OAS or Classic."""
        return await self._replace(request, oas_only=False)

    @operator_operation(
        "PUT",
        _OAS_API,
        "replaceOasApi",
        Permission.WRITE,
        tag="APIs",
        summary="Replace an API with a Tyk OAS definition",
        description=f"Clients and tokens stay. {_IF_MATCH} {_IMPORT_RESULT}",
        parameters=_IMPORT,
        body=_OAS_DEFINITION,
        response=_REPLACED,
        errors=(404, 409, 412),
    )
    async def replace_oas(self, request: web.Request) -> web.Response:
        """PUT /api/apis/oas/{api_id}: replace the definition, OAS only."""
        return await self._replace(request, oas_only=True)

    @operator_operation(
        "DELETE",
        _API,
        "deleteApi",
        Permission.WRITE,
        tag="APIs",
        summary="Delete an API",
        description="Deletes the API at once; its client apps are deleted and their tokens revoked shortly after.",
        response=_DELETED,
        errors=(404, 409),
    )
    @operator_operation(
        "DELETE",
        _OAS_API,
        "deleteOasApi",
        Permission.WRITE,
        tag="APIs",
        summary="Delete an API by its OAS path",
        description="The same as deleteApi.",
        response=_DELETED,
        errors=(404, 409),
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/apis/{api_id}; its clients and their grants are deleted in the background."""

        async def attempt() -> bool:
            return await self.apis.delete(await self._named(request), self.event_context())

        await retry_on_conflict(attempt, exhausted=ChangedByOthers)
        return enveloped("API deleted")

    async def _listed(self, request: web.Request) -> Listed[Api]:
        text = ApiQuery.model_validate({"q": request.query.get("q", "")}).q
        if not text:
            return await listed(request, self.apis.page)
        if "p" in request.query:
            raise BadRequest("p: it cannot be combined with `q`; continue with `after`, the `next` of the page before")
        return await listed(request, lambda _, after: self.apis.search(text, after))

    async def _named(self, request: web.Request) -> Api:
        api = await self.apis.get(request.match_info["api_id"])
        if api is None:
            raise NotFound("API not found")
        return api

    async def _add(self, request: web.Request, *, oas_only: bool) -> web.Response:
        imported = await self._read(request, secrets.token_hex(16), oas_only=oas_only)
        api = imported.api
        if is_true(request, "dry_run"):
            await self._require_free(api)
            return enveloped("API not created: this was a dry run", _meta(imported))
        ctx = self.event_context()
        try:
            await self.apis.register(_signing(api, ctx.now), ctx)
        except Conflict:
            raise await self._taken(api) from None
        return enveloped("API created", _meta(imported), api.api_id)

    async def _replace(self, request: web.Request, *, oas_only: bool) -> web.Response:
        named = await self._named(request)
        _require_version(request, named)
        api_id = named.api_id
        imported = await self._read(request, api_id, oas_only=oas_only)
        after = imported.api
        if after.api_id != api_id:
            raise BadRequest(f"the definition has another API id than the path ('{api_id}')")
        if is_true(request, "dry_run"):
            await self._require_free(after, of=api_id)
            return enveloped("API not updated: this was a dry run", _meta(imported))

        async def attempt() -> Api | None:
            before, ctx = await self._named(request), self.event_context()
            _require_version(request, before)
            return await self.apis.replace(before, _still_signing(before, after, ctx.now), ctx)

        try:
            await retry_on_conflict(attempt, exhausted=ChangedByOthers)
        except Conflict:
            raise await self._taken(after) from None
        return enveloped("API updated", _meta(imported), api_id)

    async def _require_free(self, api: Api, of: str | None = None) -> None:
        """Raises Taken if storing the API would: another API has its id or listen path."""
        for api_ref in (api.api_id, api.listen_path.strip("/")):
            other = await self.apis.at(api_ref)
            if other is not None and other.api_id != of:
                raise await self._taken(api)

    async def _read(self, request: web.Request, api_id: str, *, oas_only: bool) -> Imported:
        body, content_type = await read_text(request), request.headers.get("Content-Type")
        accepted = is_true(request, "accept_unsupported")
        now = self.event_context().now
        read = partial(read_api, api_id=api_id, now=now, oas_only=oas_only, accept_unsupported=accepted)
        return await asyncio.to_thread(read, body, content_type)  # a large one would block the event loop

    async def _taken(self, api: Api) -> Taken:
        other = await self.apis.at(api.listen_path.strip("/"))
        if other is not None and other.api_id != api.api_id:
            return Taken(f"the listen path {api.listen_path} is taken by the API '{other.api_id}'")
        return Taken(f"the API id '{api.api_id}' is taken")


def _signing(api: Api, now: datetime) -> Api:
    """The API with a signing secret, if it issues tokens: all webhooks that it will ever send are signed with one."""
    return api.model_copy(update={"signing_secrets": (new_signing_secret(now),)}) if api.oauth else api


def _still_signing(before: Api, after: Api, now: datetime) -> Api:
    """The new definition with the signing secrets of the old one.

    An API of an early version that has none keeps signing with its shared secret, which its receivers know, until its
    signing secret is rotated; if nothing received its webhooks yet, it gets one now.
    """
    if before.signing_secrets:
        return after.model_copy(update={"signing_secrets": before.signing_secrets})
    sends = before.oauth is not None and before.oauth.notifications is not None
    return after if sends else _signing(after, now)


def _definition(api: Api, *, with_secrets: bool) -> web.Response:
    return as_it_is(definition_text(api, with_secrets=with_secrets), {hdrs.ETAG: _etag(api)})


def _etag(api: Api) -> str:
    return f'"{api.version}"'


def _require_version(request: web.Request, api: Api) -> None:
    """Raise NotThatVersion if the request names other versions than the one that is stored (RFC 9110 §13.1.1)."""
    wanted = {tag.strip() for tag in request.headers.get(hdrs.IF_MATCH, "*").split(",")}
    if not wanted & {"*", _etag(api)}:
        raise NotThatVersion("the API was changed since it was read; read it again, and replace that version")


def _reads_secrets(request: web.Request) -> bool:
    return permits(operator_of(request), Permission.WRITE)


def _meta(imported: Imported) -> str | dict[str, object]:
    """The API id, as in Tyk's Dashboard; an object with the id, if there is something to say about the definition."""
    report = imported.report.model_dump(mode="json")
    if not imported.warnings and not any(report.values()):
        return imported.api.api_id
    return {"api_id": imported.api.api_id, "warnings": imported.warnings, **report}


def _shown(page: Listed[Api], entries: list[dict[str, Any]]) -> web.Response:
    following = {} if page.next is None else {"next": page.next}
    return shown({"apis": entries, "pages": page.pages, **following}, page.headers)
