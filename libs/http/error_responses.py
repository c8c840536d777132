"""Turns exceptions into HTTP error responses: status, body and headers. Nothing else renders errors."""

import re
from collections.abc import Mapping
from typing import ClassVar

import orjson
import structlog
from aiohttp import web
from pydantic import ValidationError

from contracts.apis import MANAGEMENT_PATHS
from libs.http.error_page import PAGE_HEADERS, error_page, prefers_html
from libs.http.responses import NO_STORE, json_bytes
from libs.http.tyk_not_offered import instead_of
from libs.oauth.errors import (
    BodyTooSlow,
    CannotRedirect,
    InvalidClient,
    InvalidRequest,
    OAuthError,
    Redirected,
    TemporarilyUnavailable,
    TooManyRequests,
)
from libs.oauth.redirect_uris import with_query

_GATEWAY_API = "/tyk/"
"""Below this path errors are in the envelope of the open-source Tyk gateway's API."""
_ENVELOPED = re.compile(f"/api/(?:{'|'.join(sorted(MANAGEMENT_PATHS))})(?:/|\\Z)|{_GATEWAY_API}")
_TEXT = bytes(range(0x20, 0x7F)).translate(None, b'"\\').decode()

log = structlog.get_logger("http")


class Refusal(Exception):
    """A management request is refused. Rendered in the envelope of Tyk's Dashboard API."""

    status: ClassVar[int] = 400

    def __init__(self, message: str, meta: Mapping[str, object] | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.meta = meta
        """The facts of the message in a form for programs."""


class BadRequest(Refusal):
    """400: the request is malformed or contradicts itself."""


class NotAuthenticated(Refusal):
    """401: the operator key is missing or unknown."""

    status = 401


class NotPermitted(Refusal):
    """403: the operator lacks the permission."""

    status = 403


class NotFound(Refusal):
    """404: the record does not exist."""

    status = 404


class Taken(Refusal):
    """409: the name is taken, or the record was changed meanwhile."""

    status = 409


class ChangedByOthers(Taken):
    """409: other requests kept changing the record, so this change was not applied."""

    def __init__(self) -> None:
        super().__init__("other requests are changing this record at the same time; read it again and retry")


class NotThatVersion(Refusal):
    """412: the record is not in the version that the request names any more."""

    status = 412


class Unprocessable(Refusal):
    """422: a required parameter is missing."""

    status = 422


class TooLarge(Refusal):
    """413: the body exceeds the limit."""

    status = 413


_AN_OBJECT = "a JSON object is expected"
_OWN_TEXTS = {
    **dict.fromkeys(("model_type", "model_attributes_type", "dict_type", "is_instance_of"), _AN_OBJECT),
    "extra_forbidden": "there is no such field here",
}
"""Messages for errors whose text by pydantic is about Python or its models."""


def first_fault(error: ValidationError) -> str:
    """The first error of a validation, in one line. Values are not repeated: they may be secrets."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    text = _OWN_TEXTS.get(fault["type"]) or fault["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


def oauth_body(error: OAuthError) -> dict[str, str]:
    """The error body of RFC 6749 §5.2; characters that the RFC does not allow in a description become apostrophes."""
    description = "".join(character if character in _TEXT else "'" for character in error.description)
    return {"error": error.code, "error_description": description}


class ErrorRenderer:
    """Renders exceptions. `oauth_error_status` replaces the status of OAuth errors, for clients written for Tyk."""

    def __init__(self, oauth_error_status: int | None = None) -> None:
        self._oauth_error_status = oauth_error_status

    def render(self, request: web.Request, error: Exception, request_id: str | None = None) -> web.StreamResponse:
        """The error response for an exception. An unexpected exception is logged, and the response is a plain 500."""
        match error:
            case OAuthError():
                return self._oauth(request, error)
            case CannotRedirect():
                return self._cannot_redirect(request, error.error, request_id or "")
            case Redirected():
                return self._redirected(error)
            case NotAuthenticated() if request.path.startswith(_GATEWAY_API):
                return _enveloped(request, 403, "Attempted administrative access with invalid or missing key!")
            case Refusal():
                return _enveloped(request, error.status, error.message, meta=error.meta)
            case ValidationError():
                return self._malformed(request, first_fault(error))
            case web.RequestPayloadError():
                return self._malformed(request, "the body does not match its headers")
            case web.HTTPException():
                return self._http(request, error)
        log.error("unexpected_error", path=request.path, error=type(error).__name__, exc_info=error)
        return self._plain(request, 500, "internal error; find the request id in the log")

    def _oauth(self, request: web.Request, error: OAuthError) -> web.Response:
        if error.detail:
            log.info("refused", error=error.code, detail=error.detail)
        headers = dict(NO_STORE)
        status = error.status
        if isinstance(error, TemporarilyUnavailable | TooManyRequests):
            headers["Retry-After"] = str(error.retry_after)
            if _ENVELOPED.match(request.path):
                return _enveloped(request, status, error.description, headers)
        elif self._oauth_error_status and status in {400, 401, 403}:
            status = self._oauth_error_status
        if isinstance(error, BodyTooSlow):
            # RFC 9110 §15.5.9: after a 408 the rest of the body may still arrive, so the connection cannot be reused.
            headers["Connection"] = "close"
            if _ENVELOPED.match(request.path):
                return _enveloped(request, status, error.description, headers)
        if isinstance(error, InvalidClient):
            # RFC 6749 §5.2: 401 with "the 'WWW-Authenticate' response header field matching the authentication scheme".
            headers["WWW-Authenticate"] = 'Basic realm="tokenwire", charset="UTF-8"'
        return json_bytes(orjson.dumps(oauth_body(error)), status, headers)

    def _cannot_redirect(self, request: web.Request, error: OAuthError, request_id: str) -> web.Response:
        """The error as a page for people who came with a browser, and as JSON for programs."""
        response = self._oauth(request, error)
        response.headers["Vary"] = "Accept"
        if prefers_html(",".join(request.headers.getall("Accept", ()))):
            body = oauth_body(error)
            page = error_page(body["error"], body["error_description"], request_id)
            response = web.Response(status=response.status, body=page, headers={**response.headers, **PAGE_HEADERS})
        return response

    def _redirected(self, redirected: Redirected) -> web.Response:
        parameters = oauth_body(redirected.error)
        if redirected.state is not None:
            parameters["state"] = redirected.state
        # RFC 9207 §2: the issuer is named in every response, "including error responses".
        parameters["iss"] = redirected.issuer
        location = with_query(redirected.redirect_uri, parameters)
        return web.Response(status=302, headers={**NO_STORE, "Location": location})

    def _malformed(self, request: web.Request, fault: str) -> web.Response:
        if _ENVELOPED.match(request.path):
            return _enveloped(request, 400, fault)
        return self._oauth(request, InvalidRequest(fault))

    def _http(self, request: web.Request, error: web.HTTPException) -> web.StreamResponse:
        if error.status < 400:
            return error
        allowed = {"Allow": _methods(error.headers["Allow"])} if "Allow" in error.headers else None
        methods = f"; send {' or '.join(allowed['Allow'].split(','))}" if allowed else ""
        message = {404: "there is nothing at this path", 405: f"this method is not allowed here{methods}"}
        said = message.get(error.status, error.reason)
        if request.path.startswith(_GATEWAY_API) and error.status in message:
            said = f"{said}; {instead_of(request.path)}"
        return self._plain(request, error.status, said, allowed)

    def _plain(
        self, request: web.Request, status: int, message: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        if _ENVELOPED.match(request.path):
            return _enveloped(request, status, message, headers)
        code = "server_error" if status >= 500 else "invalid_request"
        body = orjson.dumps({"error": code, "error_description": message})
        return json_bytes(body, status, {**NO_STORE, **(headers or {})})


def _methods(allowed: str) -> str:
    """The allowed methods without OPTIONS, which is only for CORS preflights."""
    return ",".join(method for method in allowed.split(",") if method != "OPTIONS")


def _enveloped(
    request: web.Request,
    status: int,
    message: str,
    headers: dict[str, str] | None = None,
    meta: Mapping[str, object] | None = None,
) -> web.Response:
    """The error in the envelope of the gateway's API below `/tyk/`, elsewhere in the Dashboard's."""
    body: dict[str, object] = {"Status": "Error", "Message": message, "Meta": meta}
    if request.path.startswith(_GATEWAY_API):
        body = {"status": "error", "message": message} | ({} if meta is None else {"meta": meta})
    return json_bytes(orjson.dumps(body), status, {**NO_STORE, **(headers or {})})
