"""A whole Tokenwire in a separate process that must not fail unexpectedly."""

import json
import re
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import requests

from tests.acceptance.programs import Program
from tests.builders import UNTHROTTLED
from tests.fuzz.neighbour import Neighbour
from tests.ports import free_port

READY_WITHIN = 60.0
ANSWER_WITHIN = 20.0
"""Seconds within which every request must get a response."""
QUIET = 0.25
"""Seconds without data after which a connection counts as waiting for the rest of the request."""
_STATUS = re.compile(rb"(?:^|\n)HTTP/1\.[01] ([0-9]{3})")
TROUBLE = ('"level":"error"', '"level":"critical"', "Traceback (most recent call last)")
"""Signs of an unexpected error in a log."""


class Running:
    """All services on one port with MongoDB and without throttling; `with` starts and stops it."""

    def __init__(self, mongodb_url: str, home: Path, neighbour: Neighbour) -> None:
        self.neighbour = neighbour
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.key = f"tw_ok_{secrets.token_urlsafe(32)}"
        self.http = requests.Session()
        self.http.trust_env = False
        self._log = home / "log"
        self._program = Program(
            "services",
            *("--port", str(self.port), "--data", str(home)),
            own_environment={
                "TOKENWIRE_MONGODB_URL": mongodb_url,
                "TOKENWIRE_MONGODB_DATABASE": f"tokenwire_test_{secrets.token_hex(6)}",
                "TOKENWIRE_BOOTSTRAP_OPERATOR_KEY": self.key,
                "TOKENWIRE_TRUSTED_PROXIES": "127.0.0.1",
                "TOKENWIRE_LOG_FORMAT": "json",
                "TOKENWIRE_LOG_LEVEL": "info",
                **{f"TOKENWIRE_{name.upper()}": limit for name, limit in UNTHROTTLED.items()},
            },
            output=self._log,
        )

    def __enter__(self) -> Self:
        self._program.start()
        deadline = time.monotonic() + READY_WITHIN
        while not self._responses():
            assert self._program.running, f"it ended:\n{self._program.output}"
            assert time.monotonic() < deadline, f"not ready in time:\n{self._program.output}"
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._program.close()

    def _responses(self) -> bool:
        try:
            return bool(self.http.get(f"{self.url}/readyz", timeout=ANSWER_WITHIN).json()["status"] == "ok")
        except requests.ConnectionError:
            return False

    @property
    def logged(self) -> int:
        """Size of its log in bytes."""
        return self._log.stat().st_size

    def troubles(self, since: int) -> list[str]:
        """Lines after this offset that report an unexpected error, or its end."""
        self.http.get(f"{self.url}/healthz", timeout=ANSWER_WITHIN)  # flushes the log
        with self._log.open("rb") as log:
            log.seek(since)
            lines = log.read().decode(errors="replace").split("\n")
        return [line for line in lines if any(mark in line for mark in TROUBLE) or not _is_line(line)]

    def ask(self, method: str, path: str, status: int = 200, **request: Any) -> Any:
        """The JSON response, which must have this status; by default as the first operator."""
        headers = {"Authorization": self.key, **request.pop("headers", {})}
        response = self.http.request(method, self.url + path, headers=headers, timeout=ANSWER_WITHIN, **request)
        assert response.status_code == status, (method, path, response.status_code, response.text)
        return response.json()

    def statuses(self, raw: bytes) -> list[int]:
        """Statuses of the responses to these bytes, until the server closes or waits for more."""
        received = b""
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=QUIET) as connection,
            suppress(TimeoutError, ConnectionError),  # waits for more, or has closed
        ):
            connection.sendall(raw)
            while piece := connection.recv(65536):
                received += piece
        return [int(status) for status in _STATUS.findall(received)]


def _is_line(line: str) -> bool:
    try:
        return not line.startswith("{") or isinstance(json.loads(line), dict)
    except ValueError:
        return False
