"""/api/operators[/{operator_id}]: who may use this API, and for what."""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from contracts.operators import Operator, OperatorList, OperatorRegistration, OperatorView, Permission
from libs.access import Access
from libs.events import Origin
from libs.http.errors import BadRequest, NotFound
from libs.runtime import both_slashes
from libs.store.operators import Operators, key_digest
from services.management.answers import document, enveloped, page_number
from services.management.documents import read_document
from services.management.races import settled

KEY_PREFIX = "tw_ok_"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class OperatorEndpoints:
    """Operators; only those with `admin` come here. A key is shown in the answer that made it, and never again."""

    access: Access
    operators: Operators
    origin: Callable[[], Origin]

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "POST", "/api/operators", self.add)
        both_slashes(app, "GET", "/api/operators", self.list)
        both_slashes(app, "GET", "/api/operators/{operator_id}", self.get)
        both_slashes(app, "PUT", "/api/operators/{operator_id}", self.replace)
        both_slashes(app, "DELETE", "/api/operators/{operator_id}", self.delete)

    async def add(self, request: web.Request) -> web.Response:
        """POST /api/operators."""
        await self.access.require(request, Permission.ADMIN)
        said = await read_document(request, OperatorRegistration)
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        at = self.origin()
        operator = Operator(
            operator_id=uuid.uuid4().hex,
            name=said.name,
            permissions=_distinct(said.permissions),
            key_digest=key_digest(key),
            created_at=at.now,
            updated_at=at.now,
        )
        return document(_view(await self.operators.add(operator, at), key))

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/operators."""
        await self.access.require(request, Permission.ADMIN)
        page = await self.operators.page(page_number(request))
        return document(OperatorList(operators=[_view(operator) for operator in page.records], pages=page.pages))

    async def get(self, request: web.Request) -> web.Response:
        """GET /api/operators/{operator_id}."""
        await self.access.require(request, Permission.ADMIN)
        return document(_view(await self._named(request)))

    async def replace(self, request: web.Request) -> web.Response:
        """PUT /api/operators/{operator_id}: another name, other permissions, the same key."""
        asking = await self.access.require(request, Permission.ADMIN)
        await self._named(request)
        said = await read_document(request, OperatorRegistration)

        async def attempt() -> Operator | None:
            operator = await self._named(request)
            if operator.operator_id == asking.operator_id and Permission.ADMIN not in said.permissions:
                raise BadRequest("an operator cannot take 'admin' from itself; another one with 'admin' can")
            changes: dict[str, object] = {"name": said.name, "permissions": _distinct(said.permissions)}
            return await self.operators.edit(operator, changes, self.origin())

        return document(_view(await settled(attempt)))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/operators/{operator_id}: its key is dead."""
        asking = await self.access.require(request, Permission.ADMIN)

        async def attempt() -> bool:
            operator = await self._named(request)
            if operator.operator_id == asking.operator_id:
                raise BadRequest("an operator cannot delete itself; another one with 'admin' can")
            return await self.operators.delete(operator, self.origin())

        await settled(attempt)
        return enveloped("Operator deleted")

    async def _named(self, request: web.Request) -> Operator:
        operator = await self.operators.get(request.match_info["operator_id"])
        if operator is None:
            raise NotFound("operator not found")
        return operator


def _distinct(permissions: tuple[Permission, ...]) -> tuple[Permission, ...]:
    return tuple(permission for permission in Permission if permission in permissions)


def _view(operator: Operator, key: str | None = None) -> OperatorView:
    return OperatorView(
        operator_id=operator.operator_id,
        name=operator.name,
        permissions=operator.permissions,
        created_at=operator.created_at,
        updated_at=operator.updated_at,
        key=key,
    )
