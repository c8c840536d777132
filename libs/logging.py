"""Structured logging: one line per event, as JSON or for a console.

Every line passes through `redact`: secrets are removed and control characters escaped here, so that no call site has to
remember it.
"""

import asyncio
import atexit
import logging
import re
import select
import sys
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, BinaryIO, cast

import orjson
import structlog

_SECRET_KEYS = re.compile(r"(^|_)(secret|password|token|code|authorization|cookie|key|verifier|sealed|body)$")
_SECRET_VALUES = re.compile(r"(tw_(?:ac|at|rt|ok)_|whsec_)[A-Za-z0-9_=+/-]{8,}|(?<=://)[^/@\s]+(?=@)")
_MARK = re.compile("tw_|whsec_|://")
"""Occurs in every match of _SECRET_VALUES; a cheap test before the expensive one."""
_REDACTED = "[redacted]"
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff\U000e0000-\U000e007f]"
)
"""Characters that control a terminal, start a line, reverse or hide text, or cannot be encoded as UTF-8."""
_LONGEST = 2048
"""Longest value in characters; a traceback may be eight times as long."""
_SILENCED = ("aio_pika", "aiormq", "pymongo", "opentelemetry", "urllib3")
"""Libraries that log every failed connection attempt at length; our own code logs each outage once."""
_LINE = orjson.OPT_APPEND_NEWLINE | orjson.OPT_UTC_Z
BUFFERED_FOR = 0.02
"""Seconds for which access log lines are buffered; a process that is killed loses those."""


def _sanitized(value: Any) -> Any:
    """The value without secrets, and with control characters escaped."""
    if isinstance(value, str):
        return _printable(_without_secrets(value))
    if value is None or isinstance(value, int | float | datetime):
        return value
    if isinstance(value, bytes):
        return _REDACTED
    if isinstance(value, dict):
        return {
            _printable(str(key)): _REDACTED if _is_secret(str(key)) else _sanitized(item) for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_sanitized(item) for item in value]
    return _printable(_without_secrets(str(value)))


def _without_secrets(text: str) -> str:
    # Two substring tests take a tenth of the time of the expression, and most texts contain neither character.
    if ("_" not in text and ":" not in text) or _MARK.search(text) is None:
        return text
    return _SECRET_VALUES.sub(lambda match: (match.group(1) or "") + _REDACTED, text)


def _printable(text: str, longest: int = _LONGEST) -> str:
    if len(text) > longest:
        text = f"{text[:longest]}… ({len(text)} characters)"
    return text if text.isprintable() else _UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return match[0].encode("unicode_escape").decode()


def _printable_traceback(text: str) -> str:
    """The traceback with all lines but the first indented, so that none can be mistaken for a log line."""
    lines = _without_secrets(text)[: 8 * _LONGEST].split("\n")
    return "\n  ".join(_printable(line) for line in lines)


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    return _SECRET_KEYS.search(key) is not None


def redact(_logger: object, _method: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """structlog processor: remove secrets, by field name and by format, and escape control characters."""
    for key, value in line.items():
        if value.__class__ is int or value.__class__ is float:
            continue
        if key == "exception" and isinstance(value, str):
            line[key] = _printable_traceback(value)
        else:
            line[key] = _REDACTED if _is_secret(key) else _sanitized(value)
    return line


def _as_json(_logger: object, _method: str, line: MutableMapping[str, Any]) -> bytes:
    return orjson.dumps(line, default=str)


class _Output:
    """Standard output, written once per iteration of the event loop, so that a line does not cost a system call."""

    def __init__(self, file: BinaryIO, *, is_shared: bool = False) -> None:
        self._file = file
        self._is_shared = is_shared
        """Whether other processes write to it, too."""
        self._lines: list[bytes] = []
        self._due: asyncio.Handle | None = None
        """The scheduled write."""
        self._is_immediate = False
        """Whether the scheduled write is in this iteration of the loop, not later."""
        atexit.register(self.write_buffered)

    def write(self, line: bytes) -> None:
        """Write in this iteration of the event loop; at once if no event loop runs."""
        self._lines.append(line)
        if self._is_immediate:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            self.write_buffered()
            return
        if self._due is not None:
            self._due.cancel()
        self._due, self._is_immediate = loop.call_soon(self.write_buffered), True

    def write_later(self, line: bytes) -> None:
        """Write within BUFFERED_FOR seconds, together with other lines."""
        if self._due is not None:
            self._lines.append(line)
            return
        try:
            self._due = asyncio.get_running_loop().call_later(BUFFERED_FOR, self.write_buffered)
        except RuntimeError:
            self.write(line)
        else:
            self._lines.append(line)

    def flush(self) -> None:
        """Do nothing: the lines are flushed with the write."""

    def write_buffered(self) -> None:
        """Write the buffered lines."""
        lines, self._lines = self._lines, []
        self._due, self._is_immediate = None, False
        for piece in _atomic_pieces(lines) if self._is_shared else (b"".join(lines),):
            self._file.write(piece)
            self._file.flush()


def _atomic_pieces(lines: Sequence[bytes]) -> Iterator[bytes]:
    """The lines in pieces that a pipe takes whole, so that lines of several processes do not get mixed up.

    Only a line that is longer than such a piece may be torn.
    """
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) > select.PIPE_BUF:
            yield piece
            piece = b""
        piece += line
    yield piece


class _AccessLog:
    """Writes the access log without structlog's processors: it has by far the most lines."""

    def __init__(self, bound: Mapping[str, object], output: _Output) -> None:
        self._bound = bound
        self._output = output

    def __call__(self, method: str, path: str, status: int, ms: float, client: str, request_id: str | None) -> None:
        line = {
            "method": method,
            "path": _printable(_without_secrets(path)),
            "status": status,
            "ms": ms,
            "client": client,
            "request_id": request_id,
            **self._bound,
            "level": "info",
            "event": "request",
            "timestamp": datetime.now(UTC),
        }
        self._output.write_later(orjson.dumps(line, option=_LINE))


def _access_by_structlog(method: str, path: str, status: int, ms: float, client: str, request_id: str | None) -> None:
    structlog.get_logger("access").info(
        "request", method=method, path=path, status=status, ms=ms, client=client, request_id=request_id
    )


_access: Callable[..., None] = _access_by_structlog


def access(method: str, path: str, status: int, ms: float, client: str, request_id: str | None) -> None:
    """Write an access log line. `ms` is the response time, `client` the client's address."""
    _access(method, path, status, ms, client, request_id)


class _Forward(logging.Handler):
    """Passes log records of libraries on to structlog, so that they are redacted, too."""

    def emit(self, record: logging.LogRecord) -> None:
        error = repr(record.exc_info[1]) if record.exc_info else None
        log = structlog.get_logger(record.name)
        log.log(record.levelno, "library", message=record.getMessage(), **({"error": error} if error else {}))


def configure(level: str, json: bool, service: str, worker: int | None = None) -> None:
    """Configure structlog and the standard library's logging to write to standard output.

    Every line has the service, and the number of the worker if the service has several.
    """
    global _access
    threshold = logging.getLevelNamesMapping()[level.upper()]
    bound: Mapping[str, object] = {"service": service} if worker is None else {"service": service, "worker": worker}
    output = _Output(sys.stdout.buffer, is_shared=worker is not None) if json else None
    _access = _AccessLog(bound, output) if output and threshold <= logging.INFO else _access_by_structlog
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
    structlog.contextvars.bind_contextvars(**bound)
    root = logging.getLogger()
    root.handlers[:] = [_Forward()]
    root.setLevel(max(threshold, logging.WARNING))
    for library in _SILENCED:
        logging.getLogger(library).setLevel(logging.CRITICAL)
