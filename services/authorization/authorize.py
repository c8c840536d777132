"""GET and POST /<listen-path>/oauth/authorize: the authorization endpoint (RFC 6749 §3.1)."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web
from pydantic import ValidationError

from contracts.error_bodies import OAuthErrorBody
from contracts.grants import CodeRequest
from contracts.operations import FORM, JSON, Caller, Operation, Parameters, RequestBody, ResponseSpec
from libs.access import issuing_api
from libs.catalog import Catalog
from libs.http.error_responses import first_fault
from libs.http.forms import once, parse_query, read_parameters
from libs.http.operations import API_REF_PATTERN, error_responses, operation
from libs.http.responses import NO_STORE
from libs.oauth.errors import CannotRedirect, InvalidRequest, OAuthError, Redirected
from libs.oauth.issuer_url import issuer_of
from libs.oauth.redirect_uris import with_raw_query
from services.authorization.validation import approve, verify_client

_KNOWN = frozenset(CodeRequest.model_fields)
"""Parameters that "MUST NOT be included more than once"; others are ignored (RFC 6749 §3.1)."""

_PARAMETERS = (
    "response_type",
    "response_mode",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
)
_REDIRECTS = {
    302: ResponseSpec(
        description="Client and redirect URI are valid, but the request is not: redirects to the client with an error.",
        media_type=None,
        headers={"Location": "The client's redirect URI with `error`, `state` and `iss`."},
    ),
    307: ResponseSpec(
        description="Redirect to the API's login page.", media_type=None, headers={"Location": "The login page."}
    ),
}


@dataclass(frozen=True, slots=True)
class AuthorizeEndpoint:
    """Validates the request and redirects the browser to the API's login page.

    Nothing is stored: the identity server requests the code after the login (authorize_client.py).
    """

    catalog: Catalog
    public_url: str

    @operation(
        Operation(
            method="GET",
            path="/{api_ref}/oauth/authorize",
            name="authorize",
            tag="Authorization",
            summary="Start an authorization request",
            description="Checks the request and redirects the browser to the API's login page with the same query "
            "(RFC 6749 §3.1). PKCE: RFC 7636, `S256` only.",
            caller=Caller.ANYBODY,
            parameters=Parameters(model=CodeRequest, names=_PARAMETERS, required=("response_type", "client_id")),
            responses={**_REDIRECTS, **error_responses(OAuthErrorBody, 400, 404, 503)},
            patterns=API_REF_PATTERN,
        )
    )
    async def get(self, http_request: web.Request) -> web.Response:
        """307 to the login page, with the query of this request. Raises CannotRedirect, Redirected."""
        query = http_request.rel_url.raw_query_string
        with _shown_to_people():
            login_url = await self._validated(http_request, parse_query(query, _KNOWN))
        return _temporary_redirect(with_raw_query(login_url, query))

    @operation(
        Operation(
            method="POST",
            path="/{api_ref}/oauth/authorize",
            name="authorizeByPost",
            tag="Authorization",
            summary="Start an authorization request with a form",
            description="Checks the request and redirects the browser to the API's login page, where it posts the "
            "same form.",
            caller=Caller.ANYBODY,
            body=RequestBody(model=CodeRequest, media_types=(FORM, JSON), fields=("response_type", "client_id")),
            responses={**_REDIRECTS, **error_responses(OAuthErrorBody, 400, 404, 413, 503)},
            patterns=API_REF_PATTERN,
        )
    )
    async def post(self, http_request: web.Request) -> web.Response:
        """307 to the login page, to which the browser posts the same form again (RFC 9110 §15.4.8).

        Raises CannotRedirect, Redirected.
        """
        with _shown_to_people():
            query = parse_query(http_request.rel_url.raw_query_string, _KNOWN)
            body = await read_parameters(http_request, _KNOWN)
            parameters = once([*query.items(), *body.items()], _KNOWN)
            login_url = await self._validated(http_request, parameters)
        return _temporary_redirect(login_url)

    async def _validated(self, http_request: web.Request, parameters: dict[str, str]) -> str:
        """The URL of the login page. Raises CannotRedirect or Redirected for a request that the client may not make."""
        api, settings = await issuing_api(self.catalog, http_request.match_info["api_ref"])
        request = CodeRequest.model_validate(parameters)
        verified = await verify_client(self.catalog, api, settings, request)
        try:
            approve(verified)
        except OAuthError as error:
            issuer = issuer_of(self.public_url, api)
            raise Redirected(error, verified.redirect_uri, request.state, issuer) from error
        if settings.login_url is None:
            raise CannotRedirect(InvalidRequest("this API has no login page: set authLoginRedirect"))
        return settings.login_url


@contextmanager
def _shown_to_people() -> Iterator[None]:
    """Every error before the redirect may meet a person: libs/http shows browsers a page and programs JSON."""
    try:
        yield
    except OAuthError as error:
        raise CannotRedirect(error) from error
    except ValidationError as error:
        raise CannotRedirect(InvalidRequest(first_fault(error))) from error


def _temporary_redirect(location: str) -> web.Response:
    return web.Response(status=307, headers={**NO_STORE, "Location": location})
