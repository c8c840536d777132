"""A read of the management API examines no more records than it returns, however many there are."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, get_origin

import pytest
from pydantic import BaseModel, RootModel

from contracts.clients import Client
from contracts.grants import GrantState
from contracts.operations import Caller as Who
from contracts.pages import MOST_AT_ONCE, MOST_PAGES, PAGE_SIZE
from contracts.policies import Policy
from contracts.resource_owners import ResourceOwner
from contracts.webhooks import DeliveryState
from libs.access import OperatorAuthenticator
from libs.http.pages import cursor_of
from libs.store.reconciliation_results import WINDOW, window_of
from services.operation_catalog import OPERATIONS
from services.reconciliation.endpoint import ReconciliationEndpoint
from services.reconciliation.reconciler import Reconciler
from tests import seed
from tests.builders import Caller, Response, make_api, make_client, make_policy
from tests.notifications import notifier
from tests.profiled import Profile, profiled
from tests.services.system import Party, System, open_system

MANY, FEW = 3000, 7
SLACK = 40
"""Documents that may be examined besides the list itself: API, client, operator, and one ahead."""
SECOND, HOUR = timedelta(seconds=1), timedelta(hours=1)


@dataclass(frozen=True)
class World:
    """A system with many records, and callers with access."""

    system: System
    deliveries: Caller
    """The notifier on the same database."""
    client: Client
    other: Client
    """A client of another API."""
    lonely: Client
    """A client of `client`'s API with almost no records."""
    now: datetime

    async def get(self, path: str) -> Response:
        """GET; must be 200."""
        ask = self.deliveries if path.startswith("/api/notifications") else self.system.operator
        response = await ask("GET", path)
        assert response.status == 200, (path, response.body)
        return response


@pytest.fixture(name="world", scope="module")
async def _world(mongodb_url: str) -> AsyncIterator[World]:
    database = f"tokenwire_test_{secrets.token_hex(6)}"
    async with (
        open_system(mongodb_url, database, notifier=False) as system,
        notifier(mongodb_url, database) as webhooks,
    ):
        api, another = await make_api(system.deps), await make_api(system.deps)
        (client, _), (other, _), (lonely, _) = [await make_client(system.deps, owner) for owner in (api, another, api)]
        world = World(system, webhooks.reader, client, other, lonely, system.clock())
        await fill(world)
        yield world


async def fill(world: World) -> None:
    """Create many records, few of which match a filter, so that an unindexed filter would be slow."""
    store, client, other, now = world.system.deps.store, world.client, world.other, world.now
    before = now - timedelta(days=1)
    await seed.insert(store, "grants", seed.grant_documents(client, MANY, now))
    # Expired, revoked and other clients' tokens are not listed, but would come first.
    await seed.insert(store, "grants", seed.grant_documents(client, MANY, before))
    access = next(seed.grant_documents(client, 1, now))["access"]
    await seed.insert(store, "grants", seed.grant_documents(client, MANY, now, access=access | {"revoked": True}))
    await seed.insert(store, "grants", seed.grant_documents(client, MANY, now, state="revoked"))
    await seed.insert(store, "grants", seed.grant_documents(other, FEW, now))
    long_ago = now - timedelta(days=2)
    for who in (client, other):
        await seed.insert(store, "grants", seed.grant_documents(who, FEW, long_ago, subject="rarely", state="pending"))
    ids = [f"c{number:06}" for number in range(2 * MANY)]
    gone = {"deleted": True, "deleted_at": now, "purge_after": now + timedelta(days=100)}
    await seed.insert(store, "clients", seed.copies(store.clients, client, ids[::2]))
    await seed.insert(store, "clients", seed.copies(store.clients, client, ids[1::2], **gone))
    await seed.insert(store, "clients", seed.copies(store.clients, other, [f"a{number:06}" for number in range(MANY)]))
    for records, record in (
        (store.policies, Policy(policy_id="p", created_at=now, updated_at=now)),
        (store.resource_owners, ResourceOwner(username="u", password_hash="x", created_at=now, updated_at=now)),
    ):
        await seed.insert(store, records.name, seed.copies(records, record, ids[::2]))
        await seed.insert(store, records.name, seed.copies(records, record, ids[1::2], **gone))
    for _ in range(PAGE_SIZE + FEW):
        await make_api(world.system.deps)
    api = await store.apis.get(client.api_id)
    assert api is not None
    await seed.insert(store, "apis", seed.api_copies(store, api, [f"!{key}" for key in ids[:MANY]], **gone))
    await fill_deliveries(world)
    await fill_trail(world)


async def fill_deliveries(world: World) -> None:
    """One common state for each client; the others are long ago."""
    store, now = world.system.deps.store, world.now
    for client, common in ((world.client, DeliveryState.DELIVERED), (world.other, DeliveryState.PENDING)):
        for state in DeliveryState:
            count, at = (MANY, now - timedelta(hours=1)) if state is common else (FEW, now - timedelta(days=1))
            made = seed.delivery_documents(client.api_id, client.client_id, count, at, state, timedelta(milliseconds=1))
            await seed.insert(store, "deliveries", made)
    # The client of one API with deliveries of another matches neither filter alone.
    mixed = seed.delivery_documents(
        world.other.api_id, world.client.client_id, FEW, now - timedelta(days=2), DeliveryState.DELIVERED
    )
    await seed.insert(store, "deliveries", mixed)


async def fill_trail(world: World) -> None:
    """One operator changes one record over and over, and rarely another."""
    store, now = world.system.deps.store, world.now
    for count, age, action, subject, actor in (
        (MANY, 1, "client.updated", "busy", "busy"),
        (MANY, 1, "policy.updated", "other", "busy"),
        (MANY, 1, "policy.updated", "busy", "other"),
        (FEW, 48, "client.deleted", "busy", "busy"),
        (FEW, 48, "api.deleted", "other", "other"),
    ):
        at = now - timedelta(hours=age)
        made = seed.trail_documents(count, at, action, subject, actor, timedelta(milliseconds=1))
        await seed.insert(store, "audit_log", made)


# Documents examined by each list

Path = Callable[[World], str]


def tokens(world: World) -> str:
    return f"/api/apis/oauth/{world.client.api_id}/{world.client.client_id}/tokens"


def combined(**values: Sequence[str]) -> list[str]:
    """Every combination of these parameters, each absent or with one of its values."""
    queries = [""]
    for name, given in values.items():
        queries += [f"{query}&{name}={value}" for query in queries for value in given]
    return [query.lstrip("&") for query in queries]


def deliveries_queries(world: World) -> list[str]:
    times = [(world.now - timedelta(days=3)).isoformat(), (world.now - timedelta(hours=12)).isoformat()]
    return combined(
        api_id=[world.client.api_id, world.other.api_id, "nowhere"],
        client_id=[world.client.client_id, "nobody"],
        state=[state.value for state in DeliveryState],
        **{"from": [times[0].replace("+", "%2B")], "to": [times[1].replace("+", "%2B")]},
    )


def trail_queries(world: World) -> list[str]:
    since = (world.now - timedelta(days=3)).isoformat().replace("+", "%2B")
    return combined(
        operator=["busy", "other", "nobody"],
        subject=["busy", "other"],
        action=["client.deleted", "client.*", "api.*", "operator.created"],
        **{"from": [since]},
    )


def grants_queries(world: World) -> list[str]:
    return combined(
        client_id=[world.client.client_id, world.other.client_id, "nobody"],
        api_id=[world.client.api_id, world.other.api_id, "nowhere"],
        subject=["somebody", "rarely"],
        state=[state.value for state in GrantState],
    )


COLLECTIONS = {
    "listTokens": ("grants",),
    "listTokensOnShortPath": ("grants",),
    "listClients": ("clients",),
    "listApis": ("apis",),
    "listOasApis": ("apis",),
    "listPolicies": ("policies",),
    "listResourceOwners": ("resource_owners",),
    "listOperators": ("operators",),
    "listDeliveries": ("deliveries",),
    "listChanges": ("audit_log",),
    "listGrants": ("grants",),
    "listAllClients": ("clients",),
}
PATHS: dict[str, Path] = {
    "listTokens": tokens,
    "listTokensOnShortPath": lambda world: f"/api/apis/oauth/{world.client.client_id}/tokens",
    "listClients": lambda world: f"/api/apis/oauth/{world.client.api_id}",
    "listApis": lambda _: "/api/apis",
    "listOasApis": lambda _: "/api/apis/oas",
    "listPolicies": lambda _: "/api/portal/policies",
    "listResourceOwners": lambda _: "/api/apis/keys/basic",
    "listOperators": lambda _: "/api/operators",
    "listDeliveries": lambda _: "/api/notifications/deliveries",
    "listChanges": lambda _: "/api/audit",
    "listGrants": lambda _: "/api/grants",
    "listAllClients": lambda _: "/api/clients",
}
BY_PAGES = ("", "p=1", "p=3", "p=-1", "p=200")
QUERIES: dict[str, Callable[[World], Sequence[str]]] = {
    "listTokens": lambda _: ("", "page=1", "page=20", "page=99"),
    "listTokensOnShortPath": lambda _: ("", "page=2"),
    "listDeliveries": deliveries_queries,
    "listChanges": trail_queries,
    "listGrants": grants_queries,
}


def entries_of(response: Response) -> list[dict[str, Any]]:
    """The entries of a list, whatever its format."""
    body = response.body
    if isinstance(body, list):
        return body
    (entries,) = [value for value in body.values() if isinstance(value, list)]
    return list(entries)


def is_list(model: type[BaseModel]) -> bool:
    """Whether the response has as many entries as exist."""
    if issubclass(model, RootModel):
        return get_origin(model.model_fields["root"].annotation) is list
    return any(get_origin(field.annotation) is list for field in model.model_fields.values())


LISTS = {
    operation.name
    for operation in OPERATIONS
    if operation.method == "GET"
    and operation.caller is Who.OPERATOR
    and any(map(is_list, operation.responses[200].models))
}


def test_b8_every_list_of_the_contracts_is_checked() -> None:
    """Every list operation is in the tables above or has a test below; a new one fails here."""
    assert PATHS.keys() | OTHERS == LISTS
    assert PATHS.keys() == COLLECTIONS.keys()


OTHERS = {
    "getClientUsage",
    "getUsage",
    "getSummary",
    "listEvents",
    "reconcileEvents",
    "getGrantTimeline",
    "findClient",
    "listEndpoints",
    "lintConfig",
    "getPolicyUsage",
}
"""What they read is checked in tests/store/test_usage.py, in tests/services/test_event_list.py or at the end of this
file, or is about one grant or client."""


@pytest.mark.parametrize("name", sorted(PATHS))
async def test_b8_a_list_looks_at_no_more_than_it_returns(world: World, name: str) -> None:
    """Lists are checked with every filter and every combination, on the first page and the next."""
    path, collections = PATHS[name](world), COLLECTIONS[name]
    queries = QUERIES[name](world) if name in QUERIES else BY_PAGES
    for query in queries:
        whole = f"{path}?{query}".rstrip("?")
        for _ in range(2):
            async with measured(world, collections, whole) as (profile, response):
                pass
            returned = len(entries_of(response))
            assert profile.examined <= 3 * returned + SLACK, (whole, returned, profile.examined)
            following = following_of(response)
            if following is None:
                break
            whole = f"{path}{following}"


@asynccontextmanager
async def measured(world: World, collections: Sequence[str], path: str) -> AsyncIterator[tuple[Profile, Response]]:
    """What the request read; it must all be indexed."""
    await world.get(path)  # warms the catalog and the query plans
    async with profiled(world.system.deps.store.mongo, *collections) as profile:
        response = await world.get(path)
    profile.require_indexed()
    yield profile, response


def following_of(response: Response) -> str | None:
    """The query in the `Link` header; None on the last page."""
    link = response.headers.get("Link")
    if link is None:
        return None
    reference, _, relation = link.partition("; ")
    assert relation == 'rel="next"'
    return str(reference.strip("<>"))


async def test_a_search_of_apis_looks_at_no_more_than_its_limit(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names have no index: among so many APIs a request looks, and its `next` continues after them."""
    monkeypatch.setattr("libs.store.apis.MOST_SEARCHED", 50)
    async with measured(world, ("apis",), "/api/apis?q=no-such-name") as (profile, response):
        assert following_of(response) is not None
    assert profile.examined <= 2 * 50 + SLACK, profile.examined


@pytest.mark.parametrize("of_api", [True, False])
async def test_a_search_of_client_apps_looks_at_no_more_than_its_limit(
    world: World, monkeypatch: pytest.MonkeyPatch, of_api: bool
) -> None:
    """The same for client apps, of which the metadata are searched, too."""
    monkeypatch.setattr("libs.store.clients.MOST_CLIENTS_SEARCHED", 50)
    path = f"/api/apis/oauth/{world.client.api_id}" if of_api else "/api/clients"
    async with measured(world, ("clients",), f"{path}?q=no-such-name") as (profile, response):
        assert following_of(response) is not None
    assert profile.examined <= 51 + SLACK, profile.examined


async def test_the_filters_of_grants_return_the_right_ones(world: World) -> None:
    """Filters over several states, clients and APIs return the newest first, complete, and nothing else."""
    client, other = world.client, world.other

    async def found(query: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        following: str | None = f"?{query}&limit=200"
        while following is not None:
            response = await world.get("/api/grants" + following)
            entries += entries_of(response)
            following = following_of(response)
        keys = [(datetime.fromisoformat(entry["created_at"]), entry["grant_id"]) for entry in entries]
        assert keys == sorted(keys, reverse=True)
        assert len({entry["grant_id"] for entry in entries}) == len(entries)
        return entries

    assert len(await found("")) == 4 * MANY + 3 * FEW
    assert len(await found(f"client_id={client.client_id}")) == 4 * MANY + FEW
    assert len(await found(f"api_id={other.api_id}")) == 2 * FEW
    assert len(await found(f"api_id={other.api_id}&client_id={client.client_id}")) == 0
    assert len(await found("state=pending")) == 2 * FEW
    assert len(await found("state=revoked")) == MANY
    assert len(await found("subject=rarely")) == 2 * FEW
    assert len(await found(f"subject=rarely&api_id={other.api_id}&state=pending")) == FEW
    assert {entry["state"] for entry in await found(f"api_id={client.api_id}&state=active")} == {"active"}


async def test_b8_filters_return_the_right_entries(world: World) -> None:
    """Filters over several states and APIs return the latest first, complete, and nothing else."""
    path, client, other = "/api/notifications/deliveries", world.client, world.other

    async def found(query: str) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        following: str | None = f"?{query}&limit=200"
        while following is not None:
            response = await world.get(path + following)
            entries += entries_of(response)
            following = following_of(response)
        assert [entry["id"] for entry in entries] == sorted((entry["id"] for entry in entries), reverse=True)
        assert len({entry["id"] for entry in entries}) == len(entries)
        return entries

    assert len(await found("")) == 2 * MANY + 6 * FEW + FEW
    assert len(await found(f"client_id={client.client_id}")) == MANY + 3 * FEW + FEW
    assert len(await found(f"api_id={other.api_id}")) == MANY + 3 * FEW + FEW
    assert len(await found(f"api_id={other.api_id}&client_id={client.client_id}")) == FEW
    assert len(await found("state=exhausted")) == 2 * FEW
    assert len(await found(f"state=delivered&client_id={client.client_id}")) == MANY + FEW
    assert {entry["state"] for entry in await found(f"api_id={client.api_id}&state=pending")} == {"pending"}


# Cursors


@dataclass(frozen=True)
class Walk:
    """Reads a list to the end, page by page."""

    world: World
    name: str

    async def __call__(self, between: Callable[[int], Awaitable[None]] | None = None) -> list[str]:
        """The ids in order; `between` runs between pages."""
        path = PATHS[self.name](self.world)
        seen: list[str] = []
        following: str | None = ""
        pages = 0
        while following is not None:
            response = await self.world.get(path + following)
            seen += [identity(entry) for entry in entries_of(response)]
            following = following_of(response)
            if isinstance(response.body, dict):
                assert (response.body.get("next") is None) is (following is None)
                assert following is None or following.endswith(f"after={response.body['next']}")
            pages += 1
            if between is not None:
                await between(pages)
        return seen


def identity(entry: dict[str, Any]) -> str:
    """What identifies an entry of a list."""
    definition = entry.get("api_definition", entry)
    for name in ("code", "username", "operator_id", "id", "grant_id", "client_id", "api_id"):
        if name in definition:
            return str(definition[name])
    return str(definition["x-tyk-api-gateway"]["info"]["id"])


@pytest.mark.parametrize("name", sorted(PATHS))
async def test_b8_cursors_lead_through_everything_once(world: World, name: str) -> None:
    """Cursors return each entry once, and the same entries as page numbers."""
    seen = await Walk(world, name)()
    assert len(set(seen)) == len(seen)
    collection, whose = COUNTED[name]
    count = await world.system.deps.store.mongo[collection].count_documents(whose(world))
    assert len(seen) == count
    by_number = {"listTokens": "page", "listTokensOnShortPath": "page"}
    by_number |= dict.fromkeys(("listDeliveries", "listChanges", "listGrants"), "")
    if parameter := by_number.get(name, "p"):
        numbered: list[str] = []
        for number in range(1, -(-count // PAGE_SIZE) + 2):
            response = await world.get(f"{PATHS[name](world)}?{parameter}={number}")
            entries = response.body["Tokens"] if parameter == "page" else entries_of(response)
            numbered += [identity(entry) for entry in entries]
        assert numbered == seen


def living(_: World) -> dict[str, Any]:
    return {"deleted": False}


def live(world: World) -> dict[str, Any]:
    whose = {"client_id": world.client.client_id, "state": "active", "access.revoked": False}
    return {**whose, "access.expires_at": {"$gt": world.now}}


COUNTED: dict[str, tuple[str, Callable[[World], dict[str, Any]]]] = {
    "listTokens": ("grants", live),
    "listTokensOnShortPath": ("grants", live),
    "listClients": ("clients", lambda world: {"deleted": False, "api_id": world.client.api_id}),
    "listApis": ("apis", living),
    "listOasApis": ("apis", living),
    "listPolicies": ("policies", living),
    "listResourceOwners": ("resource_owners", living),
    "listOperators": ("operators", living),
    "listDeliveries": ("deliveries", lambda _: {}),
    "listChanges": ("audit_log", lambda _: {}),
    "listGrants": ("grants", lambda _: {}),
    "listAllClients": ("clients", living),
}


async def test_b8_cursors_are_stable_while_clients_come_and_go(world: World) -> None:
    """Entries that exist throughout are listed exactly once, while others are created and deleted."""
    clients, walk = world.system.deps.store.mongo["clients"], Walk(world, "listClients")
    template = await clients.find_one({"_id": "c000000"})
    assert template is not None
    before = await walk()
    removed = {"c000010", "c000420", "c002000"}

    async def change(page: int) -> None:
        await clients.insert_many([{**template, "_id": f"b-{page}"}, {**template, "_id": f"d-{page}"}])
        if page == 1:
            await clients.update_many({"_id": {"$in": list(removed)}}, {"$set": {"deleted": True}})

    seen = await walk(change)
    await clients.delete_many({"_id": {"$regex": "^[bd]-"}})
    await clients.update_many({"_id": {"$in": list(removed)}}, {"$set": {"deleted": False}})
    assert len(set(seen)) == len(seen)
    assert [key for key in seen if key in set(before) - removed] == [key for key in before if key not in removed]


async def test_b8_cursors_are_stable_while_tokens_are_issued_and_revoked(world: World) -> None:
    """The same for tokens, even if many expire in the same millisecond."""
    grants = world.system.deps.store.mongo["grants"]
    template = next(seed.grant_documents(world.other, 1, world.now))
    many = [{**template, "_id": seed.new_id()} for _ in range(2 * MOST_AT_ONCE)]
    await grants.insert_many(many)
    path = f"/api/apis/oauth/{world.other.client_id}/tokens"
    seen: list[str] = []
    following: str | None = ""
    while following is not None:
        response = await world.get(path + following)
        seen += [entry["grant_id"] for entry in response.body]
        following = following_of(response)
        await grants.insert_many([{**template, "_id": seed.new_id()} for _ in range(50)])
        await grants.update_one({"_id": seen[0]}, {"$set": {"access.revoked": True}})
    assert len(set(seen)) == len(seen)
    assert {grant["_id"] for grant in many} <= set(seen)


@pytest.mark.parametrize("name", sorted(PATHS))
@pytest.mark.parametrize(
    "cursor",
    ["", "x", "evt_", "%00", "AAAA", "W10", "WyJhIiwiYiIsImMiXQ", "$gt", "%7B%7D", "a" * 3000, "A&after=B"],
)
async def test_b8_a_bad_cursor_is_refused_with_a_sentence(world: World, name: str, cursor: str) -> None:
    """An invalid cursor gets 400 with what to send, not the first or an empty page."""
    ask = world.deliveries if name == "listDeliveries" else world.system.operator
    response = await ask("GET", f"{PATHS[name](world)}?after={cursor}")
    assert response.status == 400, response.body
    assert "next" in response.message or "repeated" in response.message or "Link" in response.message


async def test_b8_a_cursor_and_a_page_are_one_too_many(world: World) -> None:
    """Cursor and page number together are refused."""
    for path, parameter in ((PATHS["listClients"](world), "p"), (tokens(world), "page")):
        response = await world.system.operator("GET", f"{path}?after={cursor_of('1', 'x')}&{parameter}=1")
        assert response.status == 400
        assert parameter in response.message


async def test_b8_page_numbers_end_somewhere_and_say_so(world: World) -> None:
    """Page numbers end at a hundred with an error; cursors continue."""
    store = world.system.deps.store
    api = await make_api(world.system.deps)
    client, _ = await make_client(world.system.deps, api)
    ids = (f"e{number:06}" for number in range(MOST_PAGES * PAGE_SIZE))
    await seed.insert(store, "clients", seed.copies(store.clients, client, ids))
    path = f"/api/apis/oauth/{api.api_id}"
    response = await world.get(f"{path}?p={MOST_PAGES}")
    assert (response.body["pages"], len(response.body["apps"])) == (MOST_PAGES + 1, PAGE_SIZE)
    refused = await world.system.operator("GET", f"{path}?p={MOST_PAGES + 1}")
    assert refused.status == 400
    assert "after" in refused.message
    last = await world.get(path + str(following_of(response)))
    assert (len(last.body["apps"]), "next" in last.body) == (1, False)

    await seed.insert(store, "grants", seed.grant_documents(client, MOST_PAGES * PAGE_SIZE + 1, world.now))
    path = f"{path}/{client.client_id}/tokens"
    response = await world.get(f"{path}?page={MOST_PAGES}")
    assert response.body["Pagination"] == {"page_num": MOST_PAGES, "page_total": MOST_PAGES + 1, "page_size": PAGE_SIZE}
    refused = await world.system.operator("GET", f"{path}?page={MOST_PAGES + 1}")
    assert refused.status == 400
    assert "after" in refused.message
    assert len((await world.get(path + str(following_of(response)))).body) == 1


# Lists that Tyk returns complete


@pytest.mark.parametrize("name", ["listTokens", "listTokensOnShortPath"])
async def test_d10_a_token_list_that_is_cut_says_so(world: World, name: str) -> None:
    """Tyk's token list is an array, so a `Link` header leads to the rest of a long one; a complete one has none."""
    path = PATHS[name](world)
    response = await world.get(path)
    assert (len(response.body), following_of(response) is not None) == (MOST_AT_ONCE, True)
    rest = await world.get(path + str(following_of(response)))
    assert rest.body[0] not in response.body
    assert rest.body[0]["expires"] >= response.body[-1]["expires"]
    whole = await world.get(f"/api/apis/oauth/{world.lonely.client_id}/tokens")
    assert (whole.body, following_of(whole)) == ([], None)


@pytest.mark.parametrize("name", ["listClients", "listPolicies", "listResourceOwners"])
async def test_d10_an_incomplete_single_page_says_so(world: World, name: str) -> None:
    """`?p=-1` returns the first 500, and `next` if there are more."""
    response = await world.get(f"{PATHS[name](world)}?p=-1")
    assert len(entries_of(response)) == MOST_AT_ONCE
    assert response.body["next"]
    following = await world.get(PATHS[name](world) + str(following_of(response)))
    assert identity(entries_of(following)[0]) > identity(entries_of(response)[-1])


# Summaries


async def test_b8_the_state_of_endpoints_reads_a_bounded_number_of_deliveries(world: World) -> None:
    """Per API: the attempts of a hundred deliveries, and a thousand index entries for each count."""
    async with profiled(world.system.deps.store.mongo, "deliveries") as profile:
        response = await world.get("/api/notifications/endpoints")
    apis = len(entries_of(response))
    assert apis == 2
    assert MANY > 1000
    assert profile.examined <= apis * 100 + SLACK
    assert profile.keys <= apis * (1000 + 1001 + 100 + SLACK)
    assert not [read for read in profile.reads if "COLLSCAN" in read.get("planSummary", "")]
    backlogs = {found["api_id"]: found["backlog"] for found in entries_of(response)}
    assert backlogs == {world.client.api_id: FEW, world.other.api_id: 1001}


async def test_b8_who_has_a_policy_is_counted_to_an_end(world: World) -> None:
    """With a thousand client apps, the count ends at 1001, the first 20 are named, and an index finds them."""
    store = world.system.deps.store
    policy = await make_policy(world.system.deps)
    held = world.lonely.model_copy(update={"policy_ids": (policy.policy_id,)})
    await seed.insert(store, "clients", seed.copies(store.clients, held, [f"p{number:06}" for number in range(1100)]))
    async with profiled(store.mongo, "clients", "resource_owners") as profile:
        response = await world.get(f"/api/portal/policies/{policy.policy_id}/usage")
    profile.require_indexed()
    assert (response.body["client_count"], response.body["user_count"]) == (1001, 0)
    assert [each["client_id"] for each in response.body["clients"]] == [f"p{number:06}" for number in range(20)]
    assert profile.examined <= 20 + SLACK
    await store.mongo["clients"].delete_many({"policy_ids": policy.policy_id})


async def test_b8_the_config_lint_looks_at_a_bounded_number_of_records(world: World) -> None:
    """At most as many of each kind as its bounds say, and it says that there are more."""
    async with profiled(world.system.deps.store.mongo, "clients", "policies") as profile:
        response = await world.get("/api/config-lint?limit=5")
    assert response.body["complete"] is False
    assert (response.body["records"]["clients"], response.body["records"]["policies"]) == (2000, 1000)
    assert len(response.body["findings"]) == 5
    assert profile.examined <= 2000 + 1000 + SLACK


async def test_b8_what_is_left_of_an_api_is_counted_in_indexes_to_an_end(world: World) -> None:
    """No document is examined, however many client apps, grants and deliveries the API has, and a count ends."""
    store = world.system.deps.store
    api_id = world.client.api_id
    async with profiled(store.mongo, "clients", "grants", "deliveries") as profile:
        response = await world.get(f"/api/apis/{api_id}/deletion")
    assert response.body["exists"] is True
    assert response.body["client_apps"] == await store.mongo["clients"].count_documents(
        {"api_id": api_id, "deleted": False}
    )
    profile.require_indexed()
    assert profile.examined <= SLACK
    assert await store.clients.count_of_api(api_id, 5) == 5
    unended = {"api_id": api_id, "state": {"$in": ["pending", "active"]}}
    assert response.body["grants"] == await store.mongo["grants"].count_documents(unended) > 5
    assert await store.grants.count_unended_of_api(api_id, 5) == 5


async def test_b8_the_summary_reads_a_row_an_hour_and_a_few_changes(world: World) -> None:
    """The latest eight changes by index, and the sums of all client apps rather than those of each."""
    async with profiled(world.system.deps.store.mongo, "audit_log", "usage_hours", "usage_days") as profile:
        response = await world.get("/api/analytics/summary?per=day")
    assert len(response.body["changes"]) == 8
    assert len(response.body["weaknesses"]["findings"]) == 5
    assert profile.examined <= 9 + SLACK


# Consequences of a deletion


async def test_b8_ending_all_grants_of_a_client_reads_each_once(world: World) -> None:
    """Revoking all grants of a client reads each once, in batches by index; others are not examined."""
    store = world.system.deps.store
    client, _ = await make_client(world.system.deps, await make_api(world.system.deps))
    await seed.insert(store, "grants", seed.grant_documents(client, FEW, world.now - SECOND))
    await seed.insert(store, "grants", seed.grant_documents(client, MANY, world.now - SECOND, state="revoked"))
    async with profiled(store.mongo, "grants") as profile:
        found = store.grants.unended_of_client(client.api_id, client.client_id, world.now, 3)
        batches = [batch async for batch in found]
    profile.require_indexed()
    assert [len(batch) for batch in batches] == [3, 3, 1]
    assert (profile.examined, profile.keys <= FEW + 10) == (0, True)


async def test_b8_deleting_the_clients_of_an_api_reads_each_once(world: World) -> None:
    """Deleting an API's clients examines neither tombstones nor other APIs' clients."""
    store = world.system.deps.store
    async with profiled(store.mongo, "clients") as profile:
        found = await store.clients.of_api_until(world.client.api_id, None)
    profile.require_indexed()
    assert (len(found), profile.examined) == (PAGE_SIZE, PAGE_SIZE)


# Reconciliation


@dataclass(frozen=True)
class Balanced:
    """A system with many grants of the last hour, each with its event, and its reconciler."""

    system: System
    endpoint: ReconciliationEndpoint
    party: Party
    grants: Sequence[str]

    async def report(self, query: str = "") -> dict[str, Any]:
        """The reconciliation of the last two hours."""
        since = (self.system.clock() - 2 * HOUR).isoformat().replace("+", "%2B")
        response = await self.system.operator("GET", f"/api/events/audit?from={since}{query}")
        assert response.status == 200, response.body
        return dict(response.body)


@pytest.fixture(name="balanced")
async def _balanced(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Balanced]:
    # Eight days would be too many windows for a test.
    monkeypatch.setattr("services.reconciliation.endpoint.EARLIEST", 3 * HOUR)
    monkeypatch.setattr("services.reconciliation.endpoint.LOOK_BACK", 60.0)
    async with open_system(mongodb_url) as system:
        party, store = await system.party(), system.deps.store
        made = [*seed.grant_documents(party.client, MANY, system.clock() - HOUR)]
        await seed.insert(store, "grants", made)
        await seed.insert(store, "events", seed.event_documents(made))
        reconciler = Reconciler(store, system.deps.bus, system.clock)
        endpoint = ReconciliationEndpoint(
            OperatorAuthenticator(system.deps.catalog, system.deps.throttle, system.clock),
            reconciler,
            store.reconciliation_results,
            system.clock,
        )
        yield Balanced(system, endpoint, party, [document["_id"] for document in made])


async def test_b8_the_balance_of_a_day_is_the_sum_stored_report(balanced: Balanced) -> None:
    """The balance of a day is the sum of stored results: it says when they are from and what is unchecked; no record is
    read.
    """
    before = await balanced.report()
    assert (before["as_of"], before["balanced"], before["total"]["records"]) == (None, True, 0)
    assert before["unchecked"] in {24, 25}
    await balanced.endpoint.watch()
    mongo = balanced.system.deps.store.mongo
    collections = [collection.name for collection in balanced.system.deps.store.outbox_collections]
    async with profiled(mongo, *collections, "events", "reconciliation", audit=True) as profile:
        found = await balanced.report()
    profile.require_indexed()
    assert profile.examined <= before["unchecked"] + SLACK
    assert (found["balanced"], found["unchecked"]) == (True, 0)
    assert found["collections"]["grants"]["records"] == found["collections"]["grants"]["published"] == MANY
    live = await balanced.report("&live=true")
    assert live["collections"]["grants"] == found["collections"]["grants"]
    assert live["as_of"] == found["as_of"] == as_text(balanced.system.clock())
    for moment in (found["from"], found["to"]):
        assert datetime.fromisoformat(moment).minute % 5 == 0


async def test_b8_the_periodic_reconciliation_reads_through_indexes(balanced: Balanced) -> None:
    """The periodic reconciliation reads by index, for clients and rare records too."""
    store = balanced.system.deps.store
    records = seed.copies(store.clients, balanced.party.client, [f"c{number}" for number in range(MANY)])
    long_ago = balanced.system.clock() - timedelta(days=30)
    await seed.insert(store, "clients", ({**document, "created_at": long_ago} for document in records))
    await balanced.endpoint.watch()
    async with profiled(
        store.mongo, *(collection.name for collection in store.outbox_collections), "events", audit=True
    ) as profile:
        for window in range(4):
            await balanced.endpoint._compare_window(window_of(balanced.system.clock()) - window * WINDOW)
    profile.require_indexed()
    assert profile.examined <= SLACK


async def test_b8_later_losses_are_found_by_the_next_reconciliation(balanced: Balanced) -> None:
    """The results of all eight days are renewed in turn, oldest first, so later losses are found."""
    await balanced.endpoint.watch()
    lost = balanced.grants[MANY // 2]
    await balanced.system.deps.store.mongo["events"].delete_one({"subject": lost})
    assert (await balanced.report())["balanced"] is True
    assert (await balanced.report("&live=true"))["balanced"] is False
    balanced.system.clock.advance(60)
    await balanced.endpoint.watch()
    response = await balanced.report()
    assert response["balanced"] is False
    assert (response["total"]["missing"], len(response["examples"])) == (1, 1)
    assert response["examples"][0]["subject"] == lost


async def test_b8_one_process_looks_and_the_others_show_what_it_found(balanced: Balanced) -> None:
    """One process reconciles under a lease, and others show its result; when it is gone, another continues."""
    deps = balanced.system.deps
    other = ReconciliationEndpoint(
        OperatorAuthenticator(deps.catalog, deps.throttle, balanced.system.clock),
        Reconciler(deps.store, deps.bus, balanced.system.clock),
        deps.store.reconciliation_results,
        balanced.system.clock,
    )
    await balanced.endpoint.watch()
    first = await balanced.report()
    balanced.system.clock.advance(30)
    await other.watch()
    assert (await balanced.report())["as_of"] == first["as_of"]
    balanced.system.clock.advance(400)
    await other.watch()
    latest = await deps.store.reconciliation_results.between(
        window_of(balanced.system.clock()), balanced.system.clock() + WINDOW
    )
    assert latest[0].checked_at == balanced.system.clock()


def as_text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")
