"""An unreadable event is dead-lettered with a reason, and caches it may have concerned are reloaded."""

from collections.abc import AsyncIterator

import pytest

from libs.bus.port import Delivery, Drop, Exchange, Message
from libs.event_log import recorded_event
from tests.builders import settle
from tests.services.system import System, open_system
from tests.services.test_consumers_twice import Bus

EVENT = (
    b'{"id":"e","type":"io.tokenwire.token.new","subject":"s","time":"2026-05-04T12:00:00Z","sequence":"%b","data":{}}'
)


@pytest.fixture(scope="module", name="bus")
def _bus() -> Bus:
    return Bus()


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str, bus: Bus) -> AsyncIterator[System]:
    async with open_system(mongodb_url, bus=bus) as system:
        yield system


async def heard(bus: Bus, consumer: str, body: bytes) -> None:
    """Deliver a message with this body."""
    message = Message("m", Exchange.EVENTS, "grant.revoked.a", body)
    await bus.subscriptions[consumer].handler(Delivery(message, redelivered=False))


@pytest.mark.parametrize("consumer", ["catalog", "token-grants", "revocation", "management", "event_log"])
@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"{}", b'{"subject": 1}', b"[" * 5000])
async def test_every_consumer_drops_it(system: System, bus: Bus, consumer: str, body: bytes) -> None:
    """It is neither retried nor reported as the consumer's fault."""
    with pytest.raises(Drop):
        await heard(bus, consumer, body)


async def test_no_record_is_trusted_after_it(system: System, bus: Bus) -> None:
    """It could concern any record, so all cached records are reloaded."""
    party = await system.party(name="before")
    await settle(system.deps)
    catalog, whose = system.deps.catalog, (party.id, party.api.api_id)
    assert (await catalog.client(*whose)) is await catalog.client(*whose)
    await system.deps.store.mongo["clients"].update_one({"_id": party.id}, {"$set": {"name": "after"}})
    with pytest.raises(Drop):
        await heard(bus, "catalog", b"")
    client = await catalog.client(*whose)
    assert client is not None
    assert client.name == "after"


async def test_no_token_is_trusted_after_it(system: System, bus: Bus) -> None:
    """Cached tokens are dropped, so that revoked ones are refused."""
    party = await system.party()
    tokens = await party.tokens()
    await settle(system.deps)
    assert (await party.verify(tokens.access)).status == 200
    grant = await system.grant_of(tokens.access)
    await system.deps.store.mongo["grants"].delete_one({"_id": grant.grant_id})
    with pytest.raises(Drop):
        await heard(bus, "token-grants", b"")
    assert (await party.verify(tokens.access)).status == 403


@pytest.mark.parametrize("sequence", [b"0", b"x", b"9223372036854775808", b"9" * 5000])
def test_a_sequence_that_no_record_counts_to_is_none(sequence: bytes) -> None:
    """An impossible sequence is refused before the event joins a batch, which it would fail."""
    with pytest.raises(Drop):
        recorded_event(EVENT % sequence)
    assert recorded_event(EVENT % b"0000000002").sequence == 2
