"""Why a call to the protected API is refused: Tyk's statuses and messages, and RFC 6750's header beside them."""

from dataclasses import dataclass

import orjson
from aiohttp import web

from libs.http.errors import NO_STORE, json_bytes
from services.gateway.outcomes import Ticket, rate_limit_headers


@dataclass(frozen=True, slots=True)
class Denial:
    """One way to be refused."""

    reason: str
    """Its name in analytics."""
    status: int
    message: str
    error: str | None = None
    """RFC 6750 §3.1; None where the request had no credentials at all."""
    challenges: bool = True
    """Whether other credentials might help (RFC 9110 §11.6.1)."""
    retry_after: int | None = None
    """Seconds after which the same call may pass."""
    figures: Ticket | None = None
    """What is left of the quota, where a limit refuses."""

    def response(self) -> web.Response:
        """The refusal as the protected API's client sees it."""
        headers = dict(NO_STORE)
        if self.challenges:
            headers["WWW-Authenticate"] = 'Bearer realm="tokenwire"' + (f', error="{self.error}"' if self.error else "")
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        if self.figures is not None:
            headers |= rate_limit_headers(self.figures)
        return json_bytes(orjson.dumps({"error": self.message}), self.status, headers)


MISSING = Denial("missing", 400, "Authorization field missing")
MALFORMED = Denial("malformed", 400, "Bearer token malformed", "invalid_request")
UNKNOWN_TOKEN = Denial("unknown_token", 403, "Key not authorised", "invalid_token")
CLIENT_GONE = Denial("client_gone", 403, "Key not authorised. OAuth client access was revoked", "invalid_token")
EXPIRED = Denial("expired", 401, "Key has expired, please renew", "invalid_token")
API_DISALLOWED = Denial("api_disallowed", 403, "Access to this API has been disallowed", "insufficient_scope")
URL_DISALLOWED = Denial("url_disallowed", 403, "Access to this resource has been disallowed", "insufficient_scope")
INACTIVE = Denial("inactive", 403, "Key is inactive, please renew", "invalid_token")
AMBIGUOUS = Denial("ambiguous", 400, "The path may be read as that of more than one API", "invalid_request")
LEADS_OUT = Denial("leads_out", 400, "The path leads out of the API", "invalid_request")
NO_API = Denial("no_api", 404, "There is no such API")
RATE_LIMIT = Denial("rate_limit", 429, "Rate Limit Exceeded", challenges=False)
QUOTA = Denial("quota", 403, "Quota exceeded", challenges=False)
UNCOUNTED = Denial("limits_unavailable", 503, "The limits cannot be checked now", challenges=False)
