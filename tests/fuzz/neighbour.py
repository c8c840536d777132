"""A server for calls and webhooks that responds with arbitrary bytes."""

import socket
import threading
from contextlib import suppress
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_PATIENCE = 20.0


class Neighbour:
    """Responds to every request with the given bytes, then closes the connection."""

    def __init__(self) -> None:
        self.response = OK
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            connection.settimeout(_PATIENCE)
            with suppress(OSError):
                head = b""
                while _HEAD_END not in head and (piece := connection.recv(65536)):
                    head += piece
                connection.sendall(self.response)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # unread data would cause a reset
                    pass
