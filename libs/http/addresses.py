"""Where a request comes from, as far as it can be known behind a proxy."""

from ipaddress import IPv4Address, IPv6Address, ip_address

from aiohttp import web


def address_of(request: web.Request) -> str | None:
    """The caller's address. A proxy is believed about it only from inside: from a private or loopback address.

    The edge replaces whatever a caller says in `X-Forwarded-For`; the last entry is what the nearest proxy saw.
    """
    peer = _address(request.remote or "")
    if peer is None or not (peer.is_private or peer.is_loopback):
        return str(peer) if peer else None
    said = _address(request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip())
    return str(said or peer)


def _address(text: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
