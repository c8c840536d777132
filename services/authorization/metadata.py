"""Authorization server metadata (RFC 8414): one issuer an API, at its listen path."""

from dataclasses import dataclass

from aiohttp import web

from contracts.apis import GrantType, OAuthSettings
from contracts.metadata import ServerMetadata
from libs.access import issuing_api
from libs.catalog import Catalog
from libs.http.cors import answer_headers
from libs.http.errors import json_bytes
from libs.oauth.issuer import issuer_of
from services.authorization.proof import RESPONSE_MODE


def _grants(settings: OAuthSettings) -> list[str]:
    grants = [str(grant) for grant in settings.grant_types if grant is not GrantType.REFRESH_TOKEN]
    has_refresh = settings.refresh_token and {"authorization_code", "password"} & set(grants)
    return [*grants, "refresh_token"] if has_refresh else grants


@dataclass(frozen=True, slots=True)
class MetadataEndpoint:
    """GET /.well-known/oauth-authorization-server/<listen-path> (RFC 8414 §3.1)."""

    catalog: Catalog
    public_url: str

    async def get(self, http_request: web.Request) -> web.Response:
        """What works on this API, and nothing else."""
        api, settings = await issuing_api(self.catalog, http_request.match_info["place"])
        issuer = issuer_of(self.public_url, api)
        proven, public = ("client_secret_basic", "client_secret_post"), ("none",)
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
            grant_types_supported=tuple(_grants(settings)),
            # A client without a secret gets tokens for codes only.
            token_endpoint_auth_methods_supported=proven + public if offers_codes else proven,
            revocation_endpoint_auth_methods_supported=proven + public,
            introspection_endpoint_auth_methods_supported=proven,
            **(code_grant if offers_codes else {}),
        )
        body = metadata.model_dump_json(exclude_none=True).encode()
        headers = {"Cache-Control": "public, max-age=60"}
        if api.cors is not None:
            headers |= answer_headers(api.cors, http_request.headers.get("Origin"), http_request.method)
        return json_bytes(body, headers=headers)
