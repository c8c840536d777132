"""What both languages say about access: who gets tokens here, and where the protected API finds them."""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated

from pydantic import ConfigDict, Field, SecretStr, StrictBool, StrictInt, ValidationError
from pydantic.alias_generators import to_camel

from contracts.apis import GrantType, Notifications, OAuthSettings, RefreshReuse, TokenLocation
from contracts.base import AdminRequest
from libs.tyk.errors import InvalidDefinition
from libs.tyk.part import Part

AUTHORIZE_TYPES = ("code", "token")
"""The response types that Tyk knows; `token` (the implicit grant) is left out here (RFC 9700 §2.1.2)."""

_HOUR = int(timedelta(hours=1).total_seconds())
_DAY = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class Access:
    """Neither OAuth nor Auth Token: the API is keyless."""

    oauth: OAuthSettings | None = None
    auth_token: bool = False
    token_location: TokenLocation = field(default_factory=TokenLocation)


class TokenwireSettings(AdminRequest):
    """`x-tokenwire` (OAS) or `tokenwire` (Classic): what Tyk has no words for. Lifetimes are whole seconds."""

    model_config = ConfigDict(alias_generator=to_camel)

    access_token_lifetime: Annotated[StrictInt, Field(ge=1, le=30 * _DAY)] | None = None
    refresh_token_lifetime: Annotated[StrictInt, Field(ge=1, le=366 * _DAY)] | None = None
    grant_lifetime: Annotated[StrictInt, Field(ge=1, le=3660 * _DAY)] | None = None
    code_lifetime: Annotated[StrictInt, Field(ge=1, le=600)] | None = None
    pkce_required: StrictBool | None = None
    refresh_reuse: RefreshReuse | None = None


def tokenwire_settings(definition: Part, key: str) -> TokenwireSettings:
    """The settings there; all absent where there are none. An unknown one is refused, so that no typo is silent."""
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
    return part.wrong(str(first["loc"][0]), first["msg"])


def notifications(part: Part, url: str, secret: str) -> Notifications | None:
    """Where new tokens are announced, from the members of these names; None where there is no URL."""
    shared_secret = SecretStr(part.field_value(secret))
    on_key_change_url = part.url(url)
    if not on_key_change_url:
        return None
    return Notifications(on_key_change_url=on_key_change_url, shared_secret=shared_secret)


def oauth_settings(
    *,
    flows: Collection[GrantType],
    authorize_types: Collection[str],
    refresh_token: bool,
    login_url: str,
    notifications: Notifications | None,
    tokenwire: TokenwireSettings,
) -> OAuthSettings | None:
    """How the API issues tokens; None where it could issue none.

    The code grant and response type `code` come and go together: a list of authorize types without `code` takes
    the grant away, an empty list means `code`. The login URL may be missing: an identity server can ask for codes
    without it, and the authorization endpoint says so itself.
    """
    codes = GrantType.AUTHORIZATION_CODE in flows and (not authorize_types or "code" in authorize_types)
    starting = set(flows) - {GrantType.REFRESH_TOKEN} - (set() if codes else {GrantType.AUTHORIZATION_CODE})
    if not starting:
        return None
    offered = starting | ({GrantType.REFRESH_TOKEN} if refresh_token else set())
    return OAuthSettings(
        grant_types=tuple(grant_type for grant_type in GrantType if grant_type in offered),
        response_types=("code",) if codes else (),
        refresh_token=refresh_token,
        login_url=login_url or None,
        notifications=notifications,
        **tokenwire.model_dump(exclude_none=True),
    )
