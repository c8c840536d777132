"""Operators of the management API, found by the digest of their key (ADR 4)."""

import hashlib

from pymongo import IndexModel

from contracts.events import OperatorCreated, OperatorData, OperatorDeleted, OperatorUpdated
from contracts.operators import Operator
from libs.event_encoding import EventContext
from libs.store.mongo import outage_is_unavailability
from libs.store.records import Records


def key_digest(key: str) -> str:
    """The stored form of an operator key: SHA-256 in hexadecimal. A fast hash is enough: keys are long and random."""
    return hashlib.sha256(key.encode()).hexdigest()


def _data(operator: Operator) -> OperatorData:
    return OperatorData(operator_id=operator.operator_id, name=operator.name, permissions=operator.permissions)


class Operators(Records[Operator]):
    """All operators."""

    name = "operators"
    model = Operator
    key = "operator_id"
    indexes = (
        *Records.indexes,
        IndexModel("key_digest", name="key", unique=True, partialFilterExpression={"deleted": False}),
    )

    async def with_digest(self, digest: str) -> Operator | None:
        """The operator whose key has this digest."""
        async with outage_is_unavailability():
            document = await self._mongo[self.name].find_one({"key_digest": digest, "deleted": False})
        return self._decode(document) if document else None

    async def add(self, operator: Operator, ctx: EventContext) -> Operator:
        """Store a new operator. Raises Conflict."""
        return await self._add(operator, OperatorCreated, _data(operator), ctx)

    async def edit(self, operator: Operator, changes: dict[str, object], ctx: EventContext) -> Operator | None:
        """Change the operator; None if another writer was first."""
        data = _data(operator.model_copy(update=changes))
        return await self._change(operator, changes, OperatorUpdated, data, ctx)

    async def delete(self, operator: Operator, ctx: EventContext) -> bool:
        """Delete the operator, whose key is refused from now on; False if another writer was first."""
        data = OperatorData(operator_id=operator.operator_id, name=operator.name)
        return await self._remove(operator, OperatorDeleted, data, ctx)
