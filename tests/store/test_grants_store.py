"""Grants in MongoDB: read as written, one winner of every race, and only digests of tokens are stored."""

import asyncio
import itertools
import os
import secrets
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import bson
import pytest

from contracts.apis import GrantType
from contracts.clients import Client
from contracts.events import PendingEvent
from contracts.grants import Grant, GrantState, IssuedResponse, RevocationReason
from libs.event_encoding import EventContext
from libs.oauth.errors import InvalidGrant, TemporarilyUnavailable
from libs.oauth.grants import (
    CodeBinding,
    IssueContext,
    Recovery,
    TokenPair,
    Transition,
    exchange_code,
    issue_code,
    issue_tokens,
    revoke_access_token,
    revoke_grant,
)
from libs.oauth.token_formats import MintedToken, OpaqueTokens, TokenKind, new_grant_id
from libs.store import grants as module
from libs.store import mongo as mongo_module
from libs.store import updates
from libs.store.grants import Grants
from libs.store.mongo import Mongo
from libs.store.outbox_collection import RETENTION
from tests.eventually import eventually
from tests.store.connected import connected
from tests.store.lossy import Lossy
from tests.unit.test_grant_machine import API, CALLBACK, CLIENT, SETTINGS

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
CTX = EventContext("urn:tokenwire:tests", NOW)
T = TypeVar("T")
OPAQUE = OpaqueTokens({1: bytes(32)}, 1, os.urandom)


class Shelf:
    """The collection, announced events, and grants in it."""

    def __init__(self, mongo: Mongo) -> None:
        self.mongo = mongo
        self.announced: list[PendingEvent] = []
        self.grants = Grants(mongo, lambda _, event: self.announced.append(event))

    async def code(
        self, client: Client = CLIENT, ctx: EventContext = CTX, **fields: object
    ) -> tuple[Grant, MintedToken]:
        """Create a pending grant; return it with its code."""
        grant_id = new_grant_id(os.urandom(16))
        code = OPAQUE.mint(TokenKind.CODE, grant_id, 0)
        given = {
            "redirect_uri": CALLBACK,
            "redirect_uri_requested": True,
            "scope": "a b",
            "code_challenge": None,
            "subject": "ada",
        }
        binding = CodeBinding(**given | fields)  # type: ignore[arg-type]
        issued = issue_code(IssueContext(API, SETTINGS, client, ctx), grant_id, code, binding)
        assert await self.grants.commit(issued)
        return issued.after, code

    async def tokens(self, client: Client = CLIENT, ctx: EventContext = CTX) -> tuple[Grant, TokenPair]:
        """Create an active grant; return it with its tokens."""
        grant_id = new_grant_id(os.urandom(16))
        pair = pair_of(grant_id, 1)
        context = IssueContext(API, SETTINGS, client, ctx)
        issued = issue_tokens(context, grant_id, GrantType.PASSWORD, pair, scope=None)
        assert await self.grants.commit(issued)
        return issued.after, pair

    async def raw(self, grant: Grant) -> bytes:
        """The stored document."""
        document = await self.mongo["grants"].find_one({"_id": grant.grant_id})
        assert document is not None
        return bson.encode(document)


def pair_of(grant_id: str, generation: int) -> TokenPair:
    return TokenPair(
        OPAQUE.mint(TokenKind.ACCESS, grant_id, generation), OPAQUE.mint(TokenKind.REFRESH, grant_id, generation)
    )


def exchanged(grant: Grant, code: MintedToken, pair: TokenPair, ctx: EventContext = CTX) -> Transition | Recovery:
    presented = OPAQUE.read(TokenKind.CODE, code.value)
    assert presented is not None
    context = IssueContext(API, SETTINGS, CLIENT, ctx)
    pair = replace(pair, encrypted=b"box")
    return exchange_code(context, grant, presented, pair, redirect_uri=CALLBACK, verifier=None)


def committed(decision: Transition | Recovery) -> Transition:
    """The decision as a transition."""
    assert isinstance(decision, Transition)
    return decision


@pytest.fixture(scope="module", name="shelf")
async def _shelf(mongodb_url: str) -> AsyncIterator[Shelf]:
    async with connected(Shelf, mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}") as shelf:
        yield shelf


async def test_a_grant_is_read_back_as_it_was_written(shelf: Shelf) -> None:
    """Every field of every state is stored."""
    grant, code = await shelf.code(key_rules={"access_rights": {"a.b": {"$odd": [1]}}}, code_challenge="c" * 43)
    assert await shelf.grants.read(grant.grant_id) == grant
    grant = grant.model_copy(update={"code_challenge": None})
    active = committed(exchanged(grant, code, pair_of(grant.grant_id, 1)))
    assert await shelf.grants.commit(active)
    assert await shelf.grants.read(grant.grant_id) == active.after
    over = revoke_grant(active.after, RevocationReason.OPERATOR, CTX)
    assert await shelf.grants.commit(over)
    assert await shelf.grants.read(grant.grant_id) == over.after


async def test_an_unknown_id_is_none(shelf: Shelf) -> None:
    """There is no grant with this id."""
    assert await shelf.grants.read(new_grant_id(os.urandom(16))) is None


async def test_many_may_read_one_grant_at_once(shelf: Shelf) -> None:
    """Look-ups that share a round trip get objects of their own."""
    rules = {"access_rights": {"orders": {"api_id": "orders"}}}
    grant, _ = await shelf.code(key_rules=rules)
    found = await asyncio.gather(*(shelf.grants.read(grant.grant_id) for _ in range(20)))
    assert all(each == grant for each in found)
    assert all(each is not None and each.key_rules == rules for each in found)


async def test_only_digests_are_at_rest(shelf: Shelf) -> None:
    """The document contains only the SHA-256 of codes and tokens."""
    grant, code = await shelf.code()
    pair = pair_of(grant.grant_id, 1)
    assert await shelf.grants.commit(committed(exchanged(grant, code, pair)))
    raw = await shelf.raw(grant)
    for minted in filter(None, (code, pair.access, pair.refresh)):
        assert minted.value.encode() not in raw
        assert minted.value.encode()[-40:] not in raw
        assert minted.digest in raw


async def test_a_grant_is_kept_a_day_longer_than_its_last_value(shelf: Shelf) -> None:
    """Its TTL follows the latest expiry: of the code at first, of the refresh token later."""

    async def purge_after(grant: Grant) -> datetime:
        document = await shelf.mongo["grants"].find_one({"_id": grant.grant_id})
        assert document is not None
        moment: datetime = document["purge_after"]
        return moment

    grant, code = await shelf.code()
    assert grant.code is not None
    assert await purge_after(grant) == grant.code.expires_at + RETENTION
    active = committed(exchanged(grant, code, pair_of(grant.grant_id, 1)))
    assert await shelf.grants.commit(active)
    assert active.after.refresh is not None
    assert await purge_after(grant) == active.after.refresh.expires_at + RETENTION


async def test_of_many_exchanges_of_one_code_one_succeeds(shelf: Shelf) -> None:
    """Of N at once, one gets tokens and the others see its response; there is one event, the winner's."""
    grant, code = await shelf.code()
    pairs = [pair_of(grant.grant_id, 1) for _ in range(16)]

    async def exchange(pair: TokenPair) -> Transition | Recovery:
        def decide(found: Grant | None) -> Transition | Recovery:
            assert found is not None
            return exchanged(found, code, pair)

        return await shelf.grants.update_with_retry(grant.grant_id, decide)

    outcomes = await asyncio.gather(*(exchange(pair) for pair in pairs))
    won = [pair for pair, outcome in zip(pairs, outcomes, strict=True) if isinstance(outcome, Transition)]
    assert len(won) == 1
    assert all(outcome.in_flight for outcome in outcomes if isinstance(outcome, Recovery))
    found = await shelf.grants.read(grant.grant_id)
    assert found is not None
    assert found.access is not None
    assert (found.version, found.access.digest) == (2, won[0].access.digest)
    assert len([event for event in shelf.announced if event.owner == grant.grant_id]) == 2


async def test_a_decision_is_repeated_after_a_conflict(shelf: Shelf) -> None:
    """Both changes happen, the second on the result of the first; nothing is overwritten."""
    grant, _ = await shelf.tokens()
    seen: list[int] = []

    def decide(found: Grant | None) -> Transition:
        assert found is not None
        seen.append(found.version)
        revoked = revoke_access_token(found, 1, RevocationReason.OPERATOR, CTX) if len(seen) == 1 else None
        return revoked or revoke_grant(found, RevocationReason.OPERATOR, CTX)

    async def overtake() -> None:
        current = await shelf.grants.read(grant.grant_id)
        assert current is not None
        other = revoke_access_token(current, 1, RevocationReason.CLIENT_REQUEST, CTX)
        assert other is not None
        assert await shelf.grants.commit(other)

    commit, overtaken = shelf.grants.commit, itertools.count()

    async def late(transition: Transition) -> bool:
        if next(overtaken) == 0:
            shelf.grants.commit = commit  # type: ignore[method-assign]
            await overtake()
        return await commit(transition)

    shelf.grants.commit = late  # type: ignore[method-assign]
    settled = await shelf.grants.update_with_retry(grant.grant_id, decide)
    assert seen == [1, 2]
    assert settled.after.version == 3
    assert await shelf.grants.read(grant.grant_id) == settled.after


async def test_a_refusal_is_raised_once_its_change_is_written(shelf: Shelf) -> None:
    """A replayed code revokes the grant before the refusal is raised."""
    grant, code = await shelf.code()
    active = committed(exchanged(grant, code, pair_of(grant.grant_id, 1)))
    assert await shelf.grants.commit(active)
    assert active.after.response is not None
    shelf.grants.note_response_sent(grant.grant_id, active.after.response, NOW)
    later = replace(CTX, now=NOW + timedelta(seconds=3))

    def replay(found: Grant | None) -> Transition | Recovery:
        assert found is not None
        return exchanged(found, code, pair_of(grant.grant_id, 1), later)

    with pytest.raises(InvalidGrant, match="used before"):
        await shelf.grants.update_with_retry(grant.grant_id, replay)
    found = await shelf.grants.read(grant.grant_id)
    assert found is not None
    assert (found.state, found.ended_reason) == (GrantState.REVOKED, RevocationReason.CODE_REPLAY)


async def test_nothing_to_write_is_handed_back(shelf: Shelf) -> None:
    """A decision that is not a transition is returned unchanged, and the grant is not written."""
    grant, _ = await shelf.tokens()
    assert await shelf.grants.update_with_retry(grant.grant_id, lambda found: ("seen", found)) == ("seen", grant)
    assert await shelf.grants.update_with_retry("nobody", lambda found: found) is None
    assert await shelf.grants.read(grant.grant_id) == grant


async def test_a_fight_over_one_grant_ends(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that loses every time gives up with TemporarilyUnavailable."""
    grant, _ = await shelf.tokens()
    monkeypatch.setattr(module, "MAX_DECISIONS", 3)
    stale = grant.model_copy(update={"version": 7})
    with pytest.raises(TemporarilyUnavailable):
        await shelf.grants.update_with_retry(
            grant.grant_id, lambda _: revoke_grant(stale, RevocationReason.OPERATOR, CTX)
        )
    assert await shelf.grants.read(grant.grant_id) == grant


async def test_a_new_grant_needs_its_event(shelf: Shelf) -> None:
    """A grant without an event cannot be created by mistake."""
    grant, _ = await shelf.tokens()
    with pytest.raises(ValueError, match="event"):
        await shelf.grants.commit(Transition(None, grant.model_copy(update={"grant_id": "x"}), None))


# Lists


def client(**fields: object) -> Client:
    return CLIENT.model_copy(update={"client_id": f"app-{secrets.token_hex(6)}", **fields})


def ctx_at(seconds: float) -> EventContext:
    return replace(CTX, now=NOW + timedelta(seconds=seconds))


async def test_live_tokens_are_listed_by_their_end(shelf: Shelf) -> None:
    """The soonest to expire first, page by page, with the total number."""
    owner = client()
    made = [(await shelf.tokens(owner, ctx_at(seconds)))[0].grant_id for seconds in (3, 1, 2)]
    first, total = await shelf.grants.page_of_client([owner], NOW, 1, 2)
    rest, _ = await shelf.grants.page_of_client([owner], NOW, 2, 2)
    assert total == 3
    assert [grant.grant_id for grant in (*first, *rest)] == [made[1], made[2], made[0]]
    assert (await shelf.grants.page_of_client([owner], NOW, 3, 2)) == ([], 3)


async def test_only_live_tokens_are_listed(shelf: Shelf) -> None:
    """No codes, no revoked or expired tokens, no other client's tokens, none that `revoke_all` has ended."""
    owner = client()
    live, _ = await shelf.tokens(owner, ctx_at(10))
    await shelf.code(owner)
    await shelf.tokens(client())
    await shelf.tokens(owner.model_copy(update={"api_id": "invoices"}), ctx_at(-4000))
    revoked, _ = await shelf.tokens(owner, ctx_at(11))
    transition = revoke_access_token(revoked, 1, RevocationReason.OPERATOR, CTX)
    assert transition is not None
    assert await shelf.grants.commit(transition)
    ended, _ = await shelf.tokens(owner, ctx_at(12))
    assert await shelf.grants.commit(revoke_grant(ended, RevocationReason.OPERATOR, CTX))
    found, total = await shelf.grants.page_of_client([owner], NOW, 1, 10)
    assert ([grant.grant_id for grant in found], total) == ([live.grant_id], 1)
    dead = owner.model_copy(update={"revoked_before": ctx_at(10).now})
    assert await shelf.grants.page_of_client([dead], NOW, 1, 10) == ([], 0)


async def test_unrevoked_grants_are_found_at_any_age(shelf: Shelf) -> None:
    """Also codes and expired grants: their codes and refresh tokens must be revoked, with an event each."""
    owner = client()
    code, _ = await shelf.code(owner, ctx_at(1))
    active, _ = await shelf.tokens(owner, ctx_at(2))
    old, _ = await shelf.tokens(owner, ctx_at(-(10**6)))
    ended, _ = await shelf.tokens(owner, ctx_at(0))
    assert await shelf.grants.commit(revoke_grant(ended, RevocationReason.OPERATOR, CTX))
    younger, _ = await shelf.tokens(owner, ctx_at(3))
    batches = [batch async for batch in shelf.grants.unended_of_client(owner.api_id, owner.client_id, ctx_at(2).now, 2)]
    found = {grant_id for batch in batches for grant_id in batch}
    assert found == {code.grant_id, active.grant_id, old.grant_id}
    assert younger.grant_id not in found
    assert [len(batch) for batch in batches] == [2, 1]


async def test_published_grants_go_when_their_time_is_over(shelf: Shelf) -> None:
    """The TTL index deletes grants that are published and long over; none with an unpublished event."""
    long_ago = EventContext("urn:tokenwire:tests", datetime(2020, 1, 1, tzinfo=UTC))
    cleared, _ = await shelf.tokens(ctx=long_ago)
    uncleared, _ = await shelf.tokens(ctx=long_ago)
    (event,) = (event for event in shelf.announced if event.owner == cleared.grant_id)
    await shelf.grants.clear([event])
    over = await shelf.grants.purgeable(datetime.now(UTC), 1000)
    assert over == [cleared.grant_id]
    await shelf.grants.purge(over, datetime.now(UTC))
    document = await shelf.mongo["grants"].find_one({"_id": cleared.grant_id}, {"purge_at": 1})
    assert document is None or document["purge_at"] < datetime.now(UTC)
    kept = await shelf.mongo["grants"].find_one({"_id": uncleared.grant_id})
    assert kept is not None
    assert "purge_at" not in kept
    indexes = await shelf.mongo["grants"].index_information()
    assert indexes["purge"]["expireAfterSeconds"] == 0


async def test_reads_and_writes_of_many_grants_do_not_mix(shelf: Shelf) -> None:
    """Under load, each reader gets its own grant, as last committed."""
    made = await asyncio.gather(*(shelf.tokens() for _ in range(40)))
    ended = [revoke_grant(grant, RevocationReason.OPERATOR, CTX) for grant, _ in made[:20]]
    outcomes = await asyncio.gather(*(shelf.grants.commit(transition) for transition in ended))
    assert all(outcomes)
    found = await asyncio.gather(*(shelf.grants.read(grant.grant_id) for grant, _ in made))
    assert list(found) == [*(transition.after for transition in ended), *(grant for grant, _ in made[20:])]
    await eventually(lambda: len(shelf.announced) >= 60)


# Grouped changes


@pytest.fixture(name="lossy")
def _lossy(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lossy]:
    monkeypatch.setattr(mongo_module, "OPERATION_TIMEOUT_MS", 1000)
    with Lossy(mongodb_url).running() as lossy:
        yield lossy


async def revoked(shelf: Shelf) -> Transition:
    """The revocation, not yet committed, of a new grant."""
    grant, _ = await shelf.tokens()
    return revoke_grant(grant, RevocationReason.OPERATOR, CTX)


async def test_grants_that_change_at_once_share_a_write(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each gets the outcome of its own: one is refused because another writer was first, all others are applied."""
    ending = [await revoked(shelf) for _ in range(30)]
    assert await shelf.grants.commit(revoke_grant(required(ending[7].before), RevocationReason.CLIENT_REQUEST, CTX))
    sizes: list[int] = []
    write = updates._write

    async def counted(collection: Any, stamped: Any, pipeline: Any) -> Any:
        sizes.append(len(stamped))
        return await write(collection, stamped, pipeline)

    monkeypatch.setattr(updates, "_write", counted)
    outcomes = await asyncio.gather(*(shelf.grants.commit(transition) for transition in ending))
    assert [number for number, applied in enumerate(outcomes) if not applied] == [7]
    assert len(sizes) <= 3, sizes


@pytest.mark.parametrize("what", ["question", "answer"])
async def test_a_change_whose_outcome_is_unknown_is_applied_once(lossy: Lossy, database_name: str, what: str) -> None:
    """Request or reply was lost: the write is repeated with the same values, and there is one event."""
    async with connected(Shelf, lossy.url, database_name) as shelf:
        transition = await revoked(shelf)
        lossy.lose("update", what)
        assert await shelf.grants.commit(transition)
        assert lossy.lost.is_set()
        assert await shelf.grants.read(transition.after.grant_id) == transition.after
        document = bson.decode(await shelf.raw(transition.after))
        assert [entry["id"] for entry in document["pending"]].count(transition.after.last_event) == 1


@pytest.mark.parametrize("what", ["question", "answer"])
async def test_another_writer_s_change_is_not_taken_for_this_one(
    lossy: Lossy, mongodb_url: str, database_name: str, what: str
) -> None:
    """Another process changed the grant while the outcome was unknown: the event tells whose change was first."""
    async with (
        connected(Shelf, lossy.url, database_name) as shelf,
        connected(Shelf, mongodb_url, database_name) as other,
    ):
        grant, _ = await shelf.tokens()
        mine = required(revoke_access_token(grant, 1, RevocationReason.CLIENT_REQUEST, CTX))
        lossy.lose("update", what)
        losing = asyncio.create_task(shelf.grants.commit(mine))
        await eventually(lossy.lost.is_set)
        found = required(await other.grants.read(grant.grant_id))
        assert found.version == (grant.version if what == "question" else mine.after.version)
        theirs = revoke_grant(found, RevocationReason.OPERATOR, CTX)
        assert await other.grants.commit(theirs)
        assert await losing is (what == "answer")
        assert await shelf.grants.read(grant.grant_id) == theirs.after


def required(value: T | None) -> T:
    """The value, which must be there."""
    assert value is not None
    return value


# Written responses


async def response_of(shelf: Shelf, grant: Grant) -> dict[str, Any]:
    """As the database has it, whatever this process has noted."""
    document = await shelf.mongo["grants"].find_one({"_id": grant.grant_id})
    assert document is not None
    return dict(document["response"])


async def active_of(shelf: Shelf) -> tuple[Grant, IssuedResponse, PendingEvent]:
    """A grant whose code was exchanged, its response and its event."""
    grant, code = await shelf.code()
    active = committed(exchanged(grant, code, pair_of(grant.grant_id, 1)))
    assert await shelf.grants.commit(active)
    assert active.after.response is not None
    assert active.event is not None
    return active.after, active.after.response, active.event


@pytest.mark.parametrize("recoverable", [False, True])
async def test_b2_the_clearing_write_notes_the_response(shelf: Shelf, recoverable: bool) -> None:
    """One write for many grants: the encrypted pair is removed unless kept for recovery; other grants do not change."""
    noted, response, event = await active_of(shelf)
    silent, _, other_event = await active_of(shelf)
    await shelf.mongo["grants"].update_one({"_id": noted.grant_id}, {"$set": {"response.recoverable": recoverable}})
    shelf.grants.note_response_sent(noted.grant_id, response, NOW)
    await shelf.grants.clear([event, other_event])
    stored = await response_of(shelf, noted)
    assert stored["written_at"] == NOW
    assert stored.get("box") == (b"box" if recoverable else None)
    assert (await response_of(shelf, silent))["box"] == b"box"
    for grant in (noted, silent):
        found = await shelf.grants.read(grant.grant_id)
        assert found is not None
        assert found.response is not None
        assert (found.response.written_at is None) is (grant is silent)
    document = await shelf.mongo["grants"].find_one({"_id": noted.grant_id})
    assert document is not None
    assert "pending" not in document


async def test_b2_clearing_invents_no_response(shelf: Shelf) -> None:
    """A grant without a response does not get the field in a batch with one that has it."""
    noted, response, event = await active_of(shelf)
    grant, _ = await shelf.tokens()
    shelf.grants.note_response_sent(noted.grant_id, response, NOW)
    await shelf.grants.clear([event, shelf.announced[-1]])
    document = await shelf.mongo["grants"].find_one({"_id": grant.grant_id})
    assert document is not None
    assert "response" not in document


@pytest.mark.parametrize("cleared", ["before", "by-another", "never"])
async def test_b2_a_response_is_noted_without_a_clearing_write_too(shelf: Shelf, cleared: str) -> None:
    """The event was cleared before the response was sent, or by another process, or cannot be published now."""
    grant, response, event = await active_of(shelf)
    if cleared != "never":
        await Grants(shelf.mongo).clear([event])
    shelf.grants.note_response_sent(grant.grant_id, response, NOW)
    if cleared == "by-another":
        await shelf.grants.clear([event])

    async def is_noted() -> bool:
        return (await response_of(shelf, grant)).get("written_at") == NOW

    await eventually(is_noted)


async def test_b2_a_late_note_does_not_touch_the_next_response(shelf: Shelf) -> None:
    """The note of one response does not apply to a later response of the same grant."""
    grant, response, _ = await active_of(shelf)
    again = response.model_copy(update={"id": "evt_another"})
    after = grant.model_copy(update={"version": grant.version + 1, "response": again})
    assert await shelf.grants.commit(Transition(grant, after, None))
    shelf.grants.note_response_sent(grant.grant_id, response, NOW)
    await shelf.grants.close()
    assert (await response_of(shelf, grant))["id"] == "evt_another"
    assert (await response_of(shelf, grant))["written_at"] is None


async def test_b2_a_change_of_the_grant_does_not_undo_the_note(shelf: Shelf) -> None:
    """A transition decided before the note and written after it keeps the note."""
    grant, response, _ = await active_of(shelf)
    revoked = revoke_access_token(grant, 1, RevocationReason.OPERATOR, CTX)
    assert revoked is not None
    shelf.grants.note_response_sent(grant.grant_id, response, NOW)
    await shelf.grants.close()
    assert await shelf.grants.commit(revoked)
    assert (await response_of(shelf, grant))["written_at"] == NOW


async def test_b2_this_process_knows_at_once_and_others_when_it_is_noted(shelf: Shelf) -> None:
    """A second request in the same process does not wait for the database."""
    grant, response, _ = await active_of(shelf)
    elsewhere = Grants(shelf.mongo)
    shelf.grants.note_response_sent(grant.grant_id, response, NOW)
    here, there = await shelf.grants.read(grant.grant_id), await elsewhere.read(grant.grant_id)
    assert here is not None
    assert here.response is not None
    assert here.response.written_at == NOW
    assert there is not None
    assert there.response is not None
    assert there.response.written_at is None
    assert await elsewhere.was_response_sent(grant.grant_id, response)


async def test_b2_a_response_that_is_never_written_is_not_waited_for_long(
    shelf: Shelf, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the process died or the client is gone, the waiting request continues after a while."""
    monkeypatch.setattr(module, "IN_FLIGHT_WITHIN", 0.1)
    grant, response, _ = await active_of(shelf)
    assert not await shelf.grants.was_response_sent(grant.grant_id, response)
