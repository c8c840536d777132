"""Limits on the connections of a process: how many, and how much memory their request heads may take."""

import heapq
from collections.abc import Iterator
from typing import Protocol

from aiohttp import web

from libs.telemetry import CONNECTIONS_DROPPED

HEAD_BYTES = 8 * 1024 * 1024
"""Bytes of all request heads together: incomplete ones, and those of requests in progress."""
RESERVED = 256
"""File descriptors reserved for everything but clients: database, bus, upstreams, files."""
_BATCH = 64
"""Connections that are closed at a time; spreads the cost of searching for them."""


class OpenConnection(Protocol):
    """What `OpenConnections` needs of a connection."""

    held: int
    """Bytes of request heads that `OpenConnections.holds` counted for it."""

    @property
    def idle_since(self) -> float | None:
        """The loop's time at which its last request ended; None while a request is in progress."""

    @property
    def is_incomplete(self) -> bool:
        """Whether its request is not complete, so that no work is lost if it is closed."""

    def drop(self) -> None:
        """Close it and free its memory at once."""

    def close_if_idle(self) -> None:
        """Close it unless a request is in progress or has arrived."""


class OpenConnections:
    """All connections of one server; closes connections when a limit is exceeded."""

    def __init__(self, most: int, unfinished: int) -> None:
        self.most = most
        self._most_unfinished = unfinished
        self._open: set[OpenConnection] = set()
        self._unfinished: dict[OpenConnection, None] = {}
        """Connections with an incomplete request head, the oldest first."""
        self._held = 0

    def fit(self, descriptors: int) -> None:
        """Lower the limit so that RESERVED of these file descriptors stay free."""
        self.most = max(1, min(self.most, descriptors - RESERVED))

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[OpenConnection]:
        return iter(tuple(self._open))

    def opened(self, connection: OpenConnection) -> None:
        """Count a new connection. If there are too many, close those that have been idle the longest.

        If none is idle, close the one whose request head is incomplete for the longest time.
        """
        self._open.add(connection)
        if len(self._open) <= self.most:
            return
        idle = [(other.idle_since or 0.0, id(other), other) for other in self._open if other.idle_since is not None]
        dropped = [other for _, _, other in heapq.nsmallest(_BATCH, idle) if other is not connection]
        if not dropped:
            dropped = [next(iter(self._unfinished), connection)]
        self._drop(dropped, "too_many_connections")

    def closed(self, connection: OpenConnection) -> None:
        """Forget a connection that was closed."""
        self._open.discard(connection)
        self._unfinished.pop(connection, None)
        self._held -= connection.held
        connection.held = 0

    def head_begun(self, connection: OpenConnection) -> None:
        """A request head begins to arrive. If too many are incomplete, close the connection of the oldest."""
        self._unfinished[connection] = None
        if len(self._unfinished) > self._most_unfinished:
            self._drop([next(iter(self._unfinished))], "too_many_unfinished_heads")

    def head_ended(self, connection: OpenConnection) -> None:
        """The request head is complete."""
        self._unfinished.pop(connection, None)

    def holds(self, connection: OpenConnection, held: int) -> None:
        """Count the bytes of heads of the connection. Above HEAD_BYTES, close incomplete requests, the largest first.

        An attacker's heads are large and an honest client's small, and a complete request is never dropped.
        """
        self._held += held - connection.held
        connection.held = held
        if self._held > HEAD_BYTES:
            self._shed()

    def _shed(self) -> None:
        for connection in self._open:
            if connection.idle_since is not None:
                # Its last request has ended, so its head was freed; that is only noticed here.
                self._held -= connection.held
                connection.held = 0
        if self._held <= HEAD_BYTES:
            return
        largest = heapq.nlargest(_BATCH, (one for one in self._open if one.is_incomplete), key=lambda one: one.held)
        dropped, spared = [], self._held
        for connection in largest:
            if spared <= HEAD_BYTES * 7 // 8:
                break
            spared -= connection.held
            dropped.append(connection)
        self._drop(dropped, "too_many_bytes")

    def _drop(self, connections: list[OpenConnection], reason: str) -> None:
        CONNECTIONS_DROPPED.labels(reason).inc(len(connections))
        for connection in connections:
            self.closed(connection)
            connection.drop()


OPEN_CONNECTIONS: web.AppKey[OpenConnections] = web.AppKey("open_connections", OpenConnections)
"""The connections of the server of this application."""
