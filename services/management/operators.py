"""/api/operators[/{operator_id}]: the users of the management API and their permissions."""

import secrets
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from aiohttp import web

from contracts.error_bodies import Envelope
from contracts.operations import RequestBody, ResponseSpec
from contracts.operators import (
    BOOTSTRAP_OPERATOR_ID,
    KeyRotation,
    Operator,
    OperatorList,
    OperatorRegistration,
    OperatorView,
    Permission,
    PreviousKey,
)
from libs.event_encoding import EventContext
from libs.http.error_responses import BadRequest, ChangedByOthers, NotFound
from libs.http.operations import operator_of, operator_operation
from libs.store.audit_log import AuditLog
from libs.store.operators import Operators, key_digest
from libs.store.optimistic import retry_on_conflict
from services.management.request_bodies import read_document, read_document_if_any
from services.management.success_responses import PAGE, document, enveloped, list_of, listed

_OPERATOR = "/api/operators/{operator_id}"
KEY_PREFIX = "tw_ok_"
KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class OperatorEndpoints:
    """Operators, managed by operators with `admin`. A key is only in the response that created or rotated it."""

    operators: Operators
    audit_log: AuditLog
    event_context: Callable[[], EventContext]

    @operator_operation(
        "POST",
        "/api/operators",
        "addOperator",
        Permission.ADMIN,
        tag="Operators",
        summary="Create an operator",
        description="Generates the operator's key, which only this response contains. With `expires_at` the key stops "
        "working then.",
        body=RequestBody(model=OperatorRegistration),
        response=ResponseSpec(description="Operator created; store the `key`.", models=(OperatorView,)),
        errors=(409,),
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /api/operators."""
        said = await read_document(request, OperatorRegistration)
        key = _new_key()
        ctx = self.event_context()
        _require_future(said.expires_at, ctx.now)
        operator = Operator(
            operator_id=uuid.uuid4().hex,
            name=said.name,
            permissions=_distinct(said.permissions),
            key_digest=key_digest(key),
            key_created_at=ctx.now,
            expires_at=said.expires_at,
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

    # Before the next one, which would take the word for an id; ids are generated, so no operator has it.
    @operator_operation(
        "GET",
        "/api/operators/self",
        "getOwnOperator",
        Permission.READ,
        tag="Operators",
        summary="Get the operator of the key",
        description="The operator whose key the request carries, with its permissions.",
        response=ResponseSpec(description="The operator, without the key.", models=(OperatorView,)),
    )
    async def get_own(self, request: web.Request) -> web.Response:
        """GET /api/operators/self."""
        return document(_view(operator_of(request)))

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
        operator = await self._named(request)
        last_change_at = await self.audit_log.latest_of(operator.operator_id)
        return document(_view(operator).model_copy(update={"last_change_at": last_change_at}))

    @operator_operation(
        "PUT",
        _OPERATOR,
        "replaceOperator",
        Permission.ADMIN,
        tag="Operators",
        summary="Replace an operator's name and permissions",
        description="The key stays the same; `expires_at` changes its expiry if it is given. Operators cannot remove "
        "`admin` from themselves.",
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
            ctx = self.event_context()
            changes: dict[str, object] = {"name": said.name, "permissions": _distinct(said.permissions)}
            if "expires_at" in said.model_fields_set and said.expires_at != operator.expires_at:
                _require_own_key(operator)
                _require_future(said.expires_at, ctx.now)
                changes["expires_at"] = said.expires_at
            return await self.operators.edit(operator, changes, ctx)

        return document(_view(await retry_on_conflict(attempt, exhausted=ChangedByOthers)))

    @operator_operation(
        "POST",
        "/api/operators/{operator_id}/rotate",
        "rotateOperatorKey",
        Permission.ADMIN,
        tag="Operators",
        summary="Rotate an operator's key",
        description="Generates a new key, which only this response contains. The old one stops working at once, or "
        "after `overlap` seconds, but never later than it would have expired. Also renews an expired key.",
        body=RequestBody(model=KeyRotation, optional=True),
        response=ResponseSpec(description="Key rotated; store the `key`.", models=(OperatorView,)),
        errors=(404, 409),
    )
    async def rotate(self, request: web.Request) -> web.Response:
        """POST /api/operators/{operator_id}/rotate: another key, the same name and permissions."""
        await self._named(request)
        said, key = await read_document_if_any(request, KeyRotation), _new_key()

        async def attempt() -> Operator | None:
            operator, ctx = await self._named(request), self.event_context()
            _require_own_key(operator)
            expires_at = said.expires_at
            if "expires_at" in said.model_fields_set:
                _require_future(expires_at, ctx.now)
            elif operator.expires_at is not None:
                expires_at = ctx.now + (operator.expires_at - _key_created_at(operator))
            changes: dict[str, object] = {
                "key_digest": key_digest(key),
                "key_created_at": ctx.now,
                "expires_at": expires_at,
                "previous": _kept(operator, said.overlap, ctx.now),
            }
            return await self.operators.rotate(operator, changes, ctx)

        return document(_view(await retry_on_conflict(attempt, exhausted=ChangedByOthers), key))

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


def _new_key() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(KEY_BYTES)


def _require_future(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise BadRequest("expires_at: a time in the future is expected; null for a key that never expires")


def _require_own_key(operator: Operator) -> None:
    """Raise BadRequest for the operator whose key is a setting: the next start would undo the change."""
    if operator.operator_id == BOOTSTRAP_OPERATOR_ID:
        raise BadRequest("the key of 'bootstrap' is TOKENWIRE_BOOTSTRAP_OPERATOR_KEY: change it there, and restart")


def _key_created_at(operator: Operator) -> datetime:
    return operator.key_created_at or operator.created_at


def _kept(operator: Operator, overlap: timedelta, now: datetime) -> PreviousKey | None:
    """The key that is replaced, for as long as it works; None if it does not any more."""
    until = now + overlap if operator.expires_at is None else min(now + overlap, operator.expires_at)
    return PreviousKey(digest=operator.key_digest, expires_at=until) if until > now else None


def _distinct(permissions: tuple[Permission, ...]) -> tuple[Permission, ...]:
    return tuple(permission for permission in Permission if permission in permissions)


def _view(operator: Operator, key: str | None = None) -> OperatorView:
    return OperatorView(
        operator_id=operator.operator_id,
        name=operator.name,
        permissions=operator.permissions,
        created_at=operator.created_at,
        updated_at=operator.updated_at,
        key_created_at=_key_created_at(operator),
        expires_at=operator.expires_at,
        previous_expires_at=operator.previous.expires_at if operator.previous else None,
        key=key,
    )
