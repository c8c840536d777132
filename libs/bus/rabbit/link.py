"""A connection that is always being kept up, and sessions that begin anew whenever they end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog
from aio_pika.abc import AbstractChannel, AbstractConnection
from yarl import URL

from libs.bus.rabbit.arrivals import TakingConnection

log = structlog.get_logger()

CONNECT_WITHIN = 10.0
"""Seconds for one attempt to connect."""
CLOSE_WITHIN = 0.7
"""Seconds that the broker gets to answer a close."""
HEARTBEAT = 10
"""Seconds; a broker that says nothing for three of them is gone."""
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 3.0
"""Seconds between sessions that fail: doubling from the first to the longest, with jitter."""


class Link:
    """One connection to the broker, made again for ever; sessions wait for it with `connected()`.

    Raises ValueError for a URL that is none.
    """

    def __init__(self, url: str, name: str) -> None:
        parsed = _parsed(url)
        self._url = parsed.update_query({"heartbeat": HEARTBEAT, "name": name, **parsed.query})
        self._name = name
        self._up: asyncio.Future[TakingConnection] | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def connection(self) -> TakingConnection | None:
        """The connection if it is up now."""
        return self._up.result() if self._up is not None and self._up.done() else None

    async def connected(self) -> TakingConnection:
        """The connection, as soon as it is up."""
        return await asyncio.shield(self._next())

    def open(self) -> None:
        """Begin to connect. Returns at once."""
        if self._task is None:
            self._task = asyncio.create_task(keep(self._connection_session, self._name))

    async def close(self) -> None:
        """Nothing is kept up any more; takes at most a little longer than CLOSE_WITHIN."""
        if self._task is not None:
            await cancelled(self._task)
            self._task = None

    def _next(self) -> asyncio.Future[TakingConnection]:
        if self._up is None:
            self._up = asyncio.get_running_loop().create_future()
        return self._up

    async def _connection_session(self) -> None:
        connection = await connected(self._url, CONNECT_WITHIN)
        lost = closing(connection)
        log.info("bus_connected", link=self._name)
        self._next().set_result(connection)
        try:
            await lost.wait()
            log.warning("bus_connection_lost", link=self._name)
        finally:
            self._up = None
            await _close(connection)


def _parsed(url: str) -> URL:
    """Raises ValueError with a text that quotes nothing of the URL, where a password may be."""
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"amqp", "amqps"} or not parsed.host:
        raise ValueError("an amqp:// or amqps:// URL is expected, user name and password percent-encoded")
    return parsed


async def keep(session: Callable[[], Awaitable[None]], name: str) -> None:
    """Run `session` again whenever it ends, for ever, with a pause that grows while it keeps ending early."""
    loop = asyncio.get_running_loop()
    pause, told = FIRST_PAUSE, ""
    while True:
        began = loop.time()
        try:
            await session()
        except asyncio.CancelledError as error:
            # The client library also cancels what waits on a lost connection; only our own cancellation ends this.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            told = _tell(name, error, told)
        except Exception as error:  # noqa: BLE001 - a supervisor: whatever ended the session is logged, then it begins anew
            told = _tell(name, error, told)
        if loop.time() - began > 2 * LONGEST_PAUSE:
            pause, told = FIRST_PAUSE, ""
        await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - jitter
        pause = min(2 * pause, LONGEST_PAUSE)


async def connected(url: URL, within: float) -> TakingConnection:
    """A connection that is up. One that does not come up leaves nothing to be closed when it is found as garbage."""
    connection = TakingConnection(url)
    try:
        await connection.connect(timeout=within)
    except BaseException:
        await connection.close()
        raise
    return connection


def closing(resource: AbstractConnection | AbstractChannel) -> asyncio.Event:
    """An event that is set once `resource` is closed, by whichever side."""
    closed = asyncio.Event()
    resource.close_callbacks.add(lambda *_: closed.set())
    return closed


async def until(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or `event` is set; it is over afterwards. Raises what `work` raises."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        await cancelled(working, waiting)


async def cancelled(*tasks: asyncio.Task[Any]) -> None:
    """All `tasks` are over, cancelled if need be."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _close(connection: AbstractConnection) -> None:
    """Closed in order if the broker answers in time, else left to its heartbeat."""
    ending = asyncio.ensure_future(connection.close())
    ending.add_done_callback(lambda done: done.cancelled() or done.exception())  # however it ended, it is over
    _, pending = await asyncio.wait({ending}, timeout=CLOSE_WITHIN)
    if pending:
        log.warning("bus_connection_abandoned")


def _tell(name: str, error: BaseException, told: str) -> str:
    """Log why a session ended, once per reason in a row."""
    reason = f"{type(error).__name__}: {error}"
    if reason != told:
        log.warning("bus_session_ended", session=name, error=reason)
    return reason
