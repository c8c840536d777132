"""/api/apis and /api/apis/oas: import, list, read, replace, delete."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from contracts.apis import Api, DefinitionFormat
from contracts.operators import Permission
from libs.access import Access, permits
from libs.events import Origin
from libs.http.errors import BadRequest, NotFound, Taken
from libs.runtime import both_slashes
from libs.store.apis import Apis
from libs.store.mongo import Conflict
from services.management.answers import as_it_is, enveloped, page_number, shown
from services.management.definitions import dashboard_entry, definition_of, definition_text, read_api
from services.management.documents import read_text
from services.management.races import settled


@dataclass(frozen=True, slots=True)
class ApiEndpoints:
    """APIs. What GET gives is what was imported, with its id; operators without `write` see its secrets masked."""

    access: Access
    apis: Apis
    origin: Callable[[], Origin]

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "POST", "/api/apis", self.add)
        both_slashes(app, "GET", "/api/apis", self.list)
        both_slashes(app, "POST", "/api/apis/oas", self.add_oas)
        both_slashes(app, "GET", "/api/apis/oas", self.list_oas)
        both_slashes(app, "GET", "/api/apis/oas/{api_id}", self.get_oas)
        both_slashes(app, "PUT", "/api/apis/oas/{api_id}", self.replace_oas)
        both_slashes(app, "DELETE", "/api/apis/oas/{api_id}", self.delete)
        both_slashes(app, "GET", "/api/apis/{api_id}", self.get)
        both_slashes(app, "PUT", "/api/apis/{api_id}", self.replace)
        both_slashes(app, "DELETE", "/api/apis/{api_id}", self.delete)

    async def add(self, request: web.Request) -> web.Response:
        """POST /api/apis: Classic, bare or wrapped, or OAS."""
        return await self._add(request, oas_only=False)

    async def add_oas(self, request: web.Request) -> web.Response:
        """POST /api/apis/oas: OAS as JSON or YAML."""
        return await self._add(request, oas_only=True)

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/apis: every API, in the Dashboard's shape."""
        with_secrets = await self._reads_secrets(request)
        page = await self.apis.page(page_number(request))
        entries = [dashboard_entry(api, with_secrets=with_secrets) for api in page.records]
        return shown({"apis": entries, "pages": page.pages})

    async def list_oas(self, request: web.Request) -> web.Response:
        """GET /api/apis/oas: the OAS definitions."""
        with_secrets = await self._reads_secrets(request)
        page = await self.apis.page_of_format(DefinitionFormat.OAS, page_number(request))
        entries = [definition_of(api, with_secrets=with_secrets) for api in page.records]
        return shown({"apis": entries, "pages": page.pages})

    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/{api_id}: what was imported, in whichever language."""
        with_secrets = await self._reads_secrets(request)
        return as_it_is(definition_text(await self._named(request), with_secrets=with_secrets))

    async def get_oas(self, request: web.Request) -> web.Response:
        """GET /api/apis/oas/{api_id}: the OAS definition."""
        with_secrets = await self._reads_secrets(request)
        api = await self._named(request)
        if api.format is not DefinitionFormat.OAS:
            raise BadRequest("this API is defined in Tyk Classic; it is read at /api/apis/{api_id}")
        return as_it_is(definition_text(api, with_secrets=with_secrets))

    async def replace(self, request: web.Request) -> web.Response:
        """PUT /api/apis/{api_id}: another definition, in either language."""
        return await self._replace(request, oas_only=False)

    async def replace_oas(self, request: web.Request) -> web.Response:
        """PUT /api/apis/oas/{api_id}: another definition, in OAS."""
        return await self._replace(request, oas_only=True)

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/apis/{api_id}; its clients and their grants follow by reaction."""
        await self.access.require(request, Permission.WRITE)

        async def attempt() -> bool:
            return await self.apis.delete(await self._named(request), self.origin())

        await settled(attempt)
        return enveloped("API deleted")

    async def _reads_secrets(self, request: web.Request) -> bool:
        return permits(await self.access.require(request, Permission.READ), Permission.WRITE)

    async def _named(self, request: web.Request) -> Api:
        api = await self.apis.get(request.match_info["api_id"])
        if api is None:
            raise NotFound("API not found")
        return api

    async def _add(self, request: web.Request, *, oas_only: bool) -> web.Response:
        await self.access.require(request, Permission.WRITE)
        api = await self._read(request, secrets.token_hex(16), oas_only=oas_only)
        try:
            await self.apis.register(api, self.origin())
        except Conflict:
            raise await self._taken(api) from None
        return enveloped("API created", api.api_id, api.api_id)

    async def _replace(self, request: web.Request, *, oas_only: bool) -> web.Response:
        await self.access.require(request, Permission.WRITE)
        api_id = (await self._named(request)).api_id
        after = await self._read(request, api_id, oas_only=oas_only)
        if after.api_id != api_id:
            raise BadRequest(f"the definition names another API id than the path, which says '{api_id}'")

        async def attempt() -> Api | None:
            return await self.apis.replace(await self._named(request), after, self.origin())

        try:
            await settled(attempt)
        except Conflict:
            raise await self._taken(after) from None
        return enveloped("API updated", api_id, api_id)

    async def _read(self, request: web.Request, api_id: str, *, oas_only: bool) -> Api:
        body, content_type = await read_text(request), request.headers.get("Content-Type")
        return read_api(body, content_type, api_id=api_id, now=self.origin().now, oas_only=oas_only)

    async def _taken(self, api: Api) -> Taken:
        other = await self.apis.at(api.listen_path.strip("/"))
        if other is not None and other.api_id != api.api_id:
            return Taken(f"the listen path {api.listen_path} is taken by the API '{other.api_id}'")
        return Taken(f"the API id '{api.api_id}' is taken")
