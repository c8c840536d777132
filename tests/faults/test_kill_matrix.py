"""Short versions of every row of the kill matrix. Rows that do not disturb each other run together.

`make faults` runs each row alone, several times, with many more tokens (docs/faults.md).
"""

import logging
import secrets
from collections.abc import AsyncIterator

import pytest

from tests.eventually import eventually
from tests.faults.points import POINTS
from tests.faults.rows import (
    ANSWERS_LATE,
    CRASHES,
    FAILING,
    OUTAGES,
    ROWS,
    SHORT,
    TROUBLES,
    Played,
    Row,
    Scene,
    broker_frozen,
    broker_killed,
    mongo_killed,
    play,
    primary_killed,
    stepped_down,
)
from tests.faults.stack import USUAL
from tests.faults.world import World, world


async def mongodb_troubled(scene: Scene) -> None:
    """The primary steps down; the next one is killed; then all are killed."""
    for deed in (stepped_down, primary_killed, mongo_killed):
        await deed(scene)


async def rabbitmq_troubled(scene: Scene) -> None:
    """RabbitMQ is killed, shut down for a while, started, and frozen."""
    for deed in (broker_killed, broker_frozen):
        await deed(scene)


def _named(*names: str) -> tuple[Row, ...]:
    found = tuple(row for row in ROWS if row.name in names)
    assert len(found) == len(names), names
    return found


TOGETHER = (
    Row(
        "before and while it is written",
        "tokens, codes and deliveries",
        crashes=(
            ("token-1", "before-write"),
            ("token-2", "write-sent"),
            ("authorization-1", "committed"),
            ("notifier-1", "before-add"),
            ("notifier-2", "add-sent"),
        ),
    ),
    Row(
        "written and not told",
        "tokens, revocations and deliveries",
        crashes=(
            ("token-1", "committed"),
            ("token-2", "answered"),
            ("revocation-1", "committed"),
            ("notifier-1", "added"),
            ("notifier-2", "before-post"),
        ),
    ),
    Row(
        "told and not known to be",
        "events and webhooks",
        crashes=(
            ("token-1", "published"),
            ("token-2", "public-copy-only"),
            ("notifier-1", "posting"),
            ("notifier-2", "posted"),
        ),
        delay=0.2,
    ),
    Row(
        "known and not noted",
        "events and webhooks",
        crashes=(
            ("token-1", "confirmed"),
            ("token-2", "cleared"),
            ("notifier-1", "recorded"),
            ("notifier-2", "handing-over"),
        ),
    ),
    Row(
        "confirmed, and in no checkpoint",
        "events",
        crashes=(("token-1", "checkpoint-due"), ("token-2", "checkpoint-written")),
    ),
    Row(
        "failed and to be tried again",
        "webhooks",
        crashes=(("notifier-1", "failure-recorded"), ("notifier-2", "claimed")),
        troubles=(FAILING,),
    ),
    *_named("sweeper leading", "sweeper adopted", "revocation reacted"),
    Row("receivers in trouble", "each in another kind", troubles=tuple(TROUBLES.values()), flawless=True),
    Row("mongodb in trouble", "step-down, primary killed, all killed", during=mongodb_troubled),
    Row("rabbitmq in trouble", "killed, away, frozen", during=rabbitmq_troubled, flawless=True, kills_broker=True),
    *_named("subscriber full", "subscriber silent", "event log away"),
    *_named("rolling restart", "rabbitmq wiped"),
    *_named("compliant clients, killed", "compliant clients, step-down"),
)
pytestmark = pytest.mark.timeout(1800)
SEED = secrets.token_hex(4)
_played: list[Played] = []


@pytest.fixture(scope="module", name="where")
async def _where() -> AsyncIterator[World]:
    """The system on its own RabbitMQ and replica set."""
    loggers = [logging.getLogger(name) for name in ("aiormq", "aio_pika")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)  # lost connections are expected here
    async with world(USUAL, replica_set=True) as running:
        yield running
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in TOGETHER])
async def test_nothing_is_lost_invented_or_duplicated(where: World, row: Row) -> None:
    """Every token has its event and its webhook under one id; there are no others; no client is refused wrongly."""
    played = await play(where, row, SHORT, SEED)
    _played.append(played)
    result = await played.judged()
    for each in result.remarks:
        print(f"{row.name}: {each}")  # noqa: T201 - shown with `pytest -s`, and where something else fails
    assert not result.complaints, f"seed {SEED}: {result.complaints}"
    assert result.verdict.tokens >= SHORT.tokens


@pytest.fixture(scope="module", name="slowed")
async def _slowed() -> AsyncIterator[World]:
    """The system behind a proxy that can delay MongoDB."""
    async with world(USUAL, slow=True) as running:
        yield running


@pytest.mark.parametrize("row", [pytest.param(row, id=row.name) for row in ANSWERS_LATE])
async def test_b2_compliant_clients_lose_nothing(slowed: World, row: Row) -> None:
    """If MongoDB responds late, clients that follow each 503 lose no login, nothing is doubled, and a replay
    revokes.
    """
    result = await (await play(slowed, row, SHORT, SEED)).judged()
    assert not result.complaints, f"seed {SEED}: {result.complaints}"
    assert result.failed or "3 s" in row.name


async def test_nothing_came_late(where: World) -> None:
    """What was right at the end of a row is still right after all rows: nothing was invented or doubled later."""
    assert where.receiver.webhooks
    for played in _played:
        result = await played.judged()
        assert not result.complaints, f"seed {SEED}, {played.row.name}: {result.complaints}"


async def test_events_and_deliveries_are_reconciled(where: World) -> None:
    """The system's own reconciliation of each row reports nothing missing and nothing extra."""
    assert where.recorder.heard
    for played in _played:

        async def balanced(played: Played = played) -> bool:
            unbalanced = await played.unbalanced()
            assert not unbalanced, f"seed {SEED}, {played.row.name}: {unbalanced}"
            return True

        await eventually(balanced, within=180, every=0.5)


def test_every_point_has_a_row() -> None:
    """Every labelled point and every receiver trouble occurs in the full run and in the short one."""
    special = {"reacted"}  # armed by the fault of its row
    for rows in (CRASHES, TOGETHER):
        labels = {label for row in rows for _, label in (*row.crashes, *row.armed)}
        assert labels | special == set(POINTS)
    troubles = {trouble for row in OUTAGES for trouble in row.troubles if trouble is not None}
    assert troubles == set(TROUBLES.values())
