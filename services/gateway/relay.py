"""An upstream's answer on its way to the caller: as it comes, as fast as the caller takes it, whole or visibly not."""

import aiohttp
import structlog
from aiohttp import hdrs, web
from aiohttp.helpers import must_be_empty_body
from multidict import CIMultiDict

from libs.http.context import DRAIN, current
from services.gateway.headers import as_text

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
    reason = as_text((answer.reason or "").encode(errors="surrogateescape"))
    response = Relayed(status=answer.status, reason=reason, headers=headers)
    response.headers["X-Request-Id"] = current().request_id or ""
    response.headers.setdefault("Server", "")  # aiohttp would name itself
    if request.app[DRAIN].on:
        response.force_close()
    return response


async def relay(request: web.Request, answer: aiohttp.ClientResponse, headers: CIMultiDict[str]) -> web.StreamResponse:
    """The answer sent; where it is cut short the caller's connection is cut, so that nobody takes it for whole."""
    response = begun(request, answer, headers)
    try:
        await response.prepare(request)
        async for piece in answer.content.iter_any():
            await response.write(piece)
        if _was_reset(answer):
            raise aiohttp.ClientPayloadError("the connection was reset")
        await response.write_eof()
    except (aiohttp.ClientError, OSError) as fault:
        if request.transport is not None:
            log.warning("upstream_answer_cut", request_id=current().request_id, fault=type(fault).__name__)
            request.transport.abort()
    return response


def _was_reset(answer: aiohttp.ClientResponse) -> bool:
    """Whether a body that only the end of its connection could end was cut off: aiohttp's parser takes it for whole."""
    if "Content-Length" in answer.headers or "Transfer-Encoding" in answer.headers:
        return False
    if must_be_empty_body(answer.method, answer.status):
        return False
    # The connection is let go with the end of the body, so that the response alone still knows its protocol.
    return answer._protocol is not None and isinstance(answer._protocol.exception(), aiohttp.ClientOSError)
