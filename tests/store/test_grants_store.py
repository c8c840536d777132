"""Grants in MongoDB: read back as they were written, one winner of every race, and only digests at rest."""

import asyncio
import itertools
import os
import secrets
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import bson
import pytest

from contracts.apis import GrantType
from contracts.clients import Client
from contracts.events import PendingEvent
from contracts.grants import Grant, GrantState, RevocationReason
from libs.events import Origin
from libs.oauth.errors import InvalidGrant, TemporarilyUnavailable
from libs.oauth.grants import TokenPair, Transition, end, exchange_code, issue_code, issue_tokens, revoke_access_token
from libs.oauth.tokens import Minted, TokenCodec, TokenKind, new_grant_id
from libs.store import grants as module
from libs.store.grants import Grants
from libs.store.ledger import RETENTION
from libs.store.mongo import Mongo
from tests.eventually import eventually
from tests.unit.test_grant_machine import API, CALLBACK, CLIENT, SETTINGS

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
AT = Origin("urn:tokenwire:tests", NOW)
CODEC = TokenCodec({1: bytes(32)}, 1, os.urandom)


class Shelf:
    """The collection, what it announced, and grants made in it."""

    def __init__(self, mongo: Mongo) -> None:
        self.mongo = mongo
        self.announced: list[PendingEvent] = []
        self.grants = Grants(mongo, lambda _, event: self.announced.append(event))

    async def code(self, client: Client = CLIENT, at: Origin = AT, **fields: object) -> tuple[Grant, Minted]:
        """A pending grant, and its code."""
        grant_id = new_grant_id(os.urandom(16))
        code = CODEC.mint(TokenKind.CODE, grant_id, 0)
        given = {
            "redirect_uri": CALLBACK,
            "redirect_uri_requested": True,
            "scope": "a b",
            "code_challenge": None,
            "subject": "ada",
            "key_rules": None,
        }
        issued = issue_code(grant_id, code, API, client, settings=SETTINGS, at=at, **given | fields)  # type: ignore[arg-type]
        assert await self.grants.commit(issued)
        return issued.after, code

    async def tokens(self, client: Client = CLIENT, at: Origin = AT) -> tuple[Grant, TokenPair]:
        """An active grant, and its tokens."""
        grant_id = new_grant_id(os.urandom(16))
        pair = pair_of(grant_id, 1)
        issued = issue_tokens(grant_id, pair, API, client, GrantType.PASSWORD, settings=SETTINGS, scope=None, at=at)
        assert await self.grants.commit(issued)
        return issued.after, pair

    async def raw(self, grant: Grant) -> bytes:
        """The document, as it is on disk."""
        document = await self.mongo["grants"].find_one({"_id": grant.grant_id})
        assert document is not None
        return bson.encode(document)


def pair_of(grant_id: str, generation: int) -> TokenPair:
    return TokenPair(
        CODEC.mint(TokenKind.ACCESS, grant_id, generation), CODEC.mint(TokenKind.REFRESH, grant_id, generation)
    )


def exchanged(grant: Grant, code: Minted, pair: TokenPair, at: Origin = AT) -> Transition:
    presented = CODEC.read(TokenKind.CODE, code.value)
    assert presented is not None
    return exchange_code(
        grant,
        presented,
        pair,
        settings=SETTINGS,
        public=False,
        redirect_uri=CALLBACK,
        verifier=None,
        sealed=None,
        at=at,
    )


@pytest.fixture(scope="module", name="shelf")
async def _shelf(mongodb_url: str) -> AsyncIterator[Shelf]:
    mongo = Mongo(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}")
    shelf = Shelf(mongo)
    await mongo.open()
    await mongo.prepared()
    yield shelf
    await mongo.close()


async def test_a_grant_is_read_back_as_it_was_written(shelf: Shelf) -> None:
    """Every field of every state survives MongoDB: pending, active, rotated, over."""
    grant, code = await shelf.code(key_rules={"access_rights": {"a.b": {"$odd": [1]}}}, code_challenge="c" * 43)
    assert await shelf.grants.read(grant.grant_id) == grant
    grant = grant.model_copy(update={"code_challenge": None})
    active = exchanged(grant, code, pair_of(grant.grant_id, 1))
    assert await shelf.grants.commit(active)
    assert await shelf.grants.read(grant.grant_id) == active.after
    over = end(active.after, RevocationReason.OPERATOR, AT)
    assert await shelf.grants.commit(over)
    assert await shelf.grants.read(grant.grant_id) == over.after


async def test_what_never_was_is_none(shelf: Shelf) -> None:
    """No grant under this id."""
    assert await shelf.grants.read(new_grant_id(os.urandom(16))) is None


async def test_many_may_read_one_grant_at_once(shelf: Shelf) -> None:
    """Look-ups that share a round trip do not share what they are given."""
    rules = {"access_rights": {"orders": {"api_id": "orders"}}}
    grant, _ = await shelf.code(key_rules=rules)
    found = await asyncio.gather(*(shelf.grants.read(grant.grant_id) for _ in range(20)))
    assert all(each == grant for each in found)
    assert all(each is not None and each.key_rules == rules for each in found)


async def test_only_digests_are_at_rest(shelf: Shelf) -> None:
    """Neither code nor tokens are in the document, in no form but their SHA-256."""
    grant, code = await shelf.code()
    pair = pair_of(grant.grant_id, 1)
    assert await shelf.grants.commit(exchanged(grant, code, pair))
    raw = await shelf.raw(grant)
    for minted in filter(None, (code, pair.access, pair.refresh)):
        assert minted.value.encode() not in raw
        assert minted.value.encode()[-40:] not in raw
        assert minted.digest in raw


async def test_a_grant_is_kept_a_day_longer_than_its_last_value(shelf: Shelf) -> None:
    """The date of its end follows what it has: the code at first, the refresh token later."""

    async def purge_after(grant: Grant) -> datetime:
        document = await shelf.mongo["grants"].find_one({"_id": grant.grant_id})
        assert document is not None
        moment: datetime = document["purge_after"]
        return moment

    grant, code = await shelf.code()
    assert grant.code is not None
    assert await purge_after(grant) == grant.code.expires_at + RETENTION
    active = exchanged(grant, code, pair_of(grant.grant_id, 1))
    assert await shelf.grants.commit(active)
    assert active.after.refresh is not None
    assert await purge_after(grant) == active.after.refresh.expires_at + RETENTION


async def test_of_many_exchanges_of_one_code_one_succeeds(shelf: Shelf) -> None:
    """N at once: one gets tokens, the others hear that the code was just used; one event, and it is the winner's."""
    grant, code = await shelf.code()
    pairs = [pair_of(grant.grant_id, 1) for _ in range(16)]

    async def exchange(pair: TokenPair) -> Transition:
        def decide(found: Grant | None) -> Transition:
            assert found is not None
            return exchanged(found, code, pair)

        return await shelf.grants.settle(grant.grant_id, decide)

    outcomes = await asyncio.gather(*(exchange(pair) for pair in pairs), return_exceptions=True)
    won = [pair for pair, outcome in zip(pairs, outcomes, strict=True) if isinstance(outcome, Transition)]
    assert len(won) == 1
    assert {type(outcome) for outcome in outcomes} == {Transition, InvalidGrant}
    found = await shelf.grants.read(grant.grant_id)
    assert found is not None
    assert found.access is not None
    assert (found.version, found.access.digest) == (2, won[0].access.digest)
    assert len([event for event in shelf.announced if event.owner == grant.grant_id]) == 2


async def test_a_decision_is_made_again_where_another_was_first(shelf: Shelf) -> None:
    """Both changes happen, the second on what the first left; nothing is overwritten."""
    grant, _ = await shelf.tokens()
    seen: list[int] = []

    def decide(found: Grant | None) -> Transition:
        assert found is not None
        seen.append(found.version)
        revoked = revoke_access_token(found, 1, RevocationReason.OPERATOR, AT) if len(seen) == 1 else None
        return revoked or end(found, RevocationReason.OPERATOR, AT)

    async def overtake() -> None:
        current = await shelf.grants.read(grant.grant_id)
        assert current is not None
        other = revoke_access_token(current, 1, RevocationReason.CLIENT_REQUEST, AT)
        assert other is not None
        assert await shelf.grants.commit(other)

    commit, overtaken = shelf.grants.commit, itertools.count()

    async def late(transition: Transition) -> bool:
        if next(overtaken) == 0:
            shelf.grants.commit = commit  # type: ignore[method-assign]
            await overtake()
        return await commit(transition)

    shelf.grants.commit = late  # type: ignore[method-assign]
    settled = await shelf.grants.settle(grant.grant_id, decide)
    assert seen == [1, 2]
    assert settled.after.version == 3
    assert await shelf.grants.read(grant.grant_id) == settled.after


async def test_a_refusal_is_raised_once_its_change_is_written(shelf: Shelf) -> None:
    """A replayed code ends the grant first; only then the client hears that it was refused."""
    grant, code = await shelf.code()
    active = exchanged(grant, code, pair_of(grant.grant_id, 1))
    assert await shelf.grants.commit(active)
    later = replace(AT, now=NOW + timedelta(seconds=3))

    def replay(found: Grant | None) -> Transition:
        assert found is not None
        return exchanged(found, code, pair_of(grant.grant_id, 1), later)

    with pytest.raises(InvalidGrant, match="used before"):
        await shelf.grants.settle(grant.grant_id, replay)
    found = await shelf.grants.read(grant.grant_id)
    assert found is not None
    assert (found.state, found.ended_reason) == (GrantState.REVOKED, RevocationReason.CODE_REPLAY)


async def test_nothing_to_write_is_handed_back(shelf: Shelf) -> None:
    """A decision that is no transition comes back as it is, and the grant stays as it is."""
    grant, _ = await shelf.tokens()
    assert await shelf.grants.settle(grant.grant_id, lambda found: ("seen", found)) == ("seen", grant)
    assert await shelf.grants.settle("nobody", lambda found: found) is None
    assert await shelf.grants.read(grant.grant_id) == grant


async def test_a_fight_over_one_grant_ends(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever loses every time gives up in the end, and says so."""
    grant, _ = await shelf.tokens()
    monkeypatch.setattr(module, "MOST_DECISIONS", 3)
    stale = grant.model_copy(update={"version": 7})
    with pytest.raises(TemporarilyUnavailable):
        await shelf.grants.settle(grant.grant_id, lambda _: end(stale, RevocationReason.OPERATOR, AT))
    assert await shelf.grants.read(grant.grant_id) == grant


async def test_a_new_grant_needs_its_event(shelf: Shelf) -> None:
    """A grant that nobody hears of cannot be made by mistake."""
    grant, _ = await shelf.tokens()
    with pytest.raises(ValueError, match="event"):
        await shelf.grants.commit(Transition(None, grant.model_copy(update={"grant_id": "x"}), None))


# Lists


def client(**fields: object) -> Client:
    return CLIENT.model_copy(update={"client_id": f"app-{secrets.token_hex(6)}", **fields})


def at(seconds: float) -> Origin:
    return replace(AT, now=NOW + timedelta(seconds=seconds))


async def test_live_tokens_are_listed_by_their_end(shelf: Shelf) -> None:
    """The soonest to expire first, a page at a time, and how many there are in all."""
    owner = client()
    made = [(await shelf.tokens(owner, at(seconds)))[0].grant_id for seconds in (3, 1, 2)]
    first, total = await shelf.grants.page_of_client(owner, NOW, 1, 2)
    rest, _ = await shelf.grants.page_of_client(owner, NOW, 2, 2)
    assert total == 3
    assert [grant.grant_id for grant in (*first, *rest)] == [made[1], made[2], made[0]]
    assert (await shelf.grants.page_of_client(owner, NOW, 3, 2)) == ([], 3)


async def test_only_live_tokens_are_listed(shelf: Shelf) -> None:
    """Neither codes, nor what is revoked or expired, nor anybody else's, nor what `revoke_all` has ended."""
    owner = client()
    live, _ = await shelf.tokens(owner, at(10))
    await shelf.code(owner)
    await shelf.tokens(client())
    await shelf.tokens(owner.model_copy(update={"api_id": "invoices"}), at(-4000))
    revoked, _ = await shelf.tokens(owner, at(11))
    transition = revoke_access_token(revoked, 1, RevocationReason.OPERATOR, AT)
    assert transition is not None
    assert await shelf.grants.commit(transition)
    ended, _ = await shelf.tokens(owner, at(12))
    assert await shelf.grants.commit(end(ended, RevocationReason.OPERATOR, AT))
    found, total = await shelf.grants.page_of_client(owner, NOW, 1, 10)
    assert ([grant.grant_id for grant in found], total) == ([live.grant_id], 1)
    dead = owner.model_copy(update={"revoked_before": at(10).now})
    assert await shelf.grants.page_of_client(dead, NOW, 1, 10) == ([], 0)


async def test_what_a_revocation_has_not_ended_is_found_whatever_its_age(shelf: Shelf) -> None:
    """Codes and expired grants, too: their refresh tokens and codes must be dead, with an event each."""
    owner = client()
    code, _ = await shelf.code(owner, at(1))
    active, _ = await shelf.tokens(owner, at(2))
    old, _ = await shelf.tokens(owner, at(-(10**6)))
    ended, _ = await shelf.tokens(owner, at(0))
    assert await shelf.grants.commit(end(ended, RevocationReason.OPERATOR, AT))
    younger, _ = await shelf.tokens(owner, at(3))
    found = {grant.grant_id async for grant in shelf.grants.unended_of_client(owner.client_id, at(2).now)}
    assert found == {code.grant_id, active.grant_id, old.grant_id}
    assert younger.grant_id not in found


async def test_published_grants_go_when_their_time_is_over(shelf: Shelf) -> None:
    """What MongoDB's own clock deletes is what was published and is long over; nothing with an event to tell."""
    long_ago = Origin("urn:tokenwire:tests", datetime(2020, 1, 1, tzinfo=UTC))
    told, _ = await shelf.tokens(at=long_ago)
    untold, _ = await shelf.tokens(at=long_ago)
    (event,) = (event for event in shelf.announced if event.owner == told.grant_id)
    await shelf.grants.clear([event])
    document = await shelf.mongo["grants"].find_one({"_id": told.grant_id}, {"purge_at": 1})
    assert document is None or document["purge_at"] < datetime.now(UTC)
    kept = await shelf.mongo["grants"].find_one({"_id": untold.grant_id})
    assert kept is not None
    assert "purge_at" not in kept
    indexes = await shelf.mongo["grants"].index_information()
    assert indexes["purge"]["expireAfterSeconds"] == 0


async def test_reads_and_writes_of_many_grants_do_not_mix(shelf: Shelf) -> None:
    """Under load each reader gets the grant that it asked for, as it was last committed."""
    made = await asyncio.gather(*(shelf.tokens() for _ in range(40)))
    ended = [end(grant, RevocationReason.OPERATOR, AT) for grant, _ in made[:20]]
    outcomes = await asyncio.gather(*(shelf.grants.commit(transition) for transition in ended))
    assert all(outcomes)
    found = await asyncio.gather(*(shelf.grants.read(grant.grant_id) for grant, _ in made))
    assert list(found) == [*(transition.after for transition in ended), *(grant for grant, _ in made[20:])]
    await eventually(lambda: len(shelf.announced) >= 60)
