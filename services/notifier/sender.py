"""One attempt: a POST, and what came of it."""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiohttp
from yarl import URL

from contracts.webhooks import Attempt
from libs.telemetry import WEBHOOK_LATENCY
from services.notifier.destinations import Connecting, PrivateDestination, connecting, connector
from services.notifier.schedule import retry_after
from services.notifier.signing import proof

LARGEST_RESPONSE = 16 * 1024
"""Bytes of a response that are read, and thrown away, to keep its connection; a longer one costs the connection."""
BODY_WITHIN = 1.0
"""Seconds that they may take."""
AT_ONCE = 1.0
"""Seconds within which a kept connection that is lost is taken for one that the endpoint had given up already."""
_HEADERS = {"Content-Type": "application/json", "User-Agent": "tokenwire"}
_GONE = 410
_BUSY = frozenset({408, 429})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt means for its delivery and for its endpoint."""

    attempt: Attempt
    retry_after: timedelta | None = None
    """How long the endpoint asked to wait."""

    @property
    def arrived(self) -> bool:
        """Any 2xx."""
        return self.attempt.status is not None and 200 <= self.attempt.status < 300

    @property
    def unwanted(self) -> bool:
        """410: there is no point in trying again."""
        return self.attempt.status == _GONE

    @property
    def troubled(self) -> bool:
        """No answer, or the answer of an endpoint that cannot cope; any other says that it lives."""
        status = self.attempt.status
        return status is None or status >= 500 or status in _BUSY


class Sender:
    """Sends webhooks; the first one opens it."""

    def __init__(self, timeout: float, now: Callable[[], datetime], *, allow_private: bool) -> None:
        self._within = timeout
        self._timeout = aiohttp.ClientTimeout(total=timeout, ceil_threshold=timeout)
        self._now = now
        self._allow_private = allow_private
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Every connection closed. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(self, url: str, shared_secret: str, webhook_id: str, body: bytes) -> Outcome:
        """POST the body, and say what came of it; never raises for what an endpoint does or a URL holds."""
        at = self._now()
        started = time.perf_counter()
        status: int | None = None
        error: str | None = None
        wait: timedelta | None = None
        try:
            response = await self._post(url, proof(shared_secret, webhook_id, body, at), body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RuntimeError) as fault:
            error = self._told(fault)
        else:
            status = response.status
            wait = retry_after(response.headers.get("Retry-After"), at)
            if 300 <= status < 400:
                error = "redirects are not followed"
        seconds = time.perf_counter() - started
        WEBHOOK_LATENCY.observe(seconds)
        if status is not None:
            await _let_go(response)
        return Outcome(Attempt(at=at, latency_ms=int(seconds * 1000), status=status, error=error), wait)

    async def _post(self, url: str, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        started = time.perf_counter()
        connection = Connecting()
        connecting.set(connection)
        try:
            return await self._once(url, headers, body)
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError):
            # It closed the idle connection while this was on its way: not a failure of the endpoint.
            if connection.anew or time.perf_counter() - started > AT_ONCE:
                raise
        return await self._once(url, headers, body)

    async def _once(self, url: str, headers: Mapping[str, str], body: bytes) -> aiohttp.ClientResponse:
        return await self._opened().post(URL(url), data=body, headers=headers, allow_redirects=False)

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=connector(allow_private=self._allow_private),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=self._timeout,
                headers=_HEADERS,
                skip_auto_headers=("Accept-Encoding",),
                auto_decompress=False,
                trust_env=False,
            )
        return self._session

    def _told(self, fault: BaseException) -> str:
        """What happened, in words that hold nothing of the request."""
        match fault:
            case TimeoutError():
                return f"no answer within {self._within:g} s"
            case aiohttp.ClientConnectorDNSError():
                return "the name of the endpoint cannot be resolved"
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return "no trustworthy TLS connection"
            case aiohttp.ClientConnectorError() if isinstance(fault.os_error, PrivateDestination):
                return str(fault.os_error)
            case aiohttp.ClientConnectorError():
                return f"no connection: {fault.strerror or 'failed'}"
            case aiohttp.InvalidURL():
                return "the URL cannot be used"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
                return "the connection was closed before an answer"
            case ValueError():
                return "the URL or the shared secret cannot be sent"
            case RuntimeError():
                return "no connection: failed"  # uvloop's word for some faults of addresses
        return f"the answer is not HTTP ({type(fault).__name__})"


async def _let_go(response: aiohttp.ClientResponse) -> None:
    """Read a short rest, so that the connection can be used again; close it where there is a long or slow one."""
    if response.content.at_eof():
        return
    try:
        async with asyncio.timeout(BODY_WITHIN):
            size = 0
            while chunk := await response.content.readany():
                size += len(chunk)
                if size > LARGEST_RESPONSE:
                    break
            else:
                response.release()
    except (aiohttp.ClientError, TimeoutError, OSError):
        pass  # the status is what counts
    finally:
        response.close()
