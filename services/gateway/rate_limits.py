"""GET /<listen-path>/tyk/rate-limits: what is left of the caller's limits, in Tyk's words; nothing is counted."""

from dataclasses import dataclass

from aiohttp import web

from contracts.limits import QuotaStanding, RateLimit, RateLimits
from libs.http.errors import NO_STORE, json_bytes
from libs.policies import counted_under
from services.gateway.decision import AccessDecision
from services.gateway.limits import Limiter
from services.gateway.presented import Call, presented_token
from services.gateway.refusals import NO_API, Denial


@dataclass(frozen=True, slots=True)
class RateLimitsEndpoint:
    """For whoever brings an access token that opens the API."""

    decision: AccessDecision
    limiter: Limiter

    async def show(self, request: web.Request) -> web.Response:
        """The limits, or the refusal that a call with this token would get."""
        outcome = await self._standing(request)
        if isinstance(outcome, Denial):
            return outcome.response()
        return json_bytes(outcome.model_dump_json().encode(), headers=NO_STORE)

    async def _standing(self, request: web.Request) -> RateLimits | Denial:
        api = await self.decision.catalog.api_at(request.match_info["place"].strip("/"))
        if api is None or not api.active or (api.oauth is None and not api.auth_token):
            return NO_API
        call = Call(request.method, request.path, request.query_string, request.headers, lambda: request.cookies)
        token = presented_token(call, api.token_location, bare=api.auth_token)
        if isinstance(token, Denial):
            return token
        bearer = await self.decision.bearer(token)
        if isinstance(bearer, Denial):
            return bearer
        right = await self.decision.rights.of(bearer.grant, bearer.client, api)
        if isinstance(right, Denial):
            return right
        scope = counted_under(bearer.grant.grant_id, api.api_id, right.access)
        standing = await self.limiter.standing(scope, right.access.limits)
        return RateLimits(
            quota=QuotaStanding.model_validate(standing.model_dump()),
            rate_limit=RateLimit(requests=standing.rate, per_unit=standing.per),
        )
