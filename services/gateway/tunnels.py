"""Upgraded connections: what either end of a WebSocket sends goes to the other as it is, until one of them ends.

Frames are passed on piece by piece and never put together, so a message may have any size, and extensions, ping, pong
and close codes are the two ends' own affair.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_proto import ResponseHandler
from aiohttp.http import StreamWriter
from multidict import CIMultiDict

from services.gateway.frames import Frames, close_frame
from services.gateway.headers import UPGRADE
from services.gateway.relay import begun

HELD = 64 * 1024
"""Bytes that wait for a slow end before the other is made to wait."""
GOODBYE_WITHIN = 2.0
"""Seconds in which both ends are to answer a Close."""


class _Arriving:
    """What an upgraded connection brings, for the server's and the client's protocol of aiohttp alike."""

    def __init__(self, protocol: BaseProtocol) -> None:
        self.stream = aiohttp.StreamReader(protocol, HELD, loop=asyncio.get_running_loop())

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self.stream.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self.stream.feed_eof()


@dataclass(slots=True)
class Way:
    """One direction of a tunnel."""

    source: aiohttp.StreamReader
    write: Callable[[bytes], Awaitable[None]]
    masked: bool
    """It leads to the upstream."""
    frames: Frames = field(default_factory=Frames)
    ending: bool = False
    ended: bool = False

    async def carry(self) -> None:
        """Return when the source has ended, or has answered the Close."""
        while data := await self.source.readany():
            if not self.ended:
                data = await self._passed_on(data)
            if self.ended:
                self.frames.follow(data)
                if self.frames.closing:
                    return

    async def say_goodbye(self) -> None:
        """Close is sent as soon as the frame under way is whole, and nothing after it."""
        self.ending = True
        if self.frames.between:
            await self._close()

    async def _passed_on(self, data: bytes) -> bytes:
        """What is left over because the way has ended before it."""
        position = self.frames.follow(data, to_boundary=self.ending)
        await self.write(data[:position])
        if self.ending and self.frames.between:
            await self._close()
        return data[position:]

    async def _close(self) -> None:
        self.ended = True
        if not self.frames.closing:
            await self.write(close_frame(masked=self.masked))


class Tunnels:
    """The upgraded connections of this process."""

    def __init__(self) -> None:
        self._stopping = asyncio.Event()

    async def stop(self, _: web.Application) -> None:
        """Both ends of every tunnel are told 1001, and it ends."""
        self._stopping.set()

    async def join(
        self,
        request: web.Request,
        answer: aiohttp.ClientResponse,
        upstream: ResponseHandler,
        headers: CIMultiDict[str],
    ) -> web.StreamResponse:
        """The caller's connection and the upstream's are one, until either ends."""
        headers.update(UPGRADE)
        response = begun(request, answer, headers)
        response.force_close()
        await response.prepare(request)
        from_caller, from_upstream = _Arriving(request.protocol), _Arriving(upstream)
        request.protocol.set_parser(from_caller)  # type: ignore[arg-type]  # it needs no more of one
        upstream.set_parser(from_upstream, from_upstream.stream)
        if not upstream.connected:  # it ended while the caller was told, and nobody says so again
            from_upstream.feed_eof()
        to_upstream = StreamWriter(upstream, asyncio.get_running_loop())
        await self._carry(
            Way(from_caller.stream, to_upstream.write, masked=True),
            Way(from_upstream.stream, response.write, masked=False),
        )
        return response

    async def _carry(self, *ways: Way) -> None:
        carrying = [asyncio.create_task(way.carry()) for way in ways]
        stopping = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait({*carrying, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not any(task.done() for task in carrying):
                await asyncio.gather(*(way.say_goodbye() for way in ways), return_exceptions=True)
                await asyncio.wait(carrying, timeout=GOODBYE_WITHIN)
        finally:
            for task in (*carrying, stopping):
                task.cancel()
            await asyncio.gather(*carrying, stopping, return_exceptions=True)
