"""A worker's side of the channel: it says when it is ready, and is told on which sockets to accept."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from libs.cancellation import cancel_and_wait
from libs.oauth.errors import TemporarilyUnavailable
from libs.telemetry import families
from libs.workers.channel import Channel, Frame
from libs.workers.membership import Membership
from libs.workers.metric_families import Families

MERGED_WITHIN = 3.0
"""Seconds that the parent has to send the metrics of all workers."""

Accept = Callable[[frozenset[int]], Awaitable[None]]
"""Accept connections on the sockets with these numbers, from 0, and on no others."""


class Worker:
    """This process as one of several workers."""

    def __init__(self, membership: Membership) -> None:
        self.number = membership.number
        self.workers = membership.workers
        self._end, self.listeners = membership.opened()
        self._channel: Channel | None = None
        self._listening: asyncio.Task[None] | None = None
        self._accept: Accept | None = None
        self._numbers = count()
        self._merges: dict[int, asyncio.Future[Families]] = {}
        self.relayed: Callable[[Any], None] = lambda _: None
        """Called with each message that another worker has relayed."""

    async def join(self, accept: Accept) -> None:
        """Tell the parent that this worker is ready, and accept on the sockets that it names from now on."""
        self._accept = accept
        self._channel = await Channel.over(self._end)
        self._listening = asyncio.create_task(self._listen(self._channel), name="worker-channel")
        self._channel.send(kind="ready")

    async def leave(self) -> None:
        """Report the last counts, and close the channel."""
        if self._channel is None or self._listening is None:
            self._end.close()
            return
        await cancel_and_wait(self._listening)
        self._channel.send(kind="report", number=-1, families=families().as_json())
        await self._channel.sent()
        self._channel.close()

    async def exposition(self) -> bytes:
        """The metrics of all workers in the Prometheus text format. Raises TemporarilyUnavailable."""
        if self._channel is None:
            raise TemporarilyUnavailable("the worker has not joined the others")
        number = next(self._numbers)
        merged = self._merges[number] = asyncio.get_running_loop().create_future()
        self._channel.send(kind="merge", number=number)
        try:
            async with asyncio.timeout(MERGED_WITHIN):
                return _exposition(await merged)
        except TimeoutError:
            raise TemporarilyUnavailable("the parent process does not respond") from None
        finally:
            del self._merges[number]

    def relay(self, message: Any) -> None:
        """Send a message to all other workers."""
        if self._channel is not None:
            self._channel.send(kind="relay", message=message)

    async def _listen(self, channel: Channel) -> None:
        async for frame in channel.frames():
            await self._received(channel, frame)

    async def _received(self, channel: Channel, frame: Frame) -> None:
        match frame["kind"]:
            case "accept" if self._accept is not None:
                await self._accept(frozenset(number - 1 for number in frame["numbers"]))
            case "ping":
                channel.send(kind="pong")
            case "collect":
                channel.send(kind="report", number=frame["number"], families=families().as_json())
            case "merged":
                waiting = self._merges.get(frame["number"])
                if waiting is not None and not waiting.done():
                    waiting.set_result(Families.from_json(frame["families"]))
            case "relay":
                self.relayed(frame["message"])


class _Collected(Collector):
    def __init__(self, found: Families) -> None:
        self._found = found

    def collect(self) -> Iterator[Metric]:
        for family in self._found:
            metric = Metric(family.name, family.documentation, family.type)
            for (sample, labels), value in family.samples.items():
                metric.add_sample(sample, dict(labels), value)
            yield metric


def _exposition(found: Families) -> bytes:
    return generate_latest(_Collected(found))
