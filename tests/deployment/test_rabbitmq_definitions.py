"""The broker's definitions: the topology of the code, and least privilege for each user."""

import json
import re
from typing import Any

import pytest

from contracts.events import EVENTS
from deploy.make_secrets import TEMPLATE
from libs.bus.port import Exchange, Mode
from libs.bus.rabbit.topology import BROADCASTS, POOLS, Pool, topology
from tests.deployment.wiring import SERVICES, wired

STEMS = {
    "grants": {"code", "grant", "token"},
    "clients": {"client"},
    "apis": {"api"},
    "policies": {"policy"},
    "operators": {"operator"},
    "resource_owners": {"resource_owner"},
    "users": {"user"},
    "deliveries": {"notification"},
}
"""First word of the routing keys of each collection's events."""

DEFINITIONS: dict[str, list[dict[str, Any]]] = json.loads(TEMPLATE.read_text())


def permits(user: str, deed: str, name: str) -> bool:
    """Whether this user may configure, write or read the exchange or queue."""
    (permission,) = [row for row in DEFINITIONS["permissions"] if row["user"] == user]
    return re.search(permission[deed], name) is not None


def permits_topic(user: str, deed: str, key: str, exchange: str = Exchange.EVENTS) -> bool:
    """Whether the user may publish or bind with this routing key."""
    rows = DEFINITIONS["topic_permissions"]
    (permission,) = [row for row in rows if (row["user"], row["exchange"]) == (user, exchange)]
    return re.search(permission[deed], key) is not None


def own_queue(service: str) -> str:
    """A queue that a service instance declares for broadcasts."""
    return f"{BROADCASTS}.catalog.{service}@f3a9c1d2e4b5:1.9f86d081"


def test_definitions_are_the_topology_of_the_code() -> None:
    """The definitions contain exactly the exchanges, queues, arguments and bindings that services expect."""
    assert {section: DEFINITIONS[section] for section in topology()} == topology()


def test_every_service_has_its_own_user() -> None:
    """One user for each service, for a downstream system and for dead letters. None has a tag, so none can use the
    management API.
    """
    assert DEFINITIONS["users"] == [{"name": name, "tags": []} for name in (*SERVICES, "subscriber", "dead_letters")]
    assert {row["vhost"] for row in DEFINITIONS["permissions"] + DEFINITIONS["topic_permissions"]} == {"/"}


def test_every_pool_has_one_consumer_that_asks_for_its_keys() -> None:
    """Every queue has one consumer, bound with its routing keys. Services declare nothing, so a missing binding would
    lose events.
    """
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
    """A service may read its queues, and declare, bind and read its broadcast queues with its routing keys."""
    for subscription in wired(service).subscriptions:
        if subscription.mode is Mode.POOL:
            assert permits(service, "read", f"tokenwire.{subscription.name}")
            continue
        queue = f"{BROADCASTS}.{subscription.name}.{service}@f3a9c1d2e4b5:1.9f86d081"
        assert all(permits(service, deed, queue) for deed in ("configure", "write", "read"))
        assert permits(service, "read", subscription.exchange)
        if subscription.pulse is not None:
            assert all(permits(service, deed, Exchange.TICKS) for deed in ("write", "read"))
        assert all(permits_topic(service, "read", key) for key in subscription.keys)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_may_publish_the_events_of_its_collections_and_no_others(service: str) -> None:
    """A service may publish only its own collections' events, so a compromised one cannot forge another's."""
    stems = {stem for collection in wired(service).publishes_from for stem in STEMS[collection]}
    every = {stem for stems in STEMS.values() for stem in stems}
    assert {stem for stem in every if permits_topic(service, "write", f"{stem}.some.api-1")} == stems
    assert permits(service, "write", "tokenwire.events") is bool(stems)
    assert permits(service, "write", "tokenwire.pools") is bool(stems)
    if stems:
        assert {
            stem for stem in every if permits_topic(service, "write", f"{stem}.some.api-1", Exchange.POOLS)
        } == stems
        assert not permits_topic(service, "read", "token.new.api-1", Exchange.POOLS)
    assert permits(service, "write", "tokenwire.notify") is ("token" in stems)


def test_every_event_belongs_to_a_collection() -> None:
    """Every event type is in this test's table."""
    assert {event.stem.partition(".")[0] for event in EVENTS} == {stem for stems in STEMS.values() for stem in stems}


@pytest.mark.parametrize("user", [*SERVICES, "subscriber", "dead_letters"])
def test_a_user_has_no_right_beyond_these(user: str) -> None:
    """No user has further rights: none may configure the topology, read another's queue or write to a queue directly.

    Only the notifier reads encrypted notifications; only the dead-letter user reads dead letters.
    """
    exchanges = ["", "amq.default", "amq.topic", *(exchange["name"] for exchange in DEFINITIONS["exchanges"])]
    queues = [name for pool in POOLS for name in (pool.queue, pool.dead_letter_queue)]
    others = [own_queue(service) for service in SERVICES if service != user]
    everything = [*exchanges, *queues, *others, own_queue(user), "sub.billing", "tokenwire.events.x", "x.sub.billing"]
    mine = {"subscriber": {"sub.billing"}, "dead_letters": set()}.get(user, {own_queue(user)})
    listens = set() if user == "dead_letters" else {"tokenwire.events"}
    ticks = {"tokenwire.ticks"} if user in SERVICES else set()
    consumed = {
        "revocation": {"tokenwire.revocation"},
        "notifier": {"tokenwire.notifier"},
        "management": {"tokenwire.management", "tokenwire.event_log"},
        "dead_letters": {pool.dead_letter_queue for pool in POOLS},
    }.get(user, set())
    published = {
        "gateway": set(),
        "subscriber": set(),
        "notifier": {"tokenwire.events", "tokenwire.pools"},
        "management": {"tokenwire.events", "tokenwire.pools"},
        "dead_letters": {"tokenwire.dlx", "tokenwire.ticks"},  # the doctor's probe
    }.get(user, {"tokenwire.events", "tokenwire.notify", "tokenwire.pools"})
    rights = {
        deed: {name for name in everything if permits(user, deed, name)} for deed in ("configure", "write", "read")
    }
    if user == "dead_letters":
        rights["configure"].remove("")  # `^$` matches no exchange: the default one is checked as amq.default
    assert rights == {
        "configure": mine,
        "write": mine | published | ticks,
        "read": mine | listens | consumed | ticks,
    }


def test_b1_a_policy_keeps_subscribers_queues_from_refusing() -> None:
    """On quorum queues the policy overrides x-overflow and bounds what absent subscribers accumulate.

    It applies to no queue of Tokenwire's own.
    """
    (policy,) = DEFINITIONS["policies"]
    assert policy["definition"]["overflow"] == "drop-head"
    assert {"max-length", "max-length-bytes"} <= policy["definition"].keys()
    assert re.search(policy["pattern"], "sub.billing")
    assert not [
        pool for pool in POOLS for name in (pool.queue, pool.dead_letter_queue) if re.search(policy["pattern"], name)
    ]
