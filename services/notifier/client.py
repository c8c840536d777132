"""HTTP client for webhooks: signs a POST, sends it once and reports the outcome. When to retry: see `retry.py`.

It stands on `aiohttp.ClientSession` with everything switched off that a webhook must not do: redirects, cookies,
proxies, decompression. URLs are requested byte for byte as registered. The SSRF guard (`libs/outbound/ssrf.py`) is in
the connector and checks the address of every new connection.
"""

import asyncio
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

import aiohttp
from yarl import URL

from contracts.webhooks import Attempt
from libs.outbound.connector import MAX_HEADER_BYTES, MAX_HEADERS, OutboundConnector, reader_of
from libs.outbound.resolver import ThreadPoolResolver
from libs.outbound.response_excerpt import READ_BYTES, excerpt, values_in
from libs.outbound.signing import WebhookSecrets, secrets_in, signed_headers
from libs.outbound.ssrf import DEFAULT_DENY, DeniedAddress, all_but, parse_denylist, public_only
from libs.telemetry import WEBHOOK_LATENCY
from libs.tracing.client_spans import end_client_span, start_client_span
from libs.tracing.spans import TRACEPARENT, Span, Tracer, is_sampled
from services.notifier.retry import parse_retry_after

if TYPE_CHECKING:
    from aiohttp.connector import Connection

KEEPALIVE_SECONDS = 30.0
"""How long an idle connection is kept."""
MAX_KEPT_CONNECTIONS = 1024
"""Connections that are kept by default."""
MAX_RESPONSE_BYTES = 16 * 1024
"""Bytes of a response body that are read and discarded to keep its connection; a longer body closes the connection."""
BODY_SECONDS = 1.0
"""How long reading them may take."""
STALE_WITHIN_SECONDS = 1.0
"""A kept connection that is lost within this time was closed by the endpoint while idle; the POST is sent again."""

_HEADERS = {"Content-Type": "application/json", "User-Agent": "tokenwire"}
_AUTHORITY = re.compile(r"[A-Za-z]+://[^/?]*")
_VISIBLE_ASCII = "".join(map(chr, range(0x21, 0x7F)))
_GONE = 410
_BUSY = frozenset({408, 429})


class StaleConnectionError(aiohttp.ClientError):
    """A kept connection was lost before a status was read on it; `__cause__` says how."""


class _ClientResponse(aiohttp.ClientResponse):
    """Counts as received as soon as its status line is complete: `content` is None if the rest could not be read."""

    async def start(self, connection: "Connection") -> aiohttp.ClientResponse:
        """Read the head of the response. Raises StaleConnectionError where sending again may help."""
        reader = reader_of(connection)
        try:
            return await super().start(connection)
        except (aiohttp.ClientError, OSError) as error:  # TimeoutError is an OSError
            if reader is None:
                raise
            if reader.status is not None:
                # The endpoint has responded: whatever follows its status is no reason to send the webhook again.
                self.close()
                self.status = reader.status
                return self
            if reader.requests > 1 and not isinstance(error, TimeoutError):
                raise StaleConnectionError from error
            raise


class Response:
    """Status and headers of a response. Its connection is in use until `release`."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers if response.content is not None else {}

    async def release(self) -> bytes:
        """Read a short body so that the connection can be reused; close the connection if the body is long or slow.

        Returns the first READ_BYTES of the body that arrived, or all of it.
        """
        content, start = self._response.content, b""
        if content is None:
            return start
        if content.at_eof():
            self._response.release()
            return start
        short = False
        try:
            async with asyncio.timeout(BODY_SECONDS):
                size = 0
                while size <= MAX_RESPONSE_BYTES and (chunk := await content.readany()):
                    size += len(chunk)
                    start += chunk[: READ_BYTES - len(start)]
                short = size <= MAX_RESPONSE_BYTES
        except (aiohttp.ClientError, OSError, RuntimeError):
            pass  # the status counts, not the body; RuntimeError is aiohttp's error for a connection closed meanwhile
        finally:
            if short:
                self._response.release()
            else:
                self._response.close()
        return start


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an attempt means for its delivery and for its endpoint."""

    attempt: Attempt
    retry_after: timedelta | None = None
    """How long the endpoint asked to wait."""

    @property
    def delivered(self) -> bool:
        """Any 2xx."""
        return self.attempt.accepted

    @property
    def gone(self) -> bool:
        """410: the endpoint wants no retry."""
        return self.attempt.status == _GONE

    @property
    def endpoint_failed(self) -> bool:
        """No response, 5xx, 408 or 429: a failure for the circuit breaker. Any other status shows that it works."""
        status = self.attempt.status
        return status is None or status >= 500 or status in _BUSY


class WebhookTrace(NamedTuple):
    """Where an attempt belongs in its trace; trace contexts are W3C's."""

    parent: str | None = None
    previous: str | None = None
    """The attempt before, which a retry links to."""
    attempts: int = 0
    """How many attempts there were before."""


UNTRACED = WebhookTrace()


class WebhookClient:
    """Sends webhooks to any number of endpoints; the first one opens the session.

    `timeout`: seconds that one attempt may take in all, connecting included. `max_kept`: while more connections than
    this are open, connections are closed after their response.
    """

    def __init__(
        self,
        timeout: float,
        now: Callable[[], datetime],
        *,
        allow_private: bool,
        deny: str = DEFAULT_DENY,
        max_kept: int = MAX_KEPT_CONNECTIONS,
        tracer: Tracer | None = None,
    ) -> None:
        self._timeout = timeout
        self._tracer = tracer
        self._now = now
        self._max_kept = max_kept
        denied = parse_denylist(deny)
        self._sockets = all_but(denied) if allow_private else public_only(denied)
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close every connection. Idempotent."""
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def send(
        self, url: str, webhook_secrets: WebhookSecrets, webhook_id: str, body: bytes, trace: WebhookTrace = UNTRACED
    ) -> Outcome:
        """POST the signed body and return the outcome; never raises for what an endpoint does or a URL contains."""
        at = self._now()
        started = time.perf_counter()
        response: Response | None = None
        status: int | None = None
        error: str | None = None
        wait: timedelta | None = None
        headers = signed_headers(webhook_secrets, webhook_id, body, at)
        span = self._traced(url, webhook_id, trace, headers)
        try:
            response = await self.post(url, headers, body)
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError, RuntimeError) as fault:
            error = self._describe(fault)
            if span is not None:
                end_client_span(span, None, type(fault).__name__)
        else:
            status = response.status
            wait = parse_retry_after(response.headers.get("Retry-After"), at)
            if 300 <= status < 400:
                error = "redirects are not followed"
            if span is not None:
                end_client_span(span, status)
        seconds = time.perf_counter() - started
        WEBHOOK_LATENCY.observe(seconds)
        start = await response.release() if response is not None else b""
        attempt = Attempt(
            at=at,
            latency_ms=int(seconds * 1000),
            status=status,
            error=error,
            response=excerpt(start, [*values_in(body), *secrets_in(headers)]) if start else None,
            traceparent=span.traceparent if span is not None else None,
        )
        return Outcome(attempt, wait)

    def _traced(self, url: str, webhook_id: str, trace: WebhookTrace, headers: dict[str, str]) -> Span | None:
        """The span of an attempt, if tracing is on. Adds the trace context for the receiver to the headers.

        Without a span of our own, the receiver gets the caller's context if the caller records its trace: the receiver
        would not record a trace whose context says that nobody does.
        """
        if self._tracer is None:
            if trace.parent is not None and is_sampled(trace.parent):
                headers[TRACEPARENT] = trace.parent
            return None
        about: dict[str, str | int] = {"tokenwire.webhook.id": webhook_id}
        if trace.attempts:
            about["http.request.resend_count"] = trace.attempts
        span = start_client_span(self._tracer, "POST", url, trace.parent, about, (trace.previous,))
        headers[TRACEPARENT] = span.traceparent
        return span

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Response:
        """Return the final response's head (not an interim 1xx); redirects are not followed.

        Raises TimeoutError, ValueError for what cannot be sent, aiohttp.ClientError for what an endpoint does, and
        RuntimeError (uvloop's error for some invalid addresses).
        """
        loop = asyncio.get_running_loop()
        address = _request_url(url)
        began = loop.time()
        left = self._timeout
        while True:
            try:
                return Response(
                    await self._opened().post(
                        address,
                        headers=headers,
                        data=body,
                        allow_redirects=False,
                        # By default aiohttp rounds timeouts over 5 s up to a whole second.
                        timeout=aiohttp.ClientTimeout(total=left, ceil_threshold=self._timeout),
                    )
                )
            except StaleConnectionError as stale:
                # The endpoint closed the idle connection while this request was on its way, or what arrived was left
                # over from the request before: not a failure of the endpoint. If both requests have reached it, it
                # recognizes the second by its webhook-id.
                elapsed = loop.time() - began
                if elapsed > STALE_WITHIN_SECONDS or elapsed >= self._timeout:
                    raise stale.__cause__ or stale from None
                left = self._timeout - elapsed

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=OutboundConnector(
                    keepalive=KEEPALIVE_SECONDS,
                    sockets=self._sockets,
                    resolver=ThreadPoolResolver(),
                    quarantine=0.0,
                    max_kept=self._max_kept,
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                skip_auto_headers=("Accept-Encoding",),
                response_class=_ClientResponse,
                auto_decompress=False,
                trust_env=False,
                read_bufsize=MAX_RESPONSE_BYTES,
                max_line_size=MAX_HEADER_BYTES,
                max_field_size=MAX_HEADER_BYTES,
                max_headers=MAX_HEADERS,
            )
        return self._session

    def _describe(self, fault: BaseException) -> str:
        """The reason, in words that contain nothing of the request."""
        match fault:
            case TimeoutError():
                return f"no response within {self._timeout:g} s"
            case aiohttp.ClientConnectorDNSError():
                return "the name of the endpoint cannot be resolved"
            case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientSSLError():
                return "no trustworthy TLS connection"
            case aiohttp.ClientConnectorError() if isinstance(fault.os_error, DeniedAddress):
                return str(fault.os_error)
            case aiohttp.ClientConnectorError():
                return f"no connection: {fault.strerror or 'failed'}"
            case aiohttp.InvalidURL():
                return "the URL cannot be used"
            case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | OSError():
                return "the connection was closed before a response"
            case ValueError():
                return "the URL or the shared secret cannot be sent"
            case RuntimeError():
                return "no connection: failed"  # uvloop's error for some invalid addresses
        return "the response is not HTTP"


@lru_cache(maxsize=1024)
def _request_url(url: str) -> URL:
    """The URL with path and query byte for byte as registered: a signed URL is valid in no other spelling.

    Only what cannot stand in a request line is encoded (RFC 9112 §3.2.1). Raises ValueError for a URL that cannot be
    used.
    """
    parsed = URL(url)
    if parsed.scheme not in {"http", "https"} or not parsed.raw_host:
        raise aiohttp.InvalidURL(url)
    target = _AUTHORITY.sub("", url.partition("#")[0], count=1)
    if not target.startswith("/"):
        target = f"/{target}"
    # The query is passed as part of the path: yarl drops a `?` that nothing follows.
    return URL.build(
        scheme=parsed.scheme,
        authority=parsed.raw_authority,
        path=quote(target, safe=_VISIBLE_ASCII),
        encoded=True,
    )
