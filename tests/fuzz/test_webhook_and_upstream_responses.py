"""Responses from webhook endpoints and upstreams."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from libs.outbound.signing import WebhookSecrets, signed_headers, signing_key
from services.notifier.client import WebhookClient
from services.notifier.retry import RETRY_SCHEDULE, parse_retry_after
from tests.fuzz.extent import examples
from tests.fuzz.neighbour import OK, Neighbour
from tests.fuzz.records import Records
from tests.fuzz.running import Running
from tests.fuzz.strange import any_text, bytes_like, texts_like

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
RESPONSES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok",
    b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 429 \r\nRetry-After: Mon, 04 May 2026 12:00:07 GMT\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
    b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x02ok",
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\nConnection: X-Hop\r\nX-Hop: a\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Type: \xff\r\nConnection: close\r\n\r\n\x1f\x8b",
    b"HTTP/1.0 410 Gone\r\nTrailer: a\r\n\r\n",
    b"HTTP/2.0 999 x\r\n\r\n",
    b"",
)
DATES = ("120", "1.5", "Mon, 04 May 2026 12:00:07 GMT", "Monday, 04-May-26 12:00:07 GMT", "Mon May  4 12:00:07 2026")
URLS = ("http://127.0.0.1:1/hook", "http://[::1]:1/hook?a=b#c", "https://user@127.0.0.1:1/", "http://127.0.0.1:99999/")


@examples(400)
@given(texts_like(*DATES), st.integers(0, len(RETRY_SCHEDULE.delays)), st.floats(0, 1, exclude_max=True))
def test_retry_after_is_a_delay_or_nothing(value: str, attempt: int, chance: float) -> None:
    """Retry-After gives a bounded delay, or none."""
    wait = parse_retry_after(value, NOW)
    assert wait is None or wait > timedelta()
    delay = RETRY_SCHEDULE.delay(attempt, chance, wait)
    assert delay is None or timedelta() < delay <= max(RETRY_SCHEDULE.delays) * (1 + RETRY_SCHEDULE.jitter)
    if delay is not None:
        assert NOW + delay > NOW


@examples(150)
@given(texts_like("whsec_c2VjcmV0", "a shared secret", "whsec_"))
def test_any_shared_secret_signs(secret: str) -> None:
    """Every secret that a definition may contain can sign; invalid base64 is used as it is."""
    if secret.isprintable() and secret.isascii():
        assert isinstance(signing_key(secret), bytes)
        headers = signed_headers(WebhookSecrets(SecretStr(secret)), "evt_1", b"{}", NOW)
        assert ("webhook-signature" in headers) is bool(signing_key(secret))


@examples(80)
@given(response=bytes_like(*RESPONSES))
async def test_every_endpoint_response_is_the_outcome_of_an_attempt(response: bytes) -> None:
    """Any response is recorded as a status or a readable error."""
    client = WebhookClient(5.0, lambda: NOW, allow_private=True)
    with Neighbour() as endpoint:
        endpoint.response = response
        outcome = await client.send(f"{endpoint.url}/hook", WebhookSecrets(SecretStr("a secret")), "evt_1", b"{}")
    await client.close()
    assert (outcome.attempt.status is None) <= bool(outcome.attempt.error)
    assert outcome.attempt.error is None or outcome.attempt.error.isprintable()


@examples(60)
@given(url=texts_like(*URLS), secret=any_text)
async def test_whatever_is_in_a_url_or_a_secret_is_the_outcome_of_an_attempt(url: str, secret: str) -> None:
    """So is any URL or secret, including ones that no definition may contain."""
    client = WebhookClient(0.2, lambda: NOW, allow_private=True)
    outcome = await client.send(
        url if "127.0.0.1" in url or "::1" in url else "", WebhookSecrets(SecretStr(secret)), "evt_1", b"{}"
    )
    await client.close()
    assert outcome.attempt.status is None
    assert outcome.attempt.error


CALLS = (
    b"GET /REAL_URI HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer REAL_ACCESS\r\nConnection: close\r\n\r\n",
    b"HEAD /REAL_URI HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer REAL_ACCESS\r\nConnection: close\r\n\r\n",
    b"POST /REAL_URI HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer REAL_ACCESS\r\nContent-Length: 2\r\n\r\n{}",
    b"GET /REAL_URI HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer REAL_ACCESS\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    b"\x81\x80abcd",
)


@pytest.fixture(name="upstream")
def _upstream(running: Running) -> Iterator[Neighbour]:
    yield running.neighbour
    running.neighbour.response = OK


@pytest.fixture(scope="module", name="records")
def _records(running: Running) -> Records:
    return Records(running)


@examples(100)
@given(response=bytes_like(*RESPONSES), call=st.sampled_from(CALLS))
def test_every_upstream_response_reaches_the_caller_or_is_502(
    running: Running, records: Records, upstream: Neighbour, response: bytes, call: bytes
) -> None:
    """Any upstream response is passed on, or becomes 502."""
    since, upstream.response = running.logged, response
    statuses = running.statuses(records.resolved_bytes(call))
    assert all(status == 502 or str(status).encode() in response for status in statuses[:1]), statuses
    assert running.troubles(since) == []
