"""An upstream's answer on its way to the caller: as it comes, as fast as the caller takes it, whole or visibly not."""

import aiohttp
import structlog
from aiohttp import hdrs, web
from multidict import CIMultiDict

from libs.http.context import DRAIN, request_id

log = structlog.get_logger("proxy")


class Relayed(web.StreamResponse):
    """A response in the upstream's words: none is added about what its body is."""

    async def _prepare_headers(self) -> None:
        told = hdrs.CONTENT_TYPE in self.headers
        await super()._prepare_headers()
        if not told:
            self.headers.pop(hdrs.CONTENT_TYPE, None)


def begun(request: web.Request, answer: aiohttp.ClientResponse, headers: CIMultiDict[str]) -> Relayed:
    """The response that the answer becomes, not yet sent."""
    response = Relayed(status=answer.status, reason=answer.reason, headers=headers)
    response.headers["X-Request-Id"] = request_id.get() or ""
    response.headers.setdefault("Server", "tokenwire")
    if request.app[DRAIN].on:
        response.force_close()
    return response


async def relay(request: web.Request, answer: aiohttp.ClientResponse, headers: CIMultiDict[str]) -> web.StreamResponse:
    """The answer sent; where it is cut short the caller's connection is cut, so that nobody takes it for whole."""
    upstream = answer.connection.protocol if answer.connection else None
    response = begun(request, answer, headers)
    try:
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        # A body that ends with its connection has no other sign of being whole.
        if upstream is not None and isinstance(upstream.exception(), aiohttp.ClientOSError):
            raise aiohttp.ClientPayloadError("the connection was reset")
        await response.write_eof()
    except (aiohttp.ClientError, OSError) as fault:
        if request.transport is not None:
            log.warning("upstream_answer_cut", request_id=request_id.get(), fault=type(fault).__name__)
            request.transport.abort()
    return response
