"""Addresses of upstreams, for the edge: resolved and checked here, so that nginx connects to what was checked."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from aiohttp import web
from aiohttp.abc import AbstractResolver
from yarl import URL

from libs.cancellation import cancel_and_wait
from libs.outbound.resolver import ThreadPoolResolver
from libs.outbound.ssrf import Network, is_denied

TTL = 10.0
"""Seconds for which an address is used; as long as the built-in proxy uses one."""
SIZE = 1024
"""Names whose addresses are kept."""


@dataclass(slots=True)
class _Known:
    addresses: tuple[str, ...]
    """`address:port`; none if the name has no address, or one that is denied."""
    until: float
    turn: int = 0


class UpstreamAddresses:
    """Looks up the addresses of upstreams, and keeps them for TTL seconds."""

    def __init__(
        self,
        denied: Sequence[Network],
        clock: Callable[[], float] = time.monotonic,
        resolver: Callable[[], AbstractResolver] = ThreadPoolResolver,
    ) -> None:
        self._denied = denied
        self._clock = clock
        self._new_resolver = resolver
        self._resolver: AbstractResolver | None = None
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lookups: dict[str, asyncio.Task[_Known]] = {}

    async def run(self, _: web.Application) -> AsyncIterator[None]:
        """Cleanup context: names can be looked up while the application runs."""
        self._resolver = self._new_resolver()
        yield
        await cancel_and_wait(*self._lookups.values())
        await self._resolver.close()

    async def addresses_of(self, url: URL) -> tuple[str, ...]:
        """`address:port` of each address, the one whose turn it is first; all of one family.

        Empty if the name has no address, or if one of its addresses is on the denylist (SSRF).
        """
        key = url.authority
        known = self._known.get(key)
        if known is None or known.until <= self._clock():
            known = await self._looked_up(key, url)
        if len(known.addresses) <= 1:
            return known.addresses
        known.turn = turn = (known.turn + 1) % len(known.addresses)
        return known.addresses[turn:] + known.addresses[:turn]

    async def _looked_up(self, key: str, url: URL) -> _Known:
        lookup = self._lookups.get(key)
        if lookup is None:
            lookup = self._lookups[key] = asyncio.create_task(self._look_up(key, url))
            lookup.add_done_callback(lambda _: self._lookups.pop(key, None))
        return await asyncio.shield(lookup)

    async def _look_up(self, key: str, url: URL) -> _Known:
        host, port = url.host, url.port
        found: list[str] = []
        if self._resolver is not None and host and port:
            try:
                found = [str(ip_address(host))]
            except ValueError:
                try:
                    found = [each["host"] for each in await self._resolver.resolve(host, port)]
                except OSError:
                    found = []
        known = self._known[key] = _Known(self._usable(found, port or 0), self._clock() + TTL)
        self._known.move_to_end(key)
        if len(self._known) > SIZE:
            self._known.popitem(last=False)
        return known

    def _usable(self, found: Sequence[str], port: int) -> tuple[str, ...]:
        try:
            addresses = [ip_address(each) for each in dict.fromkeys(found)]
        except ValueError:
            return ()
        # A link-local address with a zone cannot be written for nginx.
        if any(is_denied(str(each), self._denied) or getattr(each, "scope_id", None) for each in addresses):
            return ()
        # The edge cannot try the other family if it has no route for one, so only one is used.
        of_one_family = [each for each in addresses if not isinstance(each, IPv6Address)] or addresses
        return tuple(
            f"[{each}]:{port}" if isinstance(each, IPv6Address) else f"{each}:{port}" for each in of_one_family
        )
