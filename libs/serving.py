"""Runs the HTTP server of a process, and stops it without losing a request."""

import asyncio
import errno
import gc
import resource
import signal
import socket
from collections.abc import Callable, Sequence, Set
from functools import partial

import uvloop
from aiohttp import web

from libs.http.aiohttp_version import warn_if_untested
from libs.http.bounded_connection import OPTIONS, BoundedConnection
from libs.http.context import DRAIN
from libs.http.health_endpoints import EXPOSITION
from libs.http.open_connections import OPEN_CONNECTIONS, OpenConnections
from libs.settings import WrongSetting
from libs.telemetry import set_workers
from libs.workers.worker_process import Worker

BACKLOG = 1024
_ABOUT_THE_PORT = {errno.EADDRINUSE, errno.EACCES}
RECEIVE_BUFFER = 32 * 1024
"""Receive buffer of a connection in bytes. What is in it is parsed in one go while other connections wait, so it is
small."""
STOP_WITHIN = 8.0
"""Seconds that requests in progress have to finish when the process stops."""
IDLE_CLOSE_AFTER = 0.5
"""Seconds that a request on a connection that was just accepted has to arrive while the process stops."""
DESCRIPTORS = 65_536
"""File descriptors that the process asks for, if it may have them."""
GARBAGE_AFTER = 20_000
"""Threshold of the garbage collector: new objects until it searches for cycles again."""


def serve(
    app: web.Application,
    listener: socket.socket | Worker,
    *,
    linger: float,
    announce: Callable[[], None] | None = None,
) -> None:
    """Serve requests until SIGTERM or SIGINT, then shut down gracefully.

    A worker serves on the sockets that its parent names.

    For `linger` seconds (a second signal ends them) the process still serves requests, but closes each connection with
    the response, so that a load balancer in front moves to other instances. Then connections in the accept queue are
    served, requests in progress finish, and resources are closed.
    """
    warn_if_untested()
    app[OPEN_CONNECTIONS].fit(_raised_descriptors())
    if isinstance(listener, Worker):
        worker: Worker | None = listener
        listeners = listener.listeners
        set_workers(listener.workers)
        app[EXPOSITION] = listener.exposition
    else:
        worker, listeners = None, [listener]
    uvloop.run(_serve(app, _Acceptor(listeners), worker, linger, announce or (lambda: None)))


def _raised_descriptors() -> int:
    """Raise the soft limit of file descriptors, up to DESCRIPTORS; the new limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return DESCRIPTORS if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


_TAKEN = "; stop the program that listens there, or choose another port (make run PORT=9000)"


def listening(host: str, port: int, *, host_from: str, port_from: str) -> socket.socket:
    """Open a listening socket.

    `host_from` and `port_from` name the settings or options that the values come from. Raises WrongSetting with the
    name of the one that is at fault.
    """
    try:
        return _listener(host, port, is_shared=False)
    except (OSError, OverflowError) as error:
        setting = port_from if getattr(error, "errno", None) in _ABOUT_THE_PORT else host_from
        reason = (getattr(error, "strerror", None) or str(error)).partition(" (while")[0]
        remedy = _TAKEN if getattr(error, "errno", None) == errno.EADDRINUSE else ""
        raise WrongSetting(f"{setting}: cannot listen on {address_text(host, port)}: {reason}{remedy}") from None


def listening_for_workers(
    host: str, port: int, workers: int, *, host_from: str, port_from: str
) -> Sequence[socket.socket]:
    """Open a listening socket for each worker, all on one port: the kernel spreads new connections over them.

    The port must be free, also of sockets that would share it. Raises WrongSetting as `listening` does.
    """
    with listening(host, port, host_from=host_from, port_from=port_from) as reserved:
        port = reserved.getsockname()[1]
    return [_listener(host, port, is_shared=True) for _ in range(workers)]


def _listener(host: str, port: int, *, is_shared: bool) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # `::` listens for both protocols; IPv4 clients then have IPv4-mapped IPv6 addresses.
    both = address[0] == "::" and socket.has_dualstack_ipv6()
    listener = socket.create_server(
        address[:2], family=family, backlog=BACKLOG, dualstack_ipv6=both, reuse_port=is_shared
    )
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)  # accepted connections inherit it
    listener.setblocking(False)
    return listener


def address_text(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def runner_of(app: web.Application) -> web.AppRunner:
    """The aiohttp runner for the application."""
    return web.AppRunner(app, shutdown_timeout=STOP_WITHIN, **OPTIONS)


async def _serve(
    app: web.Application, acceptor: "_Acceptor", worker: Worker | None, linger: float, announce: Callable[[], None]
) -> None:
    runner = runner_of(app)
    try:
        await runner.setup()
        connect = connections(runner)
        _relax_garbage_collection()
        stop = _signals()
        accept = partial(acceptor.accept_on, connect)
        await (accept({0}) if worker is None else worker.join(accept))
        announce()
        await stop.get()
        app[DRAIN].on = True
        try:
            async with asyncio.timeout(linger):
                await stop.get()
        except TimeoutError:
            pass
        await acceptor.take_over_queued(connect)
        await _close_idle(app[OPEN_CONNECTIONS])
    finally:
        acceptor.close()
        await runner.cleanup()
        if worker is not None:
            await worker.leave()


Connect = Callable[[], BoundedConnection]
"""A protocol factory."""


class _Acceptor:
    """Accepts connections on listening sockets, and on which of them may change."""

    def __init__(self, listeners: Sequence[socket.socket]) -> None:
        self._listeners = listeners
        self._servers: dict[int, asyncio.Server] = {}
        self._is_closed = False

    async def accept_on(self, connect: Connect, numbers: Set[int]) -> None:
        """Accept on the listeners with these numbers, and no longer on others, which stay open."""
        for number in self._servers.keys() - numbers:
            self._servers.pop(number).close()
        for number in numbers - self._servers.keys():
            if not self._is_closed:
                self._servers[number] = await self._server(connect, self._listeners[number])

    async def take_over_queued(self, connect: Connect) -> None:
        """Accept the connections that are still in the kernel's queues, then close the sockets for good.

        Also those of other workers, which may have closed them already: the last one that closes a socket must leave
        nothing in its queue. There is no await between the two: a client that connected in between would be reset
        after sending its request.
        """
        loop = asyncio.get_running_loop()
        self._stop_accepting()
        queued = [connection for listener in self._listeners for connection in _queued_before_closing(listener)]
        for connection in queued:
            connection.setblocking(False)
            await loop.connect_accepted_socket(connect, connection)

    def close(self) -> None:
        """Close the sockets. Idempotent."""
        self._stop_accepting()
        for listener in self._listeners:
            listener.close()

    def _stop_accepting(self) -> None:
        self._is_closed = True
        for server in self._servers.values():
            server.close()
        self._servers.clear()

    async def _server(self, connect: Connect, listener: socket.socket) -> asyncio.Server:
        # A copy, because the server closes its descriptor, and the queue must outlive it.
        return await asyncio.get_running_loop().create_server(connect, sock=listener.dup(), backlog=BACKLOG)


def _relax_garbage_collection() -> None:
    """Exclude the objects created at startup from garbage collection, and search for cycles less often.

    A request creates hundreds of objects that reference counting frees without the collector. Searching for cycles
    after every 700 of them, the default, costs a busy process a sixth of its CPU time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)


def connections(runner: web.AppRunner) -> "Connect":
    """The protocol factory for a runner that is set up."""
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    if OPEN_CONNECTIONS not in runner.app:
        raise RuntimeError("the application has no OPEN_CONNECTIONS")
    return partial(
        BoundedConnection, runner.server, runner.app, asyncio.get_running_loop(), runner.app[OPEN_CONNECTIONS]
    )


def _signals() -> asyncio.Queue[signal.Signals]:
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.put_nowait, number)
    return received


def _queued_before_closing(listener: socket.socket) -> Sequence[socket.socket]:
    """The connections in the queue of the socket, which is closed as soon as the queue is empty."""
    queued = []
    try:
        while True:
            queued.append(listener.accept()[0])
    except BlockingIOError:
        listener.close()
    return queued


async def _close_idle(connections: OpenConnections) -> None:
    """Wait until all connections are closed, and close idle ones after IDLE_CLOSE_AFTER seconds.

    A request that has arrived by then is served: only connections without one are closed.
    """
    now = asyncio.get_running_loop().time
    closing_at = now() + IDLE_CLOSE_AFTER
    deadline = closing_at + IDLE_CLOSE_AFTER
    # Polling, because aiohttp gives no notice when a connection ends.
    while len(connections) and now() < deadline:
        if now() >= closing_at:
            for connection in connections:
                connection.close_if_idle()
        await asyncio.sleep(0.02)
