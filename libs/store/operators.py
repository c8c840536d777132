"""Operators of the management API, found by the digest of their key (ADR 4)."""

import hashlib
import hmac
from datetime import datetime

from pymongo import IndexModel

from contracts.events import OperatorCreated, OperatorData, OperatorDeleted, OperatorKeyRotated, OperatorUpdated
from contracts.operators import Operator
from libs.event_encoding import EventContext
from libs.store.mongo import outage_is_unavailability
from libs.store.records import Records


def key_digest(key: str) -> str:
    """The stored form of an operator key: SHA-256 in hexadecimal. A fast hash is enough: keys are long and random."""
    return hashlib.sha256(key.encode()).hexdigest()


def _data(operator: Operator) -> OperatorData:
    return OperatorData(operator_id=operator.operator_id, name=operator.name, permissions=operator.permissions)


def expiry_of(operator: Operator, key: str) -> datetime | None:
    """When this key of the operator, the current or the previous one, expires; None: never."""
    previous = operator.previous
    if previous is not None and hmac.compare_digest(previous.digest, key_digest(key)):
        return previous.expires_at
    return operator.expires_at


class Operators(Records[Operator]):
    """All operators."""

    name = "operators"
    model = Operator
    key = "operator_id"
    indexes = (
        *Records.indexes,
        IndexModel("key_digest", name="key", unique=True, partialFilterExpression={"deleted": False}),
        IndexModel("previous.digest", name="previous_key", partialFilterExpression={"previous.digest": {"$gte": ""}}),
    )

    async def with_digest(self, digest: str) -> Operator | None:
        """The operator whose key has this digest, or whose previous key has; either may have expired."""
        keys = [{"key_digest": digest, "deleted": False}, {"previous.digest": digest, "deleted": False}]
        async with outage_is_unavailability():
            for key in keys:
                if (document := await self._mongo[self.name].find_one(key)) is not None:
                    return self._decode(document)
        return None

    async def add(self, operator: Operator, ctx: EventContext) -> Operator:
        """Store a new operator. Raises Conflict."""
        return await self._add(operator, OperatorCreated, _data(operator), ctx)

    async def edit(self, operator: Operator, changes: dict[str, object], ctx: EventContext) -> Operator | None:
        """Change the operator; None if another writer was first."""
        data = _data(operator.model_copy(update=changes))
        return await self._change(operator, changes, OperatorUpdated, data, ctx)

    async def rotate(self, operator: Operator, changes: dict[str, object], ctx: EventContext) -> Operator | None:
        """Replace the operator's key; None if another writer was first."""
        return await self._change(operator, changes, OperatorKeyRotated, _data(operator), ctx)

    async def delete(self, operator: Operator, ctx: EventContext) -> bool:
        """Delete the operator, whose key is refused from now on; False if another writer was first."""
        data = OperatorData(operator_id=operator.operator_id, name=operator.name)
        return await self._remove(operator, OperatorDeleted, data, ctx)
