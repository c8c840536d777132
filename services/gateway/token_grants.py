"""The grants behind access tokens as this process knows them: read once, kept until the bus says they changed.

With the bus up a change is seen within milliseconds; without it an entry is trusted for `ttl` seconds. What is dead is
remembered too, since it never lives again.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from sys import intern

from contracts.grants import Grant
from libs.bus.port import Delivery, Exchange, Mode, Subscription
from libs.bus.subjects import tell
from libs.oauth.grants import live_access_token
from libs.oauth.tokens import Handle, TokenCodec, TokenKind
from libs.policies import KeyRules
from libs.store.grants import Grants
from libs.telemetry import CACHED_TOKENS

SIZE = 100_000
"""Tokens kept; at most a kilobyte each."""
_ENDS_TOKENS = ("token.refresh.", "token.revoked.", "grant.revoked.")
_KEYS = tuple(f"{start}#" for start in _ENDS_TOKENS)


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What an access token stands for, in little room."""

    grant_id: str
    generation: int
    api_id: str
    client_id: str
    subject: str | None
    scope: str | None
    policy_ids: tuple[str, ...]
    rules: KeyRules | None
    created_at: datetime
    issued_at: datetime
    expires_at: datetime
    live: bool
    """False: over before its time, for ever."""


def token_grant(grant: Grant, presented: Handle) -> TokenGrant:
    """The grant as far as this access token of it is concerned."""
    access = live_access_token(grant, presented)
    return TokenGrant(
        grant_id=grant.grant_id,
        generation=presented.generation,
        api_id=intern(grant.api_id),
        client_id=intern(grant.client_id),
        subject=grant.subject,
        scope=access.scope if access else None,
        policy_ids=grant.policy_ids,
        rules=KeyRules.model_validate(grant.key_rules) if access and grant.key_rules is not None else None,
        created_at=grant.created_at,
        issued_at=access.issued_at if access else grant.created_at,
        expires_at=access.expires_at if access else grant.expires_at,
        live=access is not None,
    )


class _Reading:
    """A read under way; what it brings is not kept once something was heard of the grant."""

    __slots__ = ("stale",)

    def __init__(self) -> None:
        self.stale = False


class TokenGrants:
    """Tokens and their grants, bounded in number and age. One a process."""

    def __init__(
        self,
        grants: Grants,
        codec: TokenCodec,
        ttl: float,
        size: int = SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grants = grants
        self._codec = codec
        self._ttl = ttl
        self._size = size
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, TokenGrant]] = OrderedDict()
        self._tokens: dict[str, str] = {}
        """Of each grant that is kept, the token under which it is."""
        self._readings: dict[str, set[_Reading]] = {}

    def held(self, token: str) -> TokenGrant | None:
        """The token's grant, if it is here and fresh; nothing is read or waited for."""
        entry = self._entries.get(token)
        if entry is None or entry[0] <= self._clock():
            return None
        self._entries.move_to_end(token)
        return entry[1]

    def must_be_read(self, token: str) -> bool:
        """Whether MongoDB has to be asked for the token's grant."""
        if self.held(token) is not None:
            return False
        presented = self._codec.read(TokenKind.ACCESS, token)
        return presented is not None and self._successor(presented) is None

    async def read(self, token: str) -> TokenGrant | None:
        """The token's grant as MongoDB has it now; None where this server issued no such token, or it is long over.

        A forged token costs no read. Raises TemporarilyUnavailable.
        """
        presented = self._codec.read(TokenKind.ACCESS, token)
        if presented is None:
            return None
        if successor := self._successor(presented):
            return replace(successor, generation=presented.generation, live=False)
        reading = _Reading()
        readings = self._readings.setdefault(presented.grant_id, set())
        readings.add(reading)
        try:
            grant = await self._grants.read(presented.grant_id)
        finally:
            readings.discard(reading)
            if not readings:
                self._readings.pop(presented.grant_id, None)
        if grant is None:
            return None
        found = token_grant(grant, presented)
        if not reading.stale:
            self._keep(token, found)
        return found

    def forget(self) -> None:
        """Trust nothing: something may have changed unheard."""
        self._entries.clear()
        self._tokens.clear()
        for readings in self._readings.values():
            for reading in readings:
                reading.stale = True
        CACHED_TOKENS.set(0)

    def changed(self, key: str, subject: str) -> None:
        """Forget what an event with this routing key and subject says has changed."""
        if key.startswith(_ENDS_TOKENS):
            token = self._tokens.pop(subject, None)
            if token is not None:
                self._entries.pop(token, None)
            for reading in self._readings.get(subject, ()):
                reading.stale = True

    async def heard(self, delivery: Delivery) -> None:
        """Another process changed a grant; where it is not said which, none is trusted. Raises Drop."""
        tell(delivery, self.changed, self.forget)

    def subscription(self) -> Subscription:
        """To all that ends an access token."""
        return Subscription(
            "token-grants", Exchange.EVENTS, _KEYS, self.heard, Mode.BROADCAST, prefetch=256, on_gap=self.forget
        )

    def _successor(self, presented: Handle) -> TokenGrant | None:
        """What is known of a younger token of the same grant, which the presented one ended for."""
        kept = self.held(self._tokens.get(presented.grant_id, ""))
        return kept if kept is not None and kept.generation > presented.generation else None

    def _keep(self, token: str, grant: TokenGrant) -> None:
        former = self._tokens.get(grant.grant_id)
        if former is not None and former != token:
            # One token of a grant is kept: the youngest, which alone may be live.
            if self._entries[former][1].generation > grant.generation:
                return
            del self._entries[former]
        self._tokens[grant.grant_id] = token
        self._entries[token] = (self._clock() + self._ttl, grant)
        self._entries.move_to_end(token)
        if len(self._entries) > self._size:
            _, (_, oldest) = self._entries.popitem(last=False)
            del self._tokens[oldest.grant_id]
        CACHED_TOKENS.set(len(self._entries))
