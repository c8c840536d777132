"""The interface of a grant handler. There is one for each `grant_type` of the token endpoint."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

from contracts.apis import GrantType
from contracts.grants import TokenRequest, TokenResponse
from libs.oauth.grant_types import PROFILES, GrantProfile
from libs.oauth.grants import IssueContext


@dataclass(frozen=True, slots=True)
class IssuedTokens:
    """The response with the tokens, which are committed."""

    response: TokenResponse
    on_sent: Callable[[], None] | None = None
    """To be called once the response was written to the client's connection; None where nothing depends on that."""


class GrantHandler(Protocol):
    """Handles one `grant_type`, for a client that is authenticated, on an API that offers it."""

    profile: ClassVar[GrantProfile]
    """What the grant type allows; the endpoint checks it before `issue` is called."""

    async def issue(self, request: TokenRequest, context: IssueContext) -> IssuedTokens:
        """The tokens, committed with their event. Raises OAuthError."""


def by_grant_type(*handlers: GrantHandler) -> Mapping[GrantType, GrantHandler]:
    """The handlers by the `grant_type` of their profile.

    Raises ValueError unless there is exactly one for each profile, so that a forgotten handler stops the process when
    it starts and not a request.
    """
    found = {handler.profile.grant_type: handler for handler in handlers}
    if len(handlers) != len(found) or found.keys() != PROFILES.keys():
        raise ValueError(f"one handler is needed for each of {', '.join(PROFILES)}, and {len(handlers)} are given")
    return found
