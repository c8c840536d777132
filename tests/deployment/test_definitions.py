"""The broker's definitions: the topology of the code, and for each user only the rights that its service uses."""

import json
import re
from typing import Any, get_args

import pytest

from contracts.events import AnyEvent, Event
from deploy.make_secrets import TEMPLATE
from libs.bus.port import Mode
from libs.bus.rabbit.topology import BROADCASTS, POOLS, Pool, topology
from tests.deployment.wiring import SERVICES, wired

STEMS = {
    "grants": {"code", "grant", "token"},
    "clients": {"client"},
    "apis": {"api"},
    "policies": {"policy"},
    "operators": {"operator"},
    "resource_owners": {"resource_owner"},
    "deliveries": {"notification"},
}
"""First word of the routing keys of each collection's events."""

DEFINITIONS: dict[str, list[dict[str, Any]]] = json.loads(TEMPLATE.read_text())


def permits(user: str, deed: str, name: str) -> bool:
    """Whether the broker lets this user configure, write or read the exchange or queue."""
    (permission,) = [row for row in DEFINITIONS["permissions"] if row["user"] == user]
    return re.search(permission[deed], name) is not None


def permits_topic(user: str, deed: str, key: str) -> bool:
    """Whether the user may publish, or bind, with this routing key on the events' exchange."""
    (permission,) = [row for row in DEFINITIONS["topic_permissions"] if row["user"] == user]
    return re.search(permission[deed], key) is not None


def own_queue(service: str) -> str:
    """A queue that an instance of the service makes for broadcasts."""
    return f"{BROADCASTS}.catalog.{service}@f3a9c1d2e4b5:1.9f86d081"


def test_definitions_are_the_topology_of_the_code() -> None:
    """What services expect to find is what the broker loads: exchanges, queues with their arguments, bindings."""
    assert {section: DEFINITIONS[section] for section in topology()} == topology()


def test_every_service_has_its_own_user() -> None:
    """One user a service, one for a downstream system and one for what is parked; none with a tag, so none opens the
    management API.
    """
    assert DEFINITIONS["users"] == [{"name": name, "tags": []} for name in (*SERVICES, "subscriber", "parking")]
    assert {row["vhost"] for row in DEFINITIONS["permissions"] + DEFINITIONS["topic_permissions"]} == {"/"}


def test_every_pool_has_one_consumer_that_asks_for_its_keys() -> None:
    """With definitions nobody declares anything: a binding missing here would be events that never arrive."""
    consumed = {
        (subscription.name, Pool(subscription.name, subscription.exchange, subscription.keys), service)
        for service in SERVICES
        for subscription in wired(service).subscriptions
        if subscription.mode is Mode.POOL
    }
    assert sorted(name for name, _, _ in consumed) == sorted(pool.name for pool in POOLS)
    assert {pool for _, pool, _ in consumed} == set(POOLS)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_do_what_its_subscriptions_need(service: str) -> None:
    """It reads its pools, and makes, binds and reads queues of its own for broadcasts, with the keys it asks for."""
    for subscription in wired(service).subscriptions:
        if subscription.mode is Mode.POOL:
            assert permits(service, "read", f"tokenwire.{subscription.name}")
            continue
        queue = f"{BROADCASTS}.{subscription.name}.{service}@f3a9c1d2e4b5:1.9f86d081"
        assert all(permits(service, deed, queue) for deed in ("configure", "write", "read"))
        assert permits(service, "read", subscription.exchange)
        assert all(permits_topic(service, "read", key) for key in subscription.keys)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_publish_the_events_of_its_collections_and_no_others(service: str) -> None:
    """A service that is taken over cannot announce what another one decides."""
    stems = {stem for collection in wired(service).publishes_from for stem in STEMS[collection]}
    every = {stem for stems in STEMS.values() for stem in stems}
    assert {stem for stem in every if permits_topic(service, "write", f"{stem}.some.api-1")} == stems
    assert permits(service, "write", "tokenwire.events") is bool(stems)
    assert permits(service, "write", "tokenwire.notify") is ("token" in stems)


def test_every_event_belongs_to_a_collection() -> None:
    """The table of this test knows every type of event."""
    union, *_ = get_args(AnyEvent)
    events: tuple[type[Event], ...] = get_args(union)
    assert {event.stem.partition(".")[0] for event in events} == {stem for stems in STEMS.values() for stem in stems}


@pytest.mark.parametrize("user", [*SERVICES, "subscriber", "parking"])
def test_a_user_has_no_right_beyond_these(user: str) -> None:
    """The whole matrix: nobody configures the topology, reads another's queue, or writes to a queue behind its
    exchange's back; sealed notifications are read by the notifier alone. What is parked is read, and sent back, by the
    user for that alone, who reads nothing else.
    """
    exchanges = ["", "amq.default", "amq.topic", "tokenwire.events", "tokenwire.notify", "tokenwire.dlx"]
    queues = [name for pool in POOLS for name in (pool.queue, pool.parked)]
    others = [own_queue(service) for service in SERVICES if service != user]
    everything = [*exchanges, *queues, *others, own_queue(user), "sub.billing", "tokenwire.events.x", "x.sub.billing"]
    mine = {"subscriber": {"sub.billing"}, "parking": set()}.get(user, {own_queue(user)})
    listens = set() if user == "parking" else {"tokenwire.events"}
    consumed = {
        "revocation": {"tokenwire.revocation"},
        "notifier": {"tokenwire.notifier"},
        "management": {"tokenwire.management", "tokenwire.audit"},
        "parking": {pool.parked for pool in POOLS},
    }.get(user, set())
    published = {
        "gateway": set(),
        "subscriber": set(),
        "notifier": {"tokenwire.events"},
        "management": {"tokenwire.events"},
        "parking": {"tokenwire.dlx"},
    }.get(user, {"tokenwire.events", "tokenwire.notify"})
    rights = {
        deed: {name for name in everything if permits(user, deed, name)} for deed in ("configure", "write", "read")
    }
    if user == "parking":
        rights["configure"].remove("")  # `^$`, which means nothing at all: the default exchange's name is amq.default
    assert rights == {
        "configure": mine,
        "write": mine | published,
        "read": mine | listens | consumed,
    }
