"""SSRF: addresses to which webhooks are not sent, in every spelling."""

import ipaddress
import socket
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.outbound import resolver as destinations
from libs.outbound.ssrf import is_public
from tests.notifications import Notifier, Receiver, api_to, database_of_its_own, notifier, token_event

REFUSED = "the address is private, and webhooks may not go there"


@pytest.fixture(name="service", scope="module")
async def _service(mongodb_url: str) -> AsyncIterator[Notifier]:
    async with notifier(
        mongodb_url, database_of_its_own(), allow_private_destinations=False, webhook_timeout=2
    ) as service:
        yield service


@pytest.mark.parametrize(
    "address",
    [
        pytest.param("127.0.0.1", id="loopback"),
        pytest.param("127.255.255.254", id="loopback-end"),
        pytest.param("0.0.0.0", id="unspecified"),  # noqa: S104 - not bound to
        pytest.param("0.1.2.3", id="this-network"),
        pytest.param("10.0.0.1", id="private-10"),
        pytest.param("172.16.0.1", id="private-172"),
        pytest.param("192.168.1.1", id="private-192"),
        pytest.param("169.254.169.254", id="cloud-metadata"),
        pytest.param("100.64.0.1", id="carrier-grade-nat"),
        pytest.param("192.0.0.8", id="protocol-assignments"),
        pytest.param("198.18.0.1", id="benchmarking"),
        pytest.param("192.0.2.1", id="documentation"),
        pytest.param("224.0.0.1", id="multicast"),
        pytest.param("240.0.0.1", id="reserved"),
        pytest.param("255.255.255.255", id="broadcast"),
        pytest.param("::", id="v6-unspecified"),
        pytest.param("::1", id="v6-loopback"),
        pytest.param("fe80::1", id="v6-link-local"),
        pytest.param("fe80::1%eth0", id="v6-link-local-with-scope"),
        pytest.param("fc00::1", id="v6-unique-local"),
        pytest.param("fd12:3456::1", id="v6-unique-local-fd"),
        pytest.param("fec0::1", id="v6-site-local"),
        pytest.param("ff02::1", id="v6-multicast"),
        pytest.param("2001:db8::1", id="v6-documentation"),
        pytest.param("::ffff:127.0.0.1", id="mapped-loopback"),
        pytest.param("::ffff:10.0.0.1", id="mapped-private"),
        pytest.param("::127.0.0.1", id="compatible-loopback"),
        pytest.param("64:ff9b::a00:1", id="nat64-private"),
        pytest.param("2002:a00:1::", id="6to4-private"),
        pytest.param("2001:0:a00:1::", id="teredo"),
    ],
)
def test_addresses_of_inner_networks_are_not_public(address: str) -> None:
    """Private, loopback, link-local, shared, multicast, unspecified and reserved addresses are refused, also in
    embedded forms.
    """
    assert not is_public(address)


@pytest.mark.parametrize(
    "address",
    ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"],
)
def test_addresses_of_the_internet_are_public(address: str) -> None:
    """Public addresses are allowed."""
    assert is_public(address)


@given(address=st.ip_addresses(v=4))
def test_an_ipv4_address_is_judged_alike_in_every_dress(address: ipaddress.IPv4Address) -> None:
    """An IPv4 address is treated alike plain, mapped into IPv6, and behind NAT64."""
    verdict = is_public(str(address))
    assert is_public(f"::ffff:{address}") is verdict
    assert is_public(str(ipaddress.IPv6Address(int(ipaddress.IPv6Address("64:ff9b::")) + int(address)))) is verdict
    assert not verdict or address.is_global


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "[::ffff:127.0.0.1]"])  # noqa: S104
async def test_a_private_destination_is_refused_when_it_is_connected_to(
    service: Notifier, endpoint: Receiver, host: str
) -> None:
    """A private address, or a name that resolves to one, gets no connection, and the attempt says why."""
    event = token_event(await api_to(service.deps, endpoint.url(host=host)))
    await service.publish(event)
    (attempt,) = (await service.tried(event.id, 1)).attempts
    assert (attempt.status, attempt.error) == (None, REFUSED)
    assert endpoint.webhooks == []


@pytest.mark.parametrize("host", ["2130706433", "127.1", "0x7f000001", "017700000001"])
async def test_an_address_in_disguise_leads_nowhere(service: Notifier, endpoint: Receiver, host: str) -> None:
    """Unusual spellings that only some parsers accept are refused."""
    event = token_event(await api_to(service.deps, endpoint.url(host=host)))
    await service.publish(event)
    (attempt,) = (await service.tried(event.id, 1)).attempts
    assert attempt.status is None
    assert endpoint.webhooks == []


async def test_the_connected_address_is_checked(
    service: Notifier, endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The address that is actually connected to is checked, whatever the name resolved to before (DNS rebinding)."""

    def rebinding(_host: str, port: int, _family: int) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    monkeypatch.setattr(destinations, "_look_up", rebinding)
    event = token_event(await api_to(service.deps, endpoint.url(host="rebound.example")))
    await service.publish(event)
    (attempt,) = (await service.tried(event.id, 1)).attempts
    assert attempt.error == REFUSED
    assert endpoint.webhooks == []


async def test_a_test_notification_obeys_the_same_rule(service: Notifier, endpoint: Receiver) -> None:
    """A test notification obeys the same rule."""
    api = await api_to(service.deps, endpoint.url())
    response = await service.writer("POST", f"/api/apis/{api.api_id}/notifications/test")
    assert response.body["Meta"]["error"] == REFUSED
    assert endpoint.webhooks == []
