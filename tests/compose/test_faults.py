"""Some rows of `make faults-compose`: containers are broken under load, and the judge outside counts what was lost."""

import logging
import secrets
from collections.abc import Iterator

import pytest

from tests.faults.container_rows import CONTAINER_ROWS, SHORT, SHORT_ROWS
from tests.faults.containers import container_world
from tests.faults.rows import play

SETTLED_WITHIN = 400.0
SEED = secrets.token_hex(4)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """The rows break connections to RabbitMQ on purpose, which libraries log as errors."""
    loggers = [logging.getLogger(name) for name in ("aiormq", "aio_pika")]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    yield
    for logger in loggers:
        logger.setLevel(logging.NOTSET)


async def test_broken_and_scaled_containers_lose_and_double_nothing(image: str) -> None:
    """If services are killed or RabbitMQ is cut off, nothing is lost, made up or doubled. Scaling fails no request,
    and every instance does its part of the work.
    """
    rows = [row for row in CONTAINER_ROWS if row.name in SHORT_ROWS]
    assert len(rows) == len(SHORT_ROWS)
    async with container_world(f"{image}-faults", image) as where:
        played = [await play(where, row, SHORT, SEED) for row in rows]
        for each in played:
            await each.settled(SETTLED_WITHIN)
            result = await each.judged()
            assert not result.complaints, f"seed {SEED}, {each.row.name}: {result.complaints}"
            assert result.verdict.tokens >= SHORT.tokens
