"""Bodies and queries of OAuth requests."""

import asyncio
import gzip
import json
import zlib
from collections.abc import AsyncIterator
from urllib.parse import urlencode

import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from libs.http.forms import BODY_LIMIT, NEVER_IN_QUERY, PARAMETER_LIMIT, parse_query, read_parameters
from libs.oauth.errors import InvalidRequest, OAuthError
from tests.builders import Response, Served

KNOWN = ("a", "b", "key_rules")
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
NAMES = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=20)


# Queries and forms


@given(st.dictionaries(NAMES, NAMES, max_size=10))
def test_form_encoding_round_trips(parameters: dict[str, str]) -> None:
    """Any text survives form encoding."""
    assert parse_query(urlencode(parameters), KNOWN) == parameters


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        pytest.param("", {}, id="nothing"),
        pytest.param("a=1&b=2", {"a": "1", "b": "2"}, id="two"),
        pytest.param("a=&b", {}, id="without-a-value-is-omitted"),
        pytest.param("a=b=c", {"a": "b=c"}, id="equals-in-the-value"),
        pytest.param("a=1;b=2", {"a": "1;b=2"}, id="semicolon-separates-nothing"),
        pytest.param("a=%2B+%20", {"a": "+  "}, id="plus-and-escapes"),
        pytest.param("&&a=1&&", {"a": "1"}, id="empty-pairs"),
        pytest.param("c=1&c=2&a=1", {"c": "1", "a": "1"}, id="d11-unknown-repeated"),
        pytest.param("a=%zz", {"a": "%zz"}, id="no-escape-at-all"),
        pytest.param("&".join(f"p{n}=1" for n in range(PARAMETER_LIMIT)), None, id="as-many-as-may-be"),
    ],
)
def test_a_form_is_read_as_the_rfc_says(text: str, parameters: dict[str, str] | None) -> None:
    """RFC 6749 §3.2, appendix B: an empty parameter counts as omitted; others are unchanged."""
    found = parse_query(text, KNOWN)
    assert len(found) == PARAMETER_LIMIT if parameters is None else found == parameters


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a=1&a=1", "repeated", id="repeated"),
        pytest.param("a=1&a=", "repeated", id="repeated-once-empty"),
        pytest.param("a=1&%61=2", "repeated", id="repeated-in-another-spelling"),
        pytest.param("a=%00", "NUL", id="nul"),
        pytest.param("%00=a", "NUL", id="nul-in-the-name"),
        pytest.param("a=%ff", "UTF-8", id="not-utf-8"),
        pytest.param("%ff=a", "UTF-8", id="name-not-utf-8"),
        pytest.param("a=%ed%a0%80", "UTF-8", id="half-a-surrogate-pair"),
        pytest.param("&".join(f"p{n}=1" for n in range(PARAMETER_LIMIT + 1)), "too many", id="too-many"),
    ],
)
def test_ambiguous_parameters_are_refused(text: str, says: str) -> None:
    """RFC 6749 §3.2: repeated parameters and invalid text are refused."""
    with pytest.raises(InvalidRequest) as refused:
        parse_query(text, KNOWN)
    assert says in refused.value.description


# Requests


class Reader:
    """An endpoint that returns the parameters, or the error."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __call__(self, body: bytes, headers: dict[str, str], query: str = "") -> Response:
        length = {} if "Transfer-Encoding" in headers else {"Content-Length": str(len(body))}
        return await self.raw(body, {**length, **headers}, query)

    async def raw(self, body: bytes, headers: dict[str, str], query: str = "") -> Response:
        """Send these bytes."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        lines = [f"POST /{query} HTTP/1.1", "Host: tests", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        response = await reader.readexactly(int(length.partition(b":")[2]))
        writer.close()
        return Response(int(head.split(b" ", 2)[1]), {}, response)


@pytest.fixture(scope="module", name="reader")
async def _reader() -> AsyncIterator[Reader]:
    async def response(request: web.Request) -> web.Response:
        try:
            return web.json_response(await read_parameters(request, KNOWN, structured={"key_rules"}))
        except OAuthError as error:
            return web.json_response({"error": error.code, "says": error.description}, status=error.status)

    app = web.Application()
    app.router.add_post("/", response)
    async with Served(app) as server:
        assert server.port is not None
        yield Reader(server.port)


@pytest.mark.parametrize(
    ("body", "headers", "parameters"),
    [
        pytest.param(b"a=1&b=2", FORM, {"a": "1", "b": "2"}, id="form"),
        pytest.param(
            b"a=1", {"Content-Type": "Application/X-WWW-Form-URLEncoded;charset=utf-8"}, {"a": "1"}, id="case"
        ),
        pytest.param(b"a=1", {}, {"a": "1"}, id="no-content-type"),
        pytest.param(b"", {}, {}, id="nothing"),
        pytest.param(b"", {"Content-Type": "text/plain"}, {}, id="nothing-of-any-type"),
        pytest.param(b'{"a":"1","b":"\\u00e9"}', JSON, {"a": "1", "b": "é"}, id="json"),
        pytest.param(b'{"a":"1"}', {"Content-Type": "application/json; charset=utf-8"}, {"a": "1"}, id="json-charset"),
        pytest.param(b'{"a":null,"b":""}', JSON, {}, id="json-null-and-empty-are-omitted"),
        pytest.param(b'{"c":"1","c":"2","a":"1"}', JSON, {"c": "2", "a": "1"}, id="d11-unknown-repeated"),
        pytest.param(b'{"c":["1"],"d":{"e":1},"f":2,"a":"1"}', JSON, {"a": "1"}, id="d11-unknown-of-other-types"),
        pytest.param(b'{"key_rules":{"rate":1}}', JSON, {"key_rules": '{"rate": 1}'}, id="json-structured"),
        pytest.param(b'{"key_rules":"{}"}', JSON, {"key_rules": "{}"}, id="json-structured-as-text"),
        pytest.param(gzip.compress(b"a=1"), {**FORM, "Content-Encoding": "gzip"}, {"a": "1"}, id="packed"),
        pytest.param(zlib.compress(b"a=1"), {**FORM, "Content-Encoding": "Deflate"}, {"a": "1"}, id="deflated"),
        pytest.param(b"a=1", {**FORM, "Content-Encoding": "identity"}, {"a": "1"}, id="not-packed-and-said-so"),
        pytest.param(b"", {**FORM, "Content-Encoding": "gzip"}, {}, id="nothing-packed"),
        pytest.param(b"3\r\na=1\r\n0\r\n\r\n", {**FORM, "Transfer-Encoding": "chunked"}, {"a": "1"}, id="chunked"),
    ],
)
async def test_form_and_json_mean_the_same(
    reader: Reader, body: bytes, headers: dict[str, str], parameters: dict[str, str]
) -> None:
    """Form and flat JSON are equal, with or without Content-Type."""
    response = await reader(body, headers)
    assert (response.status, response.body) == (200, parameters)


@pytest.mark.parametrize(
    ("body", "headers", "says"),
    [
        pytest.param(b"a=1&a=2", FORM, "repeated", id="form-repeated"),
        pytest.param(b"a=\xff", FORM, "not UTF-8", id="form-not-utf-8"),
        pytest.param(b"a=1", {"Content-Type": "text/plain"}, "neither", id="text"),
        pytest.param(b"a=1", {"Content-Type": "multipart/form-data; boundary=x"}, "neither", id="multipart"),
        pytest.param(b"a=1", {"Content-Type": "application/octet-stream"}, "neither", id="octets-by-name"),
        pytest.param(b"a=1", JSON, "not JSON", id="form-called-json"),
        pytest.param(b'{"a":"1"', JSON, "not JSON", id="json-cut"),
        pytest.param(b'{"a":"1","a":"2"}', JSON, "repeated", id="json-repeated"),
        pytest.param(b'{"a":"1","a":null}', JSON, "repeated", id="json-repeated-once-null"),
        pytest.param(b'{"key_rules":{"a":1,"a":2}}', JSON, "repeated", id="json-repeated-inside"),
        pytest.param(b'{"key_rules":{"a":[{"b":1,"b":2}]}}', JSON, "repeated", id="json-repeated-deep-inside"),
        pytest.param(b'["a"]', JSON, "not a JSON object", id="json-array"),
        pytest.param(b'"a"', JSON, "not a JSON object", id="json-string"),
        pytest.param(b"null", JSON, "not a JSON object", id="json-null"),
        pytest.param(b'{"a":1}', JSON, "string", id="json-number"),
        pytest.param(b'{"a":true}', JSON, "string", id="json-boolean"),
        pytest.param(b'{"a":{"$ne":""}}', JSON, "string", id="json-operator"),
        pytest.param(b'{"a":["1"]}', JSON, "string", id="json-list"),
        pytest.param(b'{"key_rules":["1"]}', JSON, "string", id="json-structured-list"),
        pytest.param(b'{"a":NaN}', JSON, "not JSON", id="json-nan"),
        pytest.param(b'{"a":"\\u0000"}', JSON, "NUL", id="json-nul"),
        pytest.param(b'{"a":"\\ud800"}', JSON, "not JSON", id="json-half-a-surrogate-pair"),
        pytest.param(b'{"a":"\xff"}', JSON, "not JSON", id="json-not-utf-8"),
        pytest.param(b'{"a":' * 5000 + b"1" + b"}" * 5000, JSON, "not JSON", id="json-deep"),
        pytest.param(b"a=1", {**FORM, "Content-Encoding": "gzip"}, "Content-Encoding", id="not-packed"),
        pytest.param(gzip.compress(b"a=1")[:-9], {**FORM, "Content-Encoding": "gzip"}, "cut off", id="packed-cut"),
        pytest.param(gzip.compress(b"a=1") + b"x", {**FORM, "Content-Encoding": "gzip"}, "cut off", id="packed-twice"),
        pytest.param(b"a=1", {**FORM, "Content-Encoding": "br"}, "neither gzip nor deflate", id="packed-otherwise"),
    ],
)
async def test_a_body_that_cannot_be_read_is_invalid_request(
    reader: Reader, body: bytes, headers: dict[str, str], says: str
) -> None:
    """An unreadable body gets 400 with the reason."""
    response = await reader(body, headers)
    assert (response.status, response.body["error"]) == (400, "invalid_request")
    assert says in response.body["says"]


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        pytest.param(b"a=" + b"1" * BODY_LIMIT, FORM, id="form"),
        pytest.param(json.dumps({"a": "1" * BODY_LIMIT}).encode(), JSON, id="json"),
        pytest.param(b"a=" + b"1" * BODY_LIMIT, {"Content-Type": "text/plain"}, id="of-another-type"),
        pytest.param(
            b"%x\r\na=%b\r\n0\r\n\r\n" % (BODY_LIMIT + 2, b"1" * BODY_LIMIT),
            {**FORM, "Transfer-Encoding": "chunked"},
            id="chunked-without-a-length",
        ),
        pytest.param(
            gzip.compress(b"a=" + b"1" * 100 * BODY_LIMIT), {**FORM, "Content-Encoding": "gzip"}, id="once-unpacked"
        ),
    ],
)
async def test_a_body_over_the_limit_is_too_large(reader: Reader, body: bytes, headers: dict[str, str]) -> None:
    """Over 64 KiB, however sent or compressed, gets 413 without being held in memory."""
    response = await reader(body, headers)
    assert (response.status, response.body["error"]) == (413, "invalid_request")


async def test_a_body_up_to_the_limit_is_read(reader: Reader) -> None:
    """Exactly the limit is accepted."""
    response = await reader(b"a=" + b"1" * (BODY_LIMIT - 2), FORM)
    assert response.status == 200


async def test_a_length_over_the_limit_is_refused_before_the_body(reader: Reader) -> None:
    """A Content-Length over the limit is refused at once."""
    response = await reader.raw(b"", {**FORM, "Content-Length": str(BODY_LIMIT + 1)})
    assert response.status == 413


@pytest.mark.parametrize("name", sorted(NEVER_IN_QUERY))
async def test_credentials_do_not_belong_in_the_query(reader: Reader, name: str) -> None:
    """RFC 6749 §2.3.1: credentials in the query are refused, because URLs are logged."""
    response = await reader(b"a=1", FORM, f"?{name}=x")
    assert response.status == 400
    assert "query" in response.body["says"]


async def test_other_parameters_in_the_query_are_ignored(reader: Reader) -> None:
    """Other query parameters are ignored."""
    response = await reader(b"a=1", FORM, "?a=2&utm=x")
    assert (response.status, response.body) == (200, {"a": "1"})


async def test_a_caller_that_leaves_before_the_end_of_its_body_is_no_surprise() -> None:
    """If the caller disconnects during the body, it counts as truncated."""
    refusal: asyncio.Future[InvalidRequest] = asyncio.get_running_loop().create_future()

    async def response(request: web.Request) -> web.Response:
        try:
            await read_parameters(request, KNOWN)
        except InvalidRequest as error:
            refusal.set_result(error)
        return web.Response()

    app = web.Application()
    app.router.add_post("/", response)
    async with Served(app) as server:
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\na=1")
        writer.close()
        async with asyncio.timeout(5):
            assert "cut off" in (await refusal).description
