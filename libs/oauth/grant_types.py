"""The grant types, what each of them allows, and which of them an API offers.

The token endpoint, the metadata and the tests read it from here. Every profile has a handler in services/token/grants/
that answers it. A device grant (`device_code`, RFC 8628) or a token exchange (RFC 8693) would be one more of each:
docs/contributing/adding-a-grant.md lists the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from contracts.apis import GrantType, OAuthSettings


@dataclass(frozen=True, slots=True)
class GrantProfile:
    """What one grant type allows."""

    grant_type: GrantType
    issues_refresh_tokens: bool
    """Whether its tokens come with a refresh token, on APIs that have `refresh_token` set."""
    admits_public_clients: bool
    """Whether a client without a secret may use it."""


AUTHORIZATION_CODE = GrantProfile(GrantType.AUTHORIZATION_CODE, issues_refresh_tokens=True, admits_public_clients=True)
CLIENT_CREDENTIALS = GrantProfile(
    # RFC 6749 §4.4.3: "A refresh token SHOULD NOT be included". §4.4: the grant "MUST only be used by confidential
    # clients".
    GrantType.CLIENT_CREDENTIALS,
    issues_refresh_tokens=False,
    admits_public_clients=False,
)
PASSWORD = GrantProfile(
    # Stricter than RFC 6749 §4.3: any program could ask users for their password in the name of a public client.
    GrantType.PASSWORD,
    issues_refresh_tokens=True,
    admits_public_clients=False,
)
REFRESH_TOKEN = GrantProfile(GrantType.REFRESH_TOKEN, issues_refresh_tokens=True, admits_public_clients=True)

PROFILES: Mapping[GrantType, GrantProfile] = {
    profile.grant_type: profile for profile in (AUTHORIZATION_CODE, CLIENT_CREDENTIALS, PASSWORD, REFRESH_TOKEN)
}
_FIRST = frozenset(PROFILES) - {GrantType.REFRESH_TOKEN}
"""Grant types that begin a grant; a refresh token only continues one."""
_WITH_REFRESH_TOKEN = frozenset(each for each in _FIRST if PROFILES[each].issues_refresh_tokens)


def is_offered(grant_type: str, settings: OAuthSettings) -> bool:
    """Whether the token endpoint of this API accepts the `grant_type`.

    `refresh_token` only if the API offers a grant type that issues refresh tokens.
    """
    if grant_type != GrantType.REFRESH_TOKEN:
        return grant_type in settings.grant_types
    return settings.refresh_token and not _WITH_REFRESH_TOKEN.isdisjoint(settings.grant_types)


def offered(settings: OAuthSettings) -> tuple[GrantType, ...]:
    """Every grant type that the token endpoint of this API accepts (RFC 8414 `grant_types_supported`)."""
    return tuple(grant_type for grant_type in GrantType if is_offered(grant_type, settings))


def offers_public_clients(settings: OAuthSettings) -> bool:
    """Whether a client without a secret can get tokens on this API at all."""
    return any(PROFILES[each].admits_public_clients for each in _FIRST.intersection(settings.grant_types))
