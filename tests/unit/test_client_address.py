"""The client's address: only trusted proxies are believed, and only about the peer they saw."""

import pytest

from libs.client_address import TrustedProxies, site

PROXIES = TrustedProxies.parse("10.0.0.0/8, 192.168.1.7, 2001:db8:1::/48")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        pytest.param("203.0.113.5", "", "203.0.113.5", id="no-proxy"),
        pytest.param("203.0.113.5", "198.51.100.1", "203.0.113.5", id="a-outsider-is-not-believed"),
        pytest.param("192.168.1.8", "198.51.100.1", "192.168.1.8", id="the-neighbour-of-a-proxy"),
        pytest.param("10.1.2.3", "", "10.1.2.3", id="a-proxy-that-says-nothing"),
        pytest.param("10.1.2.3", "203.0.113.5", "203.0.113.5", id="a-proxy"),
        pytest.param("10.1.2.3", "198.51.100.1, 203.0.113.5", "203.0.113.5", id="what-the-client-made-up"),
        pytest.param("10.1.2.3", "203.0.113.5, 192.168.1.7", "203.0.113.5", id="two-proxies"),
        pytest.param("10.1.2.3", "203.0.113.5,,192.168.1.7", "192.168.1.7", id="a-gap-ends-the-chain"),
        pytest.param("10.1.2.3", "203.0.113.5, nonsense", "10.1.2.3", id="nonsense"),
        pytest.param("10.1.2.3", "unknown", "10.1.2.3", id="a-proxy-that-does-not-know"),
        pytest.param("10.1.2.3", "10.9.9.9, 10.8.8.8", "10.9.9.9", id="nobody-but-proxies"),
        pytest.param("10.1.2.3", "203.0.113.5:4711", "203.0.113.5", id="with-a-port"),
        pytest.param("10.1.2.3", "[2001:db8:2::1]:4711", "2001:db8:2::1", id="ipv6-with-a-port"),
        pytest.param("10.1.2.3", "2001:0DB8:2:0::1", "2001:db8:2::1", id="ipv6-spelt-otherwise"),
        pytest.param("2001:db8:1:7::1", "203.0.113.5", "203.0.113.5", id="an-ipv6-proxy"),
        pytest.param("::ffff:10.1.2.3", "::ffff:203.0.113.5", "203.0.113.5", id="ipv4-in-ipv6"),
        pytest.param("fe80::1%eth0", "203.0.113.5", "fe80::1", id="with-a-zone"),
        pytest.param("", "203.0.113.5", "", id="a-socket-without-address"),
    ],
)
def test_the_first_from_the_right_that_no_trusted_proxy_has_counts(peer: str, forwarded: str, client: str) -> None:
    """The rightmost address that is not a trusted proxy's counts; everything to its left may be forged."""
    assert PROXIES.client(peer, forwarded) == client


def test_no_proxy_is_trusted_by_default() -> None:
    """Without trusted proxies the peer is the client, whatever the headers say."""
    nobody = TrustedProxies.parse("")
    assert not nobody.trusts("127.0.0.1")
    assert nobody.client("127.0.0.1", "203.0.113.5") == "127.0.0.1"


@pytest.mark.parametrize(
    ("address", "place"),
    [
        pytest.param("203.0.113.5", "203.0.113.5", id="ipv4"),
        pytest.param("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64", id="ipv6"),
        pytest.param("", "", id="none"),
    ],
)
def test_a_network_of_ipv6_is_one_place(address: str, place: str) -> None:
    """An IPv6 /64 counts as one address, because a customer has all of it."""
    assert site(address) == place
