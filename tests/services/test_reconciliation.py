"""GET /api/events/audit: compares what was committed with what the bus and webhooks delivered."""

import re
import secrets
from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any

import orjson
import pytest

from contracts.clients import ClientDeletion
from contracts.events import PendingEvent
from contracts.webhooks import Delivery, DeliveryState
from libs.bus.local import LocalBus
from libs.bus.port import Message, Outcome
from libs.bus.rabbit import RabbitBus
from libs.runtime import Deps, new_application, new_deps, utc_now
from libs.settings import Settings
from libs.telemetry import exposition
from services.reconciliation.endpoint import set_metrics
from services.reconciliation.reconciler import Reconciler
from services.reconciliation.recorder import Recorder
from tests.builders import api_document, make_api, make_client, running, settings, settle
from tests.eventually import eventually
from tests.services.system import SCHEME, Party, System, Tokens, open_system

COLLECTIONS = {"grants", "apis", "clients", "policies", "resource_owners", "users", "operators", "deliveries"}
NOTIFIED = {f"{SCHEME}notifications": {"onKeyChangeUrl": "http://127.0.0.1:9/hook", "sharedSecret": "a-shared-secret"}}


class Bus(LocalBus):
    """A bus that can be told to refuse everything."""

    refusing = False

    async def publish(self, messages: Sequence[Message]) -> Sequence[Outcome]:
        return [Outcome.UNKNOWN] * len(messages) if self.refusing else await super().publish(messages)


@pytest.fixture(name="bus")
def _bus() -> Bus:
    return Bus()


@pytest.fixture(name="system")
async def _system(mongodb_url: str, bus: Bus) -> AsyncIterator[System]:
    """Its own database, because reconciliation covers everything in it."""
    async with open_system(mongodb_url, bus=bus) as system:
        yield system


async def reconcile(system: System) -> dict[str, Any]:
    """The balance of everything so far, after everything announced has arrived; its sums are checked."""
    await settle(system.deps)
    system.clock.advance(0.001)
    response = await system.operator("GET", "/api/events/audit")
    assert response.status == 200, response.body
    assert response.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = response.body
    assert set(found["collections"]) == COLLECTIONS
    for line in (found["total"], *found["collections"].values()):
        assert line["committed"] == line["published"] + line["pending"] + line["in_flight"] + line["missing"], line
    for name, count in found["total"].items():
        assert count == sum(line[name] for line in found["collections"].values()), name
    webhooks = dict(found["notifications"])
    assert webhooks["published"] == found["collections"]["grants"]["published"]
    assert webhooks.pop("published") == sum(webhooks.values())
    return found


async def story(party: Party) -> Tokens:
    """A live grant with three events."""
    first = await party.tokens()
    return await party.refreshed(first.refresh)


async def recorded(system: System, **query: Any) -> dict[str, Any]:
    """The record of the one event that matches."""
    (document,) = await system.deps.store.mongo["events"].find(query).to_list(None)
    return dict(document)


async def test_everything_that_was_committed_went_out(system: System) -> None:
    """Every event of every kind of record is counted by its record and delivered by the bus."""
    party = await system.party()
    await story(party)
    await system.user()
    doomed = await system.client_of(party.api)
    await story(doomed)
    clients = system.deps.store.clients
    assert await clients.delete(doomed.client, ClientDeletion.CLIENT_DELETED, system.deps.event_context("tests"))

    async def ended() -> dict[str, Any]:
        found = await reconcile(system)
        assert found["collections"]["grants"]["committed"] == 3 + 4
        return found

    found = await eventually(ended)
    assert found["balanced"] is True
    assert found["examples"] == []
    assert found["total"]["published"] == found["total"]["committed"]
    assert {name: line["committed"] for name, line in found["collections"].items()} == {
        "grants": 7,
        "apis": 1,
        "clients": 3,
        "policies": 0,
        "resource_owners": 1,
        "users": 0,
        "operators": 1,
        "deliveries": 0,
    }
    assert found["recording"] == {"waiting": 0, "dead_letters": 0}


async def test_a_lost_event_is_missing(system: System) -> None:
    """An event that its record counts but nobody received is late at first, then lost, and named."""
    grant = await system.grant_of((await story(await system.party())).access)
    assert (await reconcile(system))["balanced"] is True
    await system.deps.store.mongo["events"].delete_one({"subject": grant.grant_id, "sequence": 3})

    late = await reconcile(system)
    assert (late["total"]["in_flight"], late["total"]["missing"], late["balanced"]) == (1, 0, True)

    system.clock.advance(11)
    lost = await reconcile(system)
    assert (lost["total"]["in_flight"], lost["total"]["missing"], lost["balanced"]) == (0, 1, False)
    assert lost["examples"] == [{"fault": "missing", "collection": "grants", "subject": grant.grant_id, "sequence": 3}]


async def test_an_old_event_is_missing_even_if_its_record_is_new(system: System) -> None:
    """An old missing event is lost even if its record has changed since."""
    party = await system.party()
    tokens = await party.tokens()
    grant = await system.grant_of(tokens.access)
    system.clock.advance(20)
    tokens = await party.refreshed(tokens.refresh)
    system.clock.advance(20)
    await party.refreshed(tokens.refresh)
    await settle(system.deps)
    events = system.deps.store.mongo["events"]
    await events.delete_many({"subject": grant.grant_id, "sequence": {"$in": [1, 4]}})

    found = await reconcile(system)
    assert (found["total"]["missing"], found["total"]["in_flight"]) == (1, 1)
    assert [example["sequence"] for example in found["examples"]] == [1]


async def test_unpublished_events_are_pending(system: System, bus: Bus) -> None:
    """With the bus away, committed events are pending however long, and the balance holds."""
    await reconcile(system)
    bus.refusing = True
    party = await system.party()
    await story(party)
    system.clock.advance(3600)
    found = await reconcile(system)
    assert found["balanced"] is True
    assert (found["total"]["pending"], found["total"]["missing"]) == (1 + 1 + 3, 0)
    assert found["collections"]["grants"] == {
        "records": 1,
        "committed": 3,
        "published": 0,
        "pending": 3,
        "in_flight": 0,
        "missing": 0,
        "phantom": 0,
        "doubled": 0,
    }


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        pytest.param({"sequence": 9}, "phantom", id="sequence-never-committed"),
        pytest.param({"subject": "nobody", "sequence": 1}, "phantom", id="no-such-record"),
        pytest.param({"sequence": 3}, "doubled", id="second-id-of-an-event"),
    ],
)
async def test_uncommitted_events_are_found(system: System, changes: dict[str, Any], fault: str) -> None:
    """An event that no record counts, or a second one for one change, breaks the balance."""
    grant = await system.grant_of((await story(await system.party())).access)
    await settle(system.deps)
    true = await recorded(system, subject=grant.grant_id, sequence=3)
    false = {**true, "_id": true["_id"][:-4] + secrets.token_hex(2), "notify": False, **changes}
    await system.deps.store.mongo["events"].insert_one(false)

    found = await reconcile(system)
    assert (found["total"][fault], found["total"]["missing"], found["balanced"]) == (1, 0, False)
    assert found["examples"] == [
        {"fault": fault, "collection": "grants", "subject": false["subject"], "sequence": false["sequence"]}
    ]


async def test_a_recreated_record_is_counted_separately(system: System) -> None:
    """For a name that is registered again, only the new record's events count."""
    party = await system.party()
    clients, ctx = system.deps.store.clients, system.deps.event_context
    assert await clients.delete(party.client, ClientDeletion.CLIENT_DELETED, ctx("tests"))
    assert (await reconcile(system))["collections"]["clients"]["committed"] == 2

    system.clock.advance(60)
    again = party.client.model_copy(update={"created_at": system.clock(), "updated_at": system.clock()})
    again = await clients.register(again, ctx("tests"))
    assert await clients.edit(again, {"name": "again"}, ctx("tests")) is not None

    found = await reconcile(system)
    assert found["collections"]["clients"]["committed"] == 2
    assert found["balanced"] is True
    await system.deps.store.mongo["events"].delete_one({"subject": party.id, "sequence": 3})
    system.clock.advance(60)
    assert (await reconcile(system))["total"]["missing"] == 1


async def test_every_notification_is_somewhere(system: System) -> None:
    """A published notification is with its grant or is a delivery in some state, else it is lost."""
    party = await system.party(api_document(**NOTIFIED))
    for _ in range(5):
        await party.tokens()
    found = await reconcile(system)
    assert found["notifications"] == {
        "published": 10,
        "not_applicable": 5,
        "handover": 5,
        "pending": 0,
        "delivered": 0,
        "exhausted": 0,
        "discarded": 0,
        "missing": 0,
    }

    store = system.deps.store
    waiting = await store.grants.awaiting_handover(utc_now() + timedelta(days=1), 10)
    for event, state in zip(waiting, DeliveryState, strict=False):
        await store.deliveries.add(delivery_of(system, event, state))
    await store.grants.handed_over(waiting)

    found = await reconcile(system)
    assert {name: found["notifications"][name] for name in (*DeliveryState, "handover", "missing")} == {
        **{state.value: 1 for state in DeliveryState},
        "handover": 0,
        "missing": 1,
    }
    assert found["balanced"] is False
    assert [(each["fault"], each["subject"]) for each in found["examples"]] == [("not_notified", waiting[-1].owner)]


def delivery_of(system: System, event: PendingEvent, state: DeliveryState) -> Delivery:
    """A delivery as the notifier would store it."""
    now, data = system.clock(), orjson.loads(event.body)["data"]
    return Delivery(
        delivery_id=event.id,
        state=state,
        api_id=data["api_id"],
        client_id=data["client_id"],
        grant_id=data["grant_id"],
        event_type="token.new",
        event_at=event.at,
        give_up_at=now,
        created_at=now,
        updated_at=now,
    )


async def test_recorded_events_contain_ids_only(system: System) -> None:
    """Only ids, type and time of an event are recorded, for eight days, and no token id."""
    party = await system.party(api_document(**NOTIFIED))
    tokens = await party.tokens()
    grant = await system.grant_of(tokens.access)
    await settle(system.deps)
    document = await recorded(system, subject=grant.grant_id, sequence=2)
    assert re.fullmatch(r"[0-9a-f]{16}\.[0-9]+", document.pop("batch"))
    assert document == {
        "_id": grant.last_event,
        "type": "token.new",
        "collection": "grants",
        "subject": grant.grant_id,
        "sequence": 2,
        "time": system.clock(),
        "api_id": party.api.api_id,
        "client_id": party.id,
        "grant_id": grant.grant_id,
        "notify": True,
    }
    indexes = await system.deps.store.mongo["events"].index_information()
    assert indexes["purge"]["expireAfterSeconds"] == 8 * 24 * 3600


async def test_only_records_of_the_time_asked_for_count(system: System) -> None:
    """`from` is inclusive, `to` exclusive, by the record's creation; later events of it are included."""
    first = await system.party()
    tokens = await first.tokens()
    at = system.clock()
    system.clock.advance(100)
    await story(first)
    await first.refreshed(tokens.refresh)
    await settle(system.deps)
    system.clock.advance(100)

    async def committed(**bounds: str) -> int:
        response = await system.operator("GET", "/api/events/audit/", params=bounds)
        assert response.body["balanced"] is True
        return int(response.body["collections"]["grants"]["committed"])

    def moment(seconds: float) -> str:
        return (at + timedelta(seconds=seconds)).isoformat()

    assert await committed() == 6
    assert await committed(**{"from": moment(0), "to": moment(100)}) == 3
    assert await committed(**{"from": moment(0.001), "to": moment(100.001)}) == 3
    assert await committed(to=moment(0)) == 0
    assert await committed(**{"from": moment(0)}) == 6


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("from=yesterday", id="no-moment"),
        pytest.param("from=2026-01-01T00:00:00", id="no-time-zone"),
        pytest.param("from=2020-01-01T00:00:00Z", id="too-long-ago"),
        pytest.param("to=2020-01-01T00:00:00Z", id="ends-too-long-ago"),
        pytest.param("from=2999-01-01T00:00:00Z", id="begins-after-its-end"),
        pytest.param("since=2026-01-01T00:00:00Z", id="unknown-parameter"),
        pytest.param("to=", id="empty"),
        pytest.param("from=0001-01-01T00:00:00%2B14:00", id="before-time-began"),
        pytest.param("to=0001-01-01T00:00:00Z", id="ends-before-time-began"),
    ],
)
async def test_a_bad_question_is_refused(system: System, query: str) -> None:
    """An invalid query gets 400 in the Dashboard's format."""
    response = await system.operator("GET", f"/api/events/audit?{query}")
    assert response.status == 400
    assert response.message


async def test_the_report_is_in_the_metrics(system: System) -> None:
    """Each line and the balance are gauges, as of the last comparison."""
    await story(await system.party())
    await settle(system.deps)
    system.clock.advance(0.001)
    reconciler = Reconciler(system.deps.store, system.deps.bus, system.clock)
    now = system.clock()
    set_metrics(await reconciler.compare(now - timedelta(minutes=15), now), now)
    lines = exposition().decode().splitlines()
    assert 'tokenwire_reconciliation_events{collection="grants",state="committed"} 3.0' in lines
    assert 'tokenwire_reconciliation_events{collection="grants",state="published"} 3.0' in lines
    assert 'tokenwire_reconciliation_notifications{state="handover"} 2.0' in lines
    assert "tokenwire_reconciliation_balanced 1.0" in lines

    await system.deps.store.mongo["events"].delete_many({"collection": "grants"})
    system.clock.advance(20)
    set_metrics(await reconciler.compare(now - timedelta(minutes=15), now), now)
    lines = exposition().decode().splitlines()
    assert 'tokenwire_reconciliation_events{collection="grants",state="missing"} 3.0' in lines
    assert "tokenwire_reconciliation_balanced 0.0" in lines


async def test_it_balances_over_the_broker(mongodb_url: str, amqp_url: str) -> None:
    """The same over RabbitMQ, where events arrive later and in any order."""
    async with open_system(mongodb_url, bus=RabbitBus(amqp_url, instance_name="reconciliation-test")) as system:
        party = await system.party()
        for _ in range(20):
            await story(party)

        async def arrived() -> dict[str, Any]:
            found = await reconcile(system)
            assert found["total"]["published"] == found["total"]["committed"]
            return found

        found = await eventually(arrived)
        assert found["collections"]["grants"]["committed"] == 60
        assert found["balanced"] is True


@pytest.fixture(name="publisher")
async def _publisher(mongodb_url: str, database_name: str, amqp_url: str) -> AsyncIterator[Deps]:
    """A process that publishes to RabbitMQ and records nothing."""
    configured = settings(Settings, mongodb_url, database_name, amqp_url=amqp_url)
    deps = new_deps(configured, "tests")
    async with running(new_application(configured, deps)):
        yield deps


async def test_events_waiting_to_be_recorded_are_not_lost(publisher: Deps) -> None:
    """Events waiting in the recorder's queue are not reported as missing, and count afterwards."""
    await make_client(publisher, await make_api(publisher))
    await publisher.outbox.drain()
    reconciler = Reconciler(publisher.store, publisher.bus, lambda: utc_now() + timedelta(hours=1))
    now = utc_now()

    found = await reconciler.compare(now - timedelta(hours=1), now + timedelta(minutes=1))
    assert (found.total.in_flight, found.total.missing, found.recording.waiting) == (2, 0, 2)
    assert found.balanced

    publisher.bus.subscribe(Recorder(publisher.store.events, publisher.store.audit_log).subscription())

    async def recorded() -> bool:
        found = await reconciler.compare(now - timedelta(hours=1), now + timedelta(minutes=1))
        return (found.total.published, found.total.in_flight) == (2, 0)

    await eventually(recorded)
