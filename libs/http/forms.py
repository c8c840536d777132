"""Bodies of OAuth requests: a form or a flat JSON object, as parameters that each occur once."""

import asyncio
import json
import zlib
from collections.abc import Collection, Iterable
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from libs.oauth.errors import BodyTooLarge, BodyTooSlow, InvalidRequest

BODY_LIMIT = 64 * 1024
BODY_WITHIN = 20.0
"""Seconds from the end of a request's headers until its body is complete."""
PARAMETER_LIMIT = 64
_FORM = "application/x-www-form-urlencoded"
_NOT_UNPACKED = "the body is cut off, or not encoded as its Content-Encoding says"
NEVER_IN_QUERY = frozenset(
    {"client_secret", "secret", "password", "code", "code_verifier", "refresh_token", "token", "access_token"}
)


def once(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The parameters. RFC 6749 §3.2: they "MUST NOT be included more than once". Raises InvalidRequest."""
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if name in parameters:
            raise InvalidRequest("a parameter is repeated", detail=name[:64])
        if "\0" in name or "\0" in value:
            raise InvalidRequest("a parameter has a NUL character")
        parameters[name] = value
    # RFC 6749 §3.2: "Parameters sent without a value MUST be treated as if they were omitted from the request."
    return {name: value for name, value in parameters.items() if value}


def parse_query(text: str) -> dict[str, str]:
    """The parameters of a query or form body. Raises InvalidRequest."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARAMETER_LIMIT)
    except (ValueError, UnicodeError) as error:
        raise InvalidRequest("the parameters are not a UTF-8 form, or too many") from error
    return once(pairs)


def _object(pairs: list[tuple[str, object]]) -> dict[str, object]:
    document = dict(pairs)
    if len(document) != len(pairs):
        raise InvalidRequest("a parameter is repeated")
    return document


def _parse_json(body: bytes, structured: Collection[str]) -> dict[str, str]:
    try:
        orjson.loads(body)  # the stricter of the two: no lone surrogates, no NaN
        document = json.loads(body, object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body is not a JSON object")
    parameters = []
    for name, value in document.items():
        if isinstance(value, dict) and name in structured:
            parameters.append((name, json.dumps(value)))
        elif isinstance(value, str):
            parameters.append((name, value))
        elif value is not None:
            raise InvalidRequest("every parameter is a string", detail=name[:64])
    return once(parameters)


async def read_body(request: web.Request, limit: int = BODY_LIMIT) -> bytes:
    """The whole body, unpacked.

    Raises BodyTooLarge over the limit, BodyTooSlow after BODY_WITHIN, InvalidRequest where it cannot be unpacked.
    """
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body is over {limit} bytes")
    if request.content.is_eof():  # it came with its headers, as most do: nothing to wait for
        plain = "Content-Encoding" not in request.headers and request.content.exception() is None
        if plain and request.content.total_bytes <= limit:
            return request.content.read_nowait()
        return await _gathered(request, limit)
    try:
        async with asyncio.timeout(BODY_WITHIN):
            return await _gathered(request, limit)
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not come within {BODY_WITHIN:g} s") from error


async def _gathered(request: web.Request, limit: int) -> bytes:
    unpacker = _unpacker(request.headers.get("Content-Encoding", ""))
    chunks = bytearray()
    try:
        async for chunk in request.content.iter_any():
            chunks += unpacker.decompress(chunk, limit + 1 - len(chunks)) if unpacker else chunk
            if len(chunks) > limit:
                raise BodyTooLarge(f"the body is over {limit} bytes")
    except (web.RequestPayloadError, ConnectionError, zlib.error) as error:
        raise InvalidRequest(_NOT_UNPACKED) from error
    if unpacker and (not unpacker.eof or unpacker.unused_data) and request.body_exists:
        raise InvalidRequest(_NOT_UNPACKED)
    return bytes(chunks)


def _unpacker(encoding: str) -> "zlib._Decompress | None":
    """What undoes the Content-Encoding (RFC 9110 §8.4.1); None where there is none. Raises InvalidRequest."""
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        case "deflate":
            return zlib.decompressobj()
    raise InvalidRequest("the Content-Encoding is neither gzip nor deflate")


async def read_parameters(request: web.Request, structured: Collection[str] = ()) -> dict[str, str]:
    """The parameters of a POST: form or JSON, each once, those in `structured` also as JSON objects.

    Raises InvalidRequest, also for credentials in the query (RFC 6749 §2.3.1: they "MUST NOT be included in the
    request URI").
    """
    if request.query_string and not NEVER_IN_QUERY.isdisjoint(request.query):
        raise InvalidRequest("credentials, codes and tokens do not belong in the query")
    body = await read_body(request)
    if not body:
        return {}
    if request.headers.get("Content-Type") == _FORM:  # as most say it
        return parse_query(_text(body))
    match request.content_type:
        case "application/x-www-form-urlencoded":
            return parse_query(_text(body))
        case "application/json":
            return _parse_json(body, structured)
        case "application/octet-stream" if "Content-Type" not in request.headers:
            return parse_query(_text(body))
    raise InvalidRequest("the body is neither application/x-www-form-urlencoded nor application/json")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8") from error
