"""GET and POST /<listen-path>/oauth/authorize: the way to the API's login page."""

from dataclasses import dataclass

from aiohttp import web

from contracts.grants import CodeRequest
from libs.access import issuing_api
from libs.catalog import Catalog
from libs.http.errors import NO_STORE
from libs.http.forms import once, parse_query, read_parameters
from libs.oauth.errors import CannotRedirect, InvalidRequest, OAuthError, Redirected
from libs.oauth.issuer import issuer_of
from libs.oauth.redirect_uris import with_raw_query
from services.authorization.proof import approve, prove


@dataclass(frozen=True, slots=True)
class AuthorizeEndpoint:
    """RFC 6749 §3.1. Nothing is stored here: the code is made when the identity server asks for it."""

    catalog: Catalog
    public_url: str

    async def get(self, http_request: web.Request) -> web.Response:
        """307 to the login page with the query that came."""
        query = http_request.rel_url.raw_query_string
        login_url = await self._validated(http_request, parse_query(query))
        return _temporary_redirect(with_raw_query(login_url, query))

    async def post(self, http_request: web.Request) -> web.Response:
        """307 to the login page as it is: the browser posts the form again (RFC 9110 §15.4.8)."""
        query, body = parse_query(http_request.rel_url.raw_query_string), await read_parameters(http_request)
        return _temporary_redirect(await self._validated(http_request, once([*query.items(), *body.items()])))

    async def _validated(self, http_request: web.Request, parameters: dict[str, str]) -> str:
        """The login page, for a request that the client may make. Raises CannotRedirect or Redirected."""
        api, settings = await issuing_api(self.catalog, http_request.match_info["place"])
        request = CodeRequest.model_validate(parameters)
        proven = await prove(self.catalog, api, settings, request)
        try:
            approve(proven)
        except OAuthError as error:
            issuer = issuer_of(self.public_url, api)
            raise Redirected(error, proven.redirect_uri, request.state, issuer) from error
        if settings.login_url is None:
            raise CannotRedirect(InvalidRequest("this API has no login page: set authLoginRedirect"))
        return settings.login_url


def _temporary_redirect(location: str) -> web.Response:
    return web.Response(status=307, headers={**NO_STORE, "Location": location})
