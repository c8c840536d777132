"""What comes in: bodies, bounded and read strictly."""

from typing import Any, TypeVar

from aiohttp import web

from contracts.base import Contract
from libs.http.errors import BadRequest, TooLarge
from libs.http.forms import read_body
from libs.oauth.errors import BodyTooLarge, InvalidRequest
from libs.tyk.document import parse
from libs.tyk.errors import InvalidDefinition

BODY_LIMIT = 1024 * 1024

M = TypeVar("M", bound=Contract)


async def read_text(request: web.Request) -> bytes:
    """The whole body. Raises TooLarge over BODY_LIMIT, BadRequest where it cannot be unpacked."""
    try:
        return await read_body(request, BODY_LIMIT)
    except BodyTooLarge as error:
        raise TooLarge(error.description) from error
    except InvalidRequest as error:
        raise BadRequest(error.description) from error


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in the body: UTF-8, each key once, finite numbers, no NUL. Raises BadRequest, TooLarge."""
    return _object(await read_text(request))


async def read_document(request: web.Request, model: type[M]) -> M:
    """The body as this contract. Raises ValidationError, BadRequest, TooLarge."""
    return model.model_validate(await read_object(request))


async def read_document_if_any(request: web.Request, model: type[M]) -> M:
    """As `read_document`; an empty body is an empty object."""
    body = await read_text(request)
    return model.model_validate(_object(body) if body.strip() else {})


def _object(body: bytes) -> dict[str, Any]:
    try:
        return parse(body, "application/json")
    except InvalidDefinition as error:
        # The reader of definitions names what it reads; this is another body.
        raise BadRequest(f"the body: {str(error).removeprefix('the definition: ')}") from error
