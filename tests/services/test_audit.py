"""GET /api/events/audit: what was committed, against what the bus and the webhooks brought."""

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
from libs.bus.port import Message
from libs.bus.rabbit import RabbitBus
from libs.runtime import Deps, new_application, new_deps, utc_now
from libs.settings import Settings
from libs.telemetry import exposition
from services.management.audit import show
from services.management.balance import Auditor
from services.management.recorder import Recorder
from tests.builders import api_document, make_api, make_client, running, settings, settle
from tests.eventually import eventually
from tests.services.system import SCHEME, Party, System, Tokens, open_system

LEDGERS = {"grants", "apis", "clients", "policies", "resource_owners", "operators", "deliveries"}
NOTIFIED = {f"{SCHEME}notifications": {"onKeyChangeUrl": "http://127.0.0.1:9/hook", "sharedSecret": "a-shared-secret"}}


class Bus(LocalBus):
    """A bus that can be told to take nothing."""

    refusing = False

    async def publish(self, messages: Sequence[Message]) -> Sequence[bool]:
        return [False] * len(messages) if self.refusing else await super().publish(messages)


@pytest.fixture(name="bus")
def _bus() -> Bus:
    return Bus()


@pytest.fixture(name="system")
async def _system(mongodb_url: str, bus: Bus) -> AsyncIterator[System]:
    """On a database of its own: an audit is about everything in it."""
    async with open_system(mongodb_url, bus=bus) as system:
        yield system


async def audit(system: System) -> dict[str, Any]:
    """The sheet of everything so far, once what was announced has arrived; its sums are checked."""
    await settle(system.deps)
    system.clock.advance(0.001)
    answer = await system.operator("GET", "/api/events/audit")
    assert answer.status == 200, answer.body
    assert answer.headers["Cache-Control"] == "no-store"
    found: dict[str, Any] = answer.body
    assert set(found["collections"]) == LEDGERS
    for line in (found["total"], *found["collections"].values()):
        assert line["committed"] == line["published"] + line["pending"] + line["in_flight"] + line["missing"], line
    for name, count in found["total"].items():
        assert count == sum(line[name] for line in found["collections"].values()), name
    webhooks = dict(found["notifications"])
    assert webhooks["published"] == found["collections"]["grants"]["published"]
    assert webhooks.pop("published") == sum(webhooks.values())
    return found


async def story(party: Party) -> Tokens:
    """A grant with three events that lives."""
    first = await party.tokens()
    return await party.refreshed(first.refresh)


async def recorded(system: System, **query: Any) -> dict[str, Any]:
    """What is recorded of the one event that this query finds."""
    (document,) = await system.deps.store.mongo["events"].find(query).to_list(None)
    return dict(document)


async def test_everything_that_was_committed_went_out(system: System) -> None:
    """Every event of every kind of record is counted by its record and was brought by the bus."""
    party = await system.party()
    await story(party)
    await system.user()
    doomed = await system.client_of(party.api)
    await story(doomed)
    clients = system.deps.store.clients
    assert await clients.delete(doomed.client, ClientDeletion.CLIENT_DELETED, system.deps.origin("tests"))

    async def ended() -> dict[str, Any]:
        found = await audit(system)
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
        "operators": 1,
        "deliveries": 0,
    }
    assert found["recording"] == {"waiting": 0, "parked": 0}


async def test_a_lost_event_is_missing(system: System) -> None:
    """An event that its record counts, does not carry and nobody saw is lost, and named; at first it may be late."""
    grant = await system.grant_of((await story(await system.party())).access)
    assert (await audit(system))["balanced"] is True
    await system.deps.store.mongo["events"].delete_one({"subject": grant.grant_id, "sequence": 3})

    late = await audit(system)
    assert (late["total"]["in_flight"], late["total"]["missing"], late["balanced"]) == (1, 0, True)

    system.clock.advance(11)
    lost = await audit(system)
    assert (lost["total"]["in_flight"], lost["total"]["missing"], lost["balanced"]) == (0, 1, False)
    assert lost["examples"] == [{"fault": "missing", "collection": "grants", "subject": grant.grant_id, "sequence": 3}]


async def test_an_old_event_is_lost_however_young_its_record_is(system: System) -> None:
    """What a record did before an event that is old is old as well, even if it did something else just now."""
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

    found = await audit(system)
    assert (found["total"]["missing"], found["total"]["in_flight"]) == (1, 1)
    assert [example["sequence"] for example in found["examples"]] == [1]


async def test_what_the_bus_refuses_is_pending(system: System, bus: Bus) -> None:
    """With the bus away everything committed waits in its record, however long, and the sheet balances."""
    await audit(system)
    bus.refusing = True
    party = await system.party()
    await story(party)
    system.clock.advance(3600)
    found = await audit(system)
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
async def test_what_nobody_committed_is_found(system: System, changes: dict[str, Any], fault: str) -> None:
    """An event on the bus that no record counts, or a second one for the same change, unbalances the sheet."""
    grant = await system.grant_of((await story(await system.party())).access)
    await settle(system.deps)
    true = await recorded(system, subject=grant.grant_id, sequence=3)
    false = {**true, "_id": true["_id"][:-4] + secrets.token_hex(2), "notify": False, **changes}
    await system.deps.store.mongo["events"].insert_one(false)

    found = await audit(system)
    assert (found["total"][fault], found["total"]["missing"], found["balanced"]) == (1, 0, False)
    assert found["examples"] == [
        {"fault": fault, "collection": "grants", "subject": false["subject"], "sequence": false["sequence"]}
    ]


async def test_a_record_made_again_is_counted_anew(system: System) -> None:
    """Of a name that was used before, only the events since it was made again count."""
    party = await system.party()
    clients, at = system.deps.store.clients, system.deps.origin
    assert await clients.delete(party.client, ClientDeletion.CLIENT_DELETED, at("tests"))
    assert (await audit(system))["collections"]["clients"]["committed"] == 2

    system.clock.advance(60)
    again = party.client.model_copy(update={"created_at": system.clock(), "updated_at": system.clock()})
    again = await clients.register(again, at("tests"))
    assert await clients.edit(again, {"name": "again"}, at("tests")) is not None

    found = await audit(system)
    assert found["collections"]["clients"]["committed"] == 2
    assert found["balanced"] is True
    await system.deps.store.mongo["events"].delete_one({"subject": party.id, "sequence": 3})
    system.clock.advance(60)
    assert (await audit(system))["total"]["missing"] == 1


async def test_every_notification_is_somewhere(system: System) -> None:
    """A published event that is notified is with its grant, or a delivery in some state; or else it is lost."""
    party = await system.party(api_document(**NOTIFIED))
    for _ in range(5):
        await party.tokens()
    found = await audit(system)
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

    found = await audit(system)
    assert {name: found["notifications"][name] for name in (*DeliveryState, "handover", "missing")} == {
        **{state.value: 1 for state in DeliveryState},
        "handover": 0,
        "missing": 1,
    }
    assert found["balanced"] is False
    assert [(each["fault"], each["subject"]) for each in found["examples"]] == [("not_notified", waiting[-1].owner)]


def delivery_of(system: System, event: PendingEvent, state: DeliveryState) -> Delivery:
    """As the notifier would have it."""
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


async def test_what_is_recorded_says_which_and_not_what(system: System) -> None:
    """Of an event there are its ids, its type and its time, for eight days; of a token not even the public id."""
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
    """`from` is inclusive, `to` exclusive, by when the record was made; its later events count with it."""
    first = await system.party()
    tokens = await first.tokens()
    at = system.clock()
    system.clock.advance(100)
    await story(first)
    await first.refreshed(tokens.refresh)
    await settle(system.deps)
    system.clock.advance(100)

    async def committed(**bounds: str) -> int:
        answer = await system.operator("GET", "/api/events/audit/", params=bounds)
        assert answer.body["balanced"] is True
        return int(answer.body["collections"]["grants"]["committed"])

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
    """400 in the Dashboard's envelope, which says what was expected."""
    answer = await system.operator("GET", f"/api/events/audit?{query}")
    assert answer.status == 400
    assert answer.message


async def test_the_sheet_is_in_the_metrics(system: System) -> None:
    """Each line and the balance as gauges, as of the last audit."""
    await story(await system.party())
    await settle(system.deps)
    system.clock.advance(0.001)
    auditor = Auditor(system.deps.store, system.deps.bus, system.clock)
    now = system.clock()
    show(await auditor.audit(now - timedelta(minutes=15), now), now)
    lines = exposition().decode().splitlines()
    assert 'tokenwire_audit_events{collection="grants",state="committed"} 3.0' in lines
    assert 'tokenwire_audit_events{collection="grants",state="published"} 3.0' in lines
    assert 'tokenwire_audit_notifications{state="handover"} 2.0' in lines
    assert "tokenwire_audit_balanced 1.0" in lines

    await system.deps.store.mongo["events"].delete_many({"collection": "grants"})
    system.clock.advance(20)
    show(await auditor.audit(now - timedelta(minutes=15), now), now)
    lines = exposition().decode().splitlines()
    assert 'tokenwire_audit_events{collection="grants",state="missing"} 3.0' in lines
    assert "tokenwire_audit_balanced 0.0" in lines


async def test_it_balances_over_the_broker(mongodb_url: str, amqp_url: str) -> None:
    """The same on RabbitMQ, where events come some time after they were confirmed, and in any order."""
    async with open_system(mongodb_url, bus=RabbitBus(amqp_url, instance_name="audit-test")) as system:
        party = await system.party()
        for _ in range(20):
            await story(party)

        async def arrived() -> dict[str, Any]:
            found = await audit(system)
            assert found["total"]["published"] == found["total"]["committed"]
            return found

        found = await eventually(arrived)
        assert found["collections"]["grants"]["committed"] == 60
        assert found["balanced"] is True


@pytest.fixture(name="publisher")
async def _publisher(mongodb_url: str, database_name: str, amqp_url: str) -> AsyncIterator[Deps]:
    """A process on RabbitMQ that publishes and records nothing."""
    configured = settings(Settings, mongodb_url, database_name, amqp_url=amqp_url)
    deps = new_deps(configured, "tests")
    async with running(new_application(configured, deps)):
        yield deps


async def test_what_waits_to_be_recorded_is_not_lost(publisher: Deps) -> None:
    """While events wait in the queue of the recording, however long, nothing is said to be missing; then they count."""
    await make_client(publisher, await make_api(publisher))
    await publisher.outbox.drain()
    auditor = Auditor(publisher.store, publisher.bus, lambda: utc_now() + timedelta(hours=1))
    now = utc_now()

    found = await auditor.audit(now - timedelta(hours=1), now + timedelta(minutes=1))
    assert (found.total.in_flight, found.total.missing, found.recording.waiting) == (2, 0, 2)
    assert found.balanced

    publisher.bus.subscribe(Recorder(publisher.store.events, publisher.store.trail).subscription())

    async def recorded() -> bool:
        found = await auditor.audit(now - timedelta(hours=1), now + timedelta(minutes=1))
        return (found.total.published, found.total.in_flight) == (2, 0)

    await eventually(recorded)
