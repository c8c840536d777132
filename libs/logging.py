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
_MARKS = ("tw_", "whsec_", "://")
"""One of them is in everything that _SECRET_VALUES finds."""
_REDACTED = "[redacted]"


def _without_secrets(value: Any) -> Any:
    if isinstance(value, str):
        if not any(mark in value for mark in _MARKS):
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
        atexit.register(self.put_out)

    def write(self, line: bytes) -> None:
        """Written soon; at once where no event loop runs."""
        self._lines.append(line)
        if len(self._lines) > 1:
            return
        try:
            asyncio.get_running_loop().call_soon(self.put_out)
        except RuntimeError:
            self.put_out()

    def flush(self) -> None:
        """Nothing: the turn of the loop flushes."""

    def put_out(self) -> None:
        """What was said so far is written."""
        lines, self._lines = self._lines, []
        self._file.write(b"".join(lines))
        self._file.flush()


class _AccessLine:
    """The line of a request, made without structlog's chain: it is the most frequent one by far."""

    def __init__(self, service: str, output: _Output) -> None:
        self._head = {"service": service, "level": "info", "event": "request"}
        self._output = output

    def __call__(self, **facts: Any) -> None:
        facts["path"] = _without_secrets(facts["path"])
        line = {**facts, **self._head, "timestamp": datetime.now(UTC).isoformat().replace("+00:00", "Z")}
        self._output.write(orjson.dumps(line) + b"\n")


def _access_by_structlog(**facts: Any) -> None:
    structlog.get_logger("access").info("request", **facts)


_access: Callable[..., None] = _access_by_structlog


def access(**facts: Any) -> None:
    """Say that a request was answered: its method, path, status, duration, address and id; no more is known here."""
    _access(**facts)


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
