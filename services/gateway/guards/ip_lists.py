"""IP allowlists and denylists of an API."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from contracts.guards import Guards
from libs.client_address import Address, Network, parsed_address
from services.gateway.refusals import Denial

DISALLOWED = Denial("address", 403, "access from this IP has been disallowed", challenges=False)
_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")


@dataclass(frozen=True, slots=True)
class AddressGuard:
    """Admits addresses that are on the allowlist, if there is one, and not on the denylist."""

    allowed: tuple[Network, ...]
    blocked: tuple[Network, ...]

    @classmethod
    def of(cls, guards: Guards) -> "AddressGuard | None":
        """The guard, or None if the definition has no IP lists."""
        guard = cls(_networks(guards.allowed_addresses), _networks(guards.blocked_addresses))
        return guard if guard.allowed or guard.blocked else None

    def refusal(self, address: str) -> Denial | None:
        """DISALLOWED, or None if the address is admitted. An unreadable address is refused (fail closed)."""
        parsed = parsed_address(address)
        if parsed is None or _is_in(parsed, self.blocked) or (self.allowed and not _is_in(parsed, self.allowed)):
            return DISALLOWED
        return None


def _networks(texts: Iterable[str]) -> tuple[Network, ...]:
    return tuple(map(_network, texts))


def _network(text: str) -> Network:
    network = ipaddress.ip_network(text)
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        # Callers' addresses are converted to IPv4 (libs.client_address), so the network must be, too.
        return ipaddress.IPv4Network((int(network.network_address) & 0xFFFF_FFFF, network.prefixlen - 96))
    return network


def _is_in(address: Address, networks: tuple[Network, ...]) -> bool:
    return any(address in network for network in networks)
