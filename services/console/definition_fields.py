"""The designer's form: the OAuth settings of a definition as form values, and form values written into a definition.

Values are texts, as a form sends them: a box is "1" or "", several boxes of one name are lines. Only what differs from
the definition is written, so every other part of it stays, and a form that was not changed changes nothing.
"""

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from contracts.apis import DefinitionFormat, GrantType
from libs.tyk.definition_text import format_of
from libs.tyk.grant_fields import FLOWS

Document = dict[str, Any]
Path = tuple[str, ...]

ISSUES, SECRET, FORGET_SECRET = "issues_tokens", "shared_secret", "forget_secret"
GRANTS = tuple(str(grant) for grant in FLOWS.values())
"""Grant types that a form offers; refresh tokens have a box of their own."""
_TYK, _OWN = "x-tyk-api-gateway", "x-tokenwire"
_AUTHENTICATION: Path = (_TYK, "server", "authentication")
_ISSUED_ELSEWHERE = ("providers", "scopeCheck", "tokenExchange", "protectedResourceMetadata")
_SCHEME = "{scheme}"
"""In a path: the security scheme that issues tokens."""
_SETTINGS: Path = (*_AUTHENTICATION, "securitySchemes", _SCHEME)
_FLOWS: Path = ("components", "securitySchemes", _SCHEME, "flows")
_LIFETIMES = {
    "access_token_lifetime": "accessTokenLifetime",
    "refresh_token_lifetime": "refreshTokenLifetime",
    "grant_lifetime": "grantLifetime",
    "code_lifetime": "codeLifetime",
}
_SUGGESTED = {
    "grants": str(GrantType.AUTHORIZATION_CODE),
    "refresh_token": "1",
    "pkce_required": "1",
    "header": "1",
    "header_name": "Authorization",
}
"""For an API that does not issue tokens yet."""
_NEW_FLOW = {"authorizationUrl": "/oauth/authorize", "tokenUrl": "/oauth/token"}


class WrongField(Exception):
    """A value of the form cannot be written into a definition; the text says what to change."""


@dataclass(frozen=True, slots=True)
class Field:
    """One value of the form: how it is read from a definition, and written into it."""

    name: str
    read: Callable[[Document], str]
    write: Callable[[Document, str], None]
    oauth: bool = True
    """Whether only APIs that issue tokens have it."""


def new_definition(form: DefinitionFormat) -> Document:
    """A definition to begin with: the code grant with PKCE and refresh tokens, without name, listen path, upstream."""
    document: Document = {"name": ""} if form is DefinitionFormat.CLASSIC else _empty_oas()
    return written(document, values_of(document) | {ISSUES: "1", "strip_listen_path": "1"})


def values_of(document: Document) -> dict[str, str]:
    """The form's values for this definition, with suggestions if it issues no tokens. Secrets are not among them."""
    document = _inner(document)
    values = {field.name: field.read(document) for field in _fields(document)}
    return values if _issues(document) else values | _SUGGESTED


def written(document: Document, values: Mapping[str, str]) -> Document:
    """The definition with these values in place of those that differ; what `values` does not name becomes empty.

    Raises WrongField.
    """
    document = copy.deepcopy(document)
    inner = _inner(document)
    for field in _fields(inner):
        if field.oauth and not _issues(inner):
            continue
        value = normal(values.get(field.name, ""))
        if value != normal(field.read(inner)):
            field.write(inner, value)
    _write_secret(inner, values)
    return document


def has_secret(document: Document) -> bool:
    """Whether the definition has a shared secret for webhooks."""
    inner = _inner(document)
    return bool(_find(inner, _resolved(inner, _secret_path(inner))))


def _write_secret(document: Document, values: Mapping[str, str]) -> None:
    if not _issues(document):
        return
    path = _resolved(document, _secret_path(document))
    if secret := values.get(SECRET, "").strip():
        _put(document, path, secret)
    elif values.get(FORGET_SECRET):
        _put(document, path, None)


def _secret_path(document: Document) -> Path:
    if _is_oas(document):
        return (*_SETTINGS, "notifications", "sharedSecret")
    return ("notifications", "shared_secret")


def normal(value: str) -> str:
    """The value as it is compared: browsers change line ends, and spaces around a line say nothing."""
    return "\n".join(line.strip() for line in value.strip().splitlines())


def _is_oas(document: Document) -> bool:
    return format_of(document) is DefinitionFormat.OAS


def _inner(document: Document) -> Document:
    """The definition itself, without the Dashboard's wrapper."""
    wrapped = document.get("api_definition")
    return wrapped if isinstance(wrapped, dict) and not _is_oas(document) else document


def _fields(document: Document) -> Sequence[Field]:
    return _OAS if _is_oas(document) else _CLASSIC


def _issues(document: Document) -> bool:
    if _is_oas(document):
        return _issuing_scheme(document) is not None
    return document.get("use_oauth2") is True and document.get("use_keyless") is not True


# Members of a definition


def _resolved(document: Document, path: Path) -> Path:
    scheme = _issuing_scheme(document) if _SCHEME in path else None
    return tuple(scheme or "" if key == _SCHEME else key for key in path)


def _find(document: Document, path: Iterable[str]) -> Any:
    place: Any = document
    for key in path:
        place = place.get(key) if isinstance(place, dict) else None
    return place


def _put(document: Document, path: Path, value: object) -> None:
    """Set the member; None removes it. Objects on the way are made."""
    *parents, last = path
    if value is None:
        if isinstance(place := _find(document, parents), dict):
            place.pop(last, None)
        return
    place = document
    for key in parents:
        if not isinstance(place.get(key), dict):
            place[key] = {}
        place = place[key]
    place[last] = value


def _object(document: Document, path: Path) -> Document:
    found = _find(document, path)
    return found if isinstance(found, dict) else {}


def _texts(document: Document, path: Path) -> list[str]:
    found = _find(document, path)
    return [each for each in found if isinstance(each, str)] if isinstance(found, list) else []


def _text(name: str, *path: str, oauth: bool = True) -> Field:
    """A text; an empty one removes the member."""

    def read(document: Document) -> str:
        found = _find(document, _resolved(document, path))
        return found if isinstance(found, str) else ""

    def write(document: Document, value: str) -> None:
        _put(document, _resolved(document, path), value or None)

    return Field(name, read, write, oauth)


def _flag(name: str, *path: str, default: bool = False, negated: bool = False, oauth: bool = True) -> Field:
    """A box. `negated`: the member is true when the box is empty."""

    def read(document: Document) -> str:
        found = _find(document, _resolved(document, path))
        return "1" if (found if isinstance(found, bool) else default) is not negated else ""

    def write(document: Document, value: str) -> None:
        _put(document, _resolved(document, path), bool(value) is not negated)

    return Field(name, read, write, oauth)


def _number(name: str, *path: str) -> Field:
    """Whole seconds; empty: Tokenwire's default."""

    def read(document: Document) -> str:
        found = _find(document, path)
        return "" if found is None else str(found)

    def write(document: Document, value: str) -> None:
        if value and not (value.isascii() and value.isdecimal() and len(value) <= 12):
            raise WrongField(f"{path[-1]}: a whole number of seconds is expected; empty for the default.")
        _put(document, path, int(value) if value else None)

    return Field(name, read, write)


def _choice_of_three(name: str, *path: str) -> Field:
    """`true`, `false`, or empty where the definition does not say."""

    def read(document: Document) -> str:
        found = _find(document, path)
        return str(found).lower() if isinstance(found, bool) else ""

    def write(document: Document, value: str) -> None:
        if value not in {"", "true", "false"}:
            raise WrongField(f"{path[-1]}: yes, no or the default is expected.")
        _put(document, path, {"true": True, "false": False}.get(value))

    return Field(name, read, write)


def _own_fields(own: str) -> list[Field]:
    """Settings of Tokenwire's own, which are alike in both formats."""
    return [
        *(_number(name, own, member) for name, member in _LIFETIMES.items()),
        _flag("pkce_required", own, "pkceRequired"),
        _text("refresh_reuse", own, "refreshReuse"),
        _choice_of_three("anonymous_grants", own, "anonymousGrants"),
        _flag("shared_secret_header", own, "sharedSecretHeader", default=True),
        _flag("method_override", own, "methodOverride", oauth=False),
    ]


# Tyk OAS


def _empty_oas() -> Document:
    return {
        "openapi": "3.0.3",
        "info": {"title": "", "version": "1.0.0"},
        "paths": {},
        "security": [],
        "components": {"securitySchemes": {}},
        _TYK: {"info": {"name": "", "state": {"active": True}}, "server": {"listenPath": {}}, "upstream": {}},
    }


def _issuing_scheme(document: Document) -> str | None:
    """The first scheme in `security` that issues tokens here, as the import reads it; None if there is none."""
    authentication = _object(document, _AUTHENTICATION)
    requirements = document.get("security")
    if authentication.get("enabled") is not True or not isinstance(requirements, list):
        return None
    names = (name for requirement in requirements if isinstance(requirement, dict) for name in requirement)
    return next((name for name in names if _is_issuing(document, name)), None)


def _is_issuing(document: Document, name: str) -> bool:
    settings = _object(document, (*_AUTHENTICATION, "securitySchemes", name))
    declared = _object(document, ("components", "securitySchemes", name))
    elsewhere = any(settings.get(key) for key in _ISSUED_ELSEWHERE)
    return settings.get("enabled") is True and declared.get("type") == "oauth2" and not elsewhere


def _start_issuing_oas(document: Document, value: str) -> None:
    _refuse_to_stop(value)
    taken = _object(document, ("components", "securitySchemes"))
    name = next(each for each in ("oauth", "tokenwire", *(f"oauth{n}" for n in range(2, 100))) if each not in taken)
    _put(document, ("components", "securitySchemes", name), {"type": "oauth2", "flows": {}})
    _put(document, (*_AUTHENTICATION, "enabled"), True)
    settings = {"enabled": True, "header": {"enabled": True, "name": "Authorization"}}
    _put(document, (*_AUTHENTICATION, "securitySchemes", name), settings)
    kept = document.get("security")
    document["security"] = [*(kept if isinstance(kept, list) else []), {name: []}]


def _refuse_to_stop(value: str) -> None:
    if not value:
        raise WrongField("An API that issues tokens cannot stop it in the form; change the definition's text.")


def _write_name_oas(document: Document, value: str) -> None:
    path = (_TYK, "info", "name")
    if _find(document, ("info", "title")) in {"", None, _find(document, path)}:
        _put(document, ("info", "title"), value)
    _put(document, path, value)


def _grants_oas(document: Document) -> str:
    flows, types = _object(document, _resolved(document, _FLOWS)), _texts(document, _types_of(document))
    codes = not types or "code" in types
    offered = (str(grant) for flow, grant in FLOWS.items() if flow in flows and (codes or not _is_code(grant)))
    return "\n".join(offered)


def _types_of(document: Document) -> Path:
    return _resolved(document, (*_SETTINGS, "allowedAuthorizeTypes"))


def _is_code(grant: str) -> bool:
    return grant == GrantType.AUTHORIZATION_CODE


def _write_grants_oas(document: Document, value: str) -> None:
    wanted, path = _known_grants(value), _resolved(document, _FLOWS)
    scopes = dict(_scopes_in_flows(document))
    for flow, grant in FLOWS.items():
        if grant not in wanted:
            _put(document, (*path, flow), None)
        elif _find(document, (*path, flow)) is None:
            urls = _NEW_FLOW if _is_code(grant) else {"tokenUrl": _NEW_FLOW["tokenUrl"]}
            _put(document, (*path, flow), {**urls, "scopes": dict(scopes)})
    _allow_codes(document, wanted, _types_of(document))


def _known_grants(value: str) -> list[str]:
    wanted = value.split()
    if unknown := [grant for grant in wanted if grant not in GRANTS]:
        raise WrongField(f"Grant types: {unknown[0]} is not offered.")
    return wanted


def _allow_codes(document: Document, wanted: Sequence[str], path: Path) -> None:
    types = _texts(document, path)
    if GrantType.AUTHORIZATION_CODE in wanted and types and "code" not in types:
        _put(document, path, [*types, "code"])


def _scopes_in_flows(document: Document) -> Iterable[tuple[str, str]]:
    for flow in _object(document, _resolved(document, _FLOWS)).values():
        for name, sentence in _object(flow if isinstance(flow, dict) else {}, ("scopes",)).items():
            yield name, " ".join(sentence.split()) if isinstance(sentence, str) else ""


def _scopes_oas(document: Document) -> str:
    known = dict.fromkeys(_texts(document, (_OWN, "scopes")), "")
    for name, sentence in _scopes_in_flows(document):
        known[name] = known.get(name) or sentence
    return "\n".join(f"{name} {sentence}".strip() for name, sentence in known.items())


def _write_scopes_oas(document: Document, value: str) -> None:
    before, after = _read_scopes(_scopes_oas(document)), _read_scopes(value)
    changed = {name: sentence for name, sentence in after.items() if before.get(name) != sentence}
    for name, flow in _object(document, _resolved(document, _FLOWS)).items():
        if isinstance(flow, dict):
            scopes = {each: text for each, text in _object(flow, ("scopes",)).items() if each in after}
            added = changed if name in FLOWS else {each: text for each, text in changed.items() if each in scopes}
            flow["scopes"] = scopes | added
    _keep_own_scopes(document, _OWN, after)


def _keep_own_scopes(document: Document, own: str, wanted: Iterable[str]) -> None:
    kept = _texts(document, (own, "scopes"))
    if left := [name for name in kept if name not in wanted]:
        _put(document, (own, "scopes"), [name for name in kept if name not in left])


def _read_scopes(value: str) -> dict[str, str]:
    """Scopes with their sentences: one a line, the name first."""
    lines = (line.split(maxsplit=1) for line in value.splitlines() if line.strip())
    return {line[0]: " ".join(line[1].split()) if len(line) > 1 else "" for line in lines}


def _place_oas(place: str) -> list[Field]:
    return [_flag(place, *_SETTINGS, place, "enabled"), _text(f"{place}_name", *_SETTINGS, place, "name")]


_OAS: Sequence[Field] = (
    Field("name", _text("name", _TYK, "info", "name").read, _write_name_oas, oauth=False),
    _flag("active", _TYK, "info", "state", "active", default=True, oauth=False),
    _flag("internal", _TYK, "info", "state", "internal", oauth=False),
    _text("listen_path", _TYK, "server", "listenPath", "value", oauth=False),
    _flag("strip_listen_path", _TYK, "server", "listenPath", "strip", oauth=False),
    _text("upstream_url", _TYK, "upstream", "url", oauth=False),
    Field(ISSUES, lambda document: "1" if _issues(document) else "", _start_issuing_oas, oauth=False),
    _flag("strip_authorization_data", *_AUTHENTICATION, "stripAuthorizationData"),
    Field("grants", _grants_oas, _write_grants_oas),
    _flag("refresh_token", *_SETTINGS, "refreshToken"),
    _text("login_url", *_SETTINGS, "authLoginRedirect"),
    *_place_oas("header"),
    *_place_oas("cookie"),
    *_place_oas("query"),
    _text("notifications_url", *_SETTINGS, "notifications", "onKeyChangeUrl"),
    *_own_fields(_OWN),
    Field("scopes", _scopes_oas, _write_scopes_oas),
)


# Tyk Classic

_TYPES: Path = ("oauth_meta", "allowed_access_types")
_TOKEN: Path = ("auth_configs", "oauth")


def _start_issuing_classic(document: Document, value: str) -> None:
    _refuse_to_stop(value)
    document["use_oauth2"] = True
    if "use_keyless" in document:
        document["use_keyless"] = False


def _grants_classic(document: Document) -> str:
    access, authorize = _texts(document, _TYPES), _texts(document, ("oauth_meta", "allowed_authorize_types"))
    codes = not authorize or "code" in authorize
    return "\n".join(grant for grant in GRANTS if grant in access and (codes or not _is_code(grant)))


def _write_grants_classic(document: Document, value: str) -> None:
    wanted = _known_grants(value)
    kept = [each for each in _texts(document, _TYPES) if each not in GRANTS or each in wanted]
    _put(document, _TYPES, [*kept, *(grant for grant in wanted if grant not in kept)])
    _allow_codes(document, wanted, ("oauth_meta", "allowed_authorize_types"))


def _refreshes_classic(document: Document) -> str:
    return "1" if GrantType.REFRESH_TOKEN in _texts(document, _TYPES) else ""


def _write_refresh_classic(document: Document, value: str) -> None:
    kept = [each for each in _texts(document, _TYPES) if each != GrantType.REFRESH_TOKEN]
    _put(document, _TYPES, [*kept, *([str(GrantType.REFRESH_TOKEN)] if value else [])])


def _scopes_classic(document: Document) -> str:
    return "\n".join(_texts(document, ("tokenwire", "scopes")))


def _write_scopes_classic(document: Document, value: str) -> None:
    wanted = list(_read_scopes(value))
    _put(document, ("tokenwire", "scopes"), wanted or None)


_CLASSIC: Sequence[Field] = (
    _text("name", "name", oauth=False),
    _flag("active", "active", default=True, oauth=False),
    _flag("internal", "internal", oauth=False),
    _text("listen_path", "proxy", "listen_path", oauth=False),
    _flag("strip_listen_path", "proxy", "strip_listen_path", oauth=False),
    _text("upstream_url", "proxy", "target_url", oauth=False),
    Field(ISSUES, lambda document: "1" if _issues(document) else "", _start_issuing_classic, oauth=False),
    _flag("strip_authorization_data", "strip_auth_data"),
    Field("grants", _grants_classic, _write_grants_classic),
    Field("refresh_token", _refreshes_classic, _write_refresh_classic),
    _text("login_url", "oauth_meta", "auth_login_redirect"),
    _flag("header", *_TOKEN, "disable_header", negated=True),
    _text("header_name", *_TOKEN, "auth_header_name"),
    _flag("cookie", *_TOKEN, "use_cookie"),
    _text("cookie_name", *_TOKEN, "cookie_name"),
    _flag("query", *_TOKEN, "use_param"),
    _text("query_name", *_TOKEN, "param_name"),
    _text("notifications_url", "notifications", "oauth_on_keychange_url"),
    *_own_fields("tokenwire"),
    Field("scopes", _scopes_classic, _write_scopes_classic),
)
