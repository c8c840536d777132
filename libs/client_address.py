"""The client's address: the peer's, or the one in `X-Forwarded-For` if the peer is a trusted proxy."""

import ipaddress
from collections.abc import Sequence
from functools import lru_cache

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_ONE_SITE = 64
"""Prefix length of the smallest IPv6 network that a customer gets (RFC 6177): a client can use every address in it."""
LONGEST_FORWARDED = 1024
"""Characters of all `X-Forwarded-For` lines together: two dozen IPv6 addresses. Longer ones are refused."""
_CACHED = 4096
"""Entries of each cache; at most 1.5 KB each."""


class TrustedProxies:
    """The networks of proxies whose `X-Forwarded-For` is trusted."""

    def __init__(self, networks: Sequence[Network] = ()) -> None:
        self._networks = tuple(networks)
        self._of = lru_cache(maxsize=_CACHED)(self._resolved)
        self._trusted = lru_cache(maxsize=_CACHED)(self._is_trusted)

    @classmethod
    def parse(cls, text: str) -> "TrustedProxies":
        """Parse addresses and networks, separated by commas; an empty text trusts no proxy. Raises ValueError."""
        try:
            return cls([ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip()])
        except ValueError:
            raise ValueError(
                "addresses and networks are expected, such as 10.0.0.7,192.168.1.0/24,2001:db8::/32"
            ) from None

    def trusts(self, peer: str) -> bool:
        """Whether this peer is a trusted proxy."""
        return bool(self._networks) and self._trusted(peer)

    def client(self, peer: str, forwarded: str = "") -> str:
        """The client's address, given the peer's address and the `X-Forwarded-For` header.

        Each proxy appends the address it saw, so the header is read from the right: the first address that is not a
        trusted proxy's is the client's. Anything further left may be forged by the client. A header over
        LONGEST_FORWARDED is ignored.
        """
        is_trusted = forwarded and len(forwarded) <= LONGEST_FORWARDED and self.trusts(peer)
        return self._of(peer, forwarded if is_trusted else "")

    def _resolved(self, peer: str, forwarded: str) -> str:
        address = parsed_address(peer)
        if address is None:
            return peer
        for part in reversed(forwarded.split(",")):
            reported = parsed_address(part) if self._trusts(address) else None
            if reported is None:
                break
            address = reported
        return str(address)

    def _is_trusted(self, peer: str) -> bool:
        address = parsed_address(peer)
        return address is not None and self._trusts(address)

    def _trusts(self, address: Address) -> bool:
        return any(address in network for network in self._networks)


def parsed_address(text: str) -> Address | None:
    """Parse one entry: some proxies add the port, and IPv4 addresses may be IPv4-mapped IPv6 addresses."""
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


@lru_cache(maxsize=_CACHED)
def site(address: str) -> str:
    """The network that is throttled as one client: an IPv4 address, or the /64 network of an IPv6 address."""
    parsed = parsed_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((parsed, _ONE_SITE), strict=False))
    return address
