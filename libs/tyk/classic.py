"""Reads a Tyk Classic definition, bare or as `api_definition` in the Dashboard's wrapper."""

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
from libs.tyk.part import Part
from libs.tyk.transforms import classic_headers, classic_versioning

_WRAPPER = "api_definition"
_ACCESS_TYPES = (*GrantType, "assertion", "__implicit")
"""What Tyk knows; the last two are not offered here."""
_OTHER_METHODS = (
    "use_basic_auth",
    "use_openid",
    "use_go_plugin_auth",
    "use_mutual_tls_auth",
    "enable_jwt",
    "enable_signature_checking",
    "enable_coprocess_auth",
    "custom_plugin_auth_enabled",
)


def read_classic(
    document: Any, *, api_id: str, now: datetime, created_at: datetime | None = None, version: int = 1
) -> Api:
    """The API that the document defines, under its own id if it names one, else under `api_id`.

    Without any method of authentication it takes the Auth Token method, as in Tyk; `use_keyless` is a keyless API.
    Raises InvalidDefinition.
    """
    whole = Part.whole(document)
    definition = whole.part(_WRAPPER) if whole.has(_WRAPPER) else whole
    access = _access(definition)
    proxy = definition.part("proxy")
    own_id = definition.public_id("api_id", api_id)
    added, removed = classic_headers(definition)
    return Api(
        api_id=own_id,
        version=version,
        name=definition.required_name("name"),
        org_id=definition.name("org_id"),
        active=definition.flag("active", default=True),
        listen_path=proxy.listen_path("listen_path"),
        strip_listen_path=proxy.flag("strip_listen_path"),
        upstream_url=proxy.required_url("target_url"),
        strip_authorization_data=definition.flag("strip_auth_data"),
        token_location=access.token_location,
        versioning=classic_versioning(definition),
        request_headers=added,
        removed_request_headers=removed,
        cors=cors.cors(definition.part("CORS"), cors.CLASSIC),
        oauth=access.oauth,
        auth_token=access.auth_token,
        format=DefinitionFormat.CLASSIC,
        definition=SecretStr(json_text(_with_id(whole, own_id))),
        created_at=created_at or now,
        updated_at=now,
    )


def _with_id(whole: Part, api_id: str) -> dict[str, Any]:
    if whole.has(_WRAPPER):
        return {**whole.members, _WRAPPER: {**whole.members[_WRAPPER], "api_id": api_id}}
    return {**whole.members, "api_id": api_id}


def _access(definition: Part) -> Access:
    tokenwire = tokenwire_settings(definition, "tokenwire")
    if definition.flag("use_keyless"):
        return Access()
    configs = definition.part("auth_configs")
    if definition.flag("use_oauth2"):
        location = _token_location(configs.part("oauth"))
        return Access(_oauth(definition, tokenwire), definition.flag("use_standard_auth"), location)
    _require_auth_token(definition)
    return Access(None, True, _token_location(_auth_token_config(definition, configs)))


def _require_auth_token(definition: Part) -> None:
    if definition.flag("use_standard_auth"):
        return
    others = [key for key in _OTHER_METHODS if definition.flag(key)]
    if definition.part("external_oauth").flag("enabled"):
        others.append("external_oauth")
    if others:
        raise definition.wrong(others[0], "not a method offered here; set use_oauth2, use_standard_auth or use_keyless")


def _auth_token_config(definition: Part, configs: Part) -> Part:
    return configs.part("authToken") if configs.has("authToken") else definition.part("auth")


def _oauth(definition: Part, tokenwire: TokenwireSettings) -> OAuthSettings:
    meta = definition.part("oauth_meta")
    access_types = meta.choices("allowed_access_types", _ACCESS_TYPES)
    settings = oauth_settings(
        flows={grant_type for grant_type in GrantType if grant_type in access_types},
        authorize_types=meta.choices("allowed_authorize_types", AUTHORIZE_TYPES),
        refresh_token=GrantType.REFRESH_TOKEN in access_types,
        login_url=meta.url("auth_login_redirect"),
        notifications=notifications(definition.part("notifications"), "oauth_on_keychange_url", "shared_secret"),
        tokenwire=tokenwire,
    )
    if settings is None:
        raise meta.wrong(
            "allowed_access_types",
            "authorization_code (with authorize type code), client_credentials or password is expected",
        )
    return settings


def _token_location(config: Part) -> TokenLocation:
    """Header unless disabled; query and cookie are named as the header unless they say otherwise."""
    header = config.field_name("auth_header_name", "Authorization")
    return TokenLocation(
        header=None if config.flag("disable_header") else header,
        query=(config.name("param_name") or header) if config.flag("use_param") else None,
        cookie=config.field_name("cookie_name", header) if config.flag("use_cookie") else None,
    )
