"""WebSocket tunnels: copies bytes between the caller and the upstream until one of them closes the connection.

Frames are copied piece by piece and never assembled, so a message may have any size, and extensions, ping, pong and
close codes stay between the two ends (ADR 10).
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
import structlog
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from libs.cancellation import cancel_and_wait
from libs.supervision import error_fields
from services.gateway.relay import relayed_response
from services.gateway.upstream_headers import UPGRADE
from services.gateway.websocket_frames import FrameTracker, close_frame

BUFFER_LIMIT = 64 * 1024
"""Bytes buffered for a slow receiver; at twice as many the sender's socket is not read any more."""
CLOSE_TIMEOUT = 2.0
"""Seconds that both ends have to reply to a Close frame when the gateway stops."""

log = structlog.get_logger("gateway")


class _RawParser:
    """Stands in for a WebSocket parser of aiohttp's: what the connection receives goes into a stream, unparsed."""

    def __init__(self, protocol: BaseProtocol) -> None:
        self.stream = aiohttp.StreamReader(protocol, BUFFER_LIMIT, loop=asyncio.get_running_loop())

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.stream.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self.stream.feed_eof()


@dataclass(slots=True)
class _Direction:
    """One direction of a tunnel."""

    source: aiohttp.StreamReader
    write: Callable[[bytes], Awaitable[None]]
    masked: bool
    """True towards the upstream: frames from a client are masked (RFC 6455 §5.3)."""
    frames: FrameTracker = field(default_factory=FrameTracker)
    stopping: bool = False
    closed: bool = False
    """A Close frame was written: nothing else may be."""

    async def copy(self) -> None:
        """Copy until the source ends, or until it replies to our Close frame."""
        while data := await self.source.readany():
            if not self.closed:
                data = await self._pass_on(data)
            if self.closed:
                # Read on without copying: the other end's Close frame is still to come.
                self.frames.follow(data)
                if self.frames.closing:
                    return

    async def stop(self) -> None:
        """Send Close as soon as the current frame is complete, and nothing after it."""
        self.stopping = True
        if self.frames.at_boundary:
            await self._close()

    async def _pass_on(self, data: bytes) -> bytes:
        """Write the data. While stopping only up to the end of the current frame; the rest is returned."""
        position = self.frames.follow(data, to_boundary=self.stopping)
        await self.write(data[:position])
        if self.stopping and self.frames.at_boundary:
            await self._close()
        return data[position:]

    async def _close(self) -> None:
        self.closed = True
        if not self.frames.closing:
            await self.write(close_frame(masked=self.masked))


class Tunnels:
    """The WebSocket tunnels of this process."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    async def stop(self, _: web.Application) -> None:
        """Close every tunnel with code 1001 (going away) to both ends."""
        self._stopping.set()

    async def join(
        self,
        request: web.Request,
        upstream_response: aiohttp.ClientResponse,
        upstream: ResponseHandler,
        headers: CIMultiDict[str],
    ) -> web.StreamResponse:
        """Send 101 to the caller and copy in both directions; return when either end has closed its connection."""
        headers.update(UPGRADE)
        response = relayed_response(request, upstream_response, headers)
        response.force_close()
        await response.prepare(request)
        from_caller, from_upstream = _RawParser(request.protocol), _RawParser(upstream)
        request.protocol.set_parser(from_caller)  # type: ignore[arg-type]  # only feed_data and feed_eof are called
        upstream.set_parser(from_upstream, from_upstream.stream)
        if not upstream.connected:  # it closed while the response was sent, so feed_eof will not be called any more
            from_upstream.feed_eof()
        to_upstream = StreamWriter(upstream, asyncio.get_running_loop())
        await self._copy(
            _Direction(from_caller.stream, to_upstream.write, masked=True),
            _Direction(from_upstream.stream, response.write, masked=False),
        )
        return response

    async def _copy(self, *directions: _Direction) -> None:
        copying = [asyncio.create_task(direction.copy()) for direction in directions]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*copying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not any(task.done() for task in copying):
                await asyncio.gather(*(direction.stop() for direction in directions), return_exceptions=True)
                await asyncio.wait(copying, timeout=CLOSE_TIMEOUT)
        finally:
            await cancel_and_wait(*copying, stopping)
            for outcome in await asyncio.gather(*copying, stopping, return_exceptions=True):
                if isinstance(outcome, Exception) and not isinstance(outcome, OSError | aiohttp.ClientError):
                    log.warning("tunnel_failed", **error_fields(outcome))
