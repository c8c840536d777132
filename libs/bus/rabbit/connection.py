"""A connection to RabbitMQ that is made again whenever it is lost, and sessions that run on it."""

import asyncio
import random
import re
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any

import structlog
from aio_pika import Connection
from aio_pika.abc import AbstractChannel, AbstractConnection
from aio_pika.exceptions import CONNECTION_EXCEPTIONS
from yarl import URL

from libs.bus.rabbit.malformed import tolerate_malformed_messages
from libs.bus.rabbit.rabbitmq_diagnosis import explain
from libs.cancellation import cancel_and_wait
from libs.supervision import BackgroundTask, Supervisor

log = structlog.get_logger()

CONNECT_TIMEOUT = 10.0
"""Seconds for one attempt to connect."""
PUBLISHING = "publishing"
"""The purpose of the connection that every process has; only its failures are logged, so that each is logged once."""
CLOSE_TIMEOUT = 0.7
"""Seconds that the broker has to respond to a close."""
HEARTBEAT = 10
"""Seconds between AMQP heartbeats; after three without any the connection counts as lost."""
FIRST_BACKOFF, LONGEST_BACKOFF = 0.05, 3.0
"""Seconds between sessions that fail: doubling from the first to the longest, with jitter."""


class ConnectFailed(ConnectionError):
    """An attempt to connect failed; the text says why."""


class ReconnectingConnection:
    """One connection to the broker that never gives up reconnecting. Sessions wait for it with `connected()`.

    `urls` is the text of one URL, or of one for each node of a cluster. Raises ValueError if it is anything else.
    """

    def __init__(self, urls: str, instance_name: str, purpose: str) -> None:
        nodes = parse_amqp_urls(urls)
        self._name = f"{instance_name} {purpose}"
        self._purpose = purpose
        # Each process has an order of its own, so that connections spread over the nodes.
        self._nodes = deque(
            url.update_query({"heartbeat": HEARTBEAT, "name": self._name, **url.query})
            for url in random.sample(nodes, len(nodes))
        )
        self._up: asyncio.Future[AbstractConnection] | None = None
        self._task: BackgroundTask | None = None
        self.last_error = ""
        """Why the last attempt to connect failed; empty while connected."""
        self._logged_error = ""

    @property
    def current(self) -> AbstractConnection | None:
        """The connection, or None while there is none."""
        return self._up.result() if self._up is not None and self._up.done() else None

    async def connected(self) -> AbstractConnection:
        """Wait until there is a connection."""
        return await asyncio.shield(self._next())

    def open(self, supervisor: Supervisor) -> None:
        """Start connecting in the background. Idempotent."""
        if self._task is None:
            self._task = supervisor.start(
                f"bus-connection-{self._purpose}", partial(supervise, self._session, self._name)
            )

    async def close(self) -> None:
        """Close the connection and stop reconnecting; takes little longer than CLOSE_TIMEOUT."""
        if self._task is not None:
            await self._task.stop()
            self._task = None

    def _next(self) -> asyncio.Future[AbstractConnection]:
        if self._up is None:
            self._up = asyncio.get_running_loop().create_future()
        return self._up

    async def _session(self) -> None:
        try:
            connection = await open_first(self._nodes, CONNECT_TIMEOUT)
        except ConnectFailed as failure:
            self._log_failure(str(failure))
            raise
        finally:
            self._nodes.rotate(-1)  # a node whose connection was lost is tried last
        lost = closed_event(connection)
        self.last_error = self._logged_error = ""
        log.info("bus_connected", connection=self._name)
        self._next().set_result(connection)
        try:
            await lost.wait()
            log.warning("bus_connection_lost", connection=self._name)
        finally:
            self._up = None
            await _close(connection)

    def _log_failure(self, reason: str) -> None:
        """Log why there is no connection; the same reason only once."""
        self.last_error = reason
        if reason != self._logged_error and self._purpose == PUBLISHING:
            log.warning(
                "bus_not_connected", reason=f"TOKENWIRE_AMQP_URL: {reason}; events wait, and connecting is retried"
            )
        self._logged_error = reason


def parse_amqp_urls(text: str) -> list[URL]:
    """The URLs in a text that names one node of the broker, or several, separated by commas.

    Raises ValueError with a text that quotes nothing of them, because they may hold passwords.
    """
    return [_parse_amqp_url(url) for url in split_amqp_urls(text)]


def split_amqp_urls(text: str) -> list[str]:
    """The parts of a list of URLs. A comma separates only in front of `amqp`, because a password may have one."""
    return re.split(r"\s*,\s*(?=amqps?://)", text.strip())


def _parse_amqp_url(url: str) -> URL:
    try:
        parsed = URL(url)
    except ValueError:
        parsed = URL()
    if parsed.scheme not in {"amqp", "amqps"} or not parsed.host or "," in parsed.host + parsed.raw_path:
        raise ValueError(
            "an amqp:// or amqps:// URL is expected, user name and password percent-encoded; for a cluster, a complete "
            "URL for each node, separated by commas"
        )
    return parsed


async def supervise(session: Callable[[], Awaitable[None]], name: str) -> None:
    """Run `session` again whenever it ends, forever, with a backoff that grows while sessions end early.

    Lost connections are expected here and only logged. Any other exception is raised, for the task's supervisor.
    """
    loop = asyncio.get_running_loop()
    backoff, logged = FIRST_BACKOFF, ""
    while True:
        began = loop.time()
        try:
            await session()
        except asyncio.CancelledError as error:
            # aiormq cancels the tasks that wait on a lost connection; only a cancellation of this task ends the loop.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            logged = _log_end(name, error, logged)
        except CONNECTION_EXCEPTIONS as error:
            logged = _log_end(name, error, logged)
        if loop.time() - began > 2 * LONGEST_BACKOFF:
            backoff, logged = FIRST_BACKOFF, ""
        await asyncio.sleep(random.uniform(backoff / 2, backoff))  # noqa: S311 - jitter
        backoff = min(2 * backoff, LONGEST_BACKOFF)


async def open_first(nodes: Iterable[URL], timeout: float) -> AbstractConnection:
    """A connection to the first node that accepts one; `timeout` seconds for each.

    Raises ConnectFailed with the reason of every node.
    """
    reasons: set[str] = set()
    for url in tuple(nodes):
        try:
            return await open_connection(url, timeout)
        except (*CONNECTION_EXCEPTIONS, ValueError) as error:
            reasons.add(explain(error, url))
    raise ConnectFailed("; ".join(sorted(reasons)))


async def open_connection(url: URL, timeout: float) -> AbstractConnection:
    """A connection that is up. Raises one of CONNECTION_EXCEPTIONS or ValueError; then nothing is left open."""
    tolerate_malformed_messages()
    connection = Connection(url)
    try:
        await connection.connect(timeout=timeout)
    except BaseException:
        # Left to the garbage collector, it would be closed outside the event loop.
        await connection.close()
        raise
    return connection


async def is_blocked(connection: AbstractConnection) -> bool:
    """Whether the broker has stopped reading from this connection because it is short of memory or disk.

    The broker announces this only after the first message that it does not accept.
    """
    if connection.transport is None:
        return False
    try:
        async with asyncio.timeout(0):
            await connection.transport.connection.ready()
    except TimeoutError:
        return True
    return False


def closed_event(resource: AbstractConnection | AbstractChannel) -> asyncio.Event:
    """An event that is set once either side has closed `resource`."""
    closed = asyncio.Event()
    resource.close_callbacks.add(lambda *_: closed.set())
    return closed


async def run_until(event: asyncio.Event, work: Coroutine[Any, Any, None]) -> None:
    """Run `work` until it ends or `event` is set, whichever comes first. Raises what `work` raises."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(event.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            working.result()
    finally:
        await cancel_and_wait(working, waiting)


async def _close(connection: AbstractConnection) -> None:
    """Close the connection; if the broker does not respond in time, leave it to the heartbeat to end it."""
    closing = asyncio.ensure_future(connection.close())
    closing.add_done_callback(lambda done: done.cancelled() or done.exception())  # an error while closing is no error
    _, pending = await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT)
    if pending:
        log.warning("bus_connection_abandoned")


def _log_end(name: str, error: BaseException, logged: str) -> str:
    """Log why a session ended unless that was the last reason logged; the reason logged last."""
    if isinstance(error, ConnectFailed):
        return logged
    reason = f"{type(error).__name__}: {error}"
    if reason != logged:
        log.warning("bus_session_ended", session=name, error=reason)
    return reason
