"""Extracts the access token from a call, from where the API definition says that it is."""

from urllib.parse import parse_qsl

from contracts.apis import Api, TokenLocation
from services.gateway.calls import Call
from services.gateway.cookies import first_cookie
from services.gateway.refusals import AMBIGUOUS_TOKEN, MALFORMED, MISSING, MISSING_KEY, Denial


def presented_token(call: Call, api: Api) -> str | Denial:
    """The access token of a call of this API; without one the status is Tyk's, which depends on the method."""
    token = bearer_token(call, api.token_location, bare=api.auth_token)
    return MISSING_KEY if token is MISSING and api.oauth is None else token


def bearer_token(call: Call, location: TokenLocation, *, bare: bool = False) -> str | Denial:
    """The access token, from the cookie, the query or the header, in this order, as far as the API allows them.

    Of several cookies or parameters of one name, the first counts, as in Tyk. `Authorization` must be `Bearer <token>`,
    or with `bare` the token alone. In other headers, the query and cookies the scheme is optional. A header that is
    repeated, or that `Connection` lists, is refused: the upstream might see another token than the one that was
    checked.
    """
    if location.cookie and (value := first_cookie(call.headers, location.cookie)):
        if call.is_for_this_connection("Cookie"):
            return AMBIGUOUS_TOKEN
        return _bearer(value, scheme_optional=True)
    if location.query and (value := _first_parameter(call.query, location.query)):
        return _bearer(value, scheme_optional=True)
    if location.header and (values := call.headers.getall(location.header, ())):
        if len(values) > 1 or call.is_for_this_connection(location.header):
            return AMBIGUOUS_TOKEN
        if values[0]:
            return _bearer(values[0], scheme_optional=bare or location.header.lower() != "authorization")
    return MISSING


def _first_parameter(query: str, name: str) -> str | None:
    return next((value for given, value in parse_qsl(query, keep_blank_values=True) if given == name), None)


def _bearer(value: str, *, scheme_optional: bool) -> str | Denial:
    scheme, _, token = value.strip().partition(" ")
    if not token:
        return scheme if scheme and scheme_optional else MISSING
    return token.strip() if scheme.lower() == "bearer" else MALFORMED
