"""SSRF guard (server-side request forgery): denylist of addresses that outgoing connections may not be made to.

Webhooks may go to public addresses only, unless TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS is set. Neither webhooks nor calls
to upstreams may go to an address on the denylist (TOKENWIRE_UPSTREAM_DENY).

The guard checks the very address that is connected to, after name resolution. So it cannot be bypassed by a name that
resolves to an internal address, by one that resolves differently the second time (DNS rebinding), or by an unusual
spelling of an address in a URL.
"""

import ipaddress
import socket
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from aiohttp import AddrInfoType

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _networks(*texts: str) -> tuple[Network, ...]:
    return tuple(ipaddress.ip_network(text) for text in texts)


LINK_LOCAL = _networks("169.254.0.0/16", "fe80::/10")
METADATA = _networks(
    "169.254.0.23/32",  # Tencent Cloud
    "169.254.42.42/32",  # Scaleway
    "169.254.169.254/32",  # AWS, Azure, Google Cloud, OCI, OpenStack and most others
    "169.254.170.2/32",  # AWS containers (ECS credentials)
    "169.254.170.23/32",  # AWS containers (EKS Pod Identity)
    "100.100.100.200/32",  # Alibaba Cloud
    "168.63.129.16/32",  # Azure WireServer: an address that is public by its number
    "192.0.0.192/32",  # OCI, former
    "192.80.8.124/32",  # Equinix Metal: public by its number
    "fd00:42::42/128",  # Scaleway
    "fd00:c1::a9fe:a9fe/128",  # OCI
    "fd00:ec2::23/128",  # AWS containers (EKS Pod Identity)
    "fd00:ec2::254/128",  # AWS
    "fd20:ce::254/128",  # Google Cloud
)
"""Metadata services of cloud providers: they give the credentials of the machine to any program on it."""
LOOPBACK = _networks("127.0.0.0/8", "::1/128", "0.0.0.0/32", "::/128")
"""Includes the unspecified addresses: connecting to them reaches this machine, too."""
PRIVATE = _networks("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "fec0::/10")
DENYLISTS = {
    "link-local": LINK_LOCAL,
    "metadata": METADATA,
    "loopback": LOOPBACK,
    "private": PRIVATE,
    "none": (),
}
"""Names that a denylist may contain instead of networks."""
DEFAULT_DENY = "link-local,metadata"

# The registries of special-purpose addresses (RFC 6890), and what is not unicast. Python's `is_global` is not used: its
# results differ from one patch release to the next.
_NOT_PUBLIC_4 = _networks(
    "0.0.0.0/8",  # this network, unspecified
    "10.0.0.0/8",
    "100.64.0.0/10",  # shared by a provider's customers
    "127.0.0.0/8",
    "169.254.0.0/16",  # link-local
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
_UNICAST_6 = IPv6Network("2000::/3")
_NOT_PUBLIC_6 = _networks("2001::/23", "2001:db8::/32", "3fff::/20")
_NAT64 = IPv6Network("64:ff9b::/96")
_EMBEDDING = (
    _NAT64,  # well-known prefix (RFC 6052)
    IPv6Network("64:ff9b:1::/48"),  # NAT64 for local use (RFC 8215)
    IPv6Network("::/96"),  # IPv4-compatible (RFC 4291 §2.5.5.1)
    IPv6Network("::ffff:0:0:0/96"),  # IPv4-translated (RFC 2765)
)
"""IPv6 prefixes whose last 32 bits are the IPv4 address that is reached. Python itself decodes mapped and 6to4."""
_ISATAP = (0x00005EFE, 0x02005EFE)
"""The upper half of an interface identifier that has an IPv4 address in its lower half (RFC 5214 §6.1)."""


class DeniedAddress(OSError):
    """The SSRF guard refused a connection because of its address."""


def parse_denylist(text: str) -> tuple[Network, ...]:
    """Parse a comma-separated list of networks, addresses and names of DENYLISTS.

    Raises ValueError with a text that says what is allowed.
    """
    denied: list[Network] = []
    for part in filter(None, (part.strip().lower() for part in text.split(","))):
        try:
            denied += DENYLISTS[part] if part in DENYLISTS else [ipaddress.ip_network(part, strict=False)]
        except ValueError:
            raise ValueError(f"each part is a network such as 10.0.0.0/8, or one of {', '.join(DENYLISTS)}") from None
    return tuple(denied)


def is_denied(address: str, denied: Sequence[Network]) -> bool:
    """Whether the address, or an IPv4 address embedded in it, lies in one of the networks."""
    return _in_any(ipaddress.ip_address(address), denied)


def is_public(address: str) -> bool:
    """Whether the address is on the public internet.

    False for private, loopback, link-local, shared, multicast, unspecified and reserved addresses and for metadata
    services of clouds; also if such an IPv4 address is embedded in an IPv6 address.
    """
    return _is_public(ipaddress.ip_address(address)) and not is_denied(address, METADATA)


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_4)
    translated = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
    if (reached := translated or address.ipv4_mapped or address.sixtofour) is not None:
        return _is_public(reached)
    if address not in _UNICAST_6 or any(address in network for network in _NOT_PUBLIC_6):
        return False
    inner = _embedded(address)
    return inner is None or _is_public(inner)


def _in_any(address: Address, networks: Sequence[Network]) -> bool:
    if any(address in network for network in networks):
        return True
    inner = _embedded(address) if isinstance(address, IPv6Address) else None
    return inner is not None and _in_any(inner, networks)


def _embedded(address: IPv6Address) -> IPv4Address | None:
    """The IPv4 address that this IPv6 address leads to, if any."""
    number = int(address)
    translated = number > 1 and any(address in network for network in _EMBEDDING)  # :: and ::1 are themselves
    if translated or (number >> 32) & 0xFFFFFFFF in _ISATAP:
        return IPv4Address(number & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour


def public_only(denied: Sequence[Network] = ()) -> "SocketFactory":
    """Make sockets for public addresses outside these networks; raises DeniedAddress for any other address."""
    elsewhere = all_but(denied)

    def make(info: AddrInfoType) -> socket.socket:
        if not is_public(_address(info)):
            raise DeniedAddress("the address is private, and webhooks may not go there")
        return elsewhere(info)

    return make


def all_but(denied: Sequence[Network]) -> "SocketFactory":
    """Make sockets for any address outside these networks; raises DeniedAddress for an address in them."""

    def make(info: AddrInfoType) -> socket.socket:
        if is_denied(_address(info), denied):
            raise DeniedAddress("the address is on the denylist (TOKENWIRE_UPSTREAM_DENY)")
        return _socket(info)

    return make


SocketFactory = Callable[[AddrInfoType], socket.socket]
"""aiohttp's connector calls it with the address that it is about to connect to."""


def _address(info: AddrInfoType) -> str:
    return str(info[4][0])


def _socket(info: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, _ = info
    return socket.socket(family, kind, protocol)
