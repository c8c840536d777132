"""Reads request bodies, with limits on size and time, and the parameters of OAuth requests in them."""

import asyncio
import json
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from libs.oauth.errors import BodyTooLarge, BodyTooSlow, InvalidRequest, TemporarilyUnavailable

BODY_LIMIT = 64 * 1024
BODIES_IN_ALL = 32 * 1024 * 1024
"""Bytes of all incomplete bodies of one process; beyond that, requests get 503."""
BODY_WITHIN = 20.0
"""Seconds from the end of the request head until the body is complete."""
PARAMETER_LIMIT = 64
_FORM = "application/x-www-form-urlencoded"
_NOT_UNPACKED = "the body is cut off, or not encoded as its Content-Encoding says"
NEVER_IN_QUERY = frozenset(
    {"client_secret", "secret", "password", "code", "code_verifier", "refresh_token", "token", "access_token"}
)


def once(pairs: Iterable[tuple[str, str]], known: Collection[str]) -> dict[str, str]:
    """The parameters as a dict. Raises InvalidRequest if a known one is repeated (RFC 6749 §3.1, §3.2).

    Unknown parameters must be ignored, so they may be repeated (`resource`, RFC 8707 §2); the first value is returned.
    """
    parameters: dict[str, str] = {}
    for name, value in pairs:
        if "\0" in name or "\0" in value:
            raise InvalidRequest("a parameter contains a NUL character")
        if name not in parameters:
            parameters[name] = value
        elif name in known:
            raise _repeated(name)
    # RFC 6749 §3.2: "Parameters sent without a value MUST be treated as if they were omitted from the request."
    return {name: value for name, value in parameters.items() if value}


def _repeated(name: str) -> InvalidRequest:
    return InvalidRequest("a parameter is repeated; send each parameter once", detail=name[:64])


def parse_query(text: str, known: Collection[str]) -> dict[str, str]:
    """The parameters of a query or form body; those in `known` must not be repeated. Raises InvalidRequest."""
    try:
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=PARAMETER_LIMIT)
    except (ValueError, UnicodeError) as error:
        raise InvalidRequest("the parameters are not a UTF-8 form, or there are too many") from error
    return once(pairs, known)


def _parse_json(body: bytes, known: Collection[str], structured: Collection[str]) -> dict[str, str]:
    repeated: list[tuple[object, Sequence[str]]] = []
    """JSON objects with repeated members, and the names of those."""

    def read_object(pairs: list[tuple[str, object]]) -> dict[str, object]:
        members = dict(pairs)
        if len(members) != len(pairs):
            repeated.append(
                (members, [name for name, times in Counter(name for name, _ in pairs).items() if times > 1])
            )
        return members

    try:
        orjson.loads(body)  # stricter than json: refuses lone surrogates and NaN
        document = json.loads(body, object_pairs_hook=read_object)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("the body is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidRequest("the body is not a JSON object")
    for members, names in repeated:
        # Inside a parameter such as key_rules, all members are known, so none may be repeated.
        if ambiguous := [name for name in names if members is not document or name in known]:
            raise _repeated(ambiguous[0])
    parameters = []
    for name, value in document.items():
        if isinstance(value, str):
            parameters.append((name, value))
        elif isinstance(value, dict) and name in structured:
            parameters.append((name, json.dumps(value)))
        elif value is not None and name in known:
            raise InvalidRequest("every parameter is a string", detail=name[:64])
    return once(parameters, known)


_REPLACED = web.RequestKey("replaced_body", bytes)


def replace_body(request: web.Request, body: bytes) -> None:
    """`read_body` returns this from now on; the request's own body must have been read."""
    request[_REPLACED] = body


async def read_body(request: web.Request, limit: int = BODY_LIMIT) -> bytes:
    """Read the whole body and decompress it.

    Raises BodyTooLarge if the decompressed body exceeds the limit, BodyTooSlow after BODY_WITHIN seconds,
    InvalidRequest if decompression fails, TemporarilyUnavailable if all bodies together exceed BODIES_IN_ALL.
    """
    if (request.content_length or 0) > limit:
        raise BodyTooLarge(f"the body is over {limit} bytes")
    if request.content.is_eof():  # already complete, as most are: no timeout needed
        plain = "Content-Encoding" not in request.headers and request.content.exception() is None
        if plain and request.content.total_bytes <= limit:
            body = request.content.read_nowait()
            return body or request.get(_REPLACED, body)
        if _REPLACED in request:
            return request[_REPLACED]
        return await _gathered(request, limit)
    try:
        async with asyncio.timeout(BODY_WITHIN):
            return await _gathered(request, limit)
    except TimeoutError as error:
        raise BodyTooSlow(f"the body did not arrive within {BODY_WITHIN:g} s") from error


class _Room:
    """Bytes of all incomplete bodies."""

    taken = 0


async def _gathered(request: web.Request, limit: int) -> bytes:
    unpacker = _unpacker(request.headers.get("Content-Encoding", ""))
    chunks, counted = bytearray(), 0
    try:
        async for chunk in request.content.iter_any():
            chunks += unpacker.decompress(chunk, limit + 1 - len(chunks)) if unpacker else chunk
            if len(chunks) > limit:
                raise BodyTooLarge(f"the body is over {limit} bytes")
            _Room.taken += len(chunks) - counted
            counted = len(chunks)
            if _Room.taken > BODIES_IN_ALL:
                raise TemporarilyUnavailable("too many requests are being received; send the request again")
    except (web.RequestPayloadError, ConnectionError, zlib.error) as error:
        raise InvalidRequest(_NOT_UNPACKED) from error
    finally:
        _Room.taken -= counted
    if unpacker and (not unpacker.eof or unpacker.unused_data) and request.body_exists:
        raise InvalidRequest(_NOT_UNPACKED)
    return bytes(chunks)


def _unpacker(encoding: str) -> "zlib._Decompress | None":
    """The decompressor for the Content-Encoding (RFC 9110 §8.4.1), or None. Raises InvalidRequest."""
    match encoding.strip().lower():
        case "" | "identity":
            return None
        case "gzip" | "x-gzip":
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        case "deflate":
            return zlib.decompressobj()
    raise InvalidRequest("the Content-Encoding is neither gzip nor deflate")


async def read_parameters(
    request: web.Request, known: Collection[str], structured: Collection[str] = ()
) -> dict[str, str]:
    """The parameters of a POST, from a form or a JSON object. Those in `structured` may be JSON objects themselves.

    Raises InvalidRequest, also for credentials in the query: they would end up in logs (RFC 6749 §2.3.1: they "MUST NOT
    be included in the request URI").
    """
    if request.query_string and not NEVER_IN_QUERY.isdisjoint(request.query):
        raise InvalidRequest("credentials, codes and tokens must not be in the query; send them in the body")
    body = await read_body(request)
    if not body:
        return {}
    if request.headers.get("Content-Type") == _FORM:  # the most frequent spelling
        return parse_query(_text(body), known)
    match request.content_type:
        case "application/x-www-form-urlencoded":
            return parse_query(_text(body), known)
        case "application/json":
            return _parse_json(body, known, structured)
        case "application/octet-stream" if "Content-Type" not in request.headers:
            return parse_query(_text(body), known)
    raise InvalidRequest("the body is neither application/x-www-form-urlencoded nor application/json")


def _text(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest("the body is not UTF-8") from error
