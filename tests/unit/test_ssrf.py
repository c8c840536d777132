"""SSRF: which addresses outgoing connections may use, in any notation."""

import socket

import pytest

from libs.outbound.ssrf import (
    DEFAULT_DENY,
    METADATA,
    DeniedAddress,
    all_but,
    is_denied,
    is_public,
    parse_denylist,
    public_only,
)

DENIED = parse_denylist(DEFAULT_DENY)


@pytest.mark.parametrize("network", METADATA, ids=str)
def test_a18_no_webhook_goes_to_a_cloud_s_metadata(network: object) -> None:
    """Webhooks never go to cloud metadata services, even at public addresses (Azure, Equinix)."""
    assert not is_public(str(network).partition("/")[0])


@pytest.mark.parametrize(
    "address",
    [
        "169.254.169.254",
        "169.254.0.1",
        "169.254.170.2",
        "100.100.100.200",
        "168.63.129.16",
        "fe80::1",
        "fe80::a9fe:a9fe%eth0",
        "febf::1",
        "fd00:ec2::254",
        "fd20:ce::254",
        "::ffff:169.254.169.254",
        "::ffff:0:169.254.169.254",
        "::169.254.169.254",
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::169.254.169.254",
        "2002:a9fe:a9fe::1",
        "2001:470::5efe:169.254.169.254",
        "::ffff:168.63.129.16",
    ],
)
def test_a18_upstreams_are_not_link_local_or_metadata_by_default(address: str) -> None:
    """By default upstreams may not be link-local or metadata addresses, in any notation."""
    assert is_denied(address, DENIED)
    assert not is_public(address)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.1.2.3", "192.168.0.1", "::1", "fd12::1", "93.184.215.14"])
def test_a18_upstreams_may_be_anywhere_else_by_default(address: str) -> None:
    """By default upstreams may be anywhere else, private networks included."""
    assert not is_denied(address, DENIED)


@pytest.mark.parametrize(
    ("text", "address", "denied"),
    [
        ("none", "169.254.169.254", False),
        ("", "169.254.169.254", False),
        ("loopback", "127.8.8.8", True),
        ("loopback", "0.0.0.0", True),  # noqa: S104 - not bound to
        ("loopback", "::1", True),
        ("loopback", "10.0.0.1", False),
        ("private, loopback", "10.0.0.1", True),
        ("PRIVATE", "fd12::1", True),
        ("203.0.113.0/24,2001:db8::/32", "2001:db8::7", True),
        ("203.0.113.7", "203.0.113.7", True),
        ("203.0.113.7/24", "203.0.113.99", True),
    ],
)
def test_a18_a_denylist_names_networks_or_kinds(text: str, address: str, denied: bool) -> None:
    """TOKENWIRE_UPSTREAM_DENY accepts networks and named kinds."""
    assert is_denied(address, parse_denylist(text)) is denied


@pytest.mark.parametrize("text", ["everything", "10.0.0.0/33", "link-local metadata", "http://10.0.0.1"])
def test_a18_a_denylist_that_cannot_be_read_says_what_is_allowed(text: str) -> None:
    """An invalid denylist names the wrong part and the known names."""
    with pytest.raises(ValueError, match="or one of link-local, metadata, loopback, private, none"):
        parse_denylist(text)


def test_a18_the_sockets_refuse_before_they_connect() -> None:
    """The address that is connected to is checked, not the name."""
    info = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("169.254.169.254", 80))
    with pytest.raises(DeniedAddress):
        all_but(DENIED)(info)
    with pytest.raises(DeniedAddress):
        public_only()(info)
    all_but(DENIED)((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("10.0.0.1", 80))).close()
    public = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("93.184.215.14", 80))
    public_only(DENIED)(public).close()
    with pytest.raises(DeniedAddress):
        public_only(parse_denylist("93.184.0.0/16"))(public)
