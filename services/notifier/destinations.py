"""Where webhooks may go: decided about the very address that is connected to, after every look-up of a name.

So neither a name that resolves to an inner address, nor one that resolves to another address the second time, nor an
address written into the URL reaches what only this network may reach.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp import AddrInfoType, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUPS = 32
"""Names resolved at once; a name server that is silent must not hold up the names of others."""
# The registries of special-purpose addresses (RFC 6890), and what is not unicast. Not Python's `is_global`: its answers
# differ from one patch release to the next.
_NOT_PUBLIC_4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network, unspecified
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by a provider's customers
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
_UNICAST_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = tuple(IPv6Network(network) for network in ("2001::/23", "2001:db8::/32", "3fff::/20"))
_NAT64 = IPv6Network("64:ff9b::/96")


class PrivateDestination(OSError):
    """The address is not one of the public internet."""


def is_public(address: str) -> bool:
    """Whether anybody on the internet could reach this address: no private, loopback, link-local, shared, multicast,
    unspecified or reserved one, in whatever IPv6 dress an IPv4 address comes.
    """
    return _is_public(ipaddress.ip_address(address))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    if (inner := _embedded(address)) is not None:
        return _is_public(inner)
    return address in _UNICAST_6 and not any(address in network for network in _NOT_PUBLIC_6)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this IPv6 address leads to (mapped, 6to4, NAT64)."""
    if address in _NAT64:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def _public_socket(info: AddrInfoType) -> socket.socket:
    """A socket that is about to be connected to this address. Raises PrivateDestination."""
    family, kind, protocol, _, address = info
    if not is_public(str(address[0])):
        raise PrivateDestination("the address is private, and webhooks may not go there")
    return socket.socket(family, kind, protocol)


class _Resolver(AbstractResolver):
    """The system's resolver, with threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(LOOKUPS, thread_name_prefix="webhook-lookup")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(self._threads, _look_up, host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


def _look_up(host: str, port: int, family: socket.AddressFamily) -> Sequence[AddrInfoType]:
    return socket.getaddrinfo(host, port, family, socket.SOCK_STREAM)


def connector(*, allow_private: bool) -> TCPConnector:
    """What opens connections for webhooks: as many as are asked for, and none that it keeps."""
    return TCPConnector(
        limit=0,
        resolver=_Resolver(),
        ttl_dns_cache=10,
        force_close=True,
        socket_factory=None if allow_private else _public_socket,
    )
