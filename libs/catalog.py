"""APIs, clients, policies and operators as this process knows them: read once, kept until the bus says they changed.

With the bus up a change is seen within milliseconds; without it an entry is trusted for `ttl` seconds. What is not
there is never remembered as missing, so that what was just made is found at once.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from contracts.apis import Api
from contracts.clients import Client
from contracts.operators import Operator
from contracts.policies import Policy
from libs.bus.port import Delivery, Exchange, Mode, Subscription
from libs.bus.subjects import tell
from libs.store.operators import key_digest
from libs.store.store import Store

SIZE = 10_000
_SEGMENT = re.compile(r"[A-Za-z0-9._~-]{1,255}")
"""What a listen path may begin with; anything else is no API's, and no question for the database."""

V = TypeVar("V")


class _Shelf(Generic[V]):
    """Values by key, bounded in number and age."""

    def __init__(self, load: Callable[[str], Awaitable[V | None]], ttl: float, clock: Callable[[], float]) -> None:
        self._load = load
        self._ttl = ttl
        self._clock = clock
        self._entries: OrderedDict[str, tuple[float, V]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[V | None]] = {}
        self._epoch = 0

    async def get(self, key: str) -> V | None:
        held = self.held(key)
        if held is not None:
            return held
        # Others may wait for the same load when this one gives up.
        return await asyncio.shield(self._loading.get(key) or self._load_begun(key))

    async def at_hand(self, key: str) -> V | None:
        held, loading = self.held(key), self._loading.get(key)
        return await asyncio.shield(loading) if held is None and loading else held

    async def anew(self, key: str) -> V | None:
        return await asyncio.shield(self._load_begun(key))

    def held(self, key: str) -> V | None:
        entry = self._entries.get(key)
        return entry[1] if entry is not None and entry[0] > self._clock() else None

    def _load_begun(self, key: str) -> "asyncio.Task[V | None]":
        loading = self._loading[key] = asyncio.create_task(self._loaded(key), name="catalog")
        loading.add_done_callback(lambda done: self._load_ended(key, done))
        return loading

    def _load_ended(self, key: str, loading: "asyncio.Task[V | None]") -> None:
        if self._loading.get(key) is loading:
            del self._loading[key]
        if not loading.cancelled():
            loading.exception()  # whoever waited has it; nobody may have

    async def _loaded(self, key: str) -> V | None:
        epoch = self._epoch
        value = await self._load(key)
        if value is None:
            self._entries.pop(key, None)
        elif epoch == self._epoch:
            # A change heard of while loading may not be in what was loaded.
            self._entries[key] = (self._clock() + self._ttl, value)
            self._entries.move_to_end(key)
            if len(self._entries) > SIZE:
                self._entries.popitem(last=False)
        return value

    def forget(self) -> None:
        self._epoch += 1
        self._entries.clear()
        self._loading.clear()

    def forget_one(self, key: str) -> None:
        self._epoch += 1
        self._entries.pop(key, None)
        self._loading.pop(key, None)


class Catalog:
    """The read-mostly records of the system. One a process."""

    def __init__(self, store: Store, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._apis_at = _Shelf(store.apis.at, ttl, clock)
        self._paths = _Shelf(store.apis.under, ttl, clock)
        self._apis = _Shelf(store.apis.get, ttl, clock)
        self._clients = _Shelf(store.clients.get, ttl, clock)
        self._policies = _Shelf(store.policies.get, ttl, clock)
        self._operators = _Shelf(store.operators.with_digest, ttl, clock)

    async def api_at(self, place: str) -> Api | None:
        """The API that answers on this path (without outer slashes): its listen path, or its id."""
        return await self._apis_at.get(place)

    async def api_serving(self, path: str) -> Api | None:
        """The API whose listen path is the longest that this path is under, or the API whose id is."""
        segment = path.strip("/").partition("/")[0]
        apis = self._paths.held(segment)
        if apis is None:
            apis = (await self._paths.get(segment) if _SEGMENT.fullmatch(segment) else None) or ()
        place = f"{path}/"
        for api in apis:
            if place.startswith(api.listen_path):
                return api
        named = place.startswith(f"/{segment}/")
        return next((api for api in apis if named and api.api_id == segment), None)

    async def api(self, api_id: str) -> Api | None:
        """The API of this id."""
        return await self._apis.get(api_id)

    async def client(self, client_id: str) -> Client | None:
        """The client of this id."""
        return await self._clients.get(client_id)

    def held_client(self, client_id: str) -> Client | None:
        """The client of this id if it is known here; nothing is waited for."""
        return self._clients.held(client_id)

    def held_policy(self, policy_id: str) -> Policy | None:
        """The policy of this id if it is known here; nothing is waited for."""
        return self._policies.held(policy_id)

    async def client_at_hand(self, client_id: str) -> Client | None:
        """The client of this id if it is known here, or somebody has asked for it before; this asks for nothing."""
        return await self._clients.at_hand(client_id)

    async def client_anew(self, client_id: str) -> Client | None:
        """The client of this id as the database has it now."""
        return await self._clients.anew(client_id)

    async def policy(self, policy_id: str) -> Policy | None:
        """The policy of this id."""
        return await self._policies.get(policy_id)

    async def operator(self, key: str) -> Operator | None:
        """The operator who holds this key."""
        return await self._operators.get(key_digest(key))

    def forget(self) -> None:
        """Trust nothing: something may have changed unheard."""
        for shelf in (self._apis_at, self._paths, self._apis, self._clients, self._policies, self._operators):
            shelf.forget()

    def changed(self, key: str, subject: str) -> None:
        """Forget what an event with this routing key and subject says has changed."""
        match key.partition(".")[0]:
            case "client":
                self._clients.forget_one(subject)
            case "policy":
                self._policies.forget_one(subject)
            case "operator":
                self._operators.forget()
            case "api":
                self._apis.forget()
                self._apis_at.forget()
                self._paths.forget()

    async def heard(self, delivery: Delivery) -> None:
        """Another process changed something; where it is not said what, nothing is trusted. Raises Drop."""
        tell(delivery, self.changed, self.forget)

    def subscription(self) -> Subscription:
        """To every change of what is kept here."""
        keys = ("api.#", "client.#", "policy.#", "operator.#")
        return Subscription("catalog", Exchange.EVENTS, keys, self.heard, Mode.BROADCAST, on_gap=self.forget)
