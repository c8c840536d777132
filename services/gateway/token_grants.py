"""Cache of the grants behind access tokens, invalidated by events from the bus.

While the bus is up, a revocation takes effect within milliseconds; an entry is read again after `ttl` seconds in any
case. While the bus is silent, an entry is used for TRUSTED_IN_SILENCE seconds only. Dead tokens are cached as well:
they never become valid again, and each call with one would otherwise cost a read.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from sys import intern

from contracts.apis import GrantType
from contracts.grants import Grant
from libs.bus.invalidation import invalidate
from libs.bus.port import Delivery, Exchange, Mode, Pulse, Subscription
from libs.catalog import TRUSTED_IN_SILENCE
from libs.oauth.grants import live_access_token
from libs.oauth.token_formats import PresentedToken, TokenFormat, TokenKind
from libs.policies import KeyRules, counter_of
from libs.store.grants import Grants
from libs.telemetry import CACHED_TOKENS

SIZE = 100_000
"""Cached tokens; at most 1 KB each."""
_ENDS_TOKENS = ("token.refresh.", "token.revoked.", "grant.revoked.")
_KEYS = tuple(f"{start}#" for start in _ENDS_TOKENS)


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What the gateway has to know about an access token and its grant."""

    grant_id: str
    generation: int
    api_id: str
    client_id: str
    subject: str | None
    scope: str | None
    resource_owner: str | None
    """User whose password the grant was issued for (password grant); None for other grants."""
    owner_since: datetime
    """When that password was set."""
    counter: str
    """Name of the counter for its calls (`libs.policies.counter_of`)."""
    rules: KeyRules | None
    created_at: datetime
    issued_at: datetime
    expires_at: datetime
    live: bool
    """False: revoked or replaced by a refresh; it never becomes valid again."""


def token_grant(grant: Grant, presented: PresentedToken) -> TokenGrant:
    """The part of the grant that concerns this access token."""
    access = live_access_token(grant, presented)
    return TokenGrant(
        grant_id=grant.grant_id,
        generation=presented.generation,
        api_id=intern(grant.api_id),
        client_id=intern(grant.client_id),
        subject=grant.subject,
        scope=access.scope if access else None,
        resource_owner=grant.subject if grant.grant_type is GrantType.PASSWORD else None,
        owner_since=grant.password_since or grant.created_at,
        counter=intern(counter_of(grant.api_id, grant.client_id, grant.subject)),
        rules=KeyRules.model_validate(grant.key_rules) if access and grant.key_rules is not None else None,
        created_at=grant.created_at,
        issued_at=access.issued_at if access else grant.created_at,
        expires_at=access.expires_at if access else grant.expires_at,
        live=access is not None,
    )


class _PendingRead:
    """A database read in progress. If an event about the grant arrives meanwhile, its result must not be cached:
    it may be from before the change, and no second event would correct it.
    """

    __slots__ = ("stale",)

    def __init__(self) -> None:
        self.stale = False


class TokenGrants:
    """The cache, bounded in entries and age; one per process."""

    def __init__(
        self,
        grants: Grants,
        token_format: TokenFormat,
        ttl: float,
        size: int = SIZE,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._grants = grants
        self._token_format = token_format
        self._ttl = ttl
        self._shortened = max(0.0, ttl - TRUSTED_IN_SILENCE)
        self._size = size
        self._clock = clock
        self._pulse = Pulse(clock)
        self._entries: OrderedDict[str, tuple[float, TokenGrant]] = OrderedDict()
        self._tokens: dict[str, str] = {}
        """Cached token by grant id."""
        self._reads: dict[str, set[_PendingRead]] = {}

    def cached(self, token: str) -> TokenGrant | None:
        """The token's grant if it is in the cache and fresh; no I/O."""
        entry = self._entries.get(token)
        if entry is None:
            return None
        now = self._clock()
        if entry[0] <= now + (self._shortened if now > self._pulse.silent_from else 0.0):
            return None
        self._entries.move_to_end(token)
        return entry[1]

    def needs_read(self, token: str) -> bool:
        """Whether `read` would ask MongoDB for this token."""
        if self.cached(token) is not None:
            return False
        presented = self._token_format.read(TokenKind.ACCESS, token)
        return presented is not None and self._successor(presented) is None

    async def read(self, token: str) -> TokenGrant | None:
        """Read the token's grant from MongoDB; None if no such token was issued, or its grant was purged.

        A forged token costs no read: its tag is checked first. Raises TemporarilyUnavailable.
        """
        presented = self._token_format.read(TokenKind.ACCESS, token)
        if presented is None:
            return None
        if successor := self._successor(presented):
            return replace(successor, generation=presented.generation, live=False)
        read = _PendingRead()
        reads = self._reads.setdefault(presented.grant_id, set())
        reads.add(read)
        try:
            grant = await self._grants.read(presented.grant_id)
        finally:
            reads.discard(read)
            if not reads:
                self._reads.pop(presented.grant_id, None)
        if grant is None:
            return None
        found = token_grant(grant, presented)
        if not read.stale:
            self._keep(token, found)
        return found

    def clear(self) -> None:
        """Drop everything: events may have been missed."""
        self._entries.clear()
        self._tokens.clear()
        for reads in self._reads.values():
            for read in reads:
                read.stale = True
        CACHED_TOKENS.set(0)

    def changed(self, key: str, subject: str) -> None:
        """Drop the grant that an event with this routing key and subject (its id) changes."""
        if key.startswith(_ENDS_TOKENS):
            token = self._tokens.pop(subject, None)
            if token is not None:
                self._entries.pop(token, None)
            for read in self._reads.get(subject, ()):
                read.stale = True

    async def on_event(self, delivery: Delivery) -> None:
        """Handle an event from another process; an event that names no grant drops everything. Raises Drop."""
        invalidate(delivery, self.changed, self.clear)

    def subscription(self) -> Subscription:
        """The subscription to every event that ends access tokens."""
        return Subscription(
            "token-grants",
            Exchange.EVENTS,
            _KEYS,
            self.on_event,
            Mode.BROADCAST,
            prefetch=256,
            on_gap=self.clear,
            pulse=self._pulse,
        )

    def _successor(self, presented: PresentedToken) -> TokenGrant | None:
        """The cached entry of a newer token of the same grant: it proves that the presented token was replaced."""
        kept = self.cached(self._tokens.get(presented.grant_id, ""))
        return kept if kept is not None and kept.generation > presented.generation else None

    def _keep(self, token: str, grant: TokenGrant) -> None:
        former = self._tokens.get(grant.grant_id)
        if former is not None and former != token:
            # Only the newest token of a grant is cached: no other can be valid.
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
