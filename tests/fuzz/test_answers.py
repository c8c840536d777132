"""What comes back from elsewhere: from the endpoints of webhooks, and from the upstreams of calls."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notifier.schedule import LADDER, retry_after
from services.notifier.sender import Sender
from services.notifier.signing import proof, signing_key
from tests.fuzz.extent import examples
from tests.fuzz.neighbour import OK, Neighbour
from tests.fuzz.records import Records
from tests.fuzz.running import Running
from tests.fuzz.strange import any_text, bytes_like, texts_like

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
ANSWERS = (
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
@given(texts_like(*DATES), st.integers(0, len(LADDER.rungs)), st.floats(0, 1, exclude_max=True))
def test_retry_after_is_a_pause_or_nothing(value: str, rung: int, chance: float) -> None:
    """And no pause is longer than the longest rung, jitter aside."""
    wait = retry_after(value, NOW)
    assert wait is None or wait > timedelta()
    pause = LADDER.pause(rung, chance, wait)
    assert pause is None or timedelta() < pause <= max(LADDER.rungs) * (1 + LADDER.jitter)
    if pause is not None:
        assert NOW + pause > NOW


@examples(150)
@given(texts_like("whsec_c2VjcmV0", "a shared secret", "whsec_"))
def test_any_shared_secret_signs(secret: str) -> None:
    """What a definition may hold; whatever is no base64 is taken as it is."""
    if secret.isprintable() and secret.isascii():
        assert isinstance(signing_key(secret), bytes)
        headers = proof(secret, "evt_1", b"{}", NOW)
        assert ("webhook-signature" in headers) is bool(signing_key(secret))


@examples(80)
@given(answer=bytes_like(*ANSWERS))
async def test_whatever_an_endpoint_answers_is_the_outcome_of_an_attempt(answer: bytes) -> None:
    """A status, or what went wrong in words."""
    sender = Sender(5.0, lambda: NOW, allow_private=True)
    with Neighbour() as endpoint:
        endpoint.answer = answer
        outcome = await sender.send(f"{endpoint.url}/hook", "a secret", "evt_1", b"{}")
    await sender.close()
    assert (outcome.attempt.status is None) <= bool(outcome.attempt.error)
    assert outcome.attempt.error is None or outcome.attempt.error.isprintable()


@examples(60)
@given(url=texts_like(*URLS), secret=any_text)
async def test_whatever_is_in_a_url_or_a_secret_is_the_outcome_of_an_attempt(url: str, secret: str) -> None:
    """Also what no definition may hold."""
    sender = Sender(0.2, lambda: NOW, allow_private=True)
    outcome = await sender.send(url if "127.0.0.1" in url or "::1" in url else "", secret, "evt_1", b"{}")
    await sender.close()
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
    running.neighbour.answer = OK


@pytest.fixture(scope="module", name="records")
def _records(running: Running) -> Records:
    return Records(running)


@examples(100)
@given(answer=bytes_like(*ANSWERS), call=st.sampled_from(CALLS))
def test_whatever_an_upstream_answers_reaches_the_caller_or_is_502(
    running: Running, records: Records, upstream: Neighbour, answer: bytes, call: bytes
) -> None:
    """The latter is the upstream's fault, and no surprise here."""
    since, upstream.answer = running.logged, answer
    statuses = running.statuses(records.resolved_bytes(call))
    assert all(status == 502 or str(status).encode() in answer for status in statuses[:1]), statuses
    assert running.troubles(since) == []
