"""Reads a Tyk OAS definition: an OpenAPI 3 document with Tyk's extension."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import SecretStr

from contracts.apis import Api, DefinitionFormat, GrantType, OAuthSettings, TokenLocation
from libs.tyk import cors
from libs.tyk.access import (
    AUTHORIZE_TYPES,
    Access,
    TokenwireSettings,
    notifications,
    oauth_settings,
    tokenwire_settings,
)
from libs.tyk.document import json_text
from libs.tyk.errors import InvalidDefinition
from libs.tyk.part import Part
from libs.tyk.transforms import oas_headers, oas_versioning

_EXTENSION = "x-tyk-api-gateway"
_FLOWS = {
    "authorizationCode": GrantType.AUTHORIZATION_CODE,
    "clientCredentials": GrantType.CLIENT_CREDENTIALS,
    "password": GrantType.PASSWORD,
}
_ISSUED_ELSEWHERE = ("providers", "scopeCheck", "tokenExchange", "protectedResourceMetadata")
"""Settings of the schemes by which Tyk accepts another server's tokens."""


@dataclass(frozen=True, slots=True)
class _Scheme:
    """An enabled security scheme: as OpenAPI declares it, and Tyk's settings of the same name."""

    declared: Part
    settings: Part

    @property
    def issues_tokens(self) -> bool:
        elsewhere = any(self.settings.members.get(key) for key in _ISSUED_ELSEWHERE)
        return self.declared.members.get("type") == "oauth2" and not elsewhere

    @property
    def is_auth_token(self) -> bool:
        return self.declared.members.get("type") == "apiKey"


def read_oas(document: Any, *, api_id: str, now: datetime, created_at: datetime | None = None, version: int = 1) -> Api:
    """The API that the document defines, under its own id if it names one, else under `api_id`.

    The first scheme in `security` that issues tokens here is the API's OAuth; the first of type apiKey is its Auth
    Token method; other schemes are kept in the text and not enforced. No authentication, or a disabled one, is a
    keyless API. Raises InvalidDefinition.
    """
    whole = Part.whole(document)
    extension = _extension(whole)
    info, server, upstream = extension.part("info"), extension.part("server"), extension.part("upstream")
    access = _access(whole, server)
    own_id = info.public_id("id", api_id)
    added, removed = oas_headers(extension)
    return Api(
        api_id=own_id,
        version=version,
        name=info.required_name("name"),
        org_id=info.name("orgId"),
        active=info.part("state").flag("active", default=True),
        listen_path=server.part("listenPath").listen_path("value"),
        strip_listen_path=server.part("listenPath").flag("strip"),
        upstream_url=upstream.required_url("url"),
        strip_authorization_data=server.part("authentication").flag("stripAuthorizationData"),
        token_location=access.token_location,
        versioning=oas_versioning(info),
        request_headers=added,
        removed_request_headers=removed,
        cors=cors.cors(extension.part("middleware").part("global").part("cors"), cors.OAS),
        oauth=access.oauth,
        auth_token=access.auth_token,
        format=DefinitionFormat.OAS,
        definition=SecretStr(json_text(_with_id(whole.members, own_id))),
        created_at=created_at or now,
        updated_at=now,
    )


def _extension(whole: Part) -> Part:
    if not whole.text("openapi").startswith("3."):
        raise whole.wrong("openapi", "a version of OpenAPI 3 is expected")
    if not whole.has(_EXTENSION):
        raise whole.wrong(_EXTENSION, "Tyk's extension is expected")
    return whole.part(_EXTENSION)


def _with_id(document: dict[str, Any], api_id: str) -> dict[str, Any]:
    extension = document[_EXTENSION]
    return {**document, _EXTENSION: {**extension, "info": {**extension["info"], "id": api_id}}}


def _access(whole: Part, server: Part) -> Access:
    tokenwire = tokenwire_settings(whole, "x-tokenwire")
    if not server.has("authentication"):
        return Access()
    authentication = server.part("authentication")
    if not authentication.has("enabled"):
        raise authentication.wrong("enabled", "true or false is expected")
    if not authentication.flag("enabled"):
        return Access()
    return _protected(list(_enabled_schemes(whole, authentication)), authentication, tokenwire)


def _enabled_schemes(whole: Part, authentication: Part) -> Iterator[_Scheme]:
    declared = whole.part("components").part("securitySchemes")
    settings = authentication.part("securitySchemes")
    named = dict.fromkeys(name for requirement in whole.parts("security") for name in requirement.members)
    for name in named:
        if settings.part(name).flag("enabled"):
            yield _Scheme(declared.part(name), settings.part(name))


def _protected(schemes: list[_Scheme], authentication: Part, tokenwire: TokenwireSettings) -> Access:
    oauth = next((scheme for scheme in schemes if scheme.issues_tokens), None)
    auth_token = next((scheme for scheme in schemes if scheme.is_auth_token), None)
    if oauth is not None:
        location = _token_location(oauth.settings)
        return Access(_oauth(oauth, tokenwire), auth_token is not None, location)
    if auth_token is not None:
        return Access(None, True, _auth_token_location(auth_token))
    raise _unprotected(authentication)


def _unprotected(authentication: Part) -> InvalidDefinition:
    return authentication.wrong(
        "securitySchemes",
        "authentication is enabled, but no scheme here is enabled, named in the document's security, and of type "
        "oauth2 (without providers, scopeCheck, tokenExchange or protectedResourceMetadata) or apiKey in "
        "components.securitySchemes",
    )


def _oauth(scheme: _Scheme, tokenwire: TokenwireSettings) -> OAuthSettings:
    flows = scheme.declared.part("flows")
    settings = oauth_settings(
        flows={grant_type for flow, grant_type in _FLOWS.items() if flows.has(flow)},
        authorize_types=scheme.settings.choices("allowedAuthorizeTypes", AUTHORIZE_TYPES),
        refresh_token=scheme.settings.flag("refreshToken"),
        login_url=scheme.settings.url("authLoginRedirect"),
        notifications=notifications(scheme.settings.part("notifications"), "onKeyChangeUrl", "sharedSecret"),
        tokenwire=tokenwire,
    )
    if settings is None:
        raise scheme.declared.wrong(
            "flows", "authorizationCode (with authorize type code), clientCredentials or password is expected"
        )
    return settings


def _token_location(settings: Part) -> TokenLocation:
    """Tyk's sources: an absent one is disabled; query and cookie are named as the header unless they say otherwise."""
    header, query, cookie = settings.part("header"), settings.part("query"), settings.part("cookie")
    name = header.field_name("name", "Authorization")
    return TokenLocation(
        header=name if header.flag("enabled") else None,
        query=(query.name("name") or name) if query.flag("enabled") else None,
        cookie=cookie.field_name("name", name) if cookie.flag("enabled") else None,
    )


def _auth_token_location(scheme: _Scheme) -> TokenLocation:
    """OpenAPI's own place (`in`, `name`), beside the sources that Tyk's settings add."""
    sources = _token_location(scheme.settings)
    place = scheme.declared.text("in")
    if place not in TokenLocation.model_fields:
        raise scheme.declared.wrong("in", "one of header, query, cookie is expected")
    name = scheme.declared.field_name("name", "Authorization")
    return TokenLocation.model_validate({**sources.model_dump(), place: name})
