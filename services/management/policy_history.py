"""Which policies counted for a grant at a moment, and in which versions, according to the audit log."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from contracts.apis import GrantType
from contracts.audit_log import AuditLogEntry
from contracts.grant_views import CountingPolicy, PolicyHolder
from contracts.grants import Grant
from libs.policies import KeyRules
from libs.store.store import Store


@dataclass(frozen=True, slots=True)
class _Holder:
    """Whose policies count for a grant."""

    kind: PolicyHolder
    today: tuple[str, ...] | None
    """The policies it has now; None: it was deleted."""
    changes: Sequence[AuditLogEntry] = ()
    """Its changes, the oldest first."""

    def at(self, moment: datetime) -> tuple[str, ...] | None:
        """The policies that it had; None if that is not known any more."""
        earlier = [change for change in self.changes if change.at <= moment and change.policy_ids is not None]
        if earlier:
            return earlier[-1].policy_ids
        return None if any(change.at > moment and _sets_policies(change) for change in self.changes) else self.today


def _sets_policies(change: AuditLogEntry) -> bool:
    return "policy_ids" in (change.changed or ())


@dataclass(frozen=True, slots=True)
class PolicyHistory:
    """The policies of one grant over time."""

    holders: Sequence[_Holder]
    policies: Mapping[str, Sequence[AuditLogEntry]]
    """The changes of every policy that ever counted, the oldest first."""

    def at(self, moment: datetime) -> tuple[CountingPolicy, ...] | None:
        """The policies that counted at that moment; None if that is not known any more."""
        counting: list[CountingPolicy] = []
        for holder in self.holders:
            held = holder.at(moment)
            if held is None:
                return None
            for policy_id in held:
                version = self._version(policy_id, moment)
                counting.append(CountingPolicy(policy_id=policy_id, holder=holder.kind, version=version))
        return tuple(counting)

    def changes(self, since: datetime, until: datetime) -> Iterator[AuditLogEntry]:
        """The changes after `since` and up to `until` that may have changed what the grant may do."""
        for holder in self.holders:
            yield from (change for change in holder.changes if since < change.at <= until and _sets_policies(change))
        for changes in self.policies.values():
            yield from (change for change in changes if since < change.at <= until)

    def _version(self, policy_id: str, moment: datetime) -> int | None:
        earlier = [change for change in self.policies[policy_id] if change.at <= moment]
        return earlier[-1].version if earlier and earlier[-1].action != "policy.deleted" else None


async def policy_history(store: Store, grant: Grant) -> PolicyHistory:
    """The history of the policies of the client, of the resource owner, and of the key rules."""
    log = store.audit_log
    client, changes = await asyncio.gather(
        store.clients.registered(grant.client_id, grant.api_id), log.about(grant.client_id, "client")
    )
    of_api = [change for change in changes if change.api_id == grant.api_id]
    holders = [_Holder(PolicyHolder.CLIENT, client.policy_ids if client else None, of_api)]
    if grant.grant_type is GrantType.PASSWORD and grant.subject is not None:
        owner, changes = await asyncio.gather(
            store.resource_owners.get(grant.subject), log.about(grant.subject, "resource_owner")
        )
        holders.append(_Holder(PolicyHolder.RESOURCE_OWNER, owner.policy_ids if owner else None, changes))
    if grant.key_rules is not None:
        holders.append(_Holder(PolicyHolder.KEY_RULES, KeyRules.model_validate(grant.key_rules).apply_policies))
    ids = {policy_id for holder in holders for policy_id in holder.today or ()}
    ids |= {policy_id for holder in holders for change in holder.changes for policy_id in change.policy_ids or ()}
    ordered = sorted(ids)
    found = await asyncio.gather(*(log.about(policy_id, "policy") for policy_id in ordered))
    return PolicyHistory(holders, dict(zip(ordered, found, strict=True)))
