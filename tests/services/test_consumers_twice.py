"""Every consumer may receive a message twice (at-least-once delivery); the second time changes nothing."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from contracts.clients import ClientDeletion
from contracts.webhooks import DeliveryState
from libs.bus.local import LocalBus
from libs.bus.port import Delivery, Message, Subscription
from tests.builders import make_client, settle
from tests.deployment.wiring import SERVICES, wired
from tests.notifications import answering, api_to, notifier, receiver, token_event
from tests.services.system import System, open_system

TESTED = {"revocation", "management", "event_log", "notifier", "catalog", "token-grants", "event-stream"}
VOLATILE = {"pending", "numbered", "pending_since", "handover_since", "purge_at"}
"""Fields that the outbox changes while a test compares records."""
PASSING = {"leases", "batches", "checkpoints"}
"""Collections with transient state of processes."""


class Bus(LocalBus):
    """A bus that keeps subscriptions and published messages."""

    def __init__(self) -> None:
        super().__init__()
        self.subscriptions: dict[str, Subscription] = {}
        self.published: list[Message] = []

    def subscribe(self, subscription: Subscription) -> None:
        super().subscribe(subscription)
        self.subscriptions[subscription.name] = subscription

    async def publish(self, messages: Any) -> Any:
        self.published += messages
        return await super().publish(messages)

    def last(self, kind: str) -> Message:
        """The latest message of this type."""
        return [message for message in self.published if message.type == f"io.tokenwire.{kind}"][-1]


@pytest.fixture(name="bus")
def _bus() -> Bus:
    return Bus()


@pytest.fixture(name="system")
async def _system(mongodb_url: str, bus: Bus) -> AsyncIterator[System]:
    async with open_system(mongodb_url, bus=bus) as system:
        yield system


async def state(system: System) -> dict[str, Any]:
    """Every document of every collection."""
    await settle(system.deps)
    database = system.deps.store.mongo["grants"].database
    names = [name for name in await database.list_collection_names() if name not in PASSING]
    return {
        name: [
            {field: value for field, value in document.items() if field not in VOLATILE}
            for document in await database[name].find().sort("_id", 1).to_list(None)
        ]
        for name in sorted(names)
    }


async def again(system: System, bus: Bus, subscription: str, message: Message) -> None:
    """Redeliver the message; nothing in MongoDB or on the bus may change."""
    before, published = await state(system), len(bus.published)
    system.clock.advance(1)
    await bus.subscriptions[subscription].handler(Delivery(message, redelivered=True))
    assert await state(system) == before
    assert len(bus.published) == published


def test_every_consumer_is_tested_here() -> None:
    """Every subscription is tested here; a new one without a test fails."""
    assert {each.name for service in SERVICES for each in wired(service).subscriptions} == TESTED


@pytest.mark.parametrize("reason", list(ClientDeletion))
async def test_a_clients_end_twice(system: System, bus: Bus, reason: ClientDeletion) -> None:
    """The grants of a deleted client are revoked once, with one event each."""
    party = await system.party()
    grants = [await system.grant_of((await party.tokens()).access) for _ in range(3)]
    await system.deps.store.clients.delete(party.client, reason, system.deps.event_context("tests"))
    await settle(system.deps)
    for grant in grants:
        assert [event["type"] for event in await system.heard.about(grant.grant_id)].count(
            "io.tokenwire.grant.revoked"
        ) == 1
    await again(system, bus, "revocation", bus.last("client.deleted"))


async def test_revoke_all_twice(system: System, bus: Bus) -> None:
    """revoke_all: what was issued since then survives a second delivery."""
    party = await system.party()
    await party.tokens()
    response = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke_all")
    assert response.status == 200
    await settle(system.deps)
    system.clock.advance(1)
    later = await party.tokens()
    await again(system, bus, "revocation", bus.last("client.tokens_revoked"))
    assert (await party.verify(later.access)).status == 200


async def test_an_apis_end_twice(system: System, bus: Bus) -> None:
    """The clients of a deleted API are deleted once; if the API exists again, its new clients survive."""
    party = await system.party()
    await party.tokens()
    ctx = system.deps.event_context("tests")
    assert await system.deps.store.apis.delete(party.api, ctx)
    await settle(system.deps)
    assert await system.deps.store.clients.get(party.id) is None
    await again(system, bus, "management", bus.last("api.deleted"))

    system.clock.advance(1)
    made = replace_times(party.api, system)
    api = await system.deps.store.apis.register(made, system.deps.event_context("tests"))
    system.clock.advance(1)
    client, _ = await make_client(system.deps, api, created_at=system.clock())
    await again(system, bus, "management", bus.last("api.deleted"))
    assert await system.deps.store.clients.get(client.client_id) is not None


def replace_times(record: Any, system: System) -> Any:
    """Make the record look newly created."""
    return record.model_copy(update={"created_at": system.clock(), "updated_at": system.clock()})


async def test_an_event_is_recorded_once(system: System, bus: Bus) -> None:
    """An event is recorded and counted once."""
    party = await system.party()
    await party.revoke((await party.refreshed((await party.tokens()).refresh)).refresh)
    await settle(system.deps)
    assert [usage["counts"] for usage in (await state(system))["usage_hours"]] == [
        {"issued": 1, "refreshed": 1, "revoked": 1}
    ]
    for kind in ("api.created", "client.created", "code.issued", "token.new", "token.refresh", "grant.revoked"):
        await again(system, bus, "event_log", bus.last(kind))


async def test_the_catalog_may_reload_twice(system: System, bus: Bus) -> None:
    """The catalog reloads after each invalidation, with the same result."""
    party = await system.party()
    deps = system.deps
    assert await deps.catalog.client(party.id, party.api.api_id) == party.client
    await settle(deps)
    for kind in ("client.created", "api.created"):
        await again(system, bus, "catalog", bus.last(kind))
    assert await deps.catalog.client(party.id, party.api.api_id) == party.client
    assert await deps.catalog.api(party.api.api_id) == party.api


async def test_a_token_that_ended_is_forgotten_again(system: System, bus: Bus) -> None:
    """The gateway forgets the grant again, which only costs a read for a later pair."""
    party = await system.party()
    tokens = await party.tokens()
    assert (await party.verify(tokens.access)).status == 200
    later = await party.refreshed(tokens.refresh)
    await settle(system.deps)
    assert (await party.verify(later.access)).status == 200
    await again(system, bus, "token-grants", bus.last("token.refresh"))
    assert (await party.verify(later.access)).status == 200
    assert (await party.verify(tokens.access)).status == 403


async def test_the_stream_passes_on_every_event(system: System, bus: Bus) -> None:
    """The event stream keeps nothing; its clients can recognise the repeated id."""
    await system.party()
    await settle(system.deps)
    message = bus.last("client.created")
    async with system.call.http.get("/api/events/stream", headers=system.operator.headers) as response:
        await response.content.readuntil(b": connected\n\n")
        await again(system, bus, "event-stream", message)
        frame = await response.content.readuntil(b"\n\n")
    assert frame.startswith(b"id: " + message.id.encode())


async def test_a_notification_is_accepted_once(mongodb_url: str, database_name: str) -> None:
    """The notifier creates one delivery and sends one webhook, even if the command is repeated while it is in
    progress.
    """
    async with receiver() as endpoint, notifier(mongodb_url, database_name) as service:
        event = token_event(await api_to(service.deps, endpoint.url()))
        await service.publish(event)
        delivered = await service.reached(event.id, DeliveryState.DELIVERED)
        await service.publish(event)
        await service.deps.bus.drain()
        assert await service.delivery(event.id) == delivered
        assert endpoint.ids() == [event.id]

        endpoint.behave(answering(500), "/broken")
        failing = token_event(await api_to(service.deps, endpoint.url("/broken")))
        await service.publish(failing)
        tried = await service.tried(failing.id, 1)
        await service.publish(failing)
        await service.deps.bus.drain()
        assert await service.delivery(failing.id) == tried
        assert endpoint.ids("/broken") == [failing.id]
