"""/tyk/oauth/authorize-client of the Tyk gateway's own API, translated (libs/http/tyk_gateway_api.py)."""

from dataclasses import dataclass, replace

from aiohttp import web

from contracts.grants import CodeRequest
from contracts.operators import Permission
from libs.http.forms import read_body, read_parameters, replace_body
from libs.http.operations import operation
from libs.http.tyk_gateway_api import gateway_operation, translated
from libs.oauth.errors import InvalidRequest
from libs.oauth.registrations import registrations_of
from libs.store.clients import Clients
from services.authorization.authorize_client import BODY, RESPONSES, CodeEndpoint


@dataclass(frozen=True, slots=True)
class TykCodeEndpoint:
    """Issues codes for the API on which the client is registered."""

    clients: Clients
    codes: CodeEndpoint

    @operation(
        replace(
            gateway_operation(
                "POST",
                "/tyk/oauth/authorize-client",
                "tykIssueCode",
                Permission.AUTHORIZE,
                summary="Issue an authorization code",
                description="The same as issueCode. The API is the client's; of several, the one that has this "
                "redirect URI.",
                body=BODY,
            ),
            responses=RESPONSES,
        )
    )
    async def issue(self, request: web.Request) -> web.Response:
        """POST /tyk/oauth/authorize-client."""
        replace_body(request, await read_body(request))
        said = await read_parameters(request, CodeRequest.model_fields, structured={"key_rules"})
        client = await self.clients.get(said.get("client_id", ""))
        if client is None:
            raise InvalidRequest("there is no client with this client_id")
        registrations, uri = registrations_of(client), said.get("redirect_uri")
        if len(registrations) > 1:
            registrations = {name: each for name, each in registrations.items() if uri in each.redirect_uris}
        if len(registrations) != 1:
            raise InvalidRequest(
                "the client is registered on several APIs, and redirect_uri does not tell which one is meant; send the "
                "request to <listen path>/tyk/oauth/authorize-client"
            )
        return await self.codes.for_api(translated(request, api_id=next(iter(registrations))))
