"""Whose address a request comes from: the peer's, or what proxies say of it that are trusted to."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ONE_SITE = 64
"""The prefix that one customer has of IPv6 at the least, with all addresses in it (RFC 6177)."""


class TrustedProxies:
    """The networks whose word on `X-Forwarded-For` counts."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)
        self._of = lru_cache(maxsize=4096)(self._resolved)
        self._trusted = lru_cache(maxsize=4096)(self._is_trusted)

    @classmethod
    def parse(cls, text: str) -> "TrustedProxies":
        """Read addresses and networks, separated by commas; none of them: nobody is trusted. Raises ValueError."""
        try:
            return cls([ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()])
        except ValueError:
            raise ValueError(
                "addresses and networks are expected, such as 10.0.0.7,192.168.1.0/24,2001:db8::/32"
            ) from None

    def __bool__(self) -> bool:
        return bool(self._networks)

    def trusts(self, peer: str) -> bool:
        """Whether this peer is one of them."""
        return bool(self._networks) and self._trusted(peer)

    def client(self, peer: str, forwarded: str = "") -> str:
        """The address of whoever sent the request that this peer passes on with this `X-Forwarded-For`.

        Read from the right, since each proxy adds the address it saw: the first that no trusted proxy has counts.
        What is left of it is whatever the sender likes.
        """
        return self._of(peer, forwarded)

    def _resolved(self, peer: str, forwarded: str) -> str:
        address = _address(peer)
        if address is None:
            return peer
        for part in reversed(forwarded.split(",")):
            said = _address(part) if self._trusts(address) else None
            if said is None:
                break
            address = said
        return str(address)

    def _is_trusted(self, peer: str) -> bool:
        address = _address(peer)
        return address is not None and self._trusts(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def _address(text: str) -> Address | None:
    """The address in one entry; some proxies add the port, and an IPv4 address may come mapped into IPv6."""
    text = text.strip()
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


@lru_cache(maxsize=4096)
def site(address: str) -> str:
    """What counts as one place: an IPv4 address, the /64 of an IPv6 address."""
    parsed = _address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _ONE_SITE), strict=False))
    return address
