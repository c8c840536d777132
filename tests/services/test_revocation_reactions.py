"""A client or an API is gone, or all tokens are to be: dead at once, ended one by one, each with its event."""

from collections.abc import AsyncIterator

import orjson
import pytest

from contracts.clients import ClientDeletion
from contracts.grants import GrantState, RevocationReason
from libs.bus.local import LocalBus
from libs.bus.port import Exchange, Message
from tests.builders import settle
from tests.eventually import eventually
from tests.services.system import Party, System, open_system, refused, tokens_of


@pytest.fixture(scope="module", name="unswept")
async def _unswept(mongodb_url: str) -> AsyncIterator[System]:
    """All but the revocation service: nobody ends the grants one by one."""
    async with open_system(mongodb_url, without="revocation") as system:
        yield system


async def of_every_kind(party: Party) -> dict[str, str]:
    """A code, and the access tokens of a fresh grant, of a refreshed one, and of the client's own."""
    refreshed = await party.refreshed((await party.tokens()).refresh)
    return {
        "code": await party.code(),
        "fresh": (await party.tokens()).access,
        "refreshed": refreshed.access,
        "own": tokens_of(await party.token({"grant_type": "client_credentials"})).access,
    }


async def test_revoke_all_takes_effect_before_the_grants_are_ended(unswept: System) -> None:
    """One write on the client, and every token is refused everywhere although each grant still says that it lives."""
    party = await unswept.party()
    tokens, code = await party.tokens(), await party.code()
    assert await unswept.deps.store.clients.revoke_all(party.client, unswept.deps.origin("tests"))
    assert (await unswept.grant_of(tokens.access)).state is GrantState.ACTIVE
    answer = await party.verify(tokens.access)
    assert (answer.status, answer.body) == (403, {"error": "Key not authorised"})
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")


async def test_deletion_takes_effect_before_the_grants_are_ended(unswept: System) -> None:
    """The same for a client that is gone."""
    party = await unswept.party()
    tokens, code = await party.tokens(), await party.code()
    path = f"/api/apis/oauth/{party.api.api_id}/{party.id}"
    assert (await unswept.operator("DELETE", path)).status == 200
    assert (await unswept.grant_of(tokens.access)).state is GrantState.ACTIVE
    answer = await party.verify(tokens.access)
    assert (answer.status, answer.body["error"]) == (403, "Key not authorised. OAuth client access was revoked")
    assert refused(await party.refresh(tokens.refresh), "invalid_client", 401)
    assert refused(await party.exchange(code), "invalid_client", 401)


async def test_a_client_made_again_does_not_revive_what_ended_with_the_old_one(unswept: System) -> None:
    """The same id and secret, another client: the old one's tokens and codes stay dead."""
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
    """The data of every `grant.revoked` of this client that was heard."""
    return [
        event["data"]
        for event in system.heard.events
        if event["type"] == "io.tokenwire.grant.revoked" and event["data"]["client_id"] == party.id
    ]


async def end_by(system: System, party: Party, how: RevocationReason) -> None:
    api, client = f"/api/apis/{party.api.api_id}", f"/api/apis/oauth/{party.api.api_id}/{party.id}"
    if how is RevocationReason.CLIENT_DELETED:
        answer = await system.operator("DELETE", client)
    elif how is RevocationReason.API_DELETED:
        answer = await system.operator("DELETE", api)
    else:
        answer = await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke_all")
    assert answer.status == 200, answer.body


@pytest.mark.parametrize(
    "how", [RevocationReason.REVOKE_ALL, RevocationReason.CLIENT_DELETED, RevocationReason.API_DELETED]
)
async def test_every_grant_ends_with_its_event_and_reason(system: System, how: RevocationReason) -> None:
    """Issue 2, item 5: by reaction, each grant once, whatever its kind; those that were over stay so."""
    party, bystander = await system.party(), await system.party()
    values = await of_every_kind(party)
    over = await party.tokens()
    assert (await party.revoke(over.refresh)).status == 200
    spared = await bystander.tokens()
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


async def test_the_answer_after_a_deletion_stays_the_same_once_the_grant_has_ended(system: System) -> None:
    """tyk-compat.md section 6: "OAuth client access was revoked", before and after the reaction."""
    party = await system.party()
    tokens = await party.tokens()
    await end_by(system, party, RevocationReason.CLIENT_DELETED)
    await settle(system.deps)
    assert (await system.grant_of(tokens.access)).state is GrantState.REVOKED
    answer = await party.verify(tokens.access)
    assert (answer.status, answer.body["error"]) == (403, "Key not authorised. OAuth client access was revoked")


async def test_deleting_an_api_takes_its_clients_and_their_secrets(system: System) -> None:
    """The chain api.deleted, client.deleted, grant.revoked; nobody can ask for tokens on the way."""
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


async def test_hearing_the_same_event_again_ends_nothing_more(system: System) -> None:
    """At least once is what a bus promises: what was issued since the first time lives, and no event comes twice."""
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
    assert await system.deps.bus.publish([again]) == [True]
    await settle(system.deps)
    assert revocations(system, party) == ended
    assert (await party.verify(later.access)).status == 200


async def test_a_poisoned_message_is_parked(mongodb_url: str) -> None:
    """What is no event of ours is put aside at once, and those behind it are handled."""
    bus = LocalBus()
    async with open_system(mongodb_url, bus=bus) as system:
        bodies = (b"{", b"[]", b'{"type": "io.tokenwire.client.deleted"}', b"\xff")
        key = "client.deleted.nobody"
        assert all(await bus.publish([Message(body.hex(), Exchange.EVENTS, key, body, {}) for body in bodies]))
        await bus.drain()
        assert await bus.parked("revocation") == len(bodies)
        party = await system.party()
        tokens = await party.tokens()
        await end_by(system, party, RevocationReason.REVOKE_ALL)
        await eventually(lambda: ended_reason(system, tokens.access))


async def test_many_grants_end_too(system: System) -> None:
    """More than one batch of the database's cursor."""
    party = await system.party()
    values = [tokens_of(await party.token({"grant_type": "client_credentials"})).access for _ in range(120)]
    await end_by(system, party, RevocationReason.REVOKE_ALL)

    async def all_heard() -> bool:
        await settle(system.deps)
        return len(revocations(system, party)) == len(values)

    await eventually(all_heard)
