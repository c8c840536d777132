"""What one instance changes, another says on introspection: over two, each with its own connections and caches."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest

from contracts.clients import ClientDeletion
from libs.bus.rabbit import RabbitBus
from tests.builders import Answer, make_policy
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker
from tests.services.system import Clock, Party, System, Tokens, open_system

WITHIN = 1.0
"""Seconds until every instance says what one has done (with the bus up)."""
ROUNDS = 25


@dataclass(frozen=True)
class Pair:
    """Two instances of every service, with one clock; and who asks the second about what the first did."""

    one: System
    two: System

    async def asked(self, server: Party, token: str) -> Answer:
        """What the second says to the resource server."""
        return await self.two.call("POST", "/oauth/introspect", data={"token": token}, headers=server.basic)

    async def is_active(self, server: Party, token: str) -> bool:
        answer = await self.asked(server, token)
        assert answer.status == 200, answer.body
        assert answer.body == {"active": False} or answer.body["token_use"] == "access"
        return bool(answer.body["active"])


@pytest.fixture(scope="module", name="pair")
async def _pair(mongodb_url: str, rabbitmq: Broker) -> AsyncIterator[Pair]:
    url, clock, database = rabbitmq.new_vhost(), Clock(), f"tokenwire_test_{secrets.token_hex(6)}"
    async with AsyncExitStack() as stack:
        buses = [RabbitBus(url, instance_name=f"instance-{number}") for number in range(2)]
        one, two = [await stack.enter_async_context(open_system(mongodb_url, database, bus, clock)) for bus in buses]
        yield Pair(one, two)


Change = Callable[[Party, Tokens], Awaitable[None]]


async def revoked(party: Party, tokens: Tokens) -> None:
    assert (await party.revoke(tokens.access)).status == 200


async def grant_revoked(party: Party, tokens: Tokens) -> None:
    assert (await party.revoke(tokens.refresh)).status == 200


async def refreshed_away(party: Party, tokens: Tokens) -> None:
    await party.refreshed(tokens.refresh)


async def all_revoked(party: Party, tokens: Tokens) -> None:
    answer = await party.system.call("POST", party.at("oauth/revoke_all"), headers=party.basic)
    assert answer.status == 200


async def client_deleted(party: Party, tokens: Tokens) -> None:
    deps = party.system.deps
    assert await deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, deps.origin("tests"))


async def policy_edited(party: Party, tokens: Tokens) -> None:
    deps = party.system.deps
    policy = await deps.store.policies.get(party.client.policy_ids[0])
    assert policy is not None
    changed = policy.model_copy(update={"access_rights": {}})
    assert await deps.store.policies.replace(policy, changed, deps.origin("tests"))


@pytest.mark.parametrize("change", [revoked, grant_revoked, refreshed_away, all_revoked, client_deleted, policy_edited])
async def test_what_one_instance_ends_is_not_active_on_the_other(pair: Pair, change: Change) -> None:
    """Row 113: within a second, though the other has just said that it is active."""
    issuing = await pair.one.party()
    policy = await make_policy(pair.one.deps, issuing.api.api_id)
    party = await pair.one.client_of(issuing.api, policy_ids=(policy.policy_id,))
    server = await pair.one.client_of(issuing.api, resource_server=True)
    tokens = await party.tokens()
    assert await pair.is_active(server, tokens.access)
    await change(party, tokens)
    await eventually(lambda: _not(pair.is_active(server, tokens.access)), within=WITHIN)


async def test_who_is_no_resource_server_any_more_learns_nothing(pair: Pair) -> None:
    """The edit reaches the other instance within a second."""
    party = await pair.one.party()
    server = await pair.one.client_of(party.api, resource_server=True)
    tokens = await party.tokens()
    assert await pair.is_active(server, tokens.access)
    path = f"/api/apis/oauth/{party.api.api_id}/{server.id}"
    assert (await pair.one.operator("PUT", path, json={"resource_server": False})).status == 200
    await eventually(lambda: _not(pair.is_active(server, tokens.access)), within=WITHIN)


async def test_an_introspection_beside_a_revocation_says_one_or_the_other(pair: Pair) -> None:
    """While it goes on the answer is whole or nothing, never an error; afterwards it is nothing."""
    party = await pair.one.party()
    server = await pair.one.client_of(party.api, resource_server=True)
    for _ in range(ROUNDS):
        tokens = await party.tokens()
        questions = [pair.is_active(server, tokens.access) for _ in range(4)]
        *_, answer = await asyncio.gather(*questions, party.revoke(tokens.access))
        assert isinstance(answer, Answer)
        assert answer.status == 200
        await eventually(lambda token=tokens.access: _not(pair.is_active(server, token)), within=WITHIN)


async def _not(question: Awaitable[bool]) -> bool:
    return not await question
