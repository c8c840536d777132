"""/api/operators[/{operator_id}]: the users of the management API and their permissions."""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from contracts.error_bodies import Envelope
from contracts.operations import RequestBody, ResponseSpec
from contracts.operators import Operator, OperatorList, OperatorRegistration, OperatorView, Permission
from libs.event_encoding import EventContext
from libs.http.error_responses import BadRequest, ChangedByOthers, NotFound
from libs.http.operations import operator_of, operator_operation
from libs.store.operators import Operators, key_digest
from libs.store.optimistic import retry_on_conflict
from services.management.request_bodies import read_document
from services.management.success_responses import PAGE, document, enveloped, list_of, listed

_OPERATOR = "/api/operators/{operator_id}"
KEY_PREFIX = "tw_ok_"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class OperatorEndpoints:
    """Operators, managed by operators with `admin`. A key is only in the response that created it."""

    operators: Operators
    event_context: Callable[[], EventContext]

    @operator_operation(
        "POST",
        "/api/operators",
        "addOperator",
        Permission.ADMIN,
        tag="Operators",
        summary="Create an operator",
        description="Generates the operator's key, which only this response contains.",
        body=RequestBody(model=OperatorRegistration),
        response=ResponseSpec(description="Operator created; store the `key`.", models=(OperatorView,)),
        errors=(409,),
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /api/operators."""
        said = await read_document(request, OperatorRegistration)
        key = KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)
        ctx = self.event_context()
        operator = Operator(
            operator_id=uuid.uuid4().hex,
            name=said.name,
            permissions=_distinct(said.permissions),
            key_digest=key_digest(key),
            created_at=ctx.now,
            updated_at=ctx.now,
        )
        return document(_view(await self.operators.add(operator, ctx), key))

    @operator_operation(
        "GET",
        "/api/operators",
        "listOperators",
        Permission.ADMIN,
        tag="Operators",
        summary="List operators",
        parameters=PAGE,
        response=list_of(OperatorList),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/operators."""
        page = await listed(request, self.operators.page)
        operators = [_view(operator) for operator in page.records]
        return document(OperatorList(operators=operators, pages=page.pages, next=page.next), page.headers)

    @operator_operation(
        "GET",
        _OPERATOR,
        "getOperator",
        Permission.ADMIN,
        tag="Operators",
        summary="Get an operator",
        response=ResponseSpec(description="The operator, without the key.", models=(OperatorView,)),
        errors=(404,),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/operators/{operator_id}."""
        return document(_view(await self._named(request)))

    @operator_operation(
        "PUT",
        _OPERATOR,
        "replaceOperator",
        Permission.ADMIN,
        tag="Operators",
        summary="Replace an operator's name and permissions",
        description="The key stays the same. Operators cannot remove `admin` from themselves.",
        body=RequestBody(model=OperatorRegistration),
        response=ResponseSpec(description="Operator updated.", models=(OperatorView,)),
        errors=(404, 409),
    )
    async def replace(self, request: web.Request) -> web.Response:
        """PUT /api/operators/{operator_id}: another name, other permissions, the same key."""
        asking = operator_of(request)
        await self._named(request)
        said = await read_document(request, OperatorRegistration)

        async def attempt() -> Operator | None:
            operator = await self._named(request)
            if operator.operator_id == asking.operator_id and Permission.ADMIN not in said.permissions:
                raise BadRequest("an operator cannot remove 'admin' from itself; ask another operator with 'admin'")
            changes: dict[str, object] = {"name": said.name, "permissions": _distinct(said.permissions)}
            return await self.operators.edit(operator, changes, self.event_context())

        return document(_view(await retry_on_conflict(attempt, exhausted=ChangedByOthers)))

    @operator_operation(
        "DELETE",
        _OPERATOR,
        "deleteOperator",
        Permission.ADMIN,
        tag="Operators",
        summary="Delete an operator",
        description="The operator's key stops working. Operators cannot delete themselves.",
        response=ResponseSpec(description="Operator key deleted.", models=(Envelope,)),
        errors=(400, 404, 409),
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/operators/{operator_id}: its key stops working."""
        asking = operator_of(request)

        async def attempt() -> bool:
            operator = await self._named(request)
            if operator.operator_id == asking.operator_id:
                raise BadRequest("an operator cannot delete itself; ask another operator with 'admin'")
            return await self.operators.delete(operator, self.event_context())

        await retry_on_conflict(attempt, exhausted=ChangedByOthers)
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
