"""Sends the upstream's response to the caller: unchanged, at the caller's pace, complete or visibly cut off."""

from typing import Any

import aiohttp
import structlog
from aiohttp import hdrs, web
from aiohttp.client_proto import ResponseHandler
from aiohttp.helpers import must_be_empty_body
from multidict import CIMultiDict

from libs.http.context import DRAIN, current
from services.gateway.header_fields import as_text

log = structlog.get_logger("proxy")


class UpstreamResponse(aiohttp.ClientResponse):
    """aiohttp's response, which also remembers the protocol of its connection after the connection was released."""

    protocol: ResponseHandler | None = None

    async def start(self, connection: Any) -> aiohttp.ClientResponse:
        """Read the status line and the headers."""
        self.protocol = connection.protocol
        return await super().start(connection)


class RelayedResponse(web.StreamResponse):
    """A response with the upstream's headers; it has a Content-Type only if the upstream's response has one."""

    has_content_type = True


async def drop_default_content_type(_: web.Request, response: web.StreamResponse) -> None:
    """Undo aiohttp's default Content-Type; a signal handler for `on_response_prepare`, which runs after it is set.

    RFC 9110 §8.3: without the header the recipient may guess the type. A type that the gateway made up would stop that.
    """
    if isinstance(response, RelayedResponse) and not response.has_content_type:
        response.headers.pop(hdrs.CONTENT_TYPE, None)


def relayed_response(
    request: web.Request, upstream_response: aiohttp.ClientResponse, headers: CIMultiDict[str]
) -> RelayedResponse:
    """The response to the caller for the upstream's response, not yet sent."""
    reason = as_text((upstream_response.reason or "").encode(errors="surrogateescape"))
    response = RelayedResponse(status=upstream_response.status, reason=reason, headers=headers)
    response.has_content_type = hdrs.CONTENT_TYPE in response.headers
    response.headers["X-Request-Id"] = current().request_id or ""
    response.headers.setdefault("Server", "")  # otherwise aiohttp would add its own name and version
    if request.app[DRAIN].on:
        response.force_close()
    return response


async def relay(
    request: web.Request, upstream_response: UpstreamResponse, headers: CIMultiDict[str]
) -> web.StreamResponse:
    """Send the upstream's response to the caller.

    If the upstream breaks off, the caller's connection is aborted: a clean end would make the caller take the part that
    arrived for the whole body.
    """
    response = relayed_response(request, upstream_response, headers)
    try:
        await response.prepare(request)
        async for piece in upstream_response.content.iter_any():
            await response.write(piece)
        if _was_reset(upstream_response):
            raise aiohttp.ClientPayloadError("the connection was reset")
        await response.write_eof()
    except (aiohttp.ClientError, OSError) as fault:
        if request.transport is not None:
            log.warning("upstream_response_cut_off", request_id=current().request_id, error=type(fault).__name__)
            request.transport.abort()
    return response


def _was_reset(upstream_response: UpstreamResponse) -> bool:
    """Whether the connection was reset within a body that ends with its connection.

    Without Content-Length and chunks only a clean close marks the end; aiohttp's parser accepts a reset as well.
    """
    if "Content-Length" in upstream_response.headers or "Transfer-Encoding" in upstream_response.headers:
        return False
    if must_be_empty_body(upstream_response.method, upstream_response.status):
        return False
    protocol = upstream_response.protocol
    return protocol is not None and isinstance(protocol.exception(), aiohttp.ClientOSError)
