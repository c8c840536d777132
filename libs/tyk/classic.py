"""Reads a Tyk Classic definition, bare or as `api_definition` in the Dashboard's wrapper."""

from collections.abc import Collection
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from contracts.apis import Api, DefinitionFormat, GrantType, OAuthSettings, TokenLocation
from contracts.guards import Unsupported
from libs.tyk import cors_members
from libs.tyk.authentication import (
    AUTHORIZE_TYPES,
    ISSUER_SAYS_LIFETIME,
    NO_GRANTS,
    NO_SCOPES,
    Authentication,
    TokenwireSettings,
    known_words,
    notifications,
    oauth_settings,
    session_lifetime,
    tokenwire_settings,
    with_accepted,
)
from libs.tyk.classic_guards import classic_guards
from libs.tyk.classic_members import CLASSIC
from libs.tyk.definition_text import json_text
from libs.tyk.import_notes import ImportNotes
from libs.tyk.members import report
from libs.tyk.part import Part
from libs.tyk.transforms import classic_headers, classic_versioning
from libs.tyk.upstreams import classic_upstreams

_WRAPPER = "api_definition"
_OWN = "tokenwire"
_ACCESS_TYPES = (*GrantType, "assertion", "__implicit")
"""The access types of Tyk; the last two are not supported here."""
_NOT_HTTP = frozenset({"tcp", "tls"})
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
    document: Any,
    *,
    api_id: str,
    now: datetime,
    created_at: datetime | None = None,
    version: int = 1,
    accept_unsupported: bool = False,
    notes: ImportNotes | None = None,
) -> Api:
    """The API that the document defines, under its own id if it names one, else under `api_id`.

    Without any method of authentication it takes the Auth Token method, as in Tyk; `use_keyless` is a keyless API.
    What is not used goes to `notes`. Raises InvalidDefinition; UnsupportedDefinition where a part that protects the
    API is not enforced here, unless that is accepted.
    """
    notes = ImportNotes() if notes is None else notes
    whole = Part.whole(document)
    definition = whole.part(_WRAPPER) if whole.has(_WRAPPER) else whole
    if definition.text("protocol") in _NOT_HTTP:
        raise definition.wrong("protocol", "only APIs over HTTP are offered")
    tokenwire = tokenwire_settings(definition, _OWN)
    access = _access(definition, tokenwire, notes)
    proxy = definition.part("proxy")
    name, listen_path = definition.required_name("name"), proxy.listen_path("listen_path")
    own_id = definition.public_id("api_id", api_id)
    added, removed = classic_headers(definition, notes)
    versioning = classic_versioning(definition)
    upstreams = classic_upstreams(proxy, notes)
    guards = classic_guards(definition, listen_path, notes)
    report(definition.members, CLASSIC, definition.path, notes)
    unsupported = notes.accepted(everything=accept_unsupported, paths=tokenwire.accepted_unsupported)
    return Api(
        api_id=own_id,
        version=version,
        name=name,
        org_id=definition.name("org_id"),
        active=definition.flag("active", default=True),
        listen_path=listen_path,
        strip_listen_path=proxy.flag("strip_listen_path"),
        upstream_url=upstreams[0],
        further_upstream_urls=upstreams[1:],
        strip_authorization_data=definition.flag("strip_auth_data"),
        token_location=access.token_location,
        versioning=versioning,
        request_headers=added,
        removed_request_headers=removed,
        method_override=tokenwire_settings(definition, "tokenwire").method_override,
        cors=cors_members.cors(definition.part("CORS"), cors_members.CLASSIC, notes),
        oauth=access.oauth,
        auth_token=access.auth_token,
        guards=guards,
        unsupported=unsupported,
        format=DefinitionFormat.CLASSIC,
        definition=SecretStr(json_text(_kept(whole, own_id, unsupported))),
        created_at=created_at or now,
        updated_at=now,
    )


def _kept(whole: Part, api_id: str, unsupported: Collection[Unsupported]) -> dict[str, Any]:
    if whole.has(_WRAPPER):
        definition = with_accepted(whole.members[_WRAPPER], _OWN, unsupported)
        return {**whole.members, _WRAPPER: {**definition, "api_id": api_id}}
    return {**with_accepted(whole.members, _OWN, unsupported), "api_id": api_id}


def _access(definition: Part, tokenwire: TokenwireSettings, notes: ImportNotes) -> Authentication:
    if definition.flag("use_keyless"):
        return Authentication()
    configs = definition.part("auth_configs")
    if definition.flag("use_oauth2"):
        location = _token_location(configs.part("oauth"))
        auth_token = definition.flag("use_standard_auth")
        if auth_token and _token_location(_auth_token_config(definition, configs)) != location:
            notes.refuse(
                definition.path_of("use_standard_auth"),
                "a second token, which a call would have to carry in another place than the one of OAuth",
            )
        return Authentication(_oauth(definition, tokenwire, notes), auth_token, location)
    _require_auth_token(definition)
    if _session_seconds(definition):
        notes.unused(definition.path_of("session_lifetime"), ISSUER_SAYS_LIFETIME)
    return Authentication(None, True, _token_location(_auth_token_config(definition, configs)))


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


def _oauth(definition: Part, tokenwire: TokenwireSettings, notes: ImportNotes) -> OAuthSettings:
    meta = definition.part("oauth_meta")
    access_types = known_words(meta, "allowed_access_types", _ACCESS_TYPES, notes)
    settings = oauth_settings(
        flows={grant_type for grant_type in GrantType if grant_type in access_types},
        authorize_types=known_words(meta, "allowed_authorize_types", AUTHORIZE_TYPES, notes),
        refresh_token=GrantType.REFRESH_TOKEN in access_types,
        scopes=(),
        login_url=meta.url("auth_login_redirect", fragment=True),
        notifications=notifications(
            definition.part("notifications"), "oauth_on_keychange_url", "shared_secret", tokenwire
        ),
        tokenwire=tokenwire,
        access_token_lifetime=_session_lifetime(definition, tokenwire, notes),
    )
    if not settings.grant_types:
        notes.warn(meta.path_of("allowed_access_types"), NO_GRANTS)
    elif not settings.scopes:
        notes.warn(f"{definition.path_of(_OWN)}.scopes", f"no scopes are declared, {NO_SCOPES}")
    return settings


def _session_lifetime(definition: Part, tokenwire: TokenwireSettings, notes: ImportNotes) -> timedelta | None:
    seconds = _session_seconds(definition)
    return session_lifetime(definition, "session_lifetime", seconds, tokenwire, notes)


def _session_seconds(definition: Part) -> float:
    """Seconds after which Tyk ends every session; 0 if a token lives as long as it says itself."""
    if definition.flag("session_lifetime_disabled") or definition.flag("session_lifetime_respects_key_expiration"):
        return 0
    seconds = definition.members.get("session_lifetime")
    # Negative ones mean the same as 0 to Tyk.
    return 0 if isinstance(seconds, int | float) and seconds < 0 else definition.number("session_lifetime")


def _token_location(config: Part) -> TokenLocation:
    """Header unless disabled; query and cookie are named as the header unless they say otherwise."""
    header = config.field_name("auth_header_name", "Authorization")
    return TokenLocation(
        header=None if config.flag("disable_header") else header,
        query=(config.name("param_name") or header) if config.flag("use_param") else None,
        cookie=config.field_name("cookie_name", header) if config.flag("use_cookie") else None,
    )
