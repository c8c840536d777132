"""POST /api/grants/{grant_id}/revoke and /api/users/{subject}/revoke_all: operators end grants, not only tokens."""

from dataclasses import dataclass

from aiohttp import web

from contracts.error_bodies import Envelope
from contracts.grant_views import GrantQuery
from contracts.grants import GrantState, RevocationReason
from contracts.operations import ResponseSpec
from contracts.operators import Permission
from libs.http.error_responses import BadRequest, NotFound
from libs.http.operations import operator_operation
from libs.store.grants import Grants
from services.revocation.operator_revocation import MOST_COUNTED, done
from services.revocation.revoker import Revoker

AT_ONCE = 1000
"""Grants of one user that are revoked before the response; the consumer of the event revokes the others."""
MAX_SUBJECT = 256


@dataclass(frozen=True, slots=True)
class GrantRevocation:
    """For operators with the permission `revoke`."""

    grants: Grants
    revoker: Revoker

    @operator_operation(
        "POST",
        "/api/grants/{grant_id}/revoke",
        "revokeGrant",
        Permission.REVOKE,
        tag="Grants",
        summary="Revoke a grant",
        description="Ends the grant with its code, access token and refresh token. `Meta.ended` is 1, or 0 if the "
        "grant had been revoked before.",
        response=ResponseSpec(description="Grant revoked.", models=(Envelope,)),
        errors=(404,),
    )
    async def revoke(self, request: web.Request) -> web.Response:
        """200 with the grant revoked, for the reason `operator`. Raises NotFound."""
        grant_id = request.match_info["grant_id"]
        if await self.revoker.revoke_grant(grant_id, RevocationReason.OPERATOR):
            return done("grant revoked", {"ended": 1})
        grant = await self.grants.read(grant_id)
        if grant is None:
            raise NotFound("Grant not found: it never existed, or was deleted a day after its end")
        assert grant.state is GrantState.REVOKED  # noqa: S101 - otherwise it would have been revoked now
        return done(f"the grant had been revoked before, for the reason {grant.ended_reason}", {"ended": 0})

    @operator_operation(
        "POST",
        "/api/users/{subject}/revoke_all",
        "revokeAllGrantsOfUser",
        Permission.REVOKE,
        tag="Grants",
        summary="Revoke all grants of a user",
        description="Ends every grant that the user has authorized so far, on every API and for every client app, with "
        "its tokens, including grants that are being issued at this moment. The user can log in again afterwards. "
        "`Meta.ended` is the number of grants that were ended, counted up to 100000; `Meta.remaining` is true if some "
        "of them are still being ended when the response is sent.",
        response=ResponseSpec(description="Grants revoked.", models=(Envelope,)),
        errors=(400,),
        patterns={"subject": "[^/]+"},
    )
    async def revoke_all(self, request: web.Request) -> web.Response:
        """200 with the user's grants revoked, for the reason `user_revoked`."""
        subject = request.match_info["subject"]
        if len(subject) > MAX_SUBJECT:
            raise BadRequest(f"the name of a user has at most {MAX_SUBJECT} characters")
        now = self.revoker.event_context().now
        # Those that exist are revoked and counted first: once the event is written, its consumer revokes them, too.
        ended = await self.revoker.revoke_grants_of_user(subject, now, AT_ONCE)
        left = await self.grants.count_unended(GrantQuery(subject=subject), now, MOST_COUNTED)
        until = await self.revoker.revoke_all_of_user(subject)
        # Again, for those that were issued meanwhile.
        ended += max(left, await self.revoker.revoke_grants_of_user(subject, until, AT_ONCE))
        return done(f"grants of this user that were ended: {ended}", {"ended": ended, "remaining": left > AT_ONCE})
