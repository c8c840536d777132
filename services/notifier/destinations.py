"""Where webhooks may go: decided about the very address that is connected to, after every look-up of a name.

So neither a name that resolves to an inner address, nor one that resolves to another address the second time, nor an
address written into the URL reaches what only this network may reach.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv6Address

from aiohttp import AddrInfoType, TCPConnector
from aiohttp.abc import AbstractResolver, ResolveResult

LOOKUPS = 32
"""Names resolved at once; a name server that is silent must not hold up the names of others."""
IDLE_SECONDS = 30.0
"""How long an unused connection is kept."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


class PrivateDestination(OSError):
    """The address is not one of the public internet."""


def is_public(address: str) -> bool:
    """Whether anybody on the internet could reach this address: no private, loopback, link-local, shared, multicast,
    unspecified or reserved one, in whatever IPv6 dress an IPv4 address comes.
    """
    return _is_public(ipaddress.ip_address(address))


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and (inner := _embedded(address)) is not None:
        return _is_public(inner)
    return (
        address.is_global
        and not address.is_private
        and not address.is_multicast
        and not address.is_reserved
        and not address.is_unspecified
        and not (isinstance(address, IPv6Address) and address.is_site_local)
    )


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this IPv6 address leads to (mapped, compatible, NAT64, 6to4)."""
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address in _NAT64 or address in _COMPATIBLE:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None


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
    """What opens connections for webhooks: as many as are asked for, each kept for the next webhook to its endpoint."""
    return TCPConnector(
        limit=0,
        resolver=_Resolver(),
        ttl_dns_cache=10,
        keepalive_timeout=IDLE_SECONDS,
        socket_factory=None if allow_private else _public_socket,
    )
