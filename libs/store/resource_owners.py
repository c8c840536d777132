"""Resource owners: the users of the password grant."""

from collections.abc import Mapping
from typing import ClassVar

from pymongo import IndexModel

from contracts.events import ResourceOwnerCreated, ResourceOwnerData, ResourceOwnerDeleted, ResourceOwnerUpdated
from contracts.resource_owners import ResourceOwner
from libs.event_encoding import EventContext
from libs.store.records import Records


def _data(owner: ResourceOwner) -> ResourceOwnerData:
    return ResourceOwnerData(username=owner.username, policy_ids=owner.policy_ids)


class ResourceOwners(Records[ResourceOwner]):
    """All resource owners."""

    name = "resource_owners"
    model = ResourceOwner
    key = "username"
    as_json = frozenset({"meta_data"})
    secret: ClassVar[Mapping[str, object]] = {"password_hash": ""}
    indexes = (
        *Records.indexes,
        IndexModel([("policy_ids", 1), ("deleted", 1), ("_id", 1)], name="with_policy_ids"),
    )

    def _word(self, record: ResourceOwner) -> str:
        # User names may contain dots and spaces, which a word of a routing key may not; and they are personal data.
        return "user"

    async def get(self, key: str) -> ResourceOwner | None:
        """The user; None if there is none, or it was deleted. Takes the same time in each case."""
        return await self._get_constant_time(key)

    async def without_password(self, username: str) -> ResourceOwner | None:
        """The user without the password hash, which must not stay in memory."""
        owner = await self.get(username)
        return owner.model_copy(update={"password_hash": ""}) if owner else None

    async def add(self, owner: ResourceOwner, ctx: EventContext) -> ResourceOwner:
        """Store a new resource owner. Raises Conflict."""
        return await self._add(owner, ResourceOwnerCreated, _data(owner), ctx)

    async def edit(self, owner: ResourceOwner, changes: dict[str, object], ctx: EventContext) -> ResourceOwner | None:
        """Change the resource owner; None if another writer was first."""
        data = _data(owner.model_copy(update=changes))
        return await self._change(owner, changes, ResourceOwnerUpdated, data, ctx)

    async def delete(self, owner: ResourceOwner, ctx: EventContext) -> bool:
        """Delete the user; False if another writer was first."""
        return await self._remove(owner, ResourceOwnerDeleted, ResourceOwnerData(username=owner.username), ctx)
