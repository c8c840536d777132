"""Authorization server metadata (RFC 8414). Each API is an issuer of its own, at its listen path."""

from dataclasses import dataclass

from aiohttp import web

from contracts.apis import GrantType
from contracts.error_bodies import OAuthErrorBody
from contracts.metadata import ServerMetadata
from contracts.operations import Caller, Operation, ResponseSpec
from libs.access import issuing_api
from libs.catalog import Catalog
from libs.http.cors import cors_response_headers
from libs.http.operations import error_responses, operation
from libs.http.responses import json_bytes
from libs.oauth.grant_types import offered, offers_public_clients
from libs.oauth.issuer_url import api_ref_of_metadata_path, issuer_of
from services.authorization.validation import RESPONSE_MODE


@dataclass(frozen=True, slots=True)
class MetadataEndpoint:
    """GET /.well-known/oauth-authorization-server/<path of the public URL, if any>/<listen-path> (RFC 8414 §3.1)."""

    catalog: Catalog
    public_url: str

    @operation(
        Operation(
            method="GET",
            path="/.well-known/oauth-authorization-server/{api_ref}",
            name="readMetadata",
            tag="Authorization",
            summary="Get the server metadata of an API",
            description="Endpoints, grant types, scopes and authentication methods of this API (RFC 8414).",
            caller=Caller.ANYBODY,
            responses={
                200: ResponseSpec(description="The metadata.", models=(ServerMetadata,)),
                **error_responses(OAuthErrorBody, 404, 503),
            },
            patterns={"api_ref": "(?s:.+?)"},
        )
    )
    async def get(self, http_request: web.Request) -> web.Response:
        """200 with the metadata of this API: what it offers, and nothing that it would refuse."""
        api_ref = api_ref_of_metadata_path(self.public_url, http_request.match_info["api_ref"])
        api, settings = await issuing_api(self.catalog, api_ref)
        issuer = issuer_of(self.public_url, api)
        with_secret, without_secret = ("client_secret_basic", "client_secret_post"), ("none",)
        offers_codes = GrantType.AUTHORIZATION_CODE in settings.grant_types
        code_grant: dict[str, object] = {
            "authorization_endpoint": f"{issuer}/oauth/authorize",
            "response_types_supported": settings.response_types,
            "response_modes_supported": (RESPONSE_MODE,),
            "code_challenge_methods_supported": ("S256",),
            "authorization_response_iss_parameter_supported": True,
        }
        metadata = ServerMetadata(
            issuer=issuer,
            token_endpoint=f"{issuer}/oauth/token",
            revocation_endpoint=f"{issuer}/oauth/revoke",
            introspection_endpoint=f"{self.public_url}/oauth/introspect",
            scopes_supported=settings.scopes or None,
            grant_types_supported=offered(settings),
            token_endpoint_auth_methods_supported=(
                with_secret + without_secret if offers_public_clients(settings) else with_secret
            ),
            revocation_endpoint_auth_methods_supported=with_secret + without_secret,
            introspection_endpoint_auth_methods_supported=with_secret,
            **(code_grant if offers_codes else {}),
        )
        body = metadata.model_dump_json(exclude_none=True).encode()
        headers = {"Cache-Control": "public, max-age=60"}
        if api.cors is not None:
            headers |= cors_response_headers(api.cors, http_request.headers.get("Origin"), http_request.method)
        return json_bytes(body, headers=headers)
