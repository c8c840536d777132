"""The access token of a call: where the API definition says it is."""

from collections.abc import Callable, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl

from contracts.apis import TokenLocation
from services.gateway.refusals import MALFORMED, MISSING, Denial


class Call(NamedTuple):
    """One call to a protected API, however it reached the gateway."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    cookies: Callable[[], Mapping[str, str]]
    """Read when they are asked for."""


def presented_token(call: Call, location: TokenLocation, *, bare: bool = False) -> str | Denial:
    """The token: from the cookie, else the query, else the header, of those that the API reads.

    `Authorization` says `Bearer <token>`, with `bare` or the token alone; other headers, query and cookie may leave
    the scheme out.
    """
    if location.cookie and (value := call.cookies().get(location.cookie)):
        return _bearer(value, scheme_optional=True)
    if location.query and (value := dict(parse_qsl(call.query)).get(location.query)):
        return _bearer(value, scheme_optional=True)
    if location.header and (value := call.headers.get(location.header)):
        return _bearer(value, scheme_optional=bare or location.header.lower() != "authorization")
    return MISSING


def _bearer(value: str, *, scheme_optional: bool) -> str | Denial:
    scheme, _, token = value.strip().partition(" ")
    if not token:
        return scheme if scheme and scheme_optional else MISSING
    return token.strip() if scheme.lower() == "bearer" else MALFORMED
