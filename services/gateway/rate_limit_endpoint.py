"""GET /<listen-path>/tyk/rate-limits: the limits of the caller's token and what is left of them, in Tyk's format."""

from dataclasses import dataclass

from aiohttp import web

from contracts.limits import QuotaStatus, RateLimit, RateLimits
from contracts.operations import Caller, Operation, ResponseSpec
from libs.http.context import current
from libs.http.operations import API_REF_PATTERN, operation
from libs.http.responses import NO_STORE, json_bytes
from libs.policies import counted_under
from services.gateway.bearer_token import presented_token
from services.gateway.calls import Call
from services.gateway.decision import AccessDecision
from services.gateway.rate_limiter import RateLimiter
from services.gateway.refusals import NO_API, REFUSAL_RESPONSES, Denial


@dataclass(frozen=True, slots=True)
class RateLimitEndpoint:
    """Reports the limits of the access token in the request, which must be valid for the API."""

    decision: AccessDecision
    limiter: RateLimiter

    @operation(
        Operation(
            method="GET",
            path="/{api_ref}/tyk/rate-limits",
            name="readRateLimits",
            tag="Token check",
            summary="Get the limits of a token",
            description="Quota and rate limit of the access token that the request carries, and what is left of the "
            "quota. "
            "Does not count as a call.",
            caller=Caller.TOKEN_HOLDER,
            responses={
                200: ResponseSpec(description="The limits.", models=(RateLimits,)),
                **{status: response for status, response in REFUSAL_RESPONSES.items() if status != 429},
            },
            patterns=API_REF_PATTERN,
        )
    )
    async def show(self, request: web.Request) -> web.Response:
        """The limits, or the refusal that a call with this token would get. Nothing is counted."""
        outcome = await self._limit_status(request)
        if isinstance(outcome, Denial):
            return outcome.response()
        return json_bytes(outcome.model_dump_json().encode(), headers=NO_STORE)

    async def _limit_status(self, request: web.Request) -> RateLimits | Denial:
        api = await self.decision.catalog.api_at(request.match_info["api_ref"].strip("/"))
        if api is None or not api.active or (api.oauth is None and not api.auth_token):
            return NO_API
        guards, host = self.decision.guards, request.headers.get("Host", "")
        refusal = guards.host_refusal(api, lambda: (host,)) or guards.address_refusal(api, current().address)
        if refusal is not None:
            return refusal
        call = Call(request.method, request.path, request.query_string, request.headers)
        token = presented_token(call, api)
        if isinstance(token, Denial):
            return token
        holder = await self.decision.token_holder(token)
        if isinstance(holder, Denial):
            return holder
        right = await self.decision.rights.of(holder.grant, holder.client, api)
        if isinstance(right, Denial):
            return right
        scope = counted_under(holder.grant.counter, api.api_id, right.access)
        status = await self.limiter.limit_status(scope, right.access.limits)
        return RateLimits(
            quota=QuotaStatus.model_validate(status.model_dump()),
            rate_limit=RateLimit(requests=status.rate, per_unit=status.per),
        )
