"""The read-mostly records as this process knows them: read from MongoDB once, cached until the bus says they changed.

With the bus connected, a change is seen within milliseconds; an entry is still read again after `ttl` seconds,
in case a message was missed. While the bus is silent, an entry is trusted for TRUSTED_IN_SILENCE seconds only.

A record that does not exist is not cached, so that one that was just created is found at once. The exception is listen
paths, because anybody may request any path: that no API has a path is trusted for MISSING_FOR seconds, or until the bus
says that APIs have changed.
"""

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Generic, TypeVar

from contracts.apis import Api
from contracts.base import is_client_id
from contracts.clients import Client
from contracts.operators import Operator
from contracts.policies import Policy
from contracts.resource_owners import ResourceOwner
from libs.bus.invalidation import invalidate
from libs.bus.port import Delivery, Exchange, Mode, Pulse, Subscription
from libs.oauth.registrations import registrations_of
from libs.store.operators import key_digest
from libs.store.store import Store
from libs.supervision import spawn

SIZE = 10_000
TRUSTED_IN_SILENCE = 0.9
"""Seconds for which a cached record is trusted while the bus is silent. Together with the time of a read that gives one
second: the longest time for which a revoked client or a deleted API may still be accepted.
"""
_SEGMENT = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._~-]{1,255}")
"""The first segment of a listen path. Anything else belongs to no API, and the database need not be asked."""
_API_REF = re.compile(r"[A-Za-z0-9._~-]+(?:/[A-Za-z0-9._~-]+)*")
"""A reference to an API: its listen path without outer slashes, or its id."""
_LONGEST_API_REF = 255

MISSING_SIZE = 4096
"""Entries. A key has at most 255 characters, so that all of them take less than 2 MiB."""
MISSING_FOR = 1.0
"""Seconds for which the database is not asked again for a listen path that no API has."""

V = TypeVar("V")


Registrations = Mapping[str, Client]
"""A client as each of its APIs sees it, by API id; never empty."""


class SeveralApis(Exception):
    """A path can be read in several ways, and the readings belong to different APIs."""


class _CachedCollection(Generic[V]):
    """A cache of one collection, bounded in number and age; with `missing_for`, missing keys are cached for so long."""

    def __init__(
        self,
        load: Callable[[str], Awaitable[V | None]],
        ttl: float,
        clock: Callable[[], float],
        pulse: Pulse,
        missing_for: float = 0,
    ) -> None:
        self._load = load
        self._ttl = ttl
        self._silence_margin = max(0.0, ttl - TRUSTED_IN_SILENCE)
        self._clock = clock
        self._pulse = pulse
        self._missing_for = missing_for
        self._entries: OrderedDict[str, tuple[float, V]] = OrderedDict()
        self._missing: OrderedDict[str, float] = OrderedDict()
        """By key, until when it is trusted that there is no value."""
        self._loading: dict[str, asyncio.Task[V | None]] = {}
        self._epoch = 0
        """Counts invalidations, so that a load that began before one is not cached after it."""

    async def cached_or_load(self, key: str) -> V | None:
        """The cached value, or the one that is loaded now; callers that ask at the same time share one load."""
        cached = self.cached(key)
        if cached is not None or self._missing.get(key, 0) > self._clock():
            return cached
        # Shielded: others may wait for the same load when this caller is cancelled.
        return await asyncio.shield(self._loading.get(key) or self._start_load(key))

    async def cached_or_loading(self, key: str) -> V | None:
        """The cached value, or the one that is being loaded for another caller; None otherwise. Starts no load."""
        cached, loading = self.cached(key), self._loading.get(key)
        return await asyncio.shield(loading) if cached is None and loading else cached

    async def reload(self, key: str) -> V | None:
        """The value as the database has it now, which replaces the cached one."""
        return await asyncio.shield(self._start_load(key))

    def cached(self, key: str) -> V | None:
        """The cached value if it may still be trusted."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        return entry[1] if entry[0] > now + (self._silence_margin if now > self._pulse.silent_from else 0.0) else None

    def _start_load(self, key: str) -> "asyncio.Task[V | None]":
        loading = self._loading[key] = spawn("catalog", self._load_and_cache(key))
        loading.add_done_callback(lambda done: self._load_done(key, done))
        return loading

    def _load_done(self, key: str, loading: "asyncio.Task[V | None]") -> None:
        if self._loading.get(key) is loading:
            del self._loading[key]

    async def _load_and_cache(self, key: str) -> V | None:
        epoch = self._epoch
        value = await self._load(key)
        self.put(key, value, epoch)
        return value

    @property
    def epoch(self) -> int:
        """Changes with each invalidation."""
        return self._epoch

    def put(self, key: str, value: V | None, epoch: int) -> None:
        """Cache a value, or that there is none, that was read since the epoch began."""
        if value is None:
            self._entries.pop(key, None)
            if self._missing_for and epoch == self._epoch:
                self._remember_missing(key)
            return
        self._missing.pop(key, None)
        if epoch == self._epoch:
            # Not cached after an invalidation during the load: the value may have been read before the change.
            self._entries[key] = (self._clock() + self._ttl, value)
            self._entries.move_to_end(key)
            if len(self._entries) > SIZE:
                self._entries.popitem(last=False)

    def _remember_missing(self, key: str) -> None:
        self._missing[key] = self._clock() + self._missing_for
        self._missing.move_to_end(key)
        if len(self._missing) > MISSING_SIZE:
            self._missing.popitem(last=False)

    def forget(self) -> None:
        """Drop everything. A load in progress still returns to its callers, but is not cached."""
        self._epoch += 1
        self._entries.clear()
        self._missing.clear()
        self._loading.clear()

    def forget_one(self, key: str) -> None:
        self._epoch += 1
        self._entries.pop(key, None)
        self._missing.pop(key, None)
        self._loading.pop(key, None)


def _first_segment(path: str) -> str:
    return path.strip("/").partition("/")[0]


def _common_segment(paths: Collection[str]) -> str | None:
    """The first segment that all readings have in common, of those that a listen path can begin with; None if none can.

    Raises SeveralApis if the readings have different ones.
    """
    segments = {segment for path in paths if _SEGMENT.fullmatch(segment := _first_segment(path))}
    if len(segments) > 1:
        raise SeveralApis
    return segments.pop() if segments else None


def _serving(path: str, segment: str | None, apis: Sequence[Api]) -> Api | None:
    """The API whose listen path covers the path, of these, which begin with the segment, the longest first."""
    if segment is None:
        return None
    prefix = f"{path}/"
    for api in apis:
        if api.listen_path != "/" and prefix.startswith(api.listen_path):
            return api
    names_id = prefix.startswith(f"/{segment}/")
    return next((api for api in apis if names_id and api.api_id == segment), None)


async def _registrations(store: Store, client_id: str) -> Registrations | None:
    client = await store.clients.get(client_id)
    return registrations_of(client) if client else None


class Catalog:
    """Cached APIs, clients, policies, operators and resource owners. One per process."""

    def __init__(self, store: Store, ttl: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._pulse = Pulse(clock)
        self._apis_by_ref = _CachedCollection(store.apis.at, ttl, clock, self._pulse)
        self._apis_by_segment = _CachedCollection(self._under, ttl, clock, self._pulse, MISSING_FOR)
        self._root = _CachedCollection(store.apis.at, ttl, clock, self._pulse, MISSING_FOR)
        """The API with the listen path `/`, under the key ""."""
        self._apis = _CachedCollection(store.apis.get, ttl, clock, self._pulse)
        self._clients = _CachedCollection(partial(_registrations, store), ttl, clock, self._pulse)
        self._policies = _CachedCollection(store.policies.get, ttl, clock, self._pulse)
        self._operators = _CachedCollection(store.operators.with_digest, ttl, clock, self._pulse)
        self._resource_owners = _CachedCollection(store.resource_owners.without_password, ttl, clock, self._pulse)

    async def api_at(self, api_ref: str) -> Api | None:
        """The API with this listen path (without outer slashes) or this id."""
        if not api_ref:
            return await self._root.cached_or_load("")
        return (
            await self._apis_by_ref.cached_or_load(api_ref)
            if _API_REF.fullmatch(api_ref) and len(api_ref) <= _LONGEST_API_REF
            else None
        )

    async def api_serving(self, paths: Collection[str]) -> Api | None:
        """The API with the longest listen path that covers the path, or whose id the path begins with.

        `paths` are the ways in which the path of one request can be read. One look-up at most. Raises SeveralApis if
        the readings belong to different APIs: a wrong guess would let a request past the rules of one of them. An API
        with the listen path `/` has the paths that no other API has.
        """
        first, *others = paths
        segment = _first_segment(first) if not others else _common_segment(paths)
        if segment is not None and not _SEGMENT.fullmatch(segment):
            segment = None
        apis: Sequence[Api] = ()
        if segment is not None:
            cached = self._apis_by_segment.cached(segment)
            apis = (await self._apis_by_segment.cached_or_load(segment) if cached is None else cached) or ()
        api = _serving(first, segment, apis)
        for path in others:
            if _serving(path, segment, apis) is not api:
                raise SeveralApis
        return api or await self._root.cached_or_load("")

    async def _under(self, segment: str) -> Sequence[Api] | None:
        """The APIs whose paths begin with the segment; the same look-up finds the one with the listen path `/`."""
        epoch = self._root.epoch
        found = await self._store.apis.under(segment)
        self._root.put("", next((api for api in found if api.listen_path == "/"), None), epoch)
        return [api for api in found if api.listen_path != "/" or api.api_id == segment] or None

    async def api(self, api_id: str) -> Api | None:
        """The API of this id."""
        return await self._apis.cached_or_load(api_id)

    async def client(self, client_id: str, api_id: str) -> Client | None:
        """The client of this id, seen from this API; None if it is not registered there."""
        registrations = await self._clients.cached_or_load(client_id) if is_client_id(client_id) else None
        return registrations.get(api_id) if registrations else None

    def cached_client(self, client_id: str, api_id: str) -> Client | None:
        """The client if it is cached; does not wait."""
        registrations = self._clients.cached(client_id)
        return registrations.get(api_id) if registrations else None

    async def registrations_cached_or_loading(self, client_id: str) -> Registrations | None:
        """The client on each of its APIs if it is cached, or being loaded for another request. Starts no load."""
        return await self._clients.cached_or_loading(client_id)

    async def reload_registrations(self, client_id: str) -> Registrations | None:
        """The client on each of its APIs as the database has it now."""
        return await self._clients.reload(client_id) if is_client_id(client_id) else None

    async def policy(self, policy_id: str) -> Policy | None:
        """The policy of this id."""
        return await self._policies.cached_or_load(policy_id)

    def cached_policies(self, policy_ids: Sequence[str]) -> Sequence[Policy] | None:
        """The policies if all of them are cached; does not wait."""
        policies = []
        for policy_id in policy_ids:
            policy = self._policies.cached(policy_id)
            if policy is None:
                return None
            policies.append(policy)
        return policies

    async def policies(self, policy_ids: Sequence[str]) -> Sequence[Policy | None]:
        """The policies in the order of the ids; None for one that does not exist."""
        cached = self._policies.cached
        return [cached(policy_id) or await self._policies.cached_or_load(policy_id) for policy_id in policy_ids]

    async def resource_owner(self, username: str) -> ResourceOwner | None:
        """The user of this name, without the password's hash."""
        return self._resource_owners.cached(username) or await self._resource_owners.cached_or_load(username)

    async def operator(self, key: str) -> Operator | None:
        """The operator with this key."""
        return await self._operators.cached_or_load(key_digest(key))

    def forget(self) -> None:
        """Drop everything: a change may have been missed."""
        for apis in (self._apis_by_ref, self._apis_by_segment, self._apis, self._root):
            apis.forget()
        for others in (self._clients, self._policies, self._operators, self._resource_owners):
            others.forget()

    def changed(self, key: str, subject: str) -> None:
        """Drop what an event with this routing key and subject says has changed."""
        match key.partition(".")[0]:
            case "client":
                self._clients.forget_one(subject)
            case "policy":
                self._policies.forget_one(subject)
            case "operator":
                self._operators.forget()
            case "resource_owner":
                self._resource_owners.forget_one(subject)
            case "api":
                self._apis.forget()
                self._apis_by_ref.forget()
                self._apis_by_segment.forget()
                self._root.forget()

    async def heard(self, delivery: Delivery) -> None:
        """Another process changed a record. If the message does not say which, drop everything. Raises Drop."""
        invalidate(delivery, self.changed, self.forget)

    def subscription(self) -> Subscription:
        """The subscription to changes of everything that is cached."""
        keys = ("api.#", "client.#", "policy.#", "operator.#", "resource_owner.#")
        return Subscription(
            "catalog", Exchange.EVENTS, keys, self.heard, Mode.BROADCAST, on_gap=self.forget, pulse=self._pulse
        )
