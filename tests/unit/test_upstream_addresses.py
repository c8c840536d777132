"""Addresses of upstreams for the edge: checked, kept for a while, and bounded."""

import asyncio
import socket
from collections.abc import Mapping, Sequence

import pytest
from aiohttp import web
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from libs.outbound.ssrf import parse_denylist
from services.gateway.upstream_addresses import SIZE, TTL, UpstreamAddresses


class Names(AbstractResolver):
    """Resolves these names, and counts the look-ups."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = dict(names)
        self.lookups: list[str] = []

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.lookups.append(host)
        await asyncio.sleep(0)
        if host not in self.names:
            raise OSError("no such name")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=family, proto=0, flags=0)
            for address in self.names[host]
        ]

    async def close(self) -> None:
        """Nothing to close."""


class Lookup:
    """Addresses with a clock and names of the test's."""

    def __init__(self, names: Mapping[str, Sequence[str]], deny: str = "link-local,metadata") -> None:
        self.now = 0.0
        self.names = Names(names)
        self.addresses = UpstreamAddresses(parse_denylist(deny), lambda: self.now, lambda: self.names)

    async def __aenter__(self) -> "Lookup":
        self._running = self.addresses.run(web.Application())
        await anext(self._running)
        return self

    async def __aexit__(self, *_: object) -> None:
        with pytest.raises(StopAsyncIteration):
            await anext(self._running)

    async def of(self, url: str) -> tuple[str, ...]:
        return await self.addresses.addresses_of(URL(url, encoded=True))


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("http://10.0.0.5:9001/x", ("10.0.0.5:9001",)),
        ("http://10.0.0.5/x", ("10.0.0.5:80",)),
        ("http://[2001:db8::1]:81/", ("[2001:db8::1]:81",)),
        ("http://orders/", ("10.0.0.1:80",)),
        ("http://both/", ("10.0.0.1:80",)),
        ("http://six/", ("[2001:db8::1]:80",)),
        ("http://nobody/", ()),
        ("http://169.254.169.254/", ()),
        ("http://[::ffff:169.254.169.254]/", ()),
        ("http://meta/", ()),
        ("http://partly/", ()),
        ("http://zone/", ()),
    ],
)
async def test_addresses_are_checked(url: str, addresses: tuple[str, ...]) -> None:
    """Only addresses that nginx can connect to and the denylist permits are given; with one denied address, none."""
    names = {
        "orders": ["10.0.0.1"],
        "both": ["2001:db8::1", "10.0.0.1"],
        "six": ["2001:db8::1"],
        "meta": ["169.254.169.254"],
        "partly": ["10.0.0.1", "169.254.169.254"],
        "zone": ["fe80::1%eth0"],
    }
    async with Lookup(names, deny="metadata") as lookup:
        assert await lookup.of(url) == addresses


async def test_addresses_take_turns_and_are_looked_up_again() -> None:
    """Each address has its turn; a name is looked up once in a while, however many calls ask for it at a time."""
    async with Lookup({"orders": ["10.0.0.1", "10.0.0.2"]}) as lookup:
        first = await asyncio.gather(*(lookup.of("http://orders/") for _ in range(4)))
        assert {addresses[0] for addresses in first} == {"10.0.0.1:80", "10.0.0.2:80"}
        assert lookup.names.lookups == ["orders"]
        lookup.names.names["orders"] = ["10.0.0.3"]
        lookup.now += TTL - 0.1
        assert "10.0.0.3:80" not in await lookup.of("http://orders/")
        lookup.now += 0.1
        assert await lookup.of("http://orders/") == ("10.0.0.3:80",)


async def test_addresses_are_bounded() -> None:
    """The names whose addresses are kept have a bound; the oldest is forgotten."""
    async with Lookup({f"upstream-{number}": ["10.0.0.1"] for number in range(SIZE + 1)}) as lookup:
        for number in range(SIZE + 1):
            await lookup.of(f"http://upstream-{number}/")
        await lookup.of("http://upstream-1/")
        assert len(lookup.names.lookups) == SIZE + 1
        await lookup.of("http://upstream-0/")
        assert len(lookup.names.lookups) == SIZE + 2
