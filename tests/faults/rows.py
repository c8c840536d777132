"""The rows of the kill matrix: each injects one kind of fault while clients use tokens."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from aio_pika.abc import AbstractIncomingMessage

from libs.runtime import utc_now
from tests.acceptance.tenants import SCHEME, Tenant, new_tenant
from tests.faults.compliant import CompliantClient, lost_logins, survivors_of_replay
from tests.faults.holders import Held, Holder, Holdings, Load
from tests.faults.judge import Evidence, Verdict, judge
from tests.faults.points import POINTS
from tests.faults.queues import (
    LIMIT,
    Phases,
    bound_queue,
    event_log_at_limit,
    held_up,
    none_refused,
    quiet_phase,
    some_refused,
    too_many_duplicates,
)
from tests.faults.stack import INSTANCES, USUAL, Arming
from tests.faults.witnesses import redirecting
from tests.faults.world import Watched, World
from tests.notifications import Behaviour, answering, dripping, hanging, pouring, resetting
from tests.stalls import STALL, watching_for_stalls

REACHED_WITHIN = 180.0
"""Seconds in which the load, or a process that is to die, gets somewhere; a fraction of that on two idle cores."""


@dataclass(frozen=True)
class Scale:
    """The size of a run."""

    tokens: int
    """A row ends when its clients hold at least this many tokens."""
    holders: int
    pause: float
    """Seconds between two requests of a client."""
    quiet_pause: float
    """The same in rows that stop a server, so that it can restart on a machine that is not busy."""
    rounds: int
    """How often a row repeats its fault."""
    latest: int
    """A process dies at a random passage between the first and this one."""
    away: float
    """Seconds for which a server is stopped or frozen."""
    trouble: float
    """Seconds for which a receiver misbehaves: once, or repeatedly until every armed process has died."""
    one_by_one: bool
    """True: a rolling restart stops one process after another. False: one process of every service at a time."""
    settle_within: float
    sample: int
    """Number of grants whose tokens are tried at the gateway."""
    stops_within: float
    """Seconds from SIGTERM to the end of a process."""
    slack: float | None
    """While a queue is in trouble, delays up to this many seconds are no complaint. None: delays are only noted, and
    requests may fail while the machine stands still."""
    repeated: float
    """Allowed duplicates as a fraction of the distinct events."""


FULL = Scale(
    tokens=330,
    holders=16,
    pause=0.04,
    quiet_pause=0.4,
    rounds=2,
    latest=25,
    away=10.0,
    trouble=3.0,
    one_by_one=True,
    settle_within=120.0,
    sample=25,
    stops_within=10.0,
    slack=1.0,
    repeated=0.05,
)
"""For a machine that does nothing else: delays and duplicates depend on its speed."""
SHORT = Scale(
    tokens=40,
    holders=8,
    pause=0.02,
    quiet_pause=0.25,
    rounds=1,
    latest=4,
    away=2.0,
    trouble=1.5,
    one_by_one=False,
    settle_within=180.0,
    sample=6,
    stops_within=60.0,
    slack=None,
    repeated=1.0,
)
"""For any machine: what depends on its speed is noted or generously bounded."""


@dataclass
class Scene:
    """A row in progress."""

    watched: Watched
    scale: Scale
    rng: random.Random
    tenants: list[Tenant]
    load: Load
    phases: Phases = field(default_factory=Phases)
    stalled_for: float = 0.0
    """The longest time in seconds for which the machine stood still."""

    @property
    def world(self) -> World:
        """The world of a row that breaks processes."""
        assert isinstance(self.watched, World)
        return self.watched

    async def more(self, tokens: int) -> None:
        """Wait until this many more tokens are held."""
        await self.load.held(len(self.load.holdings.tokens) + tokens, within=REACHED_WITHIN)


Deed = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Trouble:
    """How a receiver misbehaves."""

    behaviour: Behaviour
    takes: bool = False
    """Whether it still responds 2xx."""
    delay: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    what: str
    crashes: tuple[tuple[str, str], ...] = ()
    """Processes, and the labels of the points at which they die."""
    armed: tuple[tuple[str, str], ...] = ()
    """The same, for processes whose death `during` waits for itself."""
    during: Deed | None = None
    after: Deed | None = None
    """Runs after the clients have stopped."""
    processes: tuple[str, ...] = USUAL
    troubles: tuple[Trouble | None, ...] = (None,)
    """One receiver for each."""
    delay: float = 0.0
    """Seconds that a receiver takes to respond."""
    keeps_queue: bool = True
    """False: the subscriber's queue is lost, so only webhooks are judged."""
    flawless: bool = False
    """No request may fail."""
    all_end: bool = False
    """Every grant must be revoked at the end."""
    swept_first: bool = False
    """Writes are acknowledged so late that a sweeper publishes their events before the writing process does."""
    compliant: bool = False
    """Clients follow Retry-After exactly, and must lose nothing."""
    kills_broker: bool = False
    """Duplicate events are allowed: confirmations are lost with the broker."""


# Faults


def _died_within(scale: Scale) -> float:
    return REACHED_WITHIN + scale.away


async def _crash(scene: Scene, instance: str, label: str) -> None:
    """The armed process dies, once a round; in the end it runs unarmed."""
    stack, scale = scene.world.stack, scene.scale
    for later in range(scale.rounds):
        await stack.died(instance, _died_within(scale))
        if later + 1 < scale.rounds:
            stack.launch(instance, str(_arming(instance, label, scene)))
    stack.launch(instance)


def _arming(instance: str, label: str, scene: Scene, tenants: int = 0) -> Arming:
    nth = scene.rng.randint(1, min(scene.scale.latest, POINTS[label].latest))
    # Creating the tenants, which nobody repeats, registers a client each; the clients under load register the others.
    return Arming(instance, label, nth + (tenants if label == "registered" else 0))


async def broker_killed(scene: Scene) -> None:
    """Kill RabbitMQ, wait, and start it again on its data."""
    for _ in range(scene.scale.rounds):
        await asyncio.to_thread(scene.world.broker.kill)
        await asyncio.sleep(scene.scale.away)
        await asyncio.to_thread(scene.world.broker.start)
        await scene.more(scene.scale.tokens // 8)


async def broker_frozen(scene: Scene) -> None:
    """Stop RabbitMQ with SIGSTOP: connections stay open but nothing responds, for longer than every publish
    time-out.
    """
    await asyncio.to_thread(scene.world.broker.freeze)
    try:
        await asyncio.sleep(max(6.0, scene.scale.away))
    finally:
        await asyncio.to_thread(scene.world.broker.thaw)


async def broker_wiped(scene: Scene) -> None:
    """Start RabbitMQ with an empty disk, losing commands that no notifier had consumed."""
    stack = scene.world.stack
    notifiers = [name for name in USUAL if name.startswith("notifier")]
    for name in notifiers:
        stack.kill(name)
    await scene.more(scene.scale.tokens // 4)
    await asyncio.to_thread(scene.world.broker.wipe)
    await asyncio.to_thread(scene.world.broker.start)
    for name in notifiers:
        stack.launch(name)
    await stack.ready(*USUAL)
    await asyncio.to_thread(scene.world.broker.settle)


async def broker_away(scene: Scene) -> None:
    """Shut RabbitMQ down for longer than any time-out, and start it again."""
    await asyncio.to_thread(scene.world.broker.stop)
    await asyncio.sleep(3 * scene.scale.away)
    await asyncio.to_thread(scene.world.broker.start)


async def mongo_killed(scene: Scene) -> None:
    """Kill every mongod, and start them again on their journals."""
    mongo, three = scene.world.mongo, scene.world.replica_set
    for _ in range(scene.scale.rounds):
        if mongo is not None:
            await asyncio.to_thread(mongo.kill)
            await asyncio.sleep(min(1.0, scene.scale.away))
            await mongo.start()
        if three is not None:
            await asyncio.to_thread(three.kill_all)
            await asyncio.sleep(min(1.0, scene.scale.away))
            await asyncio.to_thread(three.restart_all)
        await scene.more(scene.scale.tokens // 8)


async def stepped_down(scene: Scene) -> None:
    """Make the primary step down, so that another member takes over."""
    assert scene.world.replica_set is not None
    for _ in range(scene.scale.rounds):
        await scene.world.replica_set.step_down()
        await scene.more(scene.scale.tokens // 8)


async def primary_killed(scene: Scene) -> None:
    """Kill the primary; it comes back as a secondary."""
    three = scene.world.replica_set
    assert three is not None
    for _ in range(scene.scale.rounds):
        port = await three.primary()
        await asyncio.to_thread(three.kill, port)
        await three.primary(other_than=port)
        await asyncio.to_thread(three.restart, port)
        await scene.more(scene.scale.tokens // 8)


async def rolled(scene: Scene) -> None:
    """Restart every process by SIGTERM while the other one of its service keeps running."""
    stack = scene.world.stack
    if scene.scale.one_by_one:
        for name in INSTANCES:
            await stack.restart(name, scene.scale.stops_within)
        return
    await asyncio.gather(*(stack.restart(name, scene.scale.stops_within) for name in INSTANCES if name.endswith("1")))


async def leader_died(scene: Scene) -> None:
    """A process dies, and so does the one that has taken the lead to publish the events it left."""
    stack = scene.world.stack
    await stack.died("token-2", _died_within(scene.scale))
    deaths = [asyncio.ensure_future(stack.died(name, _died_within(scene.scale))) for name in SWEEPERS]
    await asyncio.wait(deaths, return_when=asyncio.FIRST_COMPLETED)
    for name, death in zip(SWEEPERS, deaths, strict=True):
        if death.done():
            death.result()
        else:
            stack.kill(name)
            stack.launch(name)
    await asyncio.wait(deaths)
    await stack.have(USUAL)


async def all_revoked(scene: Scene) -> None:
    """revoke_all: the process dies when it has revoked a first group of grants, and again when all are revoked."""
    stack = scene.world.stack
    await stack.have(USUAL, (_arming("revocation-1", "committed", scene),))
    for tenant in scene.tenants:
        response = await tenant.operator("POST", f"/api/apis/oauth/{tenant.client_id}/revoke_all")
        assert response.status == 200, response.raw
    await stack.died("revocation-1", _died_within(scene.scale))
    stack.launch("revocation-1", "reacted:1")
    await stack.died("revocation-1", _died_within(scene.scale))
    stack.launch("revocation-1")


LATE_FOR = 9.0
"""Delay of MongoDB's responses in seconds: longer than the store retries a write, so requests fail with 503."""


def answers_late(seconds: float) -> Deed:
    """MongoDB applies writes of grants and clients at once, but its responses come this many seconds late."""

    async def late(scene: Scene) -> None:
        way = scene.world.way
        assert way is not None
        way.only = frozenset({"grants", "clients"})
        for _ in range(scene.scale.rounds):
            way.delay = seconds
            await asyncio.sleep(LATE_FOR)
            way.delay = 0.0
            await scene.more(scene.scale.tokens // 8)

    return late


async def subscriber_full(scene: Scene) -> None:
    """A subscriber's full queue refuses events. At the end it is deleted, and the refused events are
    published again.
    """
    world, phases = scene.world, scene.phases
    await quiet_phase(phases, scene.more(scene.scale.tokens // 4))
    full = {"x-max-length": LIMIT, "x-overflow": "reject-publish"}
    async with bound_queue(world, "faults.full", full):
        await _meanwhile(scene)
        await some_refused(world)
        phases.released_at = time.time()
    await none_refused(world)


async def subscriber_silent(scene: Scene) -> None:
    """A subscriber receives events and acknowledges none."""
    await quiet_phase(scene.phases, scene.more(scene.scale.tokens // 4))
    async with bound_queue(scene.world, "faults.silent", {}) as queue:
        await queue.consume(_never_acknowledged)
        await _meanwhile(scene)


async def _never_acknowledged(_: AbstractIncomingMessage) -> None:
    """Consume without acknowledging."""


async def event_log_away(scene: Scene) -> None:
    """Stop the event recorder while its queue is at its limit; then start it again."""
    await quiet_phase(scene.phases, scene.more(scene.scale.tokens // 4))
    async with event_log_at_limit(scene.world):
        await _meanwhile(scene)
    await none_refused(scene.world)


async def _meanwhile(scene: Scene) -> None:
    """Keep the trouble up for a time and for a number of tokens."""
    await asyncio.gather(scene.more(scene.scale.tokens // 2), asyncio.sleep(scene.scale.away))


# The rows


def _crash_row(instance: str, label: str, **more: object) -> Row:
    service = INSTANCES[instance]
    return Row(f"{service} {label}", f"{service} dies: {POINTS[label].what}", ((instance, label),), **more)  # type: ignore[arg-type]


FAILING = Trouble(answering(500))
TROUBLES = {
    "returns 500": FAILING,
    "hangs": Trouble(hanging),
    "sends slowly": Trouble(dripping, takes=True),
    "resets": Trouble(resetting),
    "redirects": Trouble(redirecting),
    "sends endlessly": Trouble(pouring, takes=True),
}
SWEEPERS = ("token-1", "authorization-1", "revocation-1")
"""The processes besides token-2 that publish events left behind by dead processes."""

CRASHES: tuple[Row, ...] = (
    _crash_row("token-2", "before-write"),
    _crash_row("token-2", "write-sent"),
    _crash_row("token-2", "committed"),
    _crash_row("token-2", "answered"),
    _crash_row("token-2", "published"),
    _crash_row("token-2", "public-copy-only"),
    _crash_row("token-2", "confirmed"),
    _crash_row("token-2", "cleared"),
    _crash_row("token-2", "checkpoint-due"),
    _crash_row("token-2", "checkpoint-written"),
    Row(
        "sweeper leading",
        f"token dies as at committed; then another dies: {POINTS['leading'].what}",
        armed=(("token-2", "committed"), *((name, "leading") for name in SWEEPERS)),
        during=leader_died,
    ),
    Row(
        "sweeper adopted",
        f"token dies as at checkpoint-due; then another dies: {POINTS['adopted'].what}",
        armed=(("token-2", "checkpoint-due"), *((name, "adopted") for name in SWEEPERS)),
        during=leader_died,
    ),
    _crash_row("authorization-1", "committed"),
    _crash_row("revocation-1", "committed"),
    Row(
        "revocation reacted",
        f"revocation dies: a first group of grants ended after revoke_all; and again: {POINTS['reacted'].what}",
        after=all_revoked,
        all_end=True,
    ),
    _crash_row("notifier-2", "before-add"),
    _crash_row("notifier-2", "add-sent"),
    _crash_row("notifier-2", "added"),
    _crash_row("notifier-2", "handing-over"),
    _crash_row("notifier-2", "before-post"),
    _crash_row("notifier-2", "claimed", troubles=(FAILING,)),
    _crash_row("notifier-2", "posting", delay=0.2),
    _crash_row("notifier-2", "posted"),
    _crash_row("notifier-2", "recorded"),
    _crash_row("notifier-2", "failure-recorded", troubles=(FAILING,)),
)
OUTAGES = (
    Row(
        "rabbitmq killed",
        "RabbitMQ dies by SIGKILL and comes back",
        during=broker_killed,
        flawless=True,
        kills_broker=True,
    ),
    Row("rabbitmq away", "RabbitMQ is shut down for a while", during=broker_away, flawless=True, kills_broker=True),
    Row("rabbitmq frozen", "RabbitMQ is stopped by SIGSTOP, and goes on", during=broker_frozen, flawless=True),
    Row(
        "rabbitmq wiped",
        "RabbitMQ comes back with an empty disk, after commands were confirmed that no notifier had taken, all of them "
        "being dead; the subscriber's queue was on that disk, too, so webhooks alone are judged",
        during=broker_wiped,
        keeps_queue=False,
        flawless=True,
        kills_broker=True,
    ),
    Row(
        "subscriber full",
        "a subscriber's queue is full and refuses events (`x-overflow: reject-publish`), for ten seconds; then it is "
        "deleted, and what it refused comes to the others again (not counted as too many)",
        during=subscriber_full,
        flawless=True,
    ),
    Row(
        "subscriber silent",
        "a subscriber takes events and acknowledges none, for ten seconds",
        during=subscriber_silent,
        flawless=True,
    ),
    Row(
        "event log away",
        f"no consumer records events, and their queue is at its limit, set to {LIMIT} events instead of a million, for "
        "ten seconds instead of ten minutes",
        during=event_log_away,
        flawless=True,
    ),
    Row("mongod killed", "MongoDB dies by SIGKILL and comes back", during=mongo_killed),
    *(
        Row(f"receiver {name}", f"the receiver {name} for a while", troubles=(trouble,), flawless=True)
        for name, trouble in TROUBLES.items()
    ),
    Row(
        "rolling restart",
        "every process of every service is stopped by SIGTERM and started again",
        during=rolled,
        processes=tuple(INSTANCES),
        flawless=True,
    ),
)
ELECTIONS: tuple[Row, ...] = (
    Row("step-down", "the primary of three mongods steps down", during=stepped_down),
    Row("primary killed", "the primary of three mongods dies by SIGKILL and comes back", during=primary_killed),
)
"""Rows that need a replica set of three."""
ANSWERS_LOST: tuple[Row, ...] = (
    Row(
        "compliant clients, killed",
        "token, revocation and management die between the write and the response; clients retry as the protocol says",
        crashes=(("token-2", "committed"), ("revocation-1", "committed"), ("management-1", "registered")),
        compliant=True,
    ),
)
ANSWERS_LOST_IN_ELECTION = Row(
    "compliant clients, step-down",
    "the primary steps down; clients retry as the protocol says",
    during=stepped_down,
    compliant=True,
)
ANSWERS_LATE = tuple(
    Row(
        f"compliant clients, {seconds} s late",
        f"MongoDB's replies arrive {seconds} s late; clients retry as the protocol says",
        during=answers_late(seconds),
        swept_first=True,
        compliant=True,
    )
    for seconds in (3, 7, 9, 12)
)
"""Rows that need the proxy that delays MongoDB's responses."""
CRASHES = (*CRASHES, *ANSWERS_LOST)
ELECTIONS = (*ELECTIONS, ANSWERS_LOST_IN_ELECTION)
ROWS = (*CRASHES, *OUTAGES, *ELECTIONS, *ANSWERS_LATE)


# Running a row


@dataclass(frozen=True)
class Result:
    """The result of a row."""

    row: Row
    verdict: Verdict
    holdings: Holdings
    seconds: float
    noticed: Sequence[str] = ()
    """What consumers noticed of another consumer's trouble."""
    remarks: Sequence[str] = ()
    """The same where it is no complaint, because it depends on the speed of the machine."""
    excused: bool = False
    """Whether requests may have failed because the machine stood still."""

    @property
    def failed(self) -> int:
        """Requests without a response or with a 5xx; the clients retried them."""
        return sum(self.holdings.failed.values())

    @property
    def complaints(self) -> list[str]:
        """Every violation of a guarantee."""
        verdict, holdings = self.verdict, self.holdings
        found = [f"lost: {each}" for each in verdict.lost]
        found += [f"phantom: {each}" for each in verdict.phantom]
        found += [f"doubled: {each}" for each in verdict.doubled]
        found += [f"refused: {each}" for each in holdings.refused]
        found += [f"not answered in time: {each}" for each in holdings.given_up]
        found += [f"login lost: {each}" for each in holdings.lost_logins]
        found += self.noticed
        if self.row.flawless and not self.excused:
            found += [f"failed: {what} ×{count}" for what, count in holdings.failed.items()]
        return found


@dataclass(frozen=True)
class Played:
    """A row that has run. It can be judged again later, to include what arrives late."""

    row: Row
    scene: Scene
    paths: frozenset[str]
    since: datetime
    until: datetime
    seconds: float = 0.0

    async def unbalanced(self) -> list[str]:
        """What the system's own reconciliation reports. It must find what the judge finds.

        Where the broker lost its disk, reconciliation rightly reports the lost events.
        """
        if not self.row.keeps_queue:
            return []
        path = f"/api/events/audit?live=true&from={_written(self.since)}&to={_written(self.until)}"
        response = await self.scene.watched.system.operator("GET", path)
        if response.status == 200 and response.body["balanced"]:
            return []
        return [f"reconciliation: {response.raw.decode()}"]

    async def judged(self) -> Result:
        """The result as of now."""
        world, row, scene = self.scene.watched, self.row, self.scene
        grants = await world.committed([tenant.client_id for tenant in scene.tenants])
        apis = {tenant.api_id for tenant in scene.tenants}
        seen = Evidence(
            scene.load.holdings,
            grants,
            [webhook for webhook in world.receiver.webhooks if webhook.path in self.paths],
            [event for event in world.recorder.heard if event.data.get("api_id") in apis] if row.keeps_queue else None,
            [path for path in world.receiver.trapped if path in self.paths],
        )
        verdict = judge(seen)
        if row.all_end:
            verdict.lost += [f"grant {grant.grant_id} is not ended" for grant in grants.values() if not grant.ended]
        heard = seen.heard or ()
        noticed, remarks = held_up(scene.phases, heard, seen.webhooks, scene.scale.slack)
        if not (row.kills_broker or row.swept_first):
            noticed += too_many_duplicates(scene.phases, heard, scene.scale.repeated)
        excused = scene.scale.slack is None and scene.stalled_for > STALL
        if excused and row.flawless:
            failed = sum(scene.load.holdings.failed.values())
            remarks.append(f"the machine stood still for {scene.stalled_for:.1f} s; {failed} requests failed")
        return Result(row, verdict, scene.load.holdings, self.seconds, noticed, remarks, excused)

    async def settled(self, within: float) -> None:
        """Wait until nothing is missing, or the time limit is over."""
        deadline = time.monotonic() + within
        # Other processes do not report when something arrives, so poll.
        while (await self.judged()).verdict.lost and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.25)


async def play(world: Watched, row: Row, scale: Scale, seed: str) -> Played:
    """Run the row, then wait for everything that follows from it, within the time limit."""
    began = time.monotonic()
    scene = Scene(world, scale, random.Random(f"{seed}:{row.name}"), [], Load((), 0, 0, ""))
    paths = [f"/{row.name.replace(' ', '-')}/{number}" for number in range(len(row.troubles))]
    since = utc_now()
    await _prepared(scene, row, paths)
    pause = scale.quiet_pause if row.during is not None else scale.pause
    kind = CompliantClient if row.compliant else Holder
    scene.load = Load(scene.tenants, scale.holders, pause, f"{seed}:{row.name}", kind)
    for path, trouble in zip(paths, row.troubles, strict=True):
        if trouble is not None:
            world.receiver.behave(path, trouble.behaviour, scale.trouble, takes=trouble.takes, again=bool(row.crashes))
    world.receiver.delay = row.delay
    try:
        async with watching_for_stalls(world.grants.database["stalls"]) as stalls:
            await _under_load(scene, row)
        scene.stalled_for = stalls.longest
    finally:
        world.receiver.delay = 0.0
        world.receiver.take_everything()
    if row.after is not None:
        await row.after(scene)
    await world.system.ready(*row.processes)
    await _try_tokens(scene)
    if row.compliant:
        await _try_logins(scene)
    played = Played(row, scene, frozenset(paths), since, utc_now(), time.monotonic() - began)
    await played.settled(scale.settle_within)
    return replace(played, until=utc_now(), seconds=time.monotonic() - began)


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def _prepared(scene: Scene, row: Row, paths: Sequence[str]) -> None:
    """Start the processes of the row, armed as it says, and create its tenants."""
    async with asyncio.timeout(REACHED_WITHIN):
        await scene.watched.recorder.bound.wait()
    armings = tuple(_arming(instance, label, scene, len(paths)) for instance, label in (*row.crashes, *row.armed))
    await scene.watched.system.have(row.processes, armings)
    scene.tenants += [await _tenant(scene.watched, path) for path in paths]


async def _tenant(world: Watched, path: str) -> Tenant:
    changes = {
        f"{SCHEME}__notifications__onKeyChangeUrl": world.receiver.url(path),
        f"{SCHEME}__notifications__sharedSecret": "a-shared-secret-of-the-faults",
    }
    return await new_tenant(world.system.anybody, world.system.operator, **changes)


async def _under_load(scene: Scene, row: Row) -> None:
    load, scale = scene.load, scene.scale
    load.start()
    crashes = [asyncio.ensure_future(_crash(scene, instance, label)) for instance, label in row.crashes]
    try:
        await load.held(scale.tokens // 8, within=REACHED_WITHIN)
        if row.during is not None:
            await row.during(scene)
        await asyncio.gather(*crashes)
        if crashes:
            scene.watched.receiver.take_everything()
        await load.held(scale.tokens, within=REACHED_WITHIN + scale.tokens / 5)
    finally:
        for crash in crashes:
            crash.cancel()
        await load.stop()


async def _try_logins(scene: Scene) -> None:
    """Check that repeating requests lost no login, and that replaying an exchanged code revokes its grant."""
    holdings, database = scene.load.holdings, scene.watched.grants.database
    holdings.lost_logins += await lost_logins(scene.tenants, holdings, database)
    holdings.lost_logins += await survivors_of_replay(holdings, scene.scale.sample, database)


async def _try_tokens(scene: Scene) -> None:
    """Check that at most one token of each grant is accepted."""
    holdings = scene.load.holdings
    grants: dict[str, list[Held]] = {}
    for token in holdings.tokens.values():
        grants.setdefault(token.grant_id, []).append(token)
    several = [tokens for tokens in grants.values() if len(tokens) > 1]
    for tokens in scene.rng.sample(several, min(scene.scale.sample, len(several))):
        tenant = holdings.tenants[tokens[0].grant_id]
        responses = [await tenant.verified(token.access) for token in tokens]
        if sum(response.status == 200 for response in responses) > 1:
            shown = ", ".join(
                f"{token.generation}: {response.status}" for token, response in zip(tokens, responses, strict=True)
            )
            holdings.twice.append(f"several live tokens of grant {tokens[0].grant_id} ({shown})")
