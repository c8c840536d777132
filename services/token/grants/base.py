"""What a grant type is."""

from typing import Protocol

from contracts.apis import Api, OAuthSettings
from contracts.clients import Client
from contracts.grants import TokenRequest, TokenResponse


class GrantHandler(Protocol):
    """Answers one `grant_type`. The client is authenticated, and the API offers the grant."""

    @property
    def public_clients(self) -> bool:
        """Whether a client without a secret may use it."""

    async def issue(self, request: TokenRequest, client: Client, api: Api, settings: OAuthSettings) -> TokenResponse:
        """The tokens, committed with their event. Raises OAuthError."""
