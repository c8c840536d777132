"""The rows of the kill matrix: what is done to the system while its holders ask for tokens."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from libs.runtime import utc_now
from tests.acceptance.tenants import SCHEME, Tenant, new_tenant
from tests.faults.holders import Held, Holdings, Load
from tests.faults.judge import Evidence, Verdict, judge
from tests.faults.points import POINTS
from tests.faults.stack import INSTANCES, USUAL, Arming
from tests.faults.witnesses import redirecting
from tests.faults.world import World
from tests.notifications import Behaviour, answering, dripping, hanging, pouring, resetting


@dataclass(frozen=True)
class Scale:
    """How much of everything."""

    tokens: int
    """Held by a row at its end, at least."""
    holders: int
    pause: float
    """Seconds between two requests of a holder."""
    calm: float
    """The same in a row that takes a server away, so that it comes back on a machine that is not busy."""
    rounds: int
    """How often a row does what it does."""
    latest: int
    """A process dies at one of so many first passages."""
    away: float
    """Seconds for which a server is away, or frozen."""
    trouble: float
    """Seconds for which a receiver is in trouble, once, or again and again until everybody has died who is to."""
    one_by_one: bool
    """A rolling restart takes one process after the other; otherwise one of each service, all at once."""
    settle_within: float
    sample: int
    """Grants whose tokens are tried at the gateway."""


FULL = Scale(
    tokens=330,
    holders=16,
    pause=0.04,
    calm=0.4,
    rounds=2,
    latest=25,
    away=10.0,
    trouble=3.0,
    one_by_one=True,
    settle_within=120.0,
    sample=25,
)
SHORT = Scale(
    tokens=40,
    holders=8,
    pause=0.02,
    calm=0.25,
    rounds=1,
    latest=4,
    away=2.0,
    trouble=1.5,
    one_by_one=False,
    settle_within=45.0,
    sample=6,
)


@dataclass
class Scene:
    """One row under way."""

    world: World
    scale: Scale
    rng: random.Random
    tenants: list[Tenant]
    load: Load

    async def more(self, tokens: int) -> None:
        """So many more tokens are held."""
        await self.load.held(len(self.load.holdings.tokens) + tokens, within=60)


Deed = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True)
class Trouble:
    """What a receiver does instead of taking webhooks."""

    behaviour: Behaviour
    takes: bool = False
    """Whether it answers 2xx nevertheless."""
    delay: float = 0.0


@dataclass(frozen=True)
class Row:
    """One line of the report."""

    name: str
    what: str
    crashes: tuple[tuple[str, str], ...] = ()
    """Processes, and the labels of the places at which they die."""
    armed: tuple[tuple[str, str], ...] = ()
    """The same, for those whose death is the deed's to await."""
    during: Deed | None = None
    after: Deed | None = None
    """Done when the holders have stopped."""
    processes: tuple[str, ...] = USUAL
    troubles: tuple[Trouble | None, ...] = (None,)
    """One receiver each."""
    delay: float = 0.0
    """Seconds a receiver takes for each answer."""
    keeps_queue: bool = True
    """False: the subscriber's own queue is lost, so it cannot be asked."""
    flawless: bool = False
    """No request may fail."""
    all_end: bool = False
    """Every grant is over at the end."""


# What is done


def _died_within(scale: Scale) -> float:
    return 50.0 + scale.away


async def _crash(scene: Scene, instance: str, label: str) -> None:
    """The process, armed already, dies; then again for every further round; at last it runs unarmed."""
    stack, scale = scene.world.stack, scene.scale
    for later in range(scale.rounds):
        await stack.died(instance, _died_within(scale))
        if later + 1 < scale.rounds:
            stack.launch(instance, str(_arming(instance, label, scene)))
    stack.launch(instance)


def _arming(instance: str, label: str, scene: Scene) -> Arming:
    return Arming(instance, label, scene.rng.randint(1, min(scene.scale.latest, POINTS[label].latest)))


async def broker_killed(scene: Scene) -> None:
    """RabbitMQ gone by SIGKILL, away for a while, back on its data."""
    for _ in range(scene.scale.rounds):
        await asyncio.to_thread(scene.world.broker.kill)
        await asyncio.sleep(scene.scale.away)
        await asyncio.to_thread(scene.world.broker.start)
        await scene.more(scene.scale.tokens // 8)


async def broker_frozen(scene: Scene) -> None:
    """RabbitMQ stopped by SIGSTOP: connections stay, nothing answers; long enough for every time-out of a publisher."""
    await asyncio.to_thread(scene.world.broker.freeze)
    try:
        await asyncio.sleep(max(6.0, scene.scale.away))
    finally:
        await asyncio.to_thread(scene.world.broker.thaw)


async def broker_wiped(scene: Scene) -> None:
    """RabbitMQ back with an empty disk, on which were commands that no notifier had taken yet."""
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
    """RabbitMQ shut down in order, away for longer than anybody waits, and back."""
    await asyncio.to_thread(scene.world.broker.stop)
    await asyncio.sleep(3 * scene.scale.away)
    await asyncio.to_thread(scene.world.broker.start)


async def mongo_killed(scene: Scene) -> None:
    """Every mongod there is gone by SIGKILL, and back on its journal."""
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
    """The primary steps down, and another member takes over."""
    assert scene.world.replica_set is not None
    for _ in range(scene.scale.rounds):
        await scene.world.replica_set.step_down()
        await scene.more(scene.scale.tokens // 8)


async def primary_killed(scene: Scene) -> None:
    """The primary gone by SIGKILL; it comes back as a secondary."""
    three = scene.world.replica_set
    assert three is not None
    for _ in range(scene.scale.rounds):
        port = await three.primary()
        await asyncio.to_thread(three.kill, port)
        await three.primary(other_than=port)
        await asyncio.to_thread(three.restart, port)
        await scene.more(scene.scale.tokens // 8)


async def rolled(scene: Scene) -> None:
    """Every process stopped by SIGTERM and started again, while the other one of its service goes on."""
    stack = scene.world.stack
    if scene.scale.one_by_one:
        for name in INSTANCES:
            await stack.restart(name)
        return
    await asyncio.gather(*(stack.restart(name) for name in INSTANCES if name.endswith("1")))


async def leader_died(scene: Scene) -> None:
    """What a process left is about to be swept by another, and that one dies over it with the lead in its hands."""
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
    """revoke_all, and who ends the grants dies half way, and then again with all of them ended."""
    stack = scene.world.stack
    await stack.have(USUAL, (_arming("revocation-1", "committed", scene),))
    for tenant in scene.tenants:
        answer = await tenant.operator("POST", f"/api/apis/oauth/{tenant.client_id}/revoke_all")
        assert answer.status == 200, answer.raw
    await stack.died("revocation-1", _died_within(scene.scale))
    stack.launch("revocation-1", "reacted:1")
    await stack.died("revocation-1", _died_within(scene.scale))
    stack.launch("revocation-1")


# The rows


def _crash_row(instance: str, label: str, **more: object) -> Row:
    service = INSTANCES[instance]
    return Row(f"{service} {label}", f"{service} dies: {POINTS[label].what}", ((instance, label),), **more)  # type: ignore[arg-type]


FAILING = Trouble(answering(500))
TROUBLES = {
    "answers 500": FAILING,
    "hangs": Trouble(hanging),
    "drips": Trouble(dripping, takes=True),
    "resets": Trouble(resetting),
    "redirects": Trouble(redirecting),
    "pours": Trouble(pouring, takes=True),
}
SWEEPERS = ("token-1", "authorization-1", "revocation-1")
"""Who publishes, beside token-2, what grants have left."""

CRASHES: tuple[Row, ...] = (
    _crash_row("token-2", "before-write"),
    _crash_row("token-2", "write-sent"),
    _crash_row("token-2", "committed"),
    _crash_row("token-2", "answered"),
    _crash_row("token-2", "published"),
    _crash_row("token-2", "public-copy-only"),
    _crash_row("token-2", "confirmed"),
    _crash_row("token-2", "cleared"),
    Row(
        "sweeper leading",
        f"token dies as at committed; then another dies: {POINTS['leading'].what}",
        armed=(("token-2", "committed"), *((name, "leading") for name in SWEEPERS)),
        during=leader_died,
    ),
    _crash_row("authorization-1", "committed"),
    _crash_row("revocation-1", "committed"),
    Row(
        "revocation reacted",
        f"revocation dies: some grants of a client ended after revoke_all; and again: {POINTS['reacted'].what}",
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
    Row("rabbitmq killed", "RabbitMQ dies by SIGKILL and comes back", during=broker_killed, flawless=True),
    Row("rabbitmq away", "RabbitMQ is shut down for a while", during=broker_away, flawless=True),
    Row("rabbitmq frozen", "RabbitMQ is stopped by SIGSTOP, and goes on", during=broker_frozen, flawless=True),
    Row(
        "rabbitmq wiped",
        "RabbitMQ comes back with an empty disk, after commands were confirmed that no notifier had taken, all of them "
        "being dead; the subscriber's queue was on that disk, too, so webhooks alone are judged",
        during=broker_wiped,
        keeps_queue=False,
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
ELECTIONS = (
    Row("step-down", "the primary of three mongods steps down", during=stepped_down),
    Row("primary killed", "the primary of three mongods dies by SIGKILL and comes back", during=primary_killed),
)
"""Rows for a world on a replica set of three."""
ROWS = (*CRASHES, *OUTAGES, *ELECTIONS)


# How a row goes


@dataclass(frozen=True)
class Result:
    """What came of a row."""

    row: Row
    verdict: Verdict
    holdings: Holdings
    seconds: float

    @property
    def failed(self) -> int:
        """Requests without an answer or with a 5xx; their clients asked again."""
        return sum(self.holdings.failed.values())

    @property
    def complaints(self) -> list[str]:
        """Whatever differs from what is promised."""
        verdict, holdings = self.verdict, self.holdings
        found = [f"lost: {each}" for each in verdict.lost]
        found += [f"phantom: {each}" for each in verdict.phantom]
        found += [f"doubled: {each}" for each in verdict.doubled]
        found += [f"refused: {each}" for each in holdings.refused]
        found += [f"not answered in time: {each}" for each in holdings.given_up]
        if self.row.flawless:
            found += [f"failed: {what} ×{count}" for what, count in holdings.failed.items()]
        return found


@dataclass(frozen=True)
class Played:
    """A row that was done. It can be judged again later, for what comes late."""

    row: Row
    scene: Scene
    paths: frozenset[str]
    since: datetime
    until: datetime
    seconds: float = 0.0

    async def unbalanced(self) -> list[str]:
        """What the system's own balance sheet complains about. It is no judge; but it has to see what the judge sees.

        Where the broker lost its disk it rightly misses what was lost with it.
        """
        if not self.row.keeps_queue:
            return []
        path = f"/api/events/audit?from={_written(self.since)}&to={_written(self.until)}"
        answer = await self.scene.world.stack.operator("GET", path)
        if answer.status == 200 and answer.body["balanced"]:
            return []
        return [f"the balance sheet: {answer.raw.decode()}"]

    async def judged(self) -> Result:
        """The result as it is now."""
        world, row, scene = self.scene.world, self.row, self.scene
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
        return Result(row, verdict, scene.load.holdings, self.seconds)

    async def settled(self) -> None:
        """Nothing is missing any more, or the time for it is over."""
        deadline = time.monotonic() + self.scene.scale.settle_within
        # Nobody tells when something arrives elsewhere.
        while (await self.judged()).verdict.lost and time.monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.25)


async def play(world: World, row: Row, scale: Scale, seed: str) -> Played:
    """The row is done to the world, and everything that follows from it has come, if it comes in time."""
    began = time.monotonic()
    scene = Scene(world, scale, random.Random(f"{seed}:{row.name}"), [], Load((), 0, 0, ""))
    paths = [f"/{row.name.replace(' ', '-')}/{number}" for number in range(len(row.troubles))]
    since = utc_now()
    await _prepared(scene, row, paths)
    pause = scale.calm if row.during is not None else scale.pause
    scene.load = Load(scene.tenants, scale.holders, pause, f"{seed}:{row.name}")
    for path, trouble in zip(paths, row.troubles, strict=True):
        if trouble is not None:
            world.receiver.behave(path, trouble.behaviour, scale.trouble, takes=trouble.takes, again=bool(row.crashes))
    world.receiver.delay = row.delay
    try:
        await _under_load(scene, row)
    finally:
        world.receiver.delay = 0.0
        world.receiver.take_everything()
    if row.after is not None:
        await row.after(scene)
    await world.stack.ready(*row.processes)
    await _try_tokens(scene)
    played = Played(row, scene, frozenset(paths), since, utc_now(), time.monotonic() - began)
    await played.settled()
    return replace(played, until=utc_now(), seconds=time.monotonic() - began)


def _written(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


async def _prepared(scene: Scene, row: Row, paths: Sequence[str]) -> None:
    """The processes of the row run, armed as it wants; its tenants are there."""
    async with asyncio.timeout(60):
        await scene.world.recorder.bound.wait()
    armings = tuple(_arming(instance, label, scene) for instance, label in (*row.crashes, *row.armed))
    await scene.world.stack.have(row.processes, armings)
    scene.tenants += [await _tenant(scene.world, path) for path in paths]


async def _tenant(world: World, path: str) -> Tenant:
    changes = {
        f"{SCHEME}__notifications__onKeyChangeUrl": world.receiver.url(path),
        f"{SCHEME}__notifications__sharedSecret": "a-shared-secret-of-the-faults",
    }
    return await new_tenant(world.stack.anybody, world.stack.operator, **changes)


async def _under_load(scene: Scene, row: Row) -> None:
    load, scale = scene.load, scene.scale
    load.start()
    crashes = [asyncio.ensure_future(_crash(scene, instance, label)) for instance, label in row.crashes]
    try:
        await load.held(scale.tokens // 8, within=60)
        if row.during is not None:
            await row.during(scene)
        await asyncio.gather(*crashes)
        if crashes:
            scene.world.receiver.take_everything()
        await load.held(scale.tokens, within=60 + scale.tokens / 5)
    finally:
        for crash in crashes:
            crash.cancel()
        await load.stop()


async def _try_tokens(scene: Scene) -> None:
    """Of one grant no more than one token opens the API."""
    holdings = scene.load.holdings
    grants: dict[str, list[Held]] = {}
    for token in holdings.tokens.values():
        grants.setdefault(token.grant_id, []).append(token)
    several = [tokens for tokens in grants.values() if len(tokens) > 1]
    for tokens in scene.rng.sample(several, min(scene.scale.sample, len(several))):
        tenant = holdings.tenants[tokens[0].grant_id]
        answers = [await tenant.verified(token.access) for token in tokens]
        if sum(answer.status == 200 for answer in answers) > 1:
            shown = ", ".join(
                f"{token.generation}: {answer.status}" for token, answer in zip(tokens, answers, strict=True)
            )
            holdings.twice.append(f"several live tokens of grant {tokens[0].grant_id} ({shown})")
