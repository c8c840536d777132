"""The only renderer of errors: which status, which envelope, which headers."""

from collections.abc import Mapping
from typing import ClassVar

import orjson
import structlog
from aiohttp import HttpVersion11, hdrs, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict, istr
from pydantic import ValidationError

from libs.oauth.errors import (
    BodyTooSlow,
    CannotRedirect,
    InvalidClient,
    InvalidRequest,
    OAuthError,
    Redirected,
    TemporarilyUnavailable,
    TooManyAttempts,
)
from libs.oauth.redirect_uris import with_query

NO_STORE: Mapping[str, str] = {istr("Cache-Control"): "no-store", istr("Pragma"): "no-cache"}
_JSON = CIMultiDict({istr("Content-Type"): "application/json"})
_TEXT = bytes(range(0x20, 0x7F)).translate(None, b'"\\').decode()

log = structlog.get_logger("http")


class _Whole(web.Response):
    """A response in one piece, which is most of them: its head needs nothing found out, and is written as it is."""

    async def _start(self, request: web.BaseRequest) -> AbstractStreamWriter:
        body = self._body
        usual = request.version == HttpVersion11 and request.keep_alive and self._keep_alive is None
        if not (usual and isinstance(body, bytes)) or self._must_be_empty_body:
            return await super()._start(request)
        self._req, self._keep_alive = request, True
        writer = self._payload_writer = request._payload_writer
        writer.length = len(body)
        headers = self._headers
        headers[hdrs.CONTENT_LENGTH] = str(writer.length)
        headers[hdrs.DATE] = rfc822_formatted_time()
        headers.setdefault(hdrs.SERVER, "")
        await writer.write_headers(f"HTTP/1.1 {self._status} {self._reason}", headers)
        return writer


class Refusal(Exception):
    """A management request that is refused; rendered in the Dashboard's envelope."""

    status: ClassVar[int] = 400

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class BadRequest(Refusal):
    """The request is malformed, or says what cannot be."""


class NotAuthenticated(Refusal):
    """No operator key, or an unknown one."""

    status = 401


class NotPermitted(Refusal):
    """The operator lacks the permission."""

    status = 403


class NotFound(Refusal):
    """There is no such thing."""

    status = 404


class Taken(Refusal):
    """Something with this name exists, or the thing changed in between."""

    status = 409


class TooLarge(Refusal):
    """The body is over the limit."""

    status = 413


def first_fault(error: ValidationError) -> str:
    """What is wrong with a document, in one line, without repeating its values."""
    fault = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = ".".join(str(part) for part in fault["loc"])
    text = fault["msg"].removeprefix("Value error, ")
    return f"{place}: {text}" if place else text


def oauth_body(error: OAuthError) -> dict[str, str]:
    """RFC 6749 §5.2; a description has only the characters that the RFC allows."""
    description = "".join(character if character in _TEXT else "'" for character in error.description)
    return {"error": error.code, "error_description": description}


class ErrorRenderer:
    """Turns what was raised into a response."""

    def __init__(self, oauth_error_status: int | None = None) -> None:
        self._oauth_error_status = oauth_error_status

    def render(self, request: web.Request, error: Exception) -> web.StreamResponse:
        """The response that says what went wrong; what nobody foresaw is logged and answered with 500."""
        match error:
            case OAuthError():
                return self._oauth(request, error)
            case CannotRedirect():
                return self._oauth(request, error.error)
            case Redirected():
                return self._redirected(error)
            case Refusal():
                return _enveloped(error.status, error.message)
            case ValidationError():
                return self._malformed(request, first_fault(error))
            case web.RequestPayloadError():
                return self._malformed(request, "the body is not what its headers say")
            case web.HTTPException():
                return self._http(request, error)
        log.error("unforeseen_error", path=request.path, error=type(error).__name__, exc_info=error)
        return self._plain(request, 500, "something went wrong here; the request id finds it in the log")

    def _oauth(self, request: web.Request, error: OAuthError) -> web.Response:
        if error.detail:
            log.info("refused", error=error.code, detail=error.detail)
        headers = dict(NO_STORE)
        status = error.status
        if isinstance(error, TemporarilyUnavailable | TooManyAttempts):
            headers["Retry-After"] = str(error.retry_after)
            if request.path.startswith("/api/"):
                return _enveloped(status, error.description, headers)
        elif self._oauth_error_status and status in {400, 401, 403}:
            status = self._oauth_error_status
        if isinstance(error, BodyTooSlow):
            # RFC 9110 §15.5.9: "The server SHOULD send the 'close' connection option", since the rest may still come.
            headers["Connection"] = "close"
            if request.path.startswith("/api/"):
                return _enveloped(status, error.description, headers)
        if isinstance(error, InvalidClient):
            # RFC 6749 §5.2: 401 with "the 'WWW-Authenticate' response header field matching the authentication scheme".
            headers["WWW-Authenticate"] = 'Basic realm="tokenwire", charset="UTF-8"'
        return json_bytes(orjson.dumps(oauth_body(error)), status, headers)

    def _redirected(self, redirected: Redirected) -> web.Response:
        parameters = oauth_body(redirected.error)
        if redirected.state is not None:
            parameters["state"] = redirected.state
        # RFC 9207 §2: the issuer is named in every response, "including error responses".
        parameters["iss"] = redirected.issuer
        location = with_query(redirected.redirect_uri, parameters)
        return web.Response(status=302, headers={**NO_STORE, "Location": location})

    def _malformed(self, request: web.Request, fault: str) -> web.Response:
        if request.path.startswith("/api/"):
            return _enveloped(400, fault)
        return self._oauth(request, InvalidRequest(fault))

    def _http(self, request: web.Request, error: web.HTTPException) -> web.StreamResponse:
        if error.status < 400:
            return error
        allowed = {"Allow": _methods(error.headers["Allow"])} if "Allow" in error.headers else None
        message = {404: "nothing answers on this path", 405: "this method is not allowed here"}
        return self._plain(request, error.status, message.get(error.status, error.reason), allowed)

    def _plain(
        self, request: web.Request, status: int, message: str, headers: dict[str, str] | None = None
    ) -> web.Response:
        if request.path.startswith("/api/"):
            return _enveloped(status, message, headers)
        code = "server_error" if status >= 500 else "invalid_request"
        body = orjson.dumps({"error": code, "error_description": message})
        return json_bytes(body, status, {**NO_STORE, **(headers or {})})


def _methods(allowed: str) -> str:
    """What there is to do; not OPTIONS, by which browsers ask for scripts and which most APIs refuse."""
    return ",".join(method for method in allowed.split(",") if method != "OPTIONS")


def json_bytes(body: bytes, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON response of ready bytes, and a newline for who reads it in a terminal."""
    response = _Whole(body=body + b"\n", status=status, headers=_JSON)
    if headers is not None:
        response.headers.update(headers)
    return response


def _enveloped(status: int, message: str, headers: dict[str, str] | None = None) -> web.Response:
    body = orjson.dumps({"Status": "Error", "Message": message, "Meta": None})
    return json_bytes(body, status, {**NO_STORE, **(headers or {})})
