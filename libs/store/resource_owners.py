"""Resource owners."""

from collections.abc import Mapping
from typing import ClassVar

from contracts.events import ResourceOwnerCreated, ResourceOwnerData, ResourceOwnerDeleted, ResourceOwnerUpdated
from contracts.resource_owners import ResourceOwner
from libs.events import Origin
from libs.store.records import Records


class ResourceOwners(Records[ResourceOwner]):
    """Every user of the password grant."""

    name = "resource_owners"
    model = ResourceOwner
    key = "username"
    as_json = frozenset({"meta_data"})
    secret: ClassVar[Mapping[str, object]] = {"password_hash": ""}

    def _word(self, record: ResourceOwner) -> str:
        # A user name is not one word of a routing key.
        return "user"

    async def get(self, key: str) -> ResourceOwner | None:
        """The user; None if there is none, or it was deleted. The time does not tell."""
        return await self._get_alike(key)

    async def add(self, owner: ResourceOwner, at: Origin) -> ResourceOwner:
        """The resource owner stored. Raises Conflict."""
        return await self._add(owner, ResourceOwnerCreated, ResourceOwnerData(username=owner.username), at)

    async def edit(self, owner: ResourceOwner, changes: dict[str, object], at: Origin) -> ResourceOwner | None:
        """The resource owner with the changes; None if it changed in between."""
        return await self._change(owner, changes, ResourceOwnerUpdated, ResourceOwnerData(username=owner.username), at)

    async def delete(self, owner: ResourceOwner, at: Origin) -> bool:
        """The user gone; whether it was still as given."""
        return await self._remove(owner, ResourceOwnerDeleted, ResourceOwnerData(username=owner.username), at)
