"""Policies: what the tokens of a client or user may do."""

from contracts.events import PolicyCreated, PolicyData, PolicyDeleted, PolicyUpdated
from contracts.policies import Policy
from libs.event_encoding import EventContext
from libs.store.records import Records


class Policies(Records[Policy]):
    """All policies."""

    name = "policies"
    model = Policy
    key = "policy_id"
    as_json = frozenset({"access_rights", "meta_data"})

    async def add(self, policy: Policy, ctx: EventContext) -> Policy:
        """Store a new policy. Raises Conflict."""
        return await self._add(policy, PolicyCreated, PolicyData(policy_id=policy.policy_id), ctx)

    async def replace(self, before: Policy, after: Policy, ctx: EventContext) -> Policy | None:
        """Replace the policy, also for tokens already issued; None if another writer was first."""
        kept = {"policy_id", "version", "created_at", "updated_at"}
        changes = {name: getattr(after, name) for name in Policy.model_fields if name not in kept}
        return await self._change(before, changes, PolicyUpdated, PolicyData(policy_id=before.policy_id), ctx)

    async def delete(self, policy: Policy, ctx: EventContext) -> bool:
        """Delete the policy, which grants nothing from now on; False if another writer was first."""
        return await self._remove(policy, PolicyDeleted, PolicyData(policy_id=policy.policy_id), ctx)
