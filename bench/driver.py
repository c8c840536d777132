"""The load generator: N keep-alive connections with one request in flight on each; every response is checked.

It is a process of its own (`python -m bench.driver …`), so that it does not share the server's event loop.
"""

import argparse
import asyncio
import json
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import uvloop


class UnexpectedResponse(Exception):
    """A response was not the expected one."""


REFRESH_TOKEN = re.compile(rb"tw_rt_[A-Za-z0-9_.-]+")
"""The refresh token in a request, and its successor in the response."""


class Connection(asyncio.Protocol):
    """Sends the request again as soon as it has the complete response; in a chain, with the new refresh token."""

    def __init__(
        self, request: bytes, expected: bytes, deadline: float, latencies: list[float], *, chained: bool = False
    ) -> None:
        self._request = request
        self._chained = chained
        self._expected = expected
        self._deadline = deadline
        self._latencies = latencies
        self._buffer = b""
        self._sent = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._send()

    def _send(self) -> None:
        self._sent = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, separator, body = self._buffer.partition(b"\r\n\r\n")
        if not separator:
            return
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if len(body) < length:
            return
        now = time.perf_counter()
        self._latencies.append(now - self._sent)
        if not head.startswith(b"HTTP/1.1 200") or not body.startswith(self._expected):
            self._finish(UnexpectedResponse(f"{head[:15]!r} {body[:200]!r}"))
            return
        self._buffer = b""
        if self._chained:
            self._request = REFRESH_TOKEN.sub(_refresh_token(body), self._request)
        if now >= self._deadline:
            self._finish(None)
        else:
            self._send()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish(exc or UnexpectedResponse("the server closed the connection"))

    def _finish(self, error: Exception | None) -> None:
        if self.done.done():
            return
        if error:
            self.done.set_exception(error)
        else:
            self.done.set_result(None)
        self._transport.close()


def _refresh_token(body: bytes) -> bytes:
    found = REFRESH_TOKEN.search(body)
    if found is None:
        raise UnexpectedResponse(f"no refresh token: {body[:200]!r}")
    return found.group()


async def load(
    host: str,
    port: int,
    request: bytes,
    expected: bytes,
    connections: int,
    seconds: float,
    chains: Sequence[str] = (),
) -> dict[str, float]:
    """Requests per second and latencies in milliseconds. Raises UnexpectedResponse if a response was wrong.

    With `chains`, connection i begins with that refresh token, and goes on with the token of each response.
    """
    latencies: list[float] = []
    started = time.perf_counter()
    loop = asyncio.get_running_loop()
    made = []
    for number in range(connections):
        own = REFRESH_TOKEN.sub(chains[number].encode(), request) if chains else request
        protocol = Connection(own, expected, started + seconds, latencies, chained=bool(chains))
        await loop.create_connection(lambda protocol=protocol: protocol, host, port)  # type: ignore[misc]
        made.append(protocol)
    async with asyncio.timeout(seconds + 30):
        await asyncio.gather(*(protocol.done for protocol in made))
    elapsed = time.perf_counter() - started
    latencies.sort()
    return {
        "requests": len(latencies),
        "rps": len(latencies) / elapsed,
        "p50": latencies[len(latencies) // 2] * 1000,
        "p99": latencies[int(len(latencies) * 0.99)] * 1000,
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--connections", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--request", required=True, help="file with the raw request")
    parser.add_argument("--expected", required=True, help="what every body begins with")
    parser.add_argument("--chains", default="", help="file with a refresh token a line, one for each connection")
    arguments = parser.parse_args()
    with open(arguments.request, "rb") as file:  # noqa: PTH123 - a plain read
        request = file.read()
    chains = Path(arguments.chains).read_text().split() if arguments.chains else ()
    figures = uvloop.run(
        load(
            arguments.host,
            arguments.port,
            request,
            arguments.expected.encode(),
            arguments.connections,
            arguments.seconds,
            chains,
        )
    )
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
