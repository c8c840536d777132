"""One attempt: a POST, and what came of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import aiohttp
from aiohttp.http import HttpProcessingError

from contracts.webhooks import Attempt
from libs.telemetry import WEBHOOK_LATENCY
from services.notifier.destinations import PrivateDestination
from services.notifier.posting import Answer, Poster
from services.notifier.schedule import retry_after
from services.notifier.signing import proof

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
        self._now = now
        self._poster = Poster(timeout, allow_private=allow_private)

    async def close(self) -> None:
        """Every connection closed. Idempotent."""
        await self._poster.close()

    async def send(self, url: str, shared_secret: str, webhook_id: str, body: bytes) -> Outcome:
        """POST the body, and say what came of it; never raises for what an endpoint does or a URL holds."""
        at = self._now()
        started = time.perf_counter()
        answer: Answer | None = None
        status: int | None = None
        error: str | None = None
        wait: timedelta | None = None
        try:
            answer = await self._poster.post(url, proof(shared_secret, webhook_id, body, at), body)
        except (aiohttp.ClientError, HttpProcessingError, TimeoutError, OSError, ValueError, RuntimeError) as fault:
            error = self._told(fault)
        else:
            status = answer.status
            wait = retry_after(answer.headers.get("Retry-After"), at)
            if 300 <= status < 400:
                error = "redirects are not followed"
        seconds = time.perf_counter() - started
        WEBHOOK_LATENCY.observe(seconds)
        if answer is not None:
            await answer.let_go()
        return Outcome(Attempt(at=at, latency_ms=int(seconds * 1000), status=status, error=error), wait)

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
