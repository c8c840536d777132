"""GET /api/audit: who changed which record, when and from where, for every change an operator can make."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from contracts.operators import BOOTSTRAP_OPERATOR_ID, Permission
from contracts.webhooks import DeliveryState
from libs.audit_log import audit_log_entry
from libs.bus.local import LocalBroker, LocalBus
from libs.bus.port import Drop
from services.operation_catalog import OPERATIONS
from tests.builders import CALLBACK, Caller, Response, api_document, make_operator, settle, unique
from tests.notifications import Notifier, api_to, database_of_its_own, notifier, stored
from tests.services.system import PASSWORD, Clock, Party, System, open_system

CHANGES = {
    operation.name
    for operation in OPERATIONS
    if operation.method != "GET" and operation.permission in {Permission.WRITE, Permission.REVOKE, Permission.ADMIN}
} - {"testNotification"}
"""Every operation that changes something; a test notification does not."""
LEFT_OUT = {"id", "at", "source", "traceparent"}


@dataclass(frozen=True)
class World:
    """All six services on one database and one bus."""

    system: System
    notifier: Notifier

    async def entries(self, query: str = "limit=200") -> list[dict[str, Any]]:
        """Matching entries, newest first, after everything announced has arrived."""
        await settle(self.notifier.deps)
        await settle(self.system.deps)
        await settle(self.system.deps)  # includes consequences of the change
        response = await self.system.operator("GET", f"/api/audit?{query}")
        assert response.status == 200, response.body
        found: list[dict[str, Any]] = response.body["entries"]
        return found


@pytest.fixture(name="world", scope="module")
async def _world(mongodb_url: str) -> AsyncIterator[World]:
    broker, database, clock = LocalBroker(), database_of_its_own(), Clock()
    async with (
        open_system(mongodb_url, database, bus=LocalBus(broker), clock=clock, notifier=False) as system,
        notifier(mongodb_url, database, broker=broker) as sender,
    ):
        yield World(system, sender)


@dataclass(frozen=True)
class Doer:
    """An operator whose requests use the operation's name as request id."""

    call: Caller
    operator_id: str
    done: dict[str, str]
    """Request id by operation."""

    async def __call__(self, operation: str, path: str, **request: Any) -> Response:
        method = next(each.method for each in OPERATIONS if each.name == operation)
        self.done[operation] = f"request-{operation}"
        headers = {"X-Request-Id": self.done[operation], "X-Forwarded-For": "198.51.100.1, 203.0.113.7"}
        response = await self.call(method, path, headers=headers, **request)
        assert response.status == 200, (operation, response.body)
        return response


async def doer(system: System, call: Caller) -> Doer:
    """A new operator with every permission."""
    key = await make_operator(system.deps, Permission.ADMIN)
    operator = await system.deps.catalog.operator(key)
    assert operator is not None
    return Doer(call.with_key(key), operator.operator_id, {})


async def test_every_change_has_its_entry(world: World) -> None:
    """Every changing operation, done once, leaves an entry: who, what, when, from where, in which request.

    A new operation that is not exercised here fails this test.
    """
    system = world.system
    do = await doer(system, system.call)
    document, oas, user, policy = api_document(), api_document(), unique("user"), unique("policy")
    api_id = (await do("importApi", "/api/apis", json=document)).body["ID"]
    oas_id = (await do("importOasApi", "/api/apis/oas", json=oas)).body["ID"]
    await do("replaceApi", f"/api/apis/{api_id}", json=document)
    await do("replaceOasApi", f"/api/apis/oas/{oas_id}", json=oas)
    await do("rotateSigningSecret", f"/api/apis/{api_id}/signing-secret/rotate")
    clients = f"/api/apis/oauth/{api_id}"
    client_id = (await do("registerClient", clients, json={"redirect_uri": CALLBACK})).body["client_id"]
    await do("editClient", f"{clients}/{client_id}", json={"description": "another"})
    await do("rotateClientSecret", f"{clients}/{client_id}/rotate")
    rights = {api_id: {"api_id": api_id}}
    await do("addPolicy", "/api/portal/policies", json={"id": policy, "access_rights": rights})
    await do("replacePolicy", f"/api/portal/policies/{policy}", json={"rate": 5, "per": 1, "access_rights": rights})
    await do("addResourceOwner", f"/api/apis/keys/basic/{user}", json={"password": PASSWORD})
    await do("editResourceOwner", f"/api/apis/keys/basic/{user}", json={"password": f"{PASSWORD}!"})
    made = await do("addOperator", "/api/operators", json={"name": "new", "permissions": ["read"]})
    operator = f"/api/operators/{made.body['operator_id']}"
    await do("replaceOperator", operator, json={"name": "newer", "permissions": ["read", "write"]})
    await do("rotateOperatorKey", f"{operator}/rotate")
    party = await system.party()
    token = (await party.tokens()).access
    await do("revokeTokenOfClient", f"/api/apis/oauth/{party.id}/revoke", data={"token": token})
    await do("revokeAllTokensOfClient", f"/api/apis/oauth/{client_id}/revoke_all")
    grant_id = (await system.grant_of((await party.tokens()).access)).grant_id
    await do("revokeGrant", f"/api/grants/{grant_id}/revoke")
    await do("revokeAllGrantsOfUser", f"/api/users/{user}/revoke_all")
    sending = replace(do, call=world.notifier.anybody.with_key(do.call.headers["Authorization"]))
    api, deps = await api_to(world.notifier.deps, "http://127.0.0.1:9/hook"), world.notifier.deps
    lost = [stored(api, deps.now(), state=DeliveryState.EXHAUSTED) for _ in range(2)]
    for delivery in lost:
        await deps.store.deliveries.add(delivery)
    await sending("redeliver", f"/api/notifications/deliveries/{lost[0].delivery_id}/redeliver")
    everything = {"api_id": api.api_id, "since": lost[0].event_at.isoformat()}
    await sending("redeliverAll", "/api/notifications/redeliver", json=everything)
    await do("deleteOperator", operator)
    await do("deleteResourceOwner", f"/api/apis/keys/basic/{user}")
    await do("deletePolicy", f"/api/portal/policies/{policy}")
    await do("deleteClient", f"{clients}/{client_id}")
    await do("deleteOasApi", f"/api/apis/oas/{oas_id}")
    await do("deleteApi", f"/api/apis/{api_id}")
    assert do.done.keys() == CHANGES

    entries = await world.entries(f"operator={do.operator_id}&limit=200")
    actor = {"operator_id": do.operator_id, "name": "an operator of the tests", "address": "127.0.0.1"}
    for entry in entries:
        assert entry["actor"] == actor | {"request_id": entry["actor"]["request_id"]}
    said = {entry["actor"]["request_id"].removeprefix("request-"): entry for entry in entries}
    assert said.keys() == CHANGES
    for name, (action, subject, more) in {
        "importApi": ("api.created", api_id, {"api_id": api_id}),
        "replaceApi": ("api.updated", api_id, {"api_id": api_id, "changed": []}),
        "rotateSigningSecret": ("api.signing_secret_rotated", api_id, {"changed": ["signing_secrets"]}),
        "registerClient": ("client.created", client_id, {"api_id": api_id, "client_id": client_id}),
        "editClient": ("client.updated", client_id, {"changed": ["description"]}),
        "rotateClientSecret": ("client.secret_rotated", client_id, {"changed": ["secrets"]}),
        "replacePolicy": ("policy.updated", policy, {"changed": ["per", "rate"]}),
        "editResourceOwner": ("resource_owner.updated", user, {"changed": ["password_hash"]}),
        "addOperator": ("operator.created", made.body["operator_id"], {"permissions": ["read"]}),
        "replaceOperator": (
            "operator.updated",
            made.body["operator_id"],
            {"permissions": ["read", "write"], "changed": ["name", "permissions"]},
        ),
        "rotateOperatorKey": ("operator.key_rotated", made.body["operator_id"], {"permissions": ["read", "write"]}),
        "revokeTokenOfClient": ("token.revoked", (await system.grant_of(token)).grant_id, {"reason": "operator"}),
        "revokeAllTokensOfClient": ("client.tokens_revoked", client_id, {}),
        "revokeGrant": ("grant.revoked", grant_id, {"reason": "operator"}),
        "revokeAllGrantsOfUser": ("user.tokens_revoked", user, {}),
        "redeliver": ("notification.redelivered", lost[0].delivery_id, {"api_id": api.api_id}),
        "deleteOasApi": ("api.deleted", oas_id, {}),
    }.items():
        entry = said[name]
        assert (entry["action"], entry["subject"]) == (action, subject), name
        assert {key: entry[key] for key in more} == more, name


async def test_consequences_of_a_change_name_its_operator(world: World) -> None:
    """Deleting an API deletes its clients; their entries name the same operator and trace."""
    party = await world.system.party()
    do = await doer(world.system, world.system.call)
    await do("deleteApi", f"/api/apis/{party.api.api_id}")
    by_action = {entry["action"]: entry for entry in await world.entries(f"operator={do.operator_id}")}
    assert by_action.keys() == {"api.deleted", "client.deleted"}
    api, client = by_action["api.deleted"], by_action["client.deleted"]
    assert (client["subject"], client["reason"]) == (party.id, "api_deleted")
    assert (client["actor"], client["traceparent"]) == (api["actor"], api["traceparent"])


async def test_a_client_s_change_names_no_operator(world: World) -> None:
    """A client that revokes all its tokens is no operator, even on a connection that an operator used before."""
    party = await world.system.party()
    tokens = await party.tokens()
    assert (await party.revoke(tokens.access)).status == 200
    assert (await world.system.call("POST", party.at("oauth/revoke_all"), headers=party.basic)).status == 200
    (entry,) = await world.entries(f"subject={party.id}&action=client.tokens_revoked")
    assert "actor" not in entry
    assert entry["source"] == "urn:tokenwire:revocation"
    grant = await world.system.grant_of(tokens.access)
    assert await world.entries(f"subject={grant.grant_id}") == []


async def test_a_service_that_makes_its_first_operator_is_in_the_trail(mongodb_url: str) -> None:
    """Creating the bootstrap operator and changing its key is logged, without a request."""
    database = database_of_its_own()
    for key, changed in (("k" * 24, None), ("l" * 24, ["key_created_at", "key_digest"])):
        async with open_system(mongodb_url, database, bootstrap_operator_key=key) as system:
            await settle(system.deps)
            response = await system.operator("GET", f"/api/audit?subject={BOOTSTRAP_OPERATOR_ID}&limit=1")
            (entry,) = response.body["entries"]
            assert "actor" not in entry
            assert entry.get("changed") == changed
            assert entry["permissions"] == ["admin"]


async def test_refused_requests_leave_no_entry(world: World) -> None:
    """Refused requests and reads leave no entry."""
    system = world.system
    key = await make_operator(system.deps, Permission.READ)
    reader = await system.deps.catalog.operator(key)
    assert reader is not None
    call = system.call.with_key(key)
    assert (await call("POST", "/api/apis", json=api_document())).status == 403
    assert (await call("GET", "/api/apis")).status == 200
    assert await world.entries(f"operator={reader.operator_id}") == []
    do = await doer(system, system.call)
    assert (await do.call("POST", "/api/apis", json={"openapi": "3"})).status == 400
    assert await world.entries(f"operator={do.operator_id}") == []


async def story(world: World) -> tuple[Party, Doer]:
    """A client edited three times, a second apart, and its editor."""
    party, do = await world.system.party(), await doer(world.system, world.system.call)
    for number in range(3):
        world.system.clock.advance(1)
        path = f"/api/apis/oauth/{party.api.api_id}/{party.id}"
        await do("editClient", path, json={"description": f"the {number}th"})
    return party, do


async def test_entries_come_page_by_page(world: World) -> None:
    """Pages are newest first; `next` leads to the end, with each entry once."""
    _, do = await story(world)
    whole = await world.entries(f"operator={do.operator_id}")
    assert [entry["version"] for entry in whole] == [4, 3, 2]
    seen, after = [], ""
    for size in (2, 1):
        response = await world.system.operator("GET", f"/api/audit?operator={do.operator_id}&limit=2{after}")
        assert len(response.body["entries"]) == size
        seen += response.body["entries"]
        after = f"&after={response.body.get('next')}"
    assert "next" not in response.body
    assert seen == whole


Query = Callable[[Party, Doer, list[dict[str, Any]]], tuple[str, list[int]]]


@pytest.mark.parametrize(
    "query",
    [
        pytest.param(lambda party, do, _: (f"operator={do.operator_id}", [4, 3, 2]), id="operator"),
        pytest.param(lambda party, *_: (f"subject={party.id}", [4, 3, 2, 1]), id="subject"),
        pytest.param(lambda party, *_: (f"subject={party.id}&action=client.created", [1]), id="action"),
        pytest.param(lambda party, *_: (f"subject={party.id}&action=client.*", [4, 3, 2, 1]), id="kind"),
        pytest.param(lambda party, *_: (f"subject={party.id}&action=clien.*", []), id="another-kind"),
        pytest.param(lambda party, _, all_: (f"subject={party.id}&from={all_[1]['at']}", [4, 3]), id="from"),
        pytest.param(lambda party, _, all_: (f"subject={party.id}&to={all_[1]['at']}", [2, 1]), id="to"),
        pytest.param(
            lambda party, _, all_: (f"subject={party.id}&from={all_[2]['at']}&to={all_[1]['at']}", [2]), id="between"
        ),
    ],
)
async def test_entries_are_found_by_every_filter(world: World, query: Query) -> None:
    """Filters for operator, record, action, kind of action and time work, alone and together."""
    party, do = await story(world)
    text, versions = query(party, do, await world.entries(f"subject={party.id}"))
    assert [entry["version"] for entry in await world.entries(text)] == versions


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=201",
        "from=yesterday",
        "to=2026-03-01T12:00:00",
        "operator=a/b",
        "operator[$ne]=x",
        "action=client",
        "action=*",
        "action=client.*.*",
        "after=%24gt",
        "page=2",
        "subject=a&subject=b",
    ],
)
async def test_a_filter_that_makes_no_sense_is_400(world: World, query: str) -> None:
    """An invalid filter gets 400 and is not ignored."""
    response = await world.system.operator("GET", f"/api/audit?{query}")
    assert response.status == 400
    assert response.message


CLIENT_DELETED = (
    b'{"id":"evt_0","source":"urn:tokenwire:management","type":"io.tokenwire.client.deleted",'
    b'"time":"2026-05-04T12:00:00Z","subject":"app","sequence":"0000000002",'
    b'"data":{"client_id":"app","api_id":"orders","reason":"client_deleted"}}'
)


@pytest.mark.parametrize(
    ("kind", "data", "kept"),
    [
        pytest.param("client.deleted", b'{"client_id":"app"}', True, id="management"),
        pytest.param("token.new", b'{"grant_id":"g"}', False, id="token"),
        pytest.param("grant.revoked", b'{"grant_id":"g"}', False, id="ended-by-nobody"),
        pytest.param("grant.revoked", b'{"actor":{"operator_id":"o","name":"n"}}', True, id="ended-by-operator"),
        pytest.param("notification.failed", b'{"actor":{"operator_id":"o","name":"n"}}', False, id="notification"),
    ],
)
def test_the_audit_log_contains_operator_events(kind: str, data: bytes, kept: bool) -> None:
    """The audit log contains every management event, and of other events those by operators."""
    body = CLIENT_DELETED.replace(b"client.deleted", kind.encode(), 1)
    body = body[: body.index(b'"data"')] + b'"data":' + data + b"}"
    assert (audit_log_entry(kind, body) is not None) is kept


def test_an_entry_from_before_there_were_actors() -> None:
    """An event of an older release without an actor is an entry without one; an unreadable actor is dropped."""
    entry = audit_log_entry("client.deleted", CLIENT_DELETED)
    assert entry is not None
    assert (entry.actor, entry.reason, entry.version) == (None, "client_deleted", 2)
    with pytest.raises(Drop):
        audit_log_entry("client.deleted", CLIENT_DELETED.replace(b'"data":{', b'"data":{"actor":7,'))
