"""Limits how many tokens a client is issued. All instances share the count; far from the limit it costs no I/O."""

import asyncio
import math
from datetime import UTC, datetime

import structlog

from contracts.clients import Client
from libs.oauth.errors import TooManyTokens
from libs.oauth.login_limits import Limit
from libs.policies import counter_name
from libs.store.attempts import Attempts
from libs.telemetry import ISSUANCE_REFUSED

SHARES = 64
"""The limit is divided into this many shares. In each window a process issues one share without asking MongoDB, then
reserves one share at a time.
"""
MOST_CLIENTS = 20_000
"""Maximum number of clients counted in memory in one window; tokens of further clients are reserved one by one."""

log = structlog.get_logger("token")


class _Allowance:
    """The tokens that this process may still issue to one client in this window, without another reservation."""

    __slots__ = ("asking", "is_used_up", "left")

    def __init__(self, left: int) -> None:
        self.left = left
        self.is_used_up = False
        self.asking = asyncio.Lock()


class IssuanceLimiter:
    """Counts the tokens of each client in windows of fixed length, which all instances share.

    In one window a client gets at most the limit plus one share for each process; exactly the limit if it is below
    SHARES. Tokens of a public client are counted by grant, because it cannot be authenticated: otherwise anybody could
    use up the limit of all users of the app.
    """

    def __init__(self, attempts: Attempts, limit: Limit, most_clients: int = MOST_CLIENTS) -> None:
        self._attempts = attempts
        self._limit = limit
        self._share = limit.failures // SHARES
        self._most_clients = most_clients
        self._allowances: dict[tuple[str, ...], _Allowance] = {}
        self._window = -1
        self._end = datetime.fromtimestamp(0, UTC)

    async def admit(self, client: Client, grant_id: str, now: datetime) -> None:
        """Count one token of the client by this grant. Raises TooManyTokens, and TemporarilyUnavailable."""
        if now >= self._end:
            self._begin_window(now)
        key = (client.api_id, client.client_id) if client.secrets else (client.api_id, client.client_id, grant_id)
        allowance = self._allowances.get(key)
        if allowance is None:
            allowance = self._new_allowance(key)
        if allowance.left:
            allowance.left -= 1
        else:
            await self._reserve(key, allowance, now)

    def _begin_window(self, now: datetime) -> None:
        self._window = self._limit.window(now)
        self._end = self._limit.end(self._window)
        self._allowances = {}

    def _new_allowance(self, key: tuple[str, ...]) -> _Allowance:
        if len(self._allowances) >= self._most_clients:
            return _Allowance(0)
        allowance = self._allowances[key] = _Allowance(self._share)
        return allowance

    async def _reserve(self, key: tuple[str, ...], allowance: _Allowance, now: datetime) -> None:
        """Take one token of a share; the requests that wait for the same client share one reservation."""
        window, end = self._window, self._end
        async with allowance.asking:
            if not allowance.left and not allowance.is_used_up:
                is_kept = self._allowances.get(key) is allowance
                name = counter_name("tokens", str(window), *key)
                wanted = max(1, self._share) if is_kept else 1
                allowance.left = await self._attempts.reserve(name, self._limit.failures, wanted, end)
                if not allowance.left:
                    allowance.is_used_up = True
                    log.warning("issuance_limited", client_id=key[1], until=str(end))
            if allowance.left:
                allowance.left -= 1
                return
        ISSUANCE_REFUSED.inc()
        seconds = math.ceil((end - now).total_seconds())
        raise TooManyTokens("too many tokens were issued to this client; try again later", retry_after=max(1, seconds))
