"""One structured line an event, JSON or for the console; secrets are taken out here, not by discipline."""

import asyncio
import atexit
import logging
import re
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO, cast

import orjson
import structlog

_SECRET_KEYS = re.compile(r"(^|_)(secret|password|token|code|authorization|cookie|key|verifier|sealed|body)$")
_SECRET_VALUES = re.compile(r"(tw_(?:ac|at|rt|ok)_|whsec_)[A-Za-z0-9_=+/-]{8,}|(?<=://)[^/@\s]+(?=@)")
_MARK = re.compile("tw_|whsec_|://")
"""In everything that _SECRET_VALUES finds."""
_REDACTED = "[redacted]"
_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
GATHERED_FOR = 0.02
"""Seconds for which access lines are gathered before they are written; what a process that is killed has not said."""


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        if _MARK.search(value) is None:
            return value
        return _SECRET_VALUES.sub(lambda match: (match.group(1) or "") + _REDACTED, value)
    if isinstance(value, bytes):
        return _REDACTED
    if isinstance(value, dict):
        return {key: _REDACTED if _is_secret(str(key)) else _without_secrets(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_secrets(item) for item in value]
    return value


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def redact(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Take secrets out by the name of their field and by their shape."""
    for key, value in line.items():
        if value.__class__ is int or value.__class__ is float:
            continue
        line[key] = _REDACTED if _is_secret(key) else _without_secrets(value)
    return line


def _as_json(_logger: object, _method: str, line: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(line, default=str)


class _Output:
    """Standard output, written once a turn of the event loop: a line costs no system call of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._lines: list[bytes] = []
        self._due: asyncio.Handle | None = None
        """When the lines are to be written."""
        self._in_time = False
        """That is no later than this turn of the loop."""
        atexit.register(self.put_out)

    def write(self, line: bytes) -> None:
        """Written with the turn of the loop; at once where no event loop runs."""
        self._lines.append(line)
        if self._in_time:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.put_out()
            return
        if self._due is not None:
            self._due.cancel()
        self._due, self._in_time = loop.call_soon(self.put_out), True

    def write_later(self, line: bytes) -> None:
        """Written within GATHERED_FOR seconds, with others."""
        if self._due is not None:
            self._lines.append(line)
            return
        try:
            self._due = asyncio.get_running_loop().call_later(GATHERED_FOR, self.put_out)
        except RuntimeError:
            self.write(line)
        else:
            self._lines.append(line)

    def flush(self) -> None:
        """Nothing: the turn of the loop flushes."""

    def put_out(self) -> None:
        """What was said so far is written."""
        lines, self._lines = self._lines, []
        self._due, self._in_time = None, False
        self._file.write(b"".join(lines))
        self._file.flush()


class _AccessLine:
    """The line of a request, made without structlog's chain: it is the most frequent one by far."""

    def __init__(self, service: str, output: _Output) -> None:
        self._service = service
        self._output = output

    def __call__(self, *, method: str, path: str, status: int, ms: float, client: str, request_id: str | None) -> None:
        line = {
            "method": method,
            "path": _without_secrets(path),
            "status": status,
            "ms": ms,
            "client": client,
            "request_id": request_id,
            "service": self._service,
            "level": "info",
            "event": "request",
            "timestamp": datetime.now(UTC),
        }
        self._output.write_later(orjson.dumps(line, option=_LINE))


def _access_by_structlog(**facts: Any) -> None:
    structlog.get_logger("access").info("request", **facts)


_access: Callable[..., None] = _access_by_structlog


def access(*, method: str, path: str, status: int, ms: float, client: str, request_id: str | None) -> None:
    """Say that a request was answered, from which address, after how many milliseconds; no more is known here."""
    _access(method=method, path=path, status=status, ms=ms, client=client, request_id=request_id)


class _Forward(logging.Handler):
    """Lines of libraries, through the same door."""

    def emit(self, record: logging.LogRecord) -> None:
        error = repr(record.exc_info[1]) if record.exc_info else None
        log = structlog.get_logger(record.name)
        log.log(record.levelno, "library", message=record.getMessage(), **({"error": error} if error else {}))


def configure(level: str, json: bool, service: str) -> None:
    """Set up structlog and the standard library's logging for this process, on standard output."""
    global _access
    threshold = logging.getLevelNamesMapping()[level.upper()]
    output = _Output(sys.stdout.buffer) if json else None
    _access = _AccessLine(service, output) if output and threshold <= logging.INFO else _access_by_structlog
    shared: list[Callable[..., Any]] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    structlog.reset_defaults()
    structlog.configure(
        processors=[*shared, _as_json if json else structlog.dev.ConsoleRenderer(colors=sys.stdout.isatty())],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.BytesLoggerFactory(cast("BinaryIO", output))
        if output
        else structlog.PrintLoggerFactory(),
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(service=service)
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(max(threshold, logging.WARNING))
