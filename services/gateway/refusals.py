"""Refusals of calls to protected APIs: Tyk's status codes and messages, and the header of RFC 6750."""

from dataclasses import dataclass, replace

import orjson
from aiohttp import web

from contracts.error_bodies import GatewayErrorBody, OAuthErrorBody
from contracts.operations import ResponseSpec
from libs.http.operations import ERRORS, RETRY_AFTER
from libs.http.responses import NO_STORE, json_bytes
from services.gateway.rate_limit_result import QuotaState, rate_limit_headers


@dataclass(frozen=True, slots=True)
class Denial:
    """One reason to refuse a call, and the response for it."""

    reason: str
    """Name in the usage analytics."""
    status: int
    message: str
    error: str | None = None
    """Error code of RFC 6750 §3.1; None if the request had no credentials at all."""
    challenges: bool = True
    """Whether to send `WWW-Authenticate`: other credentials might help (RFC 9110 §11.6.1)."""
    retry_after: int | None = None
    """Seconds after which the same call may pass."""
    quota: QuotaState | None = None
    """State of the quota, if a limit is the reason."""

    def response(self) -> web.Response:
        """The response for the caller."""
        headers = dict(NO_STORE)
        if self.challenges:
            headers["WWW-Authenticate"] = 'Bearer realm="tokenwire"' + (f', error="{self.error}"' if self.error else "")
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.quota is not None:
            headers |= rate_limit_headers(self.quota)
        return json_bytes(orjson.dumps({"error": self.message}), self.status, headers)


MISSING = Denial("missing", 400, "Authorization field missing")
MISSING_KEY = replace(MISSING, status=401)
"""For an API with Auth Token and without OAuth."""
MALFORMED = Denial("malformed", 400, "Bearer token malformed", "invalid_request")
UNKNOWN_TOKEN = Denial("unknown_token", 403, "Key not authorised", "invalid_token")
CLIENT_GONE = Denial("client_gone", 403, "Key not authorised. OAuth client access was revoked", "invalid_token")
EXPIRED = Denial("expired", 401, "Key has expired, please renew", "invalid_token")
API_DISALLOWED = Denial("api_disallowed", 403, "Access to this API has been disallowed", "insufficient_scope")
URL_DISALLOWED = Denial("url_disallowed", 403, "Access to this resource has been disallowed", "insufficient_scope")
INACTIVE = Denial("inactive", 403, "Key is inactive, please renew", "invalid_token")
AMBIGUOUS = Denial(
    "ambiguous",
    400,
    "Servers may read this as the path of different APIs; send it in its plain form",
    "invalid_request",
)
TOO_MANY_READINGS = Denial(
    "ambiguous",
    400,
    "Servers may read the path in too many different ways; send it without //, .., ; and encoded slashes or dots",
    "invalid_request",
)
AMBIGUOUS_TOKEN = Denial(
    "ambiguous_token",
    400,
    "The header with the token must occur once, and Connection must not list it",
    "invalid_request",
)
AMBIGUOUS_VERSION = Denial(
    "ambiguous_version",
    400,
    "The version is given more than once, under another spelling, or in a header that Connection lists; send it once, "
    "under the name that the API has for it",
    "invalid_request",
)
LEADS_OUT = Denial("leads_out", 400, "The path leads out of the API", "invalid_request")
NO_API = Denial("no_api", 404, "There is no such API")
"""Also for internal APIs and other hosts: the response must not tell that the API exists."""
RATE_LIMIT = Denial("rate_limit", 429, "Rate Limit Exceeded", challenges=False)
QUOTA = Denial("quota", 403, "Quota exceeded", challenges=False)
UNCOUNTED = Denial("limits_unavailable", 503, "The limits cannot be checked at the moment", challenges=False)

_BODY_AS_HEADER = {
    "X-Tokenwire-Refusal": "The response body again, for proxies that pass on only the headers of a refusal."
}
_CHALLENGE = {"WWW-Authenticate": "The scheme to authenticate with."}
REFUSAL_RESPONSES = {
    400: ResponseSpec(
        description="The token is missing or malformed.",
        models=(GatewayErrorBody, OAuthErrorBody),
        headers=_BODY_AS_HEADER,
    ),
    401: ResponseSpec(
        description="The token has expired; or there is none, and the API has Auth Token.",
        models=(GatewayErrorBody,),
        headers=_CHALLENGE | _BODY_AS_HEADER,
    ),
    403: ResponseSpec(
        description="The token is not valid for this API, its quota is used up, or the API's definition refuses the "
        "call.",
        models=(GatewayErrorBody,),
        headers=_CHALLENGE | _BODY_AS_HEADER,
    ),
    404: ResponseSpec(description="No API has this path.", models=(GatewayErrorBody,), headers=_BODY_AS_HEADER),
    429: ResponseSpec(
        description="Rate limit reached; retry after `Retry-After` seconds.",
        models=(GatewayErrorBody,),
        headers=RETRY_AFTER | _BODY_AS_HEADER,
    ),
    503: ResponseSpec(
        description=ERRORS[503], models=(OAuthErrorBody, GatewayErrorBody), headers=RETRY_AFTER | _BODY_AS_HEADER
    ),
}
"""How the OpenAPI document describes these refusals."""
SIZE_RESPONSES = {
    411: ResponseSpec(
        description="The API limits the body size, and this call does not say how large its body is.",
        models=(GatewayErrorBody,),
        headers=_BODY_AS_HEADER,
    ),
    413: ResponseSpec(
        description="The body is larger than the API's definition allows.",
        models=(GatewayErrorBody,),
        headers=_BODY_AS_HEADER,
    ),
}
