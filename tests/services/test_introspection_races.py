"""Introspection at one instance reflects changes at another, with separate connections and caches."""

import asyncio
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import pytest

from contracts.clients import ClientDeletion
from libs.bus.rabbit import RabbitBus
from tests.builders import Response, make_policy
from tests.eventually import eventually
from tests.provision.rabbitmq import Broker
from tests.services.system import Clock, Party, System, Tokens, open_system

WITHIN = 4.0
"""In seconds; waiting for a cache to expire would take five."""
ROUNDS = 25


@dataclass(frozen=True)
class Pair:
    """Two instances of every service with one clock; changes go to the first, introspection to the second."""

    one: System
    two: System

    async def asked(self, server: Party, token: str) -> Response:
        """The second instance's response to the resource server."""
        return await self.two.call("POST", "/oauth/introspect", data={"token": token}, headers=server.basic)

    async def is_active(self, server: Party, token: str) -> bool:
        response = await self.asked(server, token)
        assert response.status == 200, response.body
        assert response.body == {"active": False} or response.body["token_use"] == "access"
        return bool(response.body["active"])


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
    response = await party.system.call("POST", party.at("oauth/revoke_all"), headers=party.basic)
    assert response.status == 200


async def client_deleted(party: Party, tokens: Tokens) -> None:
    deps = party.system.deps
    assert await deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, deps.event_context("tests"))


async def policy_edited(party: Party, tokens: Tokens) -> None:
    deps = party.system.deps
    policy = await deps.store.policies.get(party.client.policy_ids[0])
    assert policy is not None
    changed = policy.model_copy(update={"access_rights": {}})
    assert await deps.store.policies.replace(policy, changed, deps.event_context("tests"))


@pytest.mark.parametrize("change", [revoked, grant_revoked, refreshed_away, all_revoked, client_deleted, policy_edited])
async def test_a_token_ended_at_one_instance_is_inactive_at_the_other(pair: Pair, change: Change) -> None:
    """Row 113: inactive within a second, although the second instance had just reported it as active."""
    issuing = await pair.one.party()
    policy = await make_policy(pair.one.deps, issuing.api.api_id)
    party = await pair.one.client_of(issuing.api, policy_ids=(policy.policy_id,))
    server = await pair.one.client_of(issuing.api, resource_server=True)
    tokens = await party.tokens()
    assert await pair.is_active(server, tokens.access)
    await change(party, tokens)
    await eventually(partial(is_inactive, pair, server, tokens.access), within=WITHIN)


async def test_a_former_resource_server_learns_nothing(pair: Pair) -> None:
    """Ceasing to be a resource server reaches the second instance within a second."""
    party = await pair.one.party()
    server = await pair.one.client_of(party.api, resource_server=True)
    tokens = await party.tokens()
    assert await pair.is_active(server, tokens.access)
    path = f"/api/apis/oauth/{party.api.api_id}/{server.id}"
    assert (await pair.one.operator("PUT", path, json={"resource_server": False})).status == 200
    await eventually(partial(is_inactive, pair, server, tokens.access), within=WITHIN)


async def test_an_introspection_concurrent_with_a_revocation_is_consistent(pair: Pair) -> None:
    """Concurrent with a revocation the response is complete or inactive, never an error; afterwards inactive."""
    party = await pair.one.party()
    server = await pair.one.client_of(party.api, resource_server=True)
    for _ in range(ROUNDS):
        tokens = await party.tokens()
        questions = [pair.is_active(server, tokens.access) for _ in range(4)]
        *_, response = await asyncio.gather(*questions, party.revoke(tokens.access))
        assert isinstance(response, Response)
        assert response.status == 200
        await eventually(partial(is_inactive, pair, server, tokens.access), within=WITHIN)


async def is_inactive(pair: Pair, server: Party, token: str) -> bool:
    return not await pair.is_active(server, token)
