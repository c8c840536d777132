"""Operators, found by the digest of their key."""

import hashlib

from pymongo import IndexModel

from contracts.events import OperatorCreated, OperatorData, OperatorDeleted, OperatorUpdated
from contracts.operators import Operator
from libs.events import Origin
from libs.store.mongo import outage_is_unavailability
from libs.store.records import Records


def key_digest(key: str) -> str:
    """What is kept of an operator key: SHA-256 in hexadecimal (keys are long and random)."""
    return hashlib.sha256(key.encode()).hexdigest()


def _data(operator: Operator) -> OperatorData:
    return OperatorData(operator_id=operator.operator_id, name=operator.name, permissions=operator.permissions)


class Operators(Records[Operator]):
    """Every operator."""

    name = "operators"
    model = Operator
    key = "operator_id"
    indexes = (IndexModel("key_digest", name="key", unique=True, partialFilterExpression={"deleted": False}),)

    async def with_digest(self, digest: str) -> Operator | None:
        """The operator whose key has this digest."""
        async with outage_is_unavailability():
            document = await self._mongo[self.name].find_one({"key_digest": digest, "deleted": False})
        return self._decode(document) if document else None

    async def add(self, operator: Operator, at: Origin) -> Operator:
        """The operator stored. Raises Conflict."""
        return await self._add(operator, OperatorCreated, _data(operator), at)

    async def edit(self, operator: Operator, changes: dict[str, object], at: Origin) -> Operator | None:
        """The operator with the changes; None if it changed in between."""
        data = _data(operator.model_copy(update=changes))
        return await self._change(operator, changes, OperatorUpdated, data, at)

    async def delete(self, operator: Operator, at: Origin) -> bool:
        """The key dead; whether the operator was still as given."""
        data = OperatorData(operator_id=operator.operator_id, name=operator.name)
        return await self._remove(operator, OperatorDeleted, data, at)
