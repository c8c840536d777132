"""Named records: versions without gaps, tombstones that keep old grants revoked, secrets encrypted at rest."""

import asyncio
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import bson
import orjson
import pytest
from pydantic import SecretStr

from contracts.apis import Api, DefinitionFormat, Notifications, OAuthSettings
from contracts.channels import address
from contracts.clients import Client, ClientDeletion, ClientSecret
from contracts.events import EVENTS, PendingEvent
from contracts.operators import Operator, Permission
from contracts.pages import PAGE_SIZE
from contracts.policies import AccessRight, Policy
from contracts.resource_owners import ResourceOwner
from libs.encryption import CannotDecrypt, KeyRing
from libs.event_encoding import EventContext
from libs.store.clients import Clients
from libs.store.mongo import Conflict, Mongo
from libs.store.records import TOMBSTONE_RETENTION
from libs.store.store import Store

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
CTX = EventContext("urn:tokenwire:management", NOW)
LATER = replace(CTX, now=NOW + timedelta(hours=1))
RING = KeyRing({1: bytes(range(32))}, 1)
SHARED_SECRET, DEFINITION = "the-shared-secret", '{"secret":"in the definition"}'


@dataclass
class Shelf:
    """All collections over one database, and the events that they announced."""

    mongo: Mongo
    store: Store
    events: list[PendingEvent]

    def told(self, subject: str) -> list[tuple[str, str, int]]:
        """Type, routing key and sequence of each event about it."""
        bodies = [(event.key, orjson.loads(event.body)) for event in self.events if event.owner == subject]
        return [(body["type"].removeprefix("io.tokenwire."), key, int(body["sequence"])) for key, body in bodies]

    async def raw(self, collection: str, key: str) -> dict[str, Any]:
        document = await self.mongo[collection].find_one({"_id": key})
        assert document is not None
        return document


@pytest.fixture(scope="module", name="shelf")
async def _shelf(mongodb_url: str) -> AsyncIterator[Shelf]:
    mongo, events = Mongo(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}"), list[PendingEvent]()
    shelf = Shelf(mongo, Store.over(mongo, RING, lambda _, event: events.append(event)), events)
    await mongo.open()
    await mongo.prepared()
    yield shelf
    await mongo.close()


@pytest.fixture(name="store")
def _store(shelf: Shelf) -> Store:
    return shelf.store


def unique(word: str) -> str:
    return f"{word}-{secrets.token_hex(6)}"


def api(**fields: object) -> Api:
    api_id = unique("api")
    notifications = Notifications(on_key_change_url="http://hook.test/", shared_secret=SecretStr(SHARED_SECRET))
    given = {
        "api_id": api_id,
        "name": "Orders",
        "listen_path": f"/{api_id}-path/",
        "upstream_url": "http://upstream.test/",
        "oauth": OAuthSettings(refresh_token=True, notifications=notifications),
        "format": DefinitionFormat.OAS,
        "definition": SecretStr(DEFINITION),
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Api.model_validate(given | fields)


def client(**fields: object) -> Client:
    given = {
        "client_id": unique("app"),
        "api_id": "orders",
        "redirect_uris": ("https://app.test/cb",),
        "meta_data": {"a.b": {"$set": [1, None, "é"]}, "": 1},
        "secrets": (ClientSecret(digest="1.digest", encrypted="1.encrypted", created_at=NOW),),
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Client.model_validate(given | fields)


def policy(**fields: object) -> Policy:
    rights = {"orders": AccessRight.model_validate({"api_id": "orders", "limit": {"$rate": 1}})}
    given = {"policy_id": unique("policy"), "access_rights": rights, "rate": 0.5, "created_at": NOW, "updated_at": NOW}
    return Policy.model_validate(given | fields)


def owner(**fields: object) -> ResourceOwner:
    given = {"username": unique("ada@x.test"), "password_hash": "$argon2id$hash", "created_at": NOW, "updated_at": NOW}
    return ResourceOwner.model_validate(given | fields)


def operator(**fields: object) -> Operator:
    given = {
        "operator_id": unique("operator"),
        "name": "somebody",
        "permissions": (Permission.READ, Permission.WRITE),
        "key_digest": secrets.token_hex(32),
        "created_at": NOW,
        "updated_at": NOW,
    }
    return Operator.model_validate(given | fields)


@dataclass(frozen=True)
class Kind:
    """How the tests use one collection: a record and its life from the first to the last version."""

    collection: str
    new: Callable[..., Any]
    add: Callable[[Store, Any], Awaitable[Any]]
    change: Callable[[Store, Any], Awaitable[Any]]
    remove: Callable[[Store, Any], Awaitable[bool]]

    async def get(self, store: Store, record: Any) -> Any:
        return await getattr(store, self.collection).get(self.id(record))

    @staticmethod
    def id(record: Any) -> str:
        names = {"Api": "api_id", "Client": "client_id", "Policy": "policy_id", "Operator": "operator_id"}
        return str(getattr(record, names.get(type(record).__name__, "username")))


KINDS = [
    Kind(
        "apis",
        api,
        lambda store, record: store.apis.register(record, CTX),
        lambda store, record: store.apis.replace(record, record.model_copy(update={"name": "Other"}), LATER),
        lambda store, record: store.apis.delete(record, LATER),
    ),
    Kind(
        "clients",
        client,
        lambda store, record: store.clients.register(record, CTX),
        lambda store, record: store.clients.edit(record, {"name": "Other"}, LATER),
        lambda store, record: store.clients.delete(record, ClientDeletion.CLIENT_DELETED, LATER),
    ),
    Kind(
        "policies",
        policy,
        lambda store, record: store.policies.add(record, CTX),
        lambda store, record: store.policies.replace(record, record.model_copy(update={"name": "Other"}), LATER),
        lambda store, record: store.policies.delete(record, LATER),
    ),
    Kind(
        "resource_owners",
        owner,
        lambda store, record: store.resource_owners.add(record, CTX),
        lambda store, record: store.resource_owners.edit(record, {"active": False}, LATER),
        lambda store, record: store.resource_owners.delete(record, LATER),
    ),
    Kind(
        "operators",
        operator,
        lambda store, record: store.operators.add(record, CTX),
        lambda store, record: store.operators.edit(record, {"name": "Other"}, LATER),
        lambda store, record: store.operators.delete(record, LATER),
    ),
]
each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.collection)


# Every kind


@each_kind
async def test_a_record_is_read_back_as_it_was_written(store: Store, kind: Kind) -> None:
    """Every field survives, including secrets and keys that users choose."""
    record = kind.new()
    assert await kind.add(store, record) == record
    assert await kind.get(store, record) == record


@each_kind
async def test_a_life_is_versions_without_gaps(shelf: Shelf, kind: Kind) -> None:
    """Created, changed, deleted, created again: one event each, with increasing sequence, on the documented channel."""
    record = await kind.add(shelf.store, kind.new())
    changed = await kind.change(shelf.store, record)
    assert (changed.version, changed.updated_at, changed.created_at) == (2, LATER.now, NOW)
    assert await kind.get(shelf.store, record) == changed
    assert await kind.remove(shelf.store, changed)
    assert await kind.get(shelf.store, record) is None
    again = await kind.add(shelf.store, record)
    assert again.version == 4
    assert await kind.get(shelf.store, record) == again

    told = shelf.told(kind.id(record))
    assert [sequence for _, _, sequence in told] == [1, 2, 3, 4]
    assert [stem.partition(".")[2] for stem, _, _ in told] == ["created", "updated", "deleted", "created"]
    channels = {event.stem: re.sub(r"{\w+}", "[A-Za-z0-9_-]+", address(event)) for event in EVENTS}
    assert all(re.fullmatch(channels[stem], key) for stem, key, _ in told)


@each_kind
async def test_of_many_concurrent_changes_one_happens(shelf: Shelf, kind: Kind) -> None:
    """The others learn that the record has changed, and leave no event."""
    record = await kind.add(shelf.store, kind.new())
    outcomes = await asyncio.gather(*(kind.change(shelf.store, record) for _ in range(8)))
    (changed,) = (outcome for outcome in outcomes if outcome is not None)
    assert await kind.get(shelf.store, record) == changed
    assert len(shelf.told(kind.id(record))) == 2


@each_kind
async def test_of_many_concurrent_deletions_one_happens(shelf: Shelf, kind: Kind) -> None:
    """Deleted once, with one event; a deleted record cannot be changed or deleted again."""
    record = await kind.add(shelf.store, kind.new())
    outcomes = await asyncio.gather(*(kind.remove(shelf.store, record) for _ in range(8)))
    assert outcomes.count(True) == 1
    assert not await kind.remove(shelf.store, record)
    assert await kind.change(shelf.store, record) is None
    assert len(shelf.told(kind.id(record))) == 2


@each_kind
@pytest.mark.parametrize("deleted_before", [False, True], ids=["new", "deleted-before"])
async def test_of_concurrent_creations_of_a_name_one_succeeds(shelf: Shelf, kind: Kind, deleted_before: bool) -> None:
    """The others are conflicts, whether the id is new or a tombstone's; there is one more event."""
    record = kind.new()
    if deleted_before:
        await kind.remove(shelf.store, await kind.add(shelf.store, record))
    before = len(shelf.told(kind.id(record)))
    outcomes = await asyncio.gather(*(kind.add(shelf.store, record) for _ in range(8)), return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {type(record), Conflict}
    assert [type(outcome) for outcome in outcomes].count(type(record)) == 1
    assert len(shelf.told(kind.id(record))) == before + 1


@each_kind
async def test_a_tombstone_is_kept_longer_than_any_grant(shelf: Shelf, kind: Kind) -> None:
    """A living record is never purged; a tombstone is, after its event is published and the last grant has ended."""
    record = await kind.add(shelf.store, kind.new())
    collection = getattr(shelf.store, kind.collection)
    await collection.clear([event for event in shelf.events if event.owner == kind.id(record)])
    assert (await shelf.raw(kind.collection, kind.id(record))).get("purge_at") is None
    assert await kind.remove(shelf.store, record)
    assert "purge_at" not in await shelf.raw(kind.collection, kind.id(record))
    await collection.clear([event for event in shelf.events if event.owner == kind.id(record)])
    assert (await shelf.raw(kind.collection, kind.id(record)))["purge_at"] == LATER.now + TOMBSTONE_RETENTION
    assert timedelta(days=90) < TOMBSTONE_RETENTION


@each_kind
async def test_a_tombstone_has_no_secrets(shelf: Shelf, kind: Kind) -> None:
    """A tombstone keeps the id and the time of deletion; digests, hashes and encrypted copies are removed."""
    record = await kind.add(shelf.store, kind.new())
    assert await kind.remove(shelf.store, record)
    raw = bson.encode(await shelf.raw(kind.collection, kind.id(record)))
    for secret in ("1.digest", "1.encrypted", "$argon2id$hash", SHARED_SECRET, "in the definition"):
        assert secret.encode() not in raw


# Clients


async def test_a_client_created_again_does_not_revive_old_grants(shelf: Shelf) -> None:
    """Grants of the deleted client with the same id stay revoked, up to the time of its deletion."""
    record = await shelf.store.clients.register(client(), CTX)
    assert await shelf.store.clients.delete(record, ClientDeletion.API_DELETED, LATER)
    again = await shelf.store.clients.register(record, LATER)
    assert again.revoked_before == LATER.now
    found = await shelf.store.clients.get(record.client_id)
    assert found is not None
    assert found.revoked_before == LATER.now
    assert orjson.loads(shelf.events[-2].body)["data"]["reason"] == "api_deleted"


async def test_a_deletion_in_between_kills_old_grants_too(shelf: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    """Registering while the old client is being deleted: whichever is seen first, no old grant becomes valid."""
    record = await shelf.store.clients.register(client(), CTX)
    seen = Clients._tombstone

    async def deleted_meanwhile(self: Clients, key: str) -> Any:
        found = await seen(self, key)
        monkeypatch.setattr(Clients, "_tombstone", seen)
        assert await shelf.store.clients.delete(record, ClientDeletion.CLIENT_DELETED, LATER)
        return found

    monkeypatch.setattr(Clients, "_tombstone", deleted_meanwhile)
    with pytest.raises(Conflict):
        await shelf.store.clients.register(record, LATER)
    again = await shelf.store.clients.register(record, LATER)
    assert again.revoked_before == LATER.now


async def test_revoke_all_and_rotation_are_one_write(shelf: Shelf) -> None:
    """Time and secrets are in the record with their event; a writer that was late changes nothing."""
    record = await shelf.store.clients.register(client(), CTX)
    revoked = await shelf.store.clients.revoke_all(record, LATER)
    assert revoked is not None
    assert revoked.revoked_before == LATER.now
    assert await shelf.store.clients.rotate(record, (), LATER) is None
    rotated = await shelf.store.clients.rotate(revoked, (), LATER)
    assert rotated is not None
    assert (rotated.secrets, rotated.revoked_before, rotated.version) == ((), LATER.now, 3)
    assert [stem for stem, _, _ in shelf.told(record.client_id)][1:] == [
        "client.tokens_revoked",
        "client.secret_rotated",
    ]


async def test_clients_are_found_by_api_and_age(store: Store) -> None:
    """Clients of one API by id, page by page; those that existed at a time, for the reaction to a deletion."""
    api_id = unique("api")
    made = [client(api_id=api_id, created_at=NOW + timedelta(seconds=second)) for second in range(3)]
    for record in (*made, client()):
        await store.clients.register(record, CTX)
    by_id = sorted(made, key=lambda record: record.client_id)
    page = await store.clients.page_of_api(api_id, 1)
    assert (list(page.records), page.pages) == (by_id, 1)
    found = await store.clients.of_api_until(api_id, NOW + timedelta(seconds=1))
    assert {record.client_id for record in found} == {record.client_id for record in made[:2]}
    assert len(await store.clients.of_api_until(api_id, None)) == 3


# APIs


async def test_definition_and_shared_secret_are_sealed_at_rest(shelf: Shelf) -> None:
    """MongoDB alone reveals neither, and a value moved to another API cannot be decrypted there."""
    one, two = [await shelf.store.apis.register(api(), CTX) for _ in range(2)]
    document = await shelf.raw("apis", one.api_id)
    assert SHARED_SECRET.encode() not in bson.encode(document)
    assert b"in the definition" not in bson.encode(document)
    await shelf.mongo["apis"].update_one({"_id": two.api_id}, {"$set": {"definition": document["definition"]}})
    with pytest.raises(CannotDecrypt):
        await shelf.store.apis.get(two.api_id)
    await shelf.mongo["apis"].delete_one({"_id": two.api_id})


async def test_paths_and_ids_are_one_namespace(store: Store) -> None:
    """An API is found by its path and its id; no other API can have either as path or id."""
    one = await store.apis.register(api(), CTX)
    assert await store.apis.at(one.listen_path.strip("/")) == one
    assert await store.apis.at(one.api_id) == one
    for taken in (
        api(listen_path=one.listen_path),
        api(listen_path=f"/{one.api_id}/"),
        api(api_id=one.listen_path.strip("/")),
    ):
        with pytest.raises(Conflict):
            await store.apis.register(taken, CTX)
        assert await store.apis.get(taken.api_id) is None


async def test_a_taken_path_refuses_a_replacement_as_a_whole(shelf: Shelf) -> None:
    """Neither the path nor anything else changes, and there is no event."""
    one, two = [await shelf.store.apis.register(api(), CTX) for _ in range(2)]
    wanted = two.model_copy(update={"listen_path": one.listen_path, "name": "Other"})
    with pytest.raises(Conflict):
        await shelf.store.apis.replace(two, wanted, LATER)
    assert await shelf.store.apis.get(two.api_id) == two
    assert len(shelf.told(two.api_id)) == 1


async def test_the_path_of_a_deleted_api_is_free(store: Store) -> None:
    """It is free, and another API can take it."""
    one = await store.apis.register(api(), CTX)
    assert await store.apis.delete(one, LATER)
    assert await store.apis.at(one.listen_path.strip("/")) is None
    two = await store.apis.register(api(listen_path=one.listen_path), CTX)
    assert await store.apis.at(one.listen_path.strip("/")) == two


async def test_the_apis_under_a_segment_are_found_the_longest_first(store: Store) -> None:
    """For the gateway, which takes the longest match; a segment is not a pattern."""
    segment = unique("x.y")
    paths = [f"/{segment}/", f"/{segment}/a/b/", f"/{segment}/a/", f"/{segment}more/", f"/{segment.replace('.', '-')}/"]
    for path in paths:
        await store.apis.register(api(listen_path=path), CTX)
    found = await store.apis.under(segment)
    assert found is not None
    assert [record.listen_path for record in found] == [paths[1], paths[2], paths[0]]
    assert not await store.apis.under(unique("nothing"))


# Operators


async def test_an_operator_is_found_by_the_digest_of_the_key(store: Store) -> None:
    """A key belongs to one operator, and to none after the deletion."""
    one = await store.operators.add(operator(), CTX)
    assert await store.operators.with_digest(one.key_digest) == one
    with pytest.raises(Conflict):
        await store.operators.add(operator(key_digest=one.key_digest), CTX)
    two = await store.operators.add(operator(), CTX)
    with pytest.raises(Conflict):
        await store.operators.edit(two, {"key_digest": one.key_digest}, CTX)
    assert await store.operators.get(two.operator_id) == two
    assert await store.operators.delete(one, CTX)
    assert await store.operators.with_digest(one.key_digest) is None


# Pages


async def test_a_list_comes_in_pages_of_a_hundred(mongodb_url: str, database_name: str) -> None:
    """Sorted by id, without deleted ones; everything as one page if requested."""
    mongo = Mongo(mongodb_url, database_name)
    await mongo.open()
    policies = Store.over(mongo, RING, lambda *_: None).policies
    await mongo.prepared()
    assert (await policies.page(1)).pages == (await policies.page(None)).pages == 0
    made = sorted([policy() for _ in range(PAGE_SIZE + 4)], key=lambda record: record.policy_id)
    await asyncio.gather(*(policies.add(record, CTX) for record in made))
    assert await policies.delete(made.pop(0), CTX)
    first, second, third = [await policies.page(number) for number in (1, 2, 3)]
    whole = await policies.page(None)
    await mongo.close()
    assert (list(first.records), first.pages) == (made[:PAGE_SIZE], 2)
    assert (list(second.records), second.pages) == (made[PAGE_SIZE:], 2)
    assert (list(third.records), third.pages) == ([], 2)
    assert (list(whole.records), whole.pages) == (made, 1)


async def test_the_first_unknown_id_is_named(store: Store) -> None:
    """In the order of the request; a deleted record is unknown."""
    known, deleted = [await store.policies.add(policy(), CTX) for _ in range(2)]
    assert await store.policies.delete(deleted, CTX)
    assert await store.policies.first_unknown([]) is None
    assert await store.policies.first_unknown([known.policy_id]) is None
    assert await store.policies.first_unknown([known.policy_id, "zz", deleted.policy_id]) == "zz"
    assert await store.policies.first_unknown([known.policy_id, deleted.policy_id]) == deleted.policy_id
