"""New values for a grant: what the client gets, what the database keeps, what the notifier may read."""

import os
from collections.abc import Callable
from dataclasses import dataclass

import orjson

from contracts.apis import OAuthSettings
from contracts.grants import Grant, TokenResponse
from contracts.webhooks import TokenNotification
from libs.events import Origin
from libs.oauth.grants import TokenPair
from libs.oauth.tokens import TokenCodec, TokenKind, new_grant_id
from libs.sealing import Sealer
from libs.store.grants import Grants


@dataclass(frozen=True, slots=True)
class Issuer:
    """What every grant type needs to turn an approval into tokens."""

    grants: Grants
    codec: TokenCodec
    sealer: Sealer
    origin: Callable[[], Origin]

    def new_grant_id(self) -> str:
        """A grant id nobody has."""
        return new_grant_id(os.urandom(16))

    def mint(self, grant_id: str, generation: int, *, refresh: bool) -> TokenPair:
        """Values of this generation; they are good once the grant that carries their digests is committed."""
        access = self.codec.mint(TokenKind.ACCESS, grant_id, generation)
        return TokenPair(access, self.codec.mint(TokenKind.REFRESH, grant_id, generation) if refresh else None)

    def sealed(self, settings: OAuthSettings, notification: Callable[[], TokenNotification]) -> bytes | None:
        """The webhook's body for the notifier alone; None where the API wants no webhooks."""
        if settings.notifications is None:
            return None
        return self.sealer.seal(orjson.dumps(notification().model_dump()))


def response_of(grant: Grant, pair: TokenPair, at: Origin) -> TokenResponse:
    """RFC 6749 §5.1 for the newest generation of a grant."""
    if grant.access is None:
        raise ValueError("the grant has no access token")
    return TokenResponse(
        access_token=pair.access.value,
        expires_in=int((grant.access.expires_at - at.now).total_seconds()),
        refresh_token=pair.refresh.value if pair.refresh else None,
        scope=grant.access.scope,
    )
