"""The life of a delivery under every order of claims, results and crashes that Hypothesis finds, in virtual time."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import ClassVar, TypeVar

import orjson
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pydantic import SecretStr

from contracts.events import PendingEvent
from contracts.webhooks import Attempt, Delivery, DeliveryState
from libs.encryption import Opener, Sealer, public_key_of
from libs.event_encoding import EventContext, new_event_id
from libs.outbound.signing import WebhookSecrets
from libs.store.deliveries import KEPT, Deliveries
from libs.store.mongo import Conflict, Mongo
from services.notifier.client import Outcome, WebhookTrace
from services.notifier.endpoints import EndpointLimiter
from services.notifier.retry import RETRY_SCHEDULE, RetrySchedule
from services.notifier.worker import DeliveryWorker
from tests.builders import NOTIFIER_KEY, unique

START = datetime(2026, 3, 1, 12, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
LEASE = timedelta(seconds=30)
API = "api-1"
URL = "http://endpoint.example.test/hook"
SHORT = RetrySchedule(RETRY_SCHEDULE.delays[:2])
PENDING, DELIVERED = DeliveryState.PENDING, DeliveryState.DELIVERED
EXHAUSTED, DISCARDED = DeliveryState.EXHAUSTED, DeliveryState.DISCARDED
OVER = {DELIVERED, EXHAUSTED, DISCARDED}

T = TypeVar("T")


@dataclass
class Endpoint:
    """Stands in for the network: receives webhooks and responds as told."""

    status: int | None = 204
    retry_after: timedelta | None = None
    now: datetime = START
    got: list[tuple[str, bytes]] = field(default_factory=list)

    async def send(self, url: str, secrets: WebhookSecrets, webhook_id: str, body: bytes, _: WebhookTrace) -> Outcome:
        assert (url, secrets.keys(self.now)) == (URL, ["secret"])
        self.got.append((webhook_id, body))
        error = None if self.status else "no response"
        return Outcome(Attempt(at=self.now, latency_ms=1, status=self.status, error=error), self.retry_after)


@dataclass
class Expected:
    """The expected state of a delivery."""

    body: bytes
    give_up_at: datetime
    due: datetime | None
    state: DeliveryState = PENDING
    lease: datetime | None = None
    turn: int = 0
    """Incremented whenever earlier claims become invalid."""
    retries: int = 0
    attempts: int = 0
    stems: list[str] = field(default_factory=list)
    """Types of its events."""
    published: int = 0
    updated: datetime = START

    @property
    def claimable(self) -> datetime | None:
        """From when a notifier may claim it."""
        if self.state is not PENDING or self.due is None:
            return None
        return max(self.due, self.lease) if self.lease else self.due

    def is_free(self, now: datetime) -> bool:
        return self.claimable is not None and self.claimable <= now

    def over(self, state: DeliveryState, now: datetime, stem: str | None = None) -> None:
        self.state, self.due, self.lease, self.updated = state, None, None, now
        self.turn += 1
        if stem:
            self.stems.append(stem)

    def fall(self, due: datetime, now: datetime) -> None:
        self.due, self.lease, self.updated, self.retries = due, None, now, self.retries + 1
        self.turn += 1
        self.stems.append("failed")


@dataclass
class Held:
    """A delivery that a notifier has claimed, with the turn at that time."""

    delivery: Delivery
    turn: int


@dataclass
class Notifier:
    """One notifier process."""

    worker: DeliveryWorker
    limiter: EndpointLimiter
    held: list[Held] = field(default_factory=list)


ATTEMPT_RESULTS = st.sampled_from([204, 204, 500, 500, 500, None, 302, 429, 410])


class AnyDelivery(RuleBasedStateMachine):
    """The guarantees for a webhook under any sequence of actions, with the real store and delivery rules.

    Several notifiers share one MongoDB. The rules control the clock.
    """

    runner: ClassVar[asyncio.Runner]
    mongo: ClassVar[Mongo]

    @initialize(schedule=st.sampled_from([RETRY_SCHEDULE, SHORT]))
    def begin(self, schedule: RetrySchedule) -> None:
        self.now = START
        self.schedule = schedule
        self.chance = 0.5
        self.expected: dict[str, Expected] = {}
        self.events: list[PendingEvent] = []
        self.endpoint = Endpoint()
        self.deliveries = Deliveries(self.mongo, lambda _, event: self.events.append(event))
        self.notifiers = [self.started() for _ in range(3)]

    def teardown(self) -> None:
        self.wait(self.mongo["deliveries"].delete_many({}))

    def wait(self, awaitable: Awaitable[T]) -> T:
        async def waiting() -> T:
            return await awaitable

        return self.runner.run(waiting())

    def started(self) -> Notifier:
        """A notifier without state."""
        limiter = EndpointLimiter(total=64, per_endpoint=16, now=lambda: self.now)
        worker = DeliveryWorker(
            self.deliveries,
            Opener([NOTIFIER_KEY]),
            self.endpoint,  # type: ignore[arg-type]
            limiter,
            self.schedule,
            lambda: self.now,
            lambda: self.chance,
        )
        return Notifier(worker, limiter)

    def free(self) -> dict[str, Expected]:
        return {name: each for name, each in self.expected.items() if each.is_free(self.now)}

    # Commands and claims

    @rule(who=st.integers(0, 2), at_once=st.booleans())
    def a_command_comes(self, who: int, at_once: bool) -> None:
        """A command is stored, leased if it is to be sent at once; a repeated one is refused."""
        notifier, identifier = self.notifiers[who], new_event_id(self.now)
        at_once = at_once and notifier.limiter.acquire(notifier.limiter.endpoint(URL)) == 1
        lease = self.now + LEASE if at_once else None
        body = f'{{"new_oauth_token":"{unique("tw_at")}"}}'.encode()
        delivery = Delivery(
            delivery_id=identifier,
            state=PENDING,
            api_id=API,
            client_id="client-1",
            grant_id="grant-1",
            event_type="token.new",
            event_at=self.now,
            sealed=Sealer(public_key_of(NOTIFIER_KEY)).seal(body),
            next_attempt_at=self.now,
            lease_until=lease,
            give_up_at=self.now + self.schedule.max_age,
            created_at=self.now,
            updated_at=self.now,
        )
        self.wait(self.deliveries.add(delivery))
        with pytest.raises(Conflict):
            self.wait(self.deliveries.add(delivery))
        self.expected[identifier] = Expected(body, delivery.give_up_at, self.now, lease=lease, updated=self.now)
        if at_once:
            notifier.held.append(Held(delivery, 0))

    @rule(who=st.integers(0, 2), wanted=st.integers(1, 3))
    def a_notifier_claims(self, who: int, wanted: int) -> None:
        """A claim returns what is due and free, the longest due first, and nothing else."""
        notifier = self.notifiers[who]
        endpoint = notifier.limiter.endpoint(URL)
        if not (slots := notifier.limiter.acquire(endpoint, wanted)):
            return
        free = self.free()
        claimed = self.wait(self.deliveries.claim(API, slots, self.now + LEASE, self.now)).deliveries
        notifier.limiter.release(endpoint, slots - len(claimed))
        names = [delivery.delivery_id for delivery in claimed]
        assert set(names) <= set(free)
        moments = sorted(each.claimable for each in free.values() if each.claimable)
        assert sorted(free[name].claimable or START for name in names) == moments[:slots]
        for delivery in sorted(claimed, key=lambda each: list(self.expected).index(each.delivery_id)):
            self.leased(delivery, notifier)

    def leased(self, delivery: Delivery, notifier: Notifier) -> None:
        each = self.expected[delivery.delivery_id]
        each.lease, each.turn = self.now + LEASE, each.turn + 1
        notifier.held.append(Held(delivery, each.turn))

    # Results

    @precondition(lambda self: any(notifier.held for notifier in self.notifiers))
    @rule(
        data=st.data(),
        status=ATTEMPT_RESULTS,
        asked=st.sampled_from([None, None, 1, 60, 3600, 10**6]),
        chance=st.floats(0, 0.999),
    )
    def a_webhook_is_answered(self, data: st.DataObject, status: int | None, asked: int | None, chance: float) -> None:
        """A result counts, however late, unless the delivery was claimed again since; otherwise it is ignored."""
        holding = [each for each in self.notifiers if each.held]
        notifier = holding[data.draw(st.integers(0, len(holding) - 1))]
        held = notifier.held.pop(data.draw(st.integers(0, len(notifier.held) - 1)))
        self.carry(notifier, held, status, asked, chance)

    def carry(self, notifier: Notifier, held: Held, status: int | None, asked: int | None, chance: float) -> None:
        name = held.delivery.delivery_id
        each = self.expected[name]
        self.chance, self.endpoint.status, self.endpoint.now = chance, status, self.now
        self.endpoint.retry_after = timedelta(seconds=asked) if asked else None
        before = len(self.endpoint.got)

        async def carried() -> None:
            endpoint = notifier.limiter.endpoint(URL)
            await notifier.worker.start(held.delivery, endpoint, WebhookSecrets(SecretStr("secret"))).task

        self.wait(carried())
        assert self.endpoint.got[before:] == [(name, each.body)]
        if held.turn == each.turn:
            each.attempts += 1
            self.follow(each, name, status)

    def follow(self, each: Expected, name: str, status: int | None) -> None:
        if status is not None and 200 <= status < 300:
            each.over(DELIVERED, self.now, "delivered")
        elif status == 410 or each.retries == len(self.schedule.delays):
            each.over(EXHAUSTED, self.now, "exhausted")
        else:
            found = self.wait(self.deliveries.get(name))
            assert found is not None
            assert found.next_attempt_at is not None
            self.in_bounds(found.next_attempt_at - self.now, self.schedule.delays[each.retries])
            each.fall(found.next_attempt_at, self.now)

    def in_bounds(self, delay: timedelta, scheduled: timedelta) -> None:
        """Within a fifth of the scheduled delay; longer if the endpoint asked for it, up to the longest delay."""
        asked = min(self.endpoint.retry_after or timedelta(), max(self.schedule.delays))
        assert max(scheduled * 0.8, asked) - MILLISECOND <= delay <= max(scheduled * 1.2, asked) + MILLISECOND

    @precondition(lambda self: any(each.claimable for each in self.expected.values()))
    @rule(who=st.integers(0, 2), status=ATTEMPT_RESULTS, chance=st.floats(0, 0.999))
    def the_next_one_is_tried(self, who: int, status: int | None, chance: float) -> None:
        """Advance the clock until something is due; a new notifier claims and attempts it."""
        self.a_notifier_dies(who)
        self.now = max(self.now, min(each.claimable for each in self.expected.values() if each.claimable))
        self.a_notifier_claims(who, 1)
        (held,) = self.notifiers[who].held
        self.notifiers[who].held.clear()
        self.carry(self.notifiers[who], held, status, None, chance)

    @rule(who=st.integers(0, 2))
    def a_notifier_dies(self, who: int) -> None:
        """A dead notifier's deliveries are free when their leases end."""
        self.notifiers[who] = self.started()

    @rule(who=st.integers(0, 2))
    def a_notifier_stops(self, who: int) -> None:
        """A stopped notifier's deliveries are free at once, unless claimed by others since; no attempt is counted."""
        held = self.notifiers[who].held
        released = self.wait(self.deliveries.release([each.delivery for each in held], self.now))
        current = [each for each in held if self.expected[each.delivery.delivery_id].turn == each.turn]
        assert {each.delivery_id for each in released} == {each.delivery.delivery_id for each in current}
        for each in current:
            expected = self.expected[each.delivery.delivery_id]
            expected.lease, expected.turn = None, expected.turn + 1
            assert expected.due is not None
        self.notifiers[who] = self.started()

    # Other actions

    @precondition(lambda self: self.expected)
    @rule(data=st.data())
    def an_operator_redelivers(self, data: st.DataObject) -> None:
        """A redelivery makes a delivery that has a body and is not in progress due now with a full retry schedule; old
        claims are invalid.
        """
        name = list(self.expected)[data.draw(st.integers(0, len(self.expected) - 1))]
        each, found = self.expected[name], self.wait(self.deliveries.get(name))
        assert found is not None
        assert (found.sealed is None) == (each.state in {DELIVERED, DISCARDED})
        if found.sealed is None or (each.lease and each.lease > self.now):
            return
        give_up_at = self.now + self.schedule.max_age
        assert self.wait(self.deliveries.redeliver(found, give_up_at, self.event_context()))
        each.stems.append("redelivered")
        each.state, each.due, each.lease, each.retries = PENDING, self.now, None, 0
        each.give_up_at, each.updated, each.turn = give_up_at, self.now, each.turn + 1

    @rule()
    def what_is_overdue_is_given_up(self) -> None:
        """Free deliveries past their maximum age become exhausted without another attempt."""
        overdue = {name for name, each in self.free().items() if each.give_up_at <= self.now}
        claimed = self.wait(self.deliveries.claim_overdue(100, self.now + LEASE, self.now)).deliveries
        assert {delivery.delivery_id for delivery in claimed} == overdue
        ctx = self.event_context()
        for delivery in claimed:
            assert self.wait(self.deliveries.exhausted(delivery, None, ctx))
            self.expected[delivery.delivery_id].over(EXHAUSTED, self.now, "exhausted")

    def event_context(self) -> EventContext:
        return EventContext("urn:tokenwire:notifier", self.now)

    @rule(seldom=st.integers(0, 9))
    def the_api_goes(self, seldom: int) -> None:
        """When the API is deleted, free deliveries are discarded without body. Rare, so that other states are
        reached.
        """
        if seldom < 9:
            return
        free = self.free()
        claimed = self.wait(self.deliveries.claim(API, 100, self.now + LEASE, self.now)).deliveries
        discarded = self.wait(self.deliveries.discarded(claimed, self.now))
        assert {delivery.delivery_id for delivery in discarded} == set(free)
        for each in free.values():
            each.over(DISCARDED, self.now)

    @rule()
    def its_events_are_published(self) -> None:
        """Publish all events so far."""
        self.wait(self.deliveries.clear(self.events))
        for each in self.expected.values():
            each.published = len(each.stems)

    # Time

    @rule(time=st.sampled_from([MILLISECOND, timedelta(seconds=6), timedelta(minutes=10), timedelta(hours=9)]))
    def time_passes(self, time: timedelta) -> None:
        self.now += time

    @rule(data=st.data(), beside=st.sampled_from([-MILLISECOND, timedelta(0), MILLISECOND]))
    def an_edge_comes_near(self, data: st.DataObject, beside: timedelta) -> None:
        """Advance the clock to just before, at, or just after the next due, free or overdue time."""
        edges = [
            moment for each in self.expected.values() for moment in (each.due, each.lease, each.give_up_at) if moment
        ]
        if to_come := sorted({edge + beside for edge in edges if edge + beside > self.now}):
            self.now = to_come[data.draw(st.integers(0, min(3, len(to_come) - 1)))]

    # Invariants

    @invariant()
    def mongodb_has_what_is_expected(self) -> None:
        """MongoDB has the expected state, attempts, times and body of every delivery, and its purge time."""
        documents = self.wait(self.mongo["deliveries"].find({}).to_list(None))
        assert {document["_id"] for document in documents} == set(self.expected)
        for document in documents:
            each = self.expected[document["_id"]]
            has = (document["state"], document["retries"], document["attempt_count"], document["next_attempt_at"])
            assert has == (each.state.value, each.retries, each.attempts, each.due)
            assert document["lease_until"] == each.lease
            assert (document["sealed"] is None) == (each.state in {DELIVERED, DISCARDED})
            assert document["updated_at"] == each.updated
            if each.state in {DELIVERED, EXHAUSTED}:
                going = each.updated + KEPT if each.published == len(each.stems) else None
                assert document.get("purge_at") == going
            elif each.state is PENDING:
                assert "purge_at" not in document

    @invariant()
    def every_end_and_every_failure_is_told_once(self) -> None:
        """Every result has one event, numbered without gaps and in order."""
        told: dict[str, list[str]] = {name: [] for name in self.expected}
        for event in self.events:
            body = orjson.loads(event.body)
            stems = told[body["subject"]]
            stems.append(body["type"].rpartition(".")[2])
            assert int(body["sequence"]) == len(stems)
        assert told == {name: each.stems for name, each in self.expected.items()}

    @invariant()
    def no_delivery_has_more_retries_than_the_schedule(self) -> None:
        """No more failures are counted than the schedule has attempts, however often notifiers die."""
        assert all(each.retries <= len(self.schedule.delays) for each in self.expected.values())


@contextmanager
def opened(url: str, database: str) -> Iterator[None]:
    """Open an event loop and a MongoDB for the machine."""
    with asyncio.Runner() as runner:
        mongo = Mongo(url, database)
        Deliveries(mongo)

        async def open_it() -> None:
            await mongo.open()
            await mongo.prepared()

        runner.run(open_it())
        AnyDelivery.runner, AnyDelivery.mongo = runner, mongo
        yield
        runner.run(mongo.close())


def test_any_delivery(mongodb_url: str, database_name: str) -> None:
    """The guarantees hold under any sequence of actions and number of notifiers."""
    with opened(mongodb_url, database_name):
        run_state_machine_as_test(
            AnyDelivery,
            settings=settings(max_examples=50, stateful_step_count=30),
        )
