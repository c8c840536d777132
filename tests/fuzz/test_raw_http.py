"""Raw bytes that are HTTP or nearly: requests that no client sends, and several on one connection."""

import gzip
import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.operations import ANY_METHOD, Operation
from services.operation_catalog import OPERATIONS
from tests.fuzz.extent import examples
from tests.fuzz.models import BODIES
from tests.fuzz.operations import CREDENTIALS, written
from tests.fuzz.records import Records
from tests.fuzz.running import Running
from tests.fuzz.strange import NESTED, bytes_like, texts_like

NONE_OF_OURS = frozenset({"streamEvents", "readyz", "metrics"})
"""Not requested: a stream does not end, and health and metrics are not public."""
METHODS = ("GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "CONNECT", "TRACE", "get", "M-SEARCH", "PRI")
SOUND: Sequence[str] = (
    "Connection: close, Authorization",
    "Upgrade: websocket",
    'Cookie: token="REAL_ACCESS"; $Version=1; a=b; a',
    "X-Forwarded-For: 203.0.113.7, [::1]:5, unknown",
    "X-Forwarded-Uri: /REAL_URI",
    "X-Original-URI: /REAL_API_REF/..%2f",
    "X-Forwarded-Method: get",
    "X-Request-Id: 12345678",
    "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "Origin: https://app.example.test",
    "Access-Control-Request-Method: POST",
    "Access-Control-Request-Headers: x-a,,",
    "Range: bytes=0-,-5",
    "If-Modified-Since: x",
    "Accept-Encoding: gzip;q=0.5, *;q=x",
    "Via: 1.1 tokenwire",
)
ODD: Sequence[str] = (
    *(f"Transfer-Encoding: {coding}" for coding in ("chunked", "gzip, chunked", "identity", "\x0bchunked")),
    *(f"Content-Length: {length}" for length in ("0", "1", "-1", "+5", "5, 5", "99999999999999999999", "0x1f", "")),
    *(f"Content-Type: {kind}" for kind in ("application/json; charset=utf-16", "multipart/form-data; boundary=", "x/")),
    *(f"Content-Encoding: {packing}" for packing in ("gzip", "deflate", "br", "gzip, gzip")),
    *(f"Expect: {expected}" for expected in ("100-continue", "200-ok")),
    *(f"Connection: {option}" for option in ("keep-alive", "Upgrade", ",,")),
    "Host: host:99999",
    " folded: a",
    "no colon",
    ": no name",
)
Packer = Callable[[bytes], bytes]
PACKERS: Sequence[tuple[str, Packer]] = (
    *(("identity", bytes), ("gzip", gzip.compress), ("deflate", zlib.compress)),
    ("gzip", lambda data: gzip.compress(data)[:-5]),
    ("gzip", lambda data: gzip.compress(data) + data),
    ("deflate", lambda data: zlib.compress(data)[2:]),
)
CHUNKS = (
    b"0\r\n\r\n",
    b"5;a=b\r\nhello\r\n0\r\nX: y\r\n\r\n",
    b"-1\r\n",
    b"FFFFFFFFFFFFFFFFF\r\n",
    b"5\nhello\n0\n\n",
    b"5\r\nhello",
)
CLOSE = "Connection: close"


def _whole(body: bytes) -> tuple[list[str], bytes]:
    return [CLOSE, f"Content-Length: {len(body)}"], body


def _chunked(body: bytes) -> tuple[list[str], bytes]:
    return [CLOSE, "Transfer-Encoding: chunked"], f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


def _unframed(body: bytes) -> tuple[list[str], bytes]:
    return [CLOSE], body


def _doubly(body: bytes) -> tuple[list[str], bytes]:
    headers, data = _chunked(body)
    return [*headers, "Content-Length: 3"], data


def _too_long(body: bytes) -> tuple[list[str], bytes]:
    return [CLOSE, f"Content-Length: {len(body) + 9}"], body


def _misread(body: bytes) -> tuple[list[str], bytes]:
    return [CLOSE, "Transfer-Encoding: chunked"], body


Framing = Callable[[bytes], tuple[list[str], bytes]]
FRAMINGS: Sequence[Framing] = (_chunked, _chunked, _unframed, _doubly, _too_long, _misread)


@dataclass(frozen=True)
class Raw:
    """A request with placeholders, so its length is not known yet."""

    method: str
    target: str
    version: str
    headers: Sequence[str]
    body: bytes
    pack: Packer
    frame: Framing

    def written(self, records: Records) -> bytes:
        """The bytes to send."""
        framing, body = self.frame(self.pack(records.resolved_bytes(self.body)))
        head = [f"{self.method} {self.target} HTTP/{self.version}", "Host: 127.0.0.1", *self.headers, *framing]
        return _as_sent(records.resolved("\r\n".join(head))) + b"\r\n\r\n" + body


def _as_sent(text: str) -> bytes:
    """UTF-8, with lone surrogates as the bytes they stand for."""
    return b"".join(
        character.encode(errors="surrogateescape" if "\udc80" <= character <= "\udcff" else "replace")
        for character in text
    )


not_utf8 = st.text(st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=["Cs"]), min_size=1, max_size=3)


@st.composite
def _requests(draw: st.DrawFn) -> Raw:
    """Mostly valid requests, so that they get past the first parser."""
    operation = draw(st.sampled_from([each for each in OPERATIONS if each.name not in NONE_OF_OURS] + [None] * 4))
    method, target, credentials = _of(draw, operation)
    kind, body = draw(_body(operation))
    version, packer = "1.1", PACKERS[0]
    frame: Framing = _whole
    headers = [f"Authorization: {credentials}", f"Content-Type: {kind}"]
    headers += draw(st.lists(st.sampled_from(SOUND), max_size=2))
    match draw(st.integers(0, 12)):
        case 1:
            target = draw(texts_like(target))
        case 2:
            target += draw(not_utf8)
        case 3:
            method = draw(st.sampled_from(METHODS))
        case 4:
            headers.append(draw(st.sampled_from(ODD)))
        case 5:
            headers.append(draw(texts_like(*SOUND)))
        case 6:
            headers.append(draw(st.sampled_from(SOUND)) + draw(not_utf8))
        case 7:
            version = draw(st.sampled_from(["1.0", "2.0", "0.9", "1.10"]))
        case 8:
            packer = draw(st.sampled_from(PACKERS))
        case 9:
            frame = draw(st.sampled_from(FRAMINGS))
        case 10:
            body = draw(bytes_like(body, NESTED))
        case 11:
            headers[0] = f"Authorization: {draw(texts_like(credentials))}"
    return Raw(method, target, version, [*headers, f"Content-Encoding: {packer[0]}"], body, packer[1], frame)


def _of(draw: st.DrawFn, operation: Operation | None) -> tuple[str, str, str]:
    """Method, target and credentials; without an operation, those of a call to the upstream."""
    if operation is None:
        target = draw(st.sampled_from(["/REAL_URI?a=b", "/REAL_API_ID/x/", "http://other.example.test/REAL_URI"]))
        return draw(st.sampled_from(METHODS[:7])), target, "Bearer REAL_ACCESS"
    path = re.sub(r"{(\w+)}", lambda name: f"REAL_{name[1].upper()}", operation.path)
    query = draw(st.sampled_from(["", "/", "?p=-1", "?types=", "?from=%ff", "?limit=0&after=%00", "?a;b=&&=c&a"]))
    method = "GET" if operation.method == ANY_METHOD else operation.method
    return method, path + query, draw(st.sampled_from(CREDENTIALS[operation.caller]))


def _body(operation: Operation | None) -> st.SearchStrategy[tuple[str, bytes]]:
    if operation is None or operation.body is None or not operation.body.media_types:
        return st.sampled_from([("text/plain", b""), ("text/plain", b"hello")])
    models = BODIES.get(operation.name, ({},))
    return st.sampled_from([(kind, written(model, kind)) for kind in operation.body.media_types for model in models])


WHOLE = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"
CALL = b"GET /REAL_URI HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer REAL_ACCESS\r\n"
CONNECTIONS = (
    WHOLE + WHOLE,
    b"POST /REAL_API_REF/oauth/token HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}" + WHOLE,
    b"POST /api/apis HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n" + WHOLE,
    CALL + b"Connection: close\r\n\r\n",
    CALL + b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x81\x85\x00\x00\x00\x00hello",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
)


@examples(250)
@given(raw=_requests())
def test_a_request_that_is_nearly_right_is_answered(running: Running, records: list[Records], raw: Raw) -> None:
    """Each header may be missing, repeated, empty or not UTF-8; each body truncated or in another encoding."""
    answered(running, records, raw.written(records[-1]))


@examples(60)
@given(data=bytes_like(*CONNECTIONS))
def test_a_connection_is_answered_or_ended(running: Running, records: list[Records], data: bytes) -> None:
    """Bytes changed anywhere, several requests in a row, and arbitrary bytes."""
    answered(running, records, records[-1].resolved_bytes(data))


@pytest.fixture(scope="module", name="records")
def _records(running: Running) -> list[Records]:
    """The last created records still exist."""
    return [Records(running)]


def answered(running: Running, records: list[Records], data: bytes) -> None:
    """No response and no log line reports an internal error."""
    since = running.logged
    statuses = running.statuses(data)
    assert all(status < 500 for status in statuses), statuses
    assert running.troubles(since) == []
    if b"PUT" in data or b"DELETE" in data:
        records.append(Records(running))
    records[-1].spend()
