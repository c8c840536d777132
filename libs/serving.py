"""Answering until told to stop, and stopping so that nobody's request is lost."""

import asyncio
import gc
import signal
import socket
from collections.abc import Callable
from functools import partial

import uvloop
from aiohttp import web

from libs.http.connection import OPTIONS, Connection
from libs.http.context import DRAIN
from libs.settings import WrongSetting

BACKLOG = 1024
STOP_WITHIN = 8.0
"""Seconds that requests in flight get when the process is told to stop."""
LET_GO_WITHIN = 0.5
"""Seconds for a request to arrive on a connection that was made just before."""
GARBAGE_AFTER = 20_000
"""Objects alive beyond those of the last look for cycles, until the next one."""


def serve(
    app: web.Application, host: str, port: int, *, linger: float, announce: Callable[[], None] | None = None
) -> None:
    """Answer until SIGTERM or SIGINT, then stop in order.

    For `linger` seconds (a second signal cuts them short) the process goes on answering, closing each connection with
    its answer: whoever is in front notices on a connection that is closed in order. Then what still waits in the accept
    queue is answered, requests in flight end, and what was opened is closed. Raises WrongSetting where the address
    cannot be had.
    """
    uvloop.run(_serve(app, _listener(host, port), linger, announce or (lambda: None)))


def _listener(host: str, port: int) -> socket.socket:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listener = socket.create_server(address[:2], family=family, backlog=BACKLOG)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise WrongSetting(f"TOKENWIRE_HOST, TOKENWIRE_PORT: cannot listen on {host}:{port}: {reason}") from None
    listener.setblocking(False)
    return listener


def runner_of(app: web.Application) -> web.AppRunner:
    """What answers for the application."""
    return web.AppRunner(app, shutdown_timeout=STOP_WITHIN, **OPTIONS)


async def _serve(app: web.Application, listener: socket.socket, linger: float, announce: Callable[[], None]) -> None:
    runner = runner_of(app)
    spare = listener.dup()  # keeps the accept queue when the server closes its own
    try:
        await runner.setup()
        connect = connections(runner)
        door = await asyncio.get_running_loop().create_server(connect, sock=listener, backlog=BACKLOG)
        _spare_the_collector()
        stop = _signals()
        announce()
        await stop.get()
        app[DRAIN].on = True
        try:
            async with asyncio.timeout(linger):
                await stop.get()
        except TimeoutError:
            pass
        door.close()
        await _take_over_queued(connect, spare)
        await _let_go(runner)
    finally:
        spare.close()
        await runner.cleanup()


def _spare_the_collector() -> None:
    """What was made to start is never looked at again, and the rest seldom.

    A request is hundreds of objects that its end frees without any collector, and that live while it waits: looking for
    cycles after every 700 of them, which is the default, costs a busy process a sixth of its time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GARBAGE_AFTER)


def connections(runner: web.AppRunner) -> Callable[[], Connection]:
    """Makes the connections of a runner that is set up."""
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    return partial(Connection, runner.server, runner.app, asyncio.get_running_loop())


def _signals() -> asyncio.Queue[signal.Signals]:
    received: asyncio.Queue[signal.Signals] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, received.put_nowait, number)
    return received


async def _take_over_queued(connect: Callable[[], Connection], spare: socket.socket) -> None:
    """Accept what the kernel has accepted before the listener closed, and close it for good.

    Nothing is waited for in between: whoever connects meanwhile would be reset with the request already sent.
    """
    loop = asyncio.get_running_loop()
    queued = []
    spare.setblocking(False)
    try:
        while True:
            queued.append(spare.accept()[0])
    except BlockingIOError:
        spare.close()
    for connection in queued:
        connection.setblocking(False)
        await loop.connect_accepted_socket(connect, connection)


async def _let_go(runner: web.AppRunner) -> None:
    """Every connection has had its last answer and is closed; one on which nothing is asked is not waited for long."""
    deadline = asyncio.get_running_loop().time() + LET_GO_WITHIN
    # Nobody is told when a connection ends.
    while runner.server and runner.server.connections and asyncio.get_running_loop().time() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(0.02)
