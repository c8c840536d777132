"""Users whose grants an operator has revoked. Ending all grants of a user is exact, whatever is issued meanwhile.

A user is whoever authorizes grants, by name: a user of an identity server, of whom nothing else is stored, or a
resource owner. `revoke_all` is one write here; then the user's grants are revoked one by one. A grant that is issued at
the same time is either found by that, or is written after it began: so `issue` looks here once a new grant is written.
"""

from dataclasses import replace
from datetime import timedelta

from contracts.events import UserData, UserTokensRevoked
from contracts.grants import Grant, GrantState, RevocationReason, UserRevocation
from libs.event_encoding import EventContext
from libs.oauth.errors import InvalidGrant
from libs.oauth.grants import Transition, revoke_grant
from libs.store.grants import Grants
from libs.store.mongo import Conflict, Document
from libs.store.records import Records

KEPT = timedelta(days=100)
"""Longer than any grant lives."""


class Users(Records[UserRevocation]):
    """One record for each user whose grants were ever revoked together, by the user's name."""

    name = "users"
    model = UserRevocation
    key = "subject"

    def _word(self, record: UserRevocation) -> str:
        # Names may contain dots and spaces, which a word of a routing key may not; and they are personal data.
        return "user"

    def _encode(self, record: UserRevocation) -> Document:
        return {**super()._encode(record), "purge_after": record.updated_at + KEPT}

    async def issue(self, grants: Grants, issued: Transition, ctx: EventContext) -> None:
        """Commit a new grant. Raises InvalidGrant, with the grant revoked, if `revoke_all` came meanwhile."""
        await grants.commit(issued)
        subject = issued.after.subject
        user = await self.get(subject) if subject is not None else None
        if user is None or issued.after.created_at > user.revoked_before:
            return

        def revoke(grant: Grant | None) -> Transition | None:
            if grant is None or grant.state is GrantState.REVOKED:
                return None
            return revoke_grant(grant, RevocationReason.USER_REVOKED, replace(ctx, actor=None))

        await grants.update_with_retry(issued.after.grant_id, revoke)
        raise InvalidGrant("all grants of this user were just revoked; the user must log in again")

    async def revoke_all(self, subject: str, ctx: EventContext) -> UserRevocation | None:
        """Revoke all grants of the user up to now, with an event; None if another writer was first."""
        before, data = await self.get(subject), UserData(resource_owner=subject)
        if before is not None:
            latest = max(before.revoked_before, ctx.now)  # the clocks of two processes may differ
            return await self._change(before, {"revoked_before": latest}, UserTokensRevoked, data, ctx)
        new = UserRevocation(subject=subject, revoked_before=ctx.now, created_at=ctx.now, updated_at=ctx.now)
        try:
            return await self._add(new, UserTokensRevoked, data, ctx)
        except Conflict:
            return None
