"""Policies."""

from contracts.events import PolicyCreated, PolicyData, PolicyDeleted, PolicyUpdated
from contracts.policies import Policy
from libs.events import Origin
from libs.store.records import Records


class Policies(Records[Policy]):
    """Every policy."""

    name = "policies"
    model = Policy
    key = "policy_id"
    as_json = frozenset({"access_rights", "meta_data"})

    async def add(self, policy: Policy, at: Origin) -> Policy:
        """The policy stored. Raises Conflict."""
        return await self._add(policy, PolicyCreated, PolicyData(policy_id=policy.policy_id), at)

    async def replace(self, before: Policy, after: Policy, at: Origin) -> Policy | None:
        """The policy replaced, also for tokens already issued; None if it changed in between."""
        kept = {"policy_id", "version", "created_at", "updated_at"}
        changes = {name: getattr(after, name) for name in Policy.model_fields if name not in kept}
        return await self._change(before, changes, PolicyUpdated, PolicyData(policy_id=before.policy_id), at)

    async def delete(self, policy: Policy, at: Origin) -> bool:
        """The policy gone: it grants nothing any more; whether it was still as given."""
        return await self._remove(policy, PolicyDeleted, PolicyData(policy_id=policy.policy_id), at)
