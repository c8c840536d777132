"""Clients that hold tokens: they request, refresh and revoke, and retry requests that got no response."""

import asyncio
import base64
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from tests.acceptance.tenants import CALLBACK, Tenant, basic
from tests.builders import Response

PATIENCE = 120.0
"""Seconds for which a client retries."""
LONGEST_CHAIN = 8
"""Refreshes of one grant at most."""

Ask = Callable[[], Awaitable[Response]]


@dataclass(frozen=True)
class Held:
    """A token from a response, with its refresh token."""

    grant_id: str
    generation: int
    access: str
    refresh: str
    notified: bool
    """Whether a webhook is due for this token."""


def held(response: Response, *, notified: bool) -> Held:
    """The token in a successful response."""
    access = response.body["access_token"]
    return Held(*located(access), access, response.body.get("refresh_token", ""), notified)


def located(value: str) -> tuple[str, int]:
    """Grant id and generation, read from the token itself."""
    raw = base64.urlsafe_b64decode(value[len("tw_at_") :])
    return base64.urlsafe_b64encode(raw[1:17]).rstrip(b"=").decode(), int.from_bytes(raw[17:21], "big")


@dataclass
class Holdings:
    """What the clients of one row know."""

    tokens: dict[str, Held] = field(default_factory=dict)
    """By access token."""
    tenants: dict[str, Tenant] = field(default_factory=dict)
    """The tenant of each grant, by grant id."""
    failed: Counter[str] = field(default_factory=Counter)
    """Number of requests without a response or with a 5xx, by kind and, for these, the beginning of the response, which
    says whether the edge or a service failed.
    """
    refused: list[str] = field(default_factory=list)
    """Refusals to a client whose requests had all been answered."""
    given_up: list[str] = field(default_factory=list)
    """Requests without an answer within PATIENCE."""
    twice: list[str] = field(default_factory=list)
    """Codes that were exchanged twice, and grants with too many live tokens."""
    answered: list[tuple[str, Held, float]] = field(default_factory=list)
    """Codes with the tokens they gave and the time of the response."""
    registered: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Id and secret of registered clients, by name."""
    lost_logins: list[str] = field(default_factory=list)
    """Logins that well-behaved clients lost, and what they found twice."""


@dataclass(frozen=True)
class Outcome:
    """The last response, and whether an earlier attempt may have taken effect."""

    response: Response | None
    ambiguous: bool

    @property
    def succeeded(self) -> bool:
        return self.response is not None and self.response.status == 200


@dataclass
class Holder:
    """One client program, which uses one grant after another until it is stopped."""

    tenant: Tenant
    holdings: Holdings
    rng: random.Random
    pause: float
    """Seconds between two requests."""
    ending: asyncio.Event

    async def run(self) -> None:
        """Use one grant after another."""
        while not self.ending.is_set():
            await self._life()

    async def _life(self) -> None:
        (begin,) = self.rng.choices((self._by_code, self._by_password, self._by_credentials), (6, 2, 1))
        pair = await begin()
        for _ in range(self.rng.randrange(LONGEST_CHAIN) if pair is not None and pair.refresh else 0):
            if pair is None or self.ending.is_set():
                return
            pair = await self._refreshed(pair)
        if pair is not None and self.rng.random() < 0.3:
            await self._revoke(pair.refresh if pair.refresh and self.rng.random() < 0.5 else pair.access)

    async def _by_code(self) -> Held | None:
        form = {
            "response_type": "code",
            "client_id": self.tenant.client_id,
            "redirect_uri": CALLBACK,
            "subject": f"user-{self.rng.randrange(1000)}",
        }
        path = f"/api/apis/oauth/{self.tenant.api_id}/authorize-client"
        asked = await self._insist("code", lambda: self.tenant.operator("POST", path, data=form))
        if asked.response is None or not asked.succeeded:
            self._refused("code", asked)
            return None
        code = asked.response.body["code"]
        pair = self._keep("exchange", await self._insist("exchange", lambda: self.tenant.exchanged(code)))
        if pair is not None:
            self.holdings.answered.append((code, pair, asyncio.get_running_loop().time()))
        return pair

    async def _by_password(self) -> Held | None:
        user, password = self.tenant.username, self.tenant.password
        asked = await self._insist(
            "password", lambda: self.tenant.token(grant_type="password", username=user, password=password)
        )
        return self._keep("password", asked)

    async def _by_credentials(self) -> Held | None:
        asked = await self._insist("credentials", self.tenant.client_credentials)
        return self._keep("credentials", asked, notified=False)

    async def _refreshed(self, pair: Held) -> Held | None:
        return self._keep("refresh", await self._insist("refresh", lambda: self.tenant.refreshed(pair.refresh)))

    async def _revoke(self, token: str) -> None:
        headers = basic(self.tenant.client_id, self.tenant.secret)
        path = f"{self.tenant.path}/oauth/revoke"
        asked = await self._insist(
            "revoke", lambda: self.tenant.edge("POST", path, data={"token": token}, headers=headers)
        )
        if not asked.succeeded:
            self._refused("revoke", asked)

    async def _insist(self, what: str, ask: Ask) -> Outcome:
        """Repeat the identical request until it gets a response that is not a 5xx."""
        await asyncio.sleep(self.pause * self.rng.uniform(0.5, 1.5))
        loop = asyncio.get_running_loop()
        deadline, pause, ambiguous = loop.time() + PATIENCE, 0.05, False
        while loop.time() < deadline:
            try:
                response = await ask()
            except (aiohttp.ClientError, TimeoutError, OSError) as fault:
                self.holdings.failed[f"{what}: {type(fault).__name__}"] += 1
            else:
                if response.status < 500:
                    return Outcome(response, ambiguous)
                self.holdings.failed[f"{what}: {response.status} {response.raw[:120].decode(errors='replace')}"] += 1
            ambiguous = True
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.5)
        self.holdings.given_up.append(what)
        return Outcome(None, ambiguous)

    def _keep(self, what: str, asked: Outcome, *, notified: bool = True) -> Held | None:
        if asked.response is None or not asked.succeeded:
            self._refused(what, asked)
            return None
        token = held(asked.response, notified=notified)
        self.holdings.tokens[token.access] = token
        self.holdings.tenants[token.grant_id] = self.tenant
        return token

    def _refused(self, what: str, asked: Outcome) -> None:
        """Record a refusal as wrong, unless an earlier attempt may have taken effect. The client then starts a new
        grant.
        """
        if asked.response is not None and not asked.ambiguous:
            self.holdings.refused.append(f"{what}: {asked.response.status} {asked.response.raw[:200]!r}")


class Load:
    """Concurrent clients."""

    def __init__(
        self, tenants: Sequence[Tenant], holders: int, pause: float, seed: str, kind: type[Holder] = Holder
    ) -> None:
        self.tenants = tenants
        self.holdings = Holdings()
        self._ending = asyncio.Event()
        self._holders = [
            kind(tenants[number % len(tenants)], self.holdings, random.Random(f"{seed}:{number}"), pause, self._ending)
            for number in range(holders)
        ]
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Start the clients."""
        self._tasks = [asyncio.create_task(holder.run(), name="holder") for holder in self._holders]

    async def held(self, tokens: int, within: float) -> None:
        """Wait until this many tokens are held. Raises AssertionError if it takes too long or a client crashed."""
        deadline = asyncio.get_running_loop().time() + within
        while len(self.holdings.tokens) < tokens:
            for task in self._tasks:
                if task.done():
                    task.result()
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(
                    f"{len(self.holdings.tokens)} of {tokens} tokens in {within} s; "
                    f"failed: {dict(self.holdings.failed)}; refused: {self.holdings.refused[:3]}"
                )
            await asyncio.sleep(0.02)

    async def stop(self) -> None:
        """Stop the clients after each has finished or given up its request."""
        self._ending.set()
        await asyncio.gather(*self._tasks)
