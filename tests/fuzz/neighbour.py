"""The server that calls and webhooks go to: it answers whatever it is told to."""

import socket
import threading
from contextlib import suppress
from typing import Self

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
_HEAD_END = b"\r\n\r\n"
_PATIENCE = 20.0


class Neighbour:
    """A server that answers every request with the bytes that it is told to, and then hangs up."""

    def __init__(self) -> None:
        self.answer = OK
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
                connection.sendall(self.answer)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65536):  # what is still sent must not be answered with a reset
                    pass
