"""Explains a failed connection to RabbitMQ in one sentence that says what to change."""

import os
import ssl
from socket import gaierror

from aio_pika.exceptions import AMQPError, AuthenticationError, IncompatibleProtocolError, ProbableAuthenticationError
from aiormq.exceptions import ConnectionFrameError, ProtocolSyntaxError
from yarl import URL

_MAX_LENGTH = 200


def explain(error: BaseException, url: URL) -> str:
    """Quotes only host, port and virtual host of the URL, because it holds a password."""
    address, text = f"{url.host}:{url.port}", _text(error)
    if isinstance(error, AuthenticationError | ProbableAuthenticationError) or "ACCESS_REFUSED" in text:
        return "RabbitMQ refuses the user name or password"
    if "Connection.OpenOk" in text:  # aiormq names the frame that it expected instead of the refusal
        name = url.path.removeprefix("/") or "/"
        return f"RabbitMQ refuses the virtual host {name!r}: it does not exist, or this user may not use it"
    if isinstance(error, IncompatibleProtocolError | ConnectionFrameError | ProtocolSyntaxError):
        return f"what answers at {address} does not speak AMQP 0-9-1"
    if _is(error, gaierror):
        return f"there is no host named {url.host!r}"
    if _is(error, ssl.SSLError):
        return f"no TLS with {address}: {text}"
    if isinstance(error, FileNotFoundError | PermissionError | IsADirectoryError):
        return f"a file that the URL names (cafile=, certfile=, keyfile=) cannot be read: {text}"
    if isinstance(error, TimeoutError):
        return f"{address} does not respond like RabbitMQ"
    return f"nothing can be reached at {address}: {text}"


def _is(error: BaseException, kind: type[BaseException]) -> bool:
    return isinstance(error, kind) or isinstance(error.__cause__, kind)


def _text(error: BaseException) -> str:
    """The text of the error, or of the one that the library wrapped."""
    cause = error.__cause__ if isinstance(error, AMQPError) and error.__cause__ else error
    number = cause.args[0] if cause.args else None
    if isinstance(number, int) and number > 0:
        return os.strerror(number)
    return (str(cause) or type(cause).__name__)[:_MAX_LENGTH]
