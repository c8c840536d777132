"""After `revoke_all` or a deletion: tokens are invalid at once, grants are revoked one by one, each with its event."""

from collections.abc import AsyncIterator

import orjson
import pytest

from contracts.clients import ClientDeletion
from contracts.grants import GrantState, RevocationReason
from libs.bus.local import LocalBus
from libs.bus.port import Exchange, Message, Outcome
from tests.builders import settle
from tests.eventually import eventually
from tests.services.system import Party, System, open_system, refused, tokens_of


@pytest.fixture(scope="module", name="unswept")
async def _unswept(mongodb_url: str) -> AsyncIterator[System]:
    """All services except revocation, so that the grants are not revoked one by one."""
    async with open_system(mongodb_url, without="revocation") as system:
        yield system


async def of_every_kind(party: Party) -> dict[str, str]:
    """A code, and access tokens of new, refreshed and client_credentials grants."""
    refreshed = await party.refreshed((await party.tokens()).refresh)
    return {
        "code": await party.code(),
        "fresh": (await party.tokens()).access,
        "refreshed": refreshed.access,
        "own": tokens_of(await party.token({"grant_type": "client_credentials"})).access,
    }


async def test_revoke_all_takes_effect_before_the_grants_are_revoked(unswept: System) -> None:
    """After one write on the client every process refuses its tokens, although the grants are still active."""
    party = await unswept.party()
    tokens, code = await party.tokens(), await party.code()
    assert await unswept.deps.store.clients.revoke_all(party.client, unswept.deps.event_context("tests"))
    assert (await unswept.grant_of(tokens.access)).state is GrantState.ACTIVE
    response = await party.verify(tokens.access)
    assert (response.status, response.body) == (403, {"error": "Key not authorised"})
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")


async def test_deletion_takes_effect_before_the_grants_are_revoked(unswept: System) -> None:
    """The tokens of a deleted client are refused, although the grants are still active."""
    party = await unswept.party()
    tokens, code = await party.tokens(), await party.code()
    path = f"/api/apis/oauth/{party.api.api_id}/{party.id}"
    assert (await unswept.operator("DELETE", path)).status == 200
    assert (await unswept.grant_of(tokens.access)).state is GrantState.ACTIVE
    response = await party.verify(tokens.access)
    assert (response.status, response.body["error"]) == (403, "Key not authorised. OAuth client access was revoked")
    assert refused(await party.refresh(tokens.refresh), "invalid_client", 401)
    assert refused(await party.exchange(code), "invalid_client", 401)


async def test_a_client_registered_again_does_not_revive_old_tokens(unswept: System) -> None:
    """With the same id and secret it is another client; tokens and codes of the old one stay invalid."""
    party = await unswept.party()
    tokens, code = await party.tokens(), await party.code()
    path = f"/api/apis/oauth/{party.api.api_id}"
    assert (await unswept.operator("DELETE", f"{path}/{party.id}")).status == 200
    registration = {"client_id": party.id, "secret": party.secret, "redirect_uri": party.client.redirect_uris[0]}
    assert (await unswept.operator("POST", path, json=registration)).status == 200
    assert (await party.verify(tokens.access)).status == 403
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")
    unswept.clock.advance(1)
    assert (await party.verify((await party.tokens()).access)).status == 200


def revocations(system: System, party: Party) -> list[dict[str, str]]:
    """The data of every `grant.revoked` event of this client."""
    return [
        event["data"]
        for event in system.heard.events
        if event["type"] == "io.tokenwire.grant.revoked" and event["data"]["client_id"] == party.id
    ]


async def end_by(system: System, party: Party, how: RevocationReason) -> None:
    api, client = f"/api/apis/{party.api.api_id}", f"/api/apis/oauth/{party.api.api_id}/{party.id}"
    if how is RevocationReason.CLIENT_DELETED:
        response = await system.operator("DELETE", client)
    elif how is RevocationReason.API_DELETED:
        response = await system.operator("DELETE", api)
    else:
        response = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke_all")
    assert response.status == 200, response.body


@pytest.mark.parametrize(
    "how", [RevocationReason.REVOKE_ALL, RevocationReason.CLIENT_DELETED, RevocationReason.API_DELETED]
)
async def test_every_grant_is_revoked_with_its_event_and_reason(system: System, how: RevocationReason) -> None:
    """Each grant is revoked once, whatever its kind; grants that were revoked before stay as they were."""
    party, bystander = await system.party(), await system.party()
    values = await of_every_kind(party)
    over = await party.tokens()
    assert (await party.revoke(over.refresh)).status == 200
    spared = await bystander.tokens()
    await settle(system.deps)
    before = len(revocations(system, party))
    await end_by(system, party, how)
    grants = {name: (await system.grant_of(value)).grant_id for name, value in values.items()}

    async def all_ended() -> bool:
        await settle(system.deps)
        assert {found["grant_id"] for found in revocations(system, party)[before:]} == set(grants.values())
        return True

    await eventually(all_ended)
    assert {found["reason"] for found in revocations(system, party)[before:]} == {how}
    assert len(revocations(system, party)[before:]) == len(grants)
    for value in values.values():
        grant = await system.grant_of(value)
        assert (grant.state, grant.ended_reason) == (GrantState.REVOKED, how)
    assert (await system.grant_of(over.access)).ended_reason is RevocationReason.CLIENT_REQUEST
    assert (await bystander.verify(spared.access)).status == 200


async def test_the_gateway_s_refusal_is_the_same_before_and_after_the_grant_is_revoked(system: System) -> None:
    """As in Tyk, "OAuth client access was revoked"."""
    party = await system.party()
    tokens = await party.tokens()
    await end_by(system, party, RevocationReason.CLIENT_DELETED)
    await settle(system.deps)
    assert (await system.grant_of(tokens.access)).state is GrantState.REVOKED
    response = await party.verify(tokens.access)
    assert (response.status, response.body["error"]) == (403, "Key not authorised. OAuth client access was revoked")


async def test_deleting_an_api_deletes_its_clients_and_their_secrets(system: System) -> None:
    """The chain api.deleted, client.deleted, grant.revoked; no client gets tokens in between."""
    party = await system.party()
    second = await system.client_of(party.api)
    tokens = [await party.tokens(), await second.tokens()]
    await end_by(system, party, RevocationReason.API_DELETED)
    assert (await party.token({"grant_type": "client_credentials"})).status == 404

    async def clients_are_gone() -> bool:
        await settle(system.deps)
        found = [await system.deps.store.clients.get(client.id) for client in (party, second)]
        return found == [None, None]

    await eventually(clients_are_gone)
    for pair in tokens:
        reason = await eventually(lambda pair=pair: ended_reason(system, pair.access))  # type: ignore[misc]
        assert reason is RevocationReason.API_DELETED
    reasons = [
        event["data"]["reason"]
        for event in system.heard.events
        if event["type"] == "io.tokenwire.client.deleted" and event["data"]["api_id"] == party.api.api_id
    ]
    assert reasons == [ClientDeletion.API_DELETED] * 2


async def ended_reason(system: System, value: str) -> RevocationReason | None:
    return (await system.grant_of(value)).ended_reason


async def test_consuming_an_event_twice_revokes_nothing_more(system: System) -> None:
    """The bus delivers at least once. Grants issued since the first delivery stay active; no event is written twice."""
    party = await system.party()
    await party.tokens()
    await end_by(system, party, RevocationReason.REVOKE_ALL)
    await settle(system.deps)
    (event,) = [
        event
        for event in system.heard.events
        if event["type"] == "io.tokenwire.client.tokens_revoked" and event["subject"] == party.id
    ]
    system.clock.advance(1)
    later = await party.tokens()
    ended = revocations(system, party)
    key = f"client.tokens_revoked.{party.api.api_id}"
    again = Message(f"{event['id']}-again", Exchange.EVENTS, key, orjson.dumps(event), {})
    assert await system.deps.bus.publish([again]) == [Outcome.CONFIRMED]
    await settle(system.deps)
    assert revocations(system, party) == ended
    assert (await party.verify(later.access)).status == 200


async def test_an_unreadable_message_is_dead_lettered(mongodb_url: str) -> None:
    """A message that is not one of these events is dead-lettered at once, and later ones are consumed."""
    bus = LocalBus()
    async with open_system(mongodb_url, bus=bus) as system:
        bodies = (b"{", b"[]", b'{"type": "io.tokenwire.client.deleted"}', b"\xff")
        key = "client.deleted.nobody"
        assert all(await bus.publish([Message(body.hex(), Exchange.EVENTS, key, body, {}) for body in bodies]))
        await bus.drain()
        assert await bus.dead_letters("revocation") == len(bodies)
        party = await system.party()
        tokens = await party.tokens()
        await end_by(system, party, RevocationReason.REVOKE_ALL)
        await eventually(lambda: ended_reason(system, tokens.access))


async def test_more_grants_than_one_batch_are_revoked(system: System) -> None:
    """Also when the grants of a client come in several batches of the cursor."""
    party = await system.party()
    values = [tokens_of(await party.token({"grant_type": "client_credentials"})).access for _ in range(120)]
    await end_by(system, party, RevocationReason.REVOKE_ALL)

    async def all_heard() -> bool:
        await settle(system.deps)
        return len(revocations(system, party)) == len(values)

    await eventually(all_heard)
