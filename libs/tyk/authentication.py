"""Authentication in both formats: how the API issues tokens, and where the gateway looks for them."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Any

from pydantic import (
    ConfigDict,
    Field,
    SecretStr,
    StrictBool,
    StrictInt,
    StringConstraints,
    TypeAdapter,
    ValidationError,
)
from pydantic.alias_generators import to_camel

from contracts.apis import GrantType, Notifications, OAuthSettings, RefreshReuse, TokenLocation
from contracts.base import AdminRequest, Text
from contracts.guards import Unsupported
from libs.tyk.import_notes import ImportNotes
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.part import Part
from libs.tyk.references import NOTHING_REPLACES, is_reference

AUTHORIZE_TYPES = ("code", "token")
"""The response types of Tyk; `token` (the implicit grant) is not supported here (RFC 9700 §2.1.2)."""

_ACCEPTED = "acceptedUnsupported"
NO_SCOPES = "so tokens have none and a request for one is refused; declare those that clients may ask for"
"""The second half of the warning about a definition without scopes."""
NO_GRANTS = (
    "no grant type is offered, so the API issues no tokens; calls need a token of another API that a policy opens both "
    "with"
)
"""The warning about an API with OAuth that cannot issue any token."""
ISSUER_SAYS_LIFETIME = "not used; the API that issues a token says how long it lives"
_HOUR = int(timedelta(hours=1).total_seconds())
_DAY = 24 * _HOUR


ScopeName = Annotated[str, StringConstraints(pattern=r"^[\x21\x23-\x5B\x5D-\x7E]{1,256}$")]
"""One scope-token of RFC 6749 §3.3: printable ASCII without space, quote and backslash."""
_SCOPE_NAME: TypeAdapter[str] = TypeAdapter(ScopeName)


@dataclass(frozen=True, slots=True)
class Authentication:
    """How calls are authenticated. With neither OAuth nor Auth Token, the API is keyless (public)."""

    oauth: OAuthSettings | None = None
    auth_token: bool = False
    token_location: TokenLocation = field(default_factory=TokenLocation)


class TokenwireSettings(AdminRequest):
    """`x-tokenwire` (OAS) or `tokenwire` (Classic): settings that Tyk does not have. Lifetimes in whole seconds."""

    model_config = ConfigDict(alias_generator=to_camel)

    access_token_lifetime: Annotated[StrictInt, Field(ge=1, le=30 * _DAY)] | None = Field(
        None, description="Lifetime of an access token in seconds."
    )
    refresh_token_lifetime: Annotated[StrictInt, Field(ge=1, le=366 * _DAY)] | None = Field(
        None, description="Lifetime of an unused refresh token in seconds."
    )
    grant_lifetime: Annotated[StrictInt, Field(ge=1, le=3660 * _DAY)] | None = Field(
        None, description="Seconds after which the grant ends, however often it is refreshed."
    )
    code_lifetime: Annotated[StrictInt, Field(ge=1, le=600)] | None = Field(
        None, description="Lifetime of an authorization code in seconds."
    )
    pkce_required: StrictBool | None = Field(
        None, description="Require PKCE of clients with a secret too; public clients always need it."
    )
    refresh_reuse: RefreshReuse | None = Field(
        None,
        description="recover: the previous refresh token returns the same tokens once more within ten seconds, if the "
        "response was lost; strict: its reuse revokes the grant. Public clients are always strict.",
    )
    anonymous_grants: StrictBool | None = Field(
        None,
        description="Whether authorize-client issues codes without a subject. By default only if the definition sets "
        "nothing here but scopes and acceptedUnsupported, because it was written for Tyk.",
    )
    shared_secret_header: StrictBool = Field(
        True, description="false: webhooks do not carry X-Tyk-Shared-Secret and the signature made with that secret."
    )
    scopes: tuple[ScopeName, ...] | None = Field(
        None,
        description="Scopes that clients may ask for, besides those of the OpenAPI flows; the only place for them in a "
        "Classic definition.",
    )
    method_override: StrictBool = Field(
        False,
        description="Pass X-HTTP-Method-Override and similar headers to the upstream; the method that they name must "
        "be allowed too.",
    )
    accepted_unsupported: tuple[Text, ...] = Field(
        (), description="Paths of protections that are not enforced, and that the operator has accepted."
    )

    @property
    def allows_anonymous_grants(self) -> bool:
        """Whether a code may be issued without saying who logged in.

        Requests that are written for Tyk do not say it, so a definition that is written for Tyk alone allows it.
        """
        if self.anonymous_grants is not None:
            return self.anonymous_grants
        return not self.model_fields_set - {"accepted_unsupported", "scopes"}


_DEFAULT_LIFETIME: timedelta = OAuthSettings.model_fields["access_token_lifetime"].default
_ELSEWHERE = {"accepted_unsupported", "method_override", "scopes", "shared_secret_header", "anonymous_grants"}
"""Settings that are not fields of OAuthSettings by the same name."""


def with_accepted(definition: dict[str, Any], key: str, unsupported: Collection[Unsupported]) -> dict[str, Any]:
    """The definition with exactly these parts listed in Tokenwire's own settings as accepted and not enforced."""
    own = {name: value for name, value in (definition.get(key) or {}).items() if name != _ACCEPTED}
    if unsupported:
        own[_ACCEPTED] = [field.path for field in unsupported]
    elif not (definition.get(key) or {}).get(_ACCEPTED):
        return definition
    return {**definition, key: own}


def tokenwire_settings(definition: Part, key: str) -> TokenwireSettings:
    """The settings in this member. Unknown settings are refused, so that typos are noticed."""
    part = definition.part(key)
    try:
        return TokenwireSettings.model_validate(part.members)
    except ValidationError as error:
        raise _refused_setting(part, error) from None


def _refused_setting(part: Part, error: ValidationError) -> InvalidDefinition:
    first = error.errors(include_url=False, include_input=False)[0]
    if first["type"] == "extra_forbidden":
        known = ", ".join(to_camel(name) for name in TokenwireSettings.model_fields)
        return part.wrong(str(first["loc"][0]), f"there is no such setting; there are {known}")
    return part.wrong(".".join(map(str, first["loc"])), first["msg"])


def declared_scopes(flow: Part) -> tuple[str, ...]:
    """The scopes that an OpenAPI flow declares in `scopes`. Raises InvalidDefinition."""
    scopes = flow.part("scopes")
    for name in scopes.members:
        try:
            _SCOPE_NAME.validate_python(name)
        except ValidationError:
            raise scopes.wrong(
                name,
                "a scope is 1 to 256 printable ASCII characters without space, quote and backslash (RFC 6749 §3.3)",
            ) from None
    return tuple(scopes.members)


def known_words(part: Part, key: str, known: Collection[str], notes: ImportNotes) -> tuple[str, ...]:
    """The strings in the array of this member, with a warning for each that is not `known`; empty if it is absent."""
    words = part.texts(key)
    for index, word in enumerate(words):
        if word not in known:
            notes.unused(part.path_of(f"{key}[{index}]"), f"not used: one of {', '.join(known)} is expected")
    return words


def notifications(part: Part, url: str, secret: str, tokenwire: TokenwireSettings) -> Notifications | None:
    """The webhook settings from these members; None if there is no URL."""
    shared_secret = SecretStr(part.field_value(secret))
    if is_reference(shared_secret.get_secret_value()):
        raise part.wrong(secret, NOTHING_REPLACES)
    on_key_change_url = part.url(url)
    if not on_key_change_url:
        return None
    return Notifications(
        on_key_change_url=on_key_change_url,
        shared_secret=shared_secret,
        shared_secret_header=tokenwire.shared_secret_header,
    )


def oauth_settings(
    *,
    flows: Collection[GrantType],
    authorize_types: Collection[str],
    refresh_token: bool,
    scopes: Iterable[str],
    login_url: str,
    notifications: Notifications | None,
    tokenwire: TokenwireSettings,
    access_token_lifetime: timedelta | None = None,
) -> OAuthSettings:
    """How the API issues tokens. Without any grant type it issues none, and calls need a token of another API that a
    policy opens both with.

    The code grant and response type `code` come and go together: a list of authorize types without `code` takes
    the grant away, an empty list means `code`. The login URL may be missing: an identity server can ask for codes
    without it, and the authorization endpoint says so itself.
    """
    codes = GrantType.AUTHORIZATION_CODE in flows and (not authorize_types or "code" in authorize_types)
    starting = set(flows) - {GrantType.REFRESH_TOKEN} - (set() if codes else {GrantType.AUTHORIZATION_CODE})
    offered = starting | ({GrantType.REFRESH_TOKEN} if refresh_token and starting else set())
    lifetime = {"access_token_lifetime": access_token_lifetime} if access_token_lifetime else {}
    return OAuthSettings(
        grant_types=tuple(grant_type for grant_type in GrantType if grant_type in offered),
        response_types=("code",) if codes else (),
        refresh_token=refresh_token and bool(starting),
        login_url=login_url or None,
        notifications=notifications,
        scopes=tuple(dict.fromkeys([*scopes, *(tokenwire.scopes or ())])),
        anonymous_grants=tokenwire.allows_anonymous_grants,
        **{**lifetime, **tokenwire.model_dump(exclude_none=True, exclude=_ELSEWHERE)},
    )


def session_lifetime(
    part: Part, key: str, seconds: float, tokenwire: TokenwireSettings, notes: ImportNotes
) -> timedelta | None:
    """The lifetime of access tokens that follows from Tyk's lifetime of a session, where that ends earlier than a
    token; None where it does not, or where the definition sets `accessTokenLifetime`.
    """
    if seconds > 0 and tokenwire.access_token_lifetime is not None:
        notes.unused(part.path_of(key), "not used, since accessTokenLifetime says how long a token lives")
    elif 0 < seconds < _DEFAULT_LIFETIME.total_seconds():
        notes.enforce(part.path_of(key))
        return timedelta(seconds=max(1, int(seconds)))
    return None
