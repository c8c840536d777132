"""CORS for calls to protected APIs: preflight responses, and headers that let scripts read responses."""

from http import HTTPStatus

from aiohttp import hdrs, web

from contracts.apis import Api
from libs.http.context import current
from libs.http.cors import cors_response_headers, preflight_headers
from services.gateway.calls import Call
from services.gateway.decision import Admitted
from services.gateway.injected_headers import injected_headers
from services.gateway.refusals import Denial


def preflight_outcome(call: Call, api: Api | Denial) -> web.Response | Admitted | None:
    """The outcome for a preflight: a 204, or Admitted if the upstream handles it (`optionsPassthrough`).

    None if the call is not a preflight; its response then gets the CORS headers, whatever it will be.

    A preflight has no credentials (Fetch standard, CORS-preflight fetch), so it is admitted without a token. A call
    whose method may be overridden to another one than OPTIONS is therefore not treated as a preflight.
    """
    if isinstance(api, Denial) or api.cors is None:
        return None
    cors, headers = api.cors, call.headers
    if call.method != hdrs.METH_OPTIONS or "Access-Control-Request-Method" not in headers:
        current().cors_headers = cors_response_headers(cors, headers.get("Origin"), call.method)
        return None
    if call.methods(overridable=api.method_override) != {hdrs.METH_OPTIONS}:
        return None
    if cors.options_passthrough:
        return Admitted(api, injected=injected_headers(api, {}))
    return web.Response(status=HTTPStatus.NO_CONTENT, headers=preflight_headers(cors, headers))
