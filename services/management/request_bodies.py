"""Reads request bodies: limited in size, and strict about duplicate keys and the like."""

from typing import Any, TypeVar

from aiohttp import web

from contracts.base import Contract
from libs.http.error_responses import BadRequest, TooLarge
from libs.http.forms import read_body
from libs.oauth.errors import BodyTooLarge, InvalidRequest
from libs.tyk.definition_text import parse
from libs.tyk.invalid_definition import InvalidDefinition

BODY_LIMIT = 1024 * 1024

M = TypeVar("M", bound=Contract)


async def read_text(request: web.Request) -> bytes:
    """The body. Raises TooLarge if it exceeds BODY_LIMIT bytes, BadRequest if it cannot be decompressed."""
    try:
        return await read_body(request, BODY_LIMIT)
    except BodyTooLarge as error:
        raise TooLarge(error.description) from error
    except InvalidRequest as error:
        raise BadRequest(error.description) from error


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body. Raises BadRequest unless it is UTF-8 without repeated keys, NUL and infinity."""
    return _object(await read_text(request))


async def read_document(request: web.Request, model: type[M]) -> M:
    """The body, validated by this model. Raises ValidationError, BadRequest, TooLarge."""
    return model.model_validate(await read_object(request))


async def read_document_if_any(request: web.Request, model: type[M]) -> M:
    """Like `read_document`, but an empty body counts as an empty object."""
    body = await read_text(request)
    return model.model_validate(_object(body) if body.strip() else {})


def _object(body: bytes) -> dict[str, Any]:
    try:
        return parse(body, "application/json")
    except InvalidDefinition as error:
        # The parser was written for API definitions and says so in its messages.
        raise BadRequest(f"the body: {str(error).removeprefix('the definition: ')}") from error
