"""Reads a Tyk OAS definition: an OpenAPI 3 document with Tyk's extension."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import SecretStr

from contracts.apis import Api, DefinitionFormat, OAuthSettings, TokenLocation
from contracts.guards import Unsupported
from libs.tyk import cors_members
from libs.tyk.authentication import (
    AUTHORIZE_TYPES,
    ISSUER_SAYS_LIFETIME,
    NO_GRANTS,
    NO_SCOPES,
    Authentication,
    TokenwireSettings,
    declared_scopes,
    known_words,
    notifications,
    oauth_settings,
    session_lifetime,
    tokenwire_settings,
    with_accepted,
)
from libs.tyk.definition_text import json_text
from libs.tyk.grant_fields import FLOWS
from libs.tyk.import_notes import ImportNotes
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.members import report
from libs.tyk.oas_guards import oas_guards, operations_of
from libs.tyk.oas_members import AUTH_TOKEN_SCHEME, DECLARED_SCHEME, DOCUMENT, ISSUING_SCHEME
from libs.tyk.part import Part
from libs.tyk.transforms import oas_headers, oas_versioning
from libs.tyk.upstreams import oas_upstreams

_EXTENSION = "x-tyk-api-gateway"
_OWN = "x-tokenwire"
_DECLARING = (*FLOWS, "implicit", "deviceAuthorization")
"""OpenAPI flows whose scopes count as declared, whether Tokenwire supports the flow or not."""
_ISSUED_ELSEWHERE = ("providers", "scopeCheck", "tokenExchange", "protectedResourceMetadata")
"""Settings with which Tyk accepts tokens of another server."""
_OTHER_METHODS = ("hmac", "oidc", "custom")
"""Methods that Tyk's settings enable without a scheme in the document."""


@dataclass(frozen=True, slots=True)
class _Scheme:
    """An enabled security scheme: its OpenAPI declaration, and Tyk's settings of the same name."""

    declared: Part
    settings: Part

    @property
    def issues_tokens(self) -> bool:
        elsewhere = any(self.settings.members.get(key) for key in _ISSUED_ELSEWHERE)
        return self.declared.members.get("type") == "oauth2" and not elsewhere

    @property
    def is_auth_token(self) -> bool:
        return self.declared.members.get("type") == "apiKey"


@dataclass(frozen=True, slots=True)
class _Requirement:
    """One alternative in `security`: all of its schemes are required together."""

    part: Part
    schemes: dict[str, _Scheme]

    @property
    def scoped(self) -> list[str]:
        """The schemes for which it requires scopes."""
        return [name for name in self.schemes if self.part.texts(name)]

    def others(self, location: TokenLocation) -> list[str]:
        """The schemes that an access token in this location does not satisfy."""
        return [
            name
            for name, scheme in self.schemes.items()
            if not (scheme.issues_tokens or (scheme.is_auth_token and _auth_token_location(scheme) == location))
        ]


def read_oas(
    document: Any,
    *,
    api_id: str,
    now: datetime,
    created_at: datetime | None = None,
    version: int = 1,
    accept_unsupported: bool = False,
    notes: ImportNotes | None = None,
) -> Api:
    """Read the API that the document defines. `api_id` is its id unless the document has one.

    The first scheme in `security` that issues tokens here is the API's OAuth; the first of type apiKey is its Auth
    Token method. Without authentication the API is keyless. Parts without effect are reported to `notes`. Raises
    InvalidDefinition, and UnsupportedDefinition if a protection is not enforced here (for example a second scheme that
    calls must also satisfy), unless that is accepted.
    """
    notes = ImportNotes() if notes is None else notes
    whole = Part.whole(document)
    extension = _extension(whole)
    info, server, upstream = extension.part("info"), extension.part("server"), extension.part("upstream")
    tokenwire = tokenwire_settings(whole, _OWN)
    access = _access(whole, server, tokenwire, notes)
    name, listen_path = info.required_name("name"), server.part("listenPath").listen_path("value")
    own_id, upstreams = info.public_id("id", api_id), oas_upstreams(upstream, notes)
    added, removed = oas_headers(extension, notes)
    guards = oas_guards(whole, extension, listen_path, notes)
    report(whole.members, DOCUMENT, "", notes)
    unsupported = notes.accepted(everything=accept_unsupported, paths=tokenwire.accepted_unsupported)
    return Api(
        api_id=own_id,
        version=version,
        name=name,
        org_id=info.name("orgId"),
        active=info.part("state").flag("active", default=True),
        listen_path=listen_path,
        strip_listen_path=server.part("listenPath").flag("strip"),
        upstream_url=upstreams[0],
        further_upstream_urls=upstreams[1:],
        strip_authorization_data=server.part("authentication").flag("stripAuthorizationData"),
        token_location=access.token_location,
        versioning=oas_versioning(info),
        request_headers=added,
        removed_request_headers=removed,
        method_override=tokenwire_settings(whole, "x-tokenwire").method_override,
        cors=cors_members.cors(extension.part("middleware").part("global").part("cors"), cors_members.OAS, notes),
        oauth=access.oauth,
        auth_token=access.auth_token,
        guards=guards,
        unsupported=unsupported,
        format=DefinitionFormat.OAS,
        definition=SecretStr(json_text(_kept(whole.members, own_id, unsupported))),
        created_at=created_at or now,
        updated_at=now,
    )


def _extension(whole: Part) -> Part:
    if not whole.text("openapi").startswith("3."):
        raise whole.wrong("openapi", "a version of OpenAPI 3 is expected")
    if not whole.has(_EXTENSION):
        raise whole.wrong(
            _EXTENSION, "Tyk's extension is expected; docs/reference/definitions.md has complete definitions"
        )
    return whole.part(_EXTENSION)


def _kept(document: dict[str, Any], api_id: str, unsupported: Collection[Unsupported]) -> dict[str, Any]:
    document = with_accepted(document, _OWN, unsupported)
    extension = document[_EXTENSION]
    return {**document, _EXTENSION: {**extension, "info": {**extension["info"], "id": api_id}}}


def _access(whole: Part, server: Part, tokenwire: TokenwireSettings, notes: ImportNotes) -> Authentication:
    if not server.has("authentication"):
        for part in (whole, *(operation for _, _, operation in operations_of(whole))):
            if any(requirement.members for requirement in part.parts("security")):
                path = server.path_of("authentication")
                notes.unused(part.path_of("security"), f"not used, since there is no {path}: calls need no token")
        return Authentication()
    authentication = server.part("authentication")
    if not authentication.has("enabled"):
        raise authentication.wrong("enabled", "true or false is expected")
    if not authentication.flag("enabled"):
        return Authentication()
    requirements = list(_requirements(whole, authentication, notes))
    _note_operations(whole, notes)
    compliant = authentication.text("securityProcessingMode") == "compliant"
    return _protected(whole, requirements, authentication, tokenwire, notes, compliant=compliant)


def _requirements(whole: Part, authentication: Part, notes: ImportNotes) -> Iterator[_Requirement]:
    """The alternatives of the document's `security`, each with those of its schemes that are enabled."""
    declared = whole.part("components").part("securitySchemes")
    settings = authentication.part("securitySchemes")
    for requirement in whole.parts("security"):
        schemes: dict[str, _Scheme] = {}
        for name in requirement.members:
            if settings.part(name).flag("enabled"):
                schemes[name] = _Scheme(declared.part(name), settings.part(name))
            else:
                notes.unused(requirement.path_of(name), f"not used, since {settings.path_of(name)} is not enabled")
        yield _Requirement(requirement, schemes)


def _protected(
    whole: Part,
    requirements: list[_Requirement],
    authentication: Part,
    tokenwire: TokenwireSettings,
    notes: ImportNotes,
    *,
    compliant: bool,
) -> Authentication:
    schemes = [scheme for requirement in requirements for scheme in requirement.schemes.values()]
    oauth = next((scheme for scheme in schemes if scheme.issues_tokens), None)
    auth_token = next((scheme for scheme in schemes if scheme.is_auth_token), None)
    first = oauth or auth_token
    if first is None:
        if schemes or any(authentication.part(key).flag("enabled") for key in _OTHER_METHODS):
            raise _unprotected(authentication)
        return _any_token(whole, authentication, notes)
    location = _auth_token_location(first) if oauth is None else _token_location(oauth.settings)
    _note_others(requirements, first, location, notes, compliant=compliant)
    for scheme, members in ((oauth, ISSUING_SCHEME), (auth_token, AUTH_TOKEN_SCHEME)):
        if scheme is not None:
            report(scheme.settings.members, members, scheme.settings.path, notes)
            report(scheme.declared.members, DECLARED_SCHEME, scheme.declared.path, notes)
    if oauth is None:
        if _session_seconds(authentication):
            notes.unused(authentication.path_of("customKeyLifetime"), ISSUER_SAYS_LIFETIME)
        return Authentication(None, True, location)
    lifetime = _session_lifetime(authentication, tokenwire, notes)
    return Authentication(_oauth(oauth, tokenwire, notes, lifetime), auth_token is not None, location)


def _any_token(whole: Part, authentication: Part, notes: ImportNotes) -> Authentication:
    """The Auth Token method, which Tyk takes where no scheme is enabled: in the place of the first apiKey scheme that
    `security` names, or else in the header Authorization.
    """
    notes.warn(
        authentication.path_of("securitySchemes"),
        "no scheme is enabled, so calls need a token of another API that a policy opens both with, as in Tyk",
    )
    declared, settings = whole.part("components").part("securitySchemes"), authentication.part("securitySchemes")
    named = (name for requirement in whole.parts("security")[:1] for name in requirement.members)
    schemes = (_Scheme(declared.part(name), settings.part(name)) for name in named)
    key = next((scheme for scheme in schemes if scheme.is_auth_token), None)
    return Authentication(None, True, _auth_token_location(key) if key else TokenLocation())


def _session_lifetime(authentication: Part, tokenwire: TokenwireSettings, notes: ImportNotes) -> timedelta | None:
    seconds = _session_seconds(authentication)
    return session_lifetime(authentication, "customKeyLifetime", seconds, tokenwire, notes)


def _session_seconds(authentication: Part) -> float:
    """Seconds after which Tyk ends every session; 0 if a token lives as long as it says itself."""
    custom = authentication.part("customKeyLifetime")
    return custom.duration("value") if custom.flag("enabled") and not custom.flag("respectValidity") else 0


def _note_others(
    requirements: list[_Requirement], used: _Scheme, location: TokenLocation, notes: ImportNotes, *, compliant: bool
) -> None:
    """Refuse the schemes that a call would have to satisfy as well, and scopes that the token would have to have; warn
    of those that would do in its place.

    In Tyk's mode `compliant` all requirements are alternatives, as in OpenAPI; in its other mode one of them counts.
    """
    asking = [requirement for requirement in requirements if used in requirement.schemes.values()]
    enforced = asking if compliant else asking[:1]
    is_enough = any(not requirement.others(location) and not requirement.scoped for requirement in enforced)
    for requirement in requirements:
        for name in requirement.others(location):
            path = requirement.part.path_of(name)
            if requirement in enforced and not is_enough:
                notes.refuse(path, "a second authentication method, which a call would have to pass besides the token")
            else:
                notes.unused(path, "not used; it does not take the place of an access token here")
        for name in requirement.scoped:
            path = requirement.part.path_of(name)
            if requirement in enforced and not is_enough:
                notes.refuse(path, "scopes that a token would have to have")
            else:
                notes.unused(path, "its scopes are not used, since another requirement asks for none")


def _note_operations(whole: Part, notes: ImportNotes) -> None:
    """Refuse an operation's own `security` that demands something else than the document's; warn where it demands
    nothing, since calls still need a token.
    """
    common = _demands(whole)
    for _, _, operation in operations_of(whole):
        own = _demands(operation) if operation.has("security") else common
        if own == common:
            continue
        if own - {frozenset()}:
            notes.refuse(operation.path_of("security"), "a security of its own, other than the document's")
        else:
            notes.unused(
                operation.path_of("security"),
                "not used; the document's security counts, unless ignoreAuthentication opens the operation",
            )


def _demands(part: Part) -> frozenset[frozenset[tuple[str, frozenset[str]]]]:
    """The alternatives of `security`, each with its schemes and their scopes."""
    return frozenset(
        frozenset((name, frozenset(requirement.texts(name))) for name in requirement.members)
        for requirement in part.parts("security")
    )


def _unprotected(authentication: Part) -> InvalidDefinition:
    return authentication.wrong(
        "securitySchemes",
        "authentication is enabled, but no scheme here is enabled, named in the document's security, and of type "
        "oauth2 (without providers, scopeCheck, tokenExchange or protectedResourceMetadata) or apiKey in "
        "components.securitySchemes",
    )


def _oauth(
    scheme: _Scheme, tokenwire: TokenwireSettings, notes: ImportNotes, lifetime: timedelta | None
) -> OAuthSettings:
    flows = scheme.declared.part("flows")
    settings = oauth_settings(
        flows={grant_type for flow, grant_type in FLOWS.items() if flows.has(flow)},
        authorize_types=known_words(scheme.settings, "allowedAuthorizeTypes", AUTHORIZE_TYPES, notes),
        refresh_token=scheme.settings.flag("refreshToken"),
        scopes=[scope for flow in _DECLARING for scope in declared_scopes(flows.part(flow))],
        login_url=scheme.settings.url("authLoginRedirect", fragment=True),
        notifications=notifications(scheme.settings.part("notifications"), "onKeyChangeUrl", "sharedSecret", tokenwire),
        tokenwire=tokenwire,
        access_token_lifetime=lifetime,
    )
    if not settings.grant_types:
        notes.warn(flows.path, NO_GRANTS)
    elif not settings.scopes:
        notes.warn(flows.path, f"no flow declares scopes, {NO_SCOPES}")
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
    """OpenAPI's own place (`in`, `name`), and the sources that Tyk's settings add."""
    sources = _token_location(scheme.settings)
    place = scheme.declared.text("in")
    if place not in TokenLocation.model_fields:
        raise scheme.declared.wrong("in", "one of header, query, cookie is expected")
    name = scheme.declared.field_name("name", "Authorization")
    return TokenLocation.model_validate({**sources.model_dump(), place: name})
