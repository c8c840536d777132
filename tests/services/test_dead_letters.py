"""`python -m services dead-letters` and `redrive`: counting dead letters and sending them back."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from libs.bus.port import Delivery, Drop, Exchange, Outcome, Subscription
from libs.bus.rabbit import RabbitBus
from libs.bus.rabbit.topology import POOLS
from tests.conformance.conftest import ready
from tests.conformance.recorder import event
from tests.eventually import eventually

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Done:
    status: int | None
    out: str
    err: str


async def command(*arguments: str, **environment: str) -> Done:
    """Run the command as typed, without our environment."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOKENWIRE_")}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "services", *arguments),
        cwd=ROOT,
        env=kept | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    return Done(process.returncode, out.decode(), err.decode())


class Consumer:
    """A consumer of the pool `revocation` that fails until it is fixed."""

    def __init__(self, url: str) -> None:
        self.bus = RabbitBus(url, instance_name="dead-letters-test")
        self.bus.subscribe(Subscription("revocation", Exchange.EVENTS, ("client.deleted.#",), self._handle))
        self.mended = False
        self.handled: list[str] = []

    async def _handle(self, delivery: Delivery) -> None:
        if not self.mended:
            raise Drop("broken")
        self.handled.append(delivery.message.id)

    async def dead_letters(self, count: int) -> bool:
        return await self.bus.dead_letters("revocation") == count


@pytest.fixture(name="consumer")
async def _consumer(amqp_url: str) -> AsyncIterator[Consumer]:
    consumer = Consumer(amqp_url)
    await consumer.bus.open()
    await ready(consumer.bus)
    yield consumer
    await consumer.bus.close()


def counts(**found: int) -> dict[str, int]:
    return dict.fromkeys((pool.name for pool in POOLS), 0) | found


def listed(done: Done) -> dict[str, int]:
    assert (done.status, done.err) == (0, "")
    return {pool: int(count) for pool, count in (line.split() for line in done.out.splitlines())}


async def test_dead_letters_are_counted_and_redriven(consumer: Consumer, amqp_url: str) -> None:
    """Each pool is counted. A limit is kept; without one everything is sent back, and the consumer gets each message
    once.
    """
    messages = [event("client.deleted.api-1") for _ in range(3)]
    assert await consumer.bus.publish(messages) == [Outcome.CONFIRMED] * 3
    await eventually(lambda: consumer.dead_letters(3))
    assert listed(await command("dead-letters", TOKENWIRE_AMQP_URL=amqp_url)) == counts(revocation=3)

    consumer.mended = True
    done = await command("redrive", "revocation", "--limit", "1", TOKENWIRE_AMQP_URL=amqp_url)
    assert done == Done(0, "1 sent back to revocation, 2 dead letters left\n", "")
    done = await command("redrive", "revocation", TOKENWIRE_AMQP_URL=amqp_url)
    assert done == Done(0, "2 sent back to revocation, 0 dead letters left\n", "")

    await eventually(lambda: len(consumer.handled) == 3)
    assert sorted(consumer.handled) == sorted(message.id for message in messages)
    assert listed(await command("dead-letters", TOKENWIRE_AMQP_URL=amqp_url)) == counts()


async def test_a_redrive_of_failing_messages_ends(consumer: Consumer, amqp_url: str) -> None:
    """Redriving messages that still fail ends, and loses none."""
    assert await consumer.bus.publish([event("client.deleted.api-1") for _ in range(3)]) == [Outcome.CONFIRMED] * 3
    await eventually(lambda: consumer.dead_letters(3))
    done = await command("redrive", "revocation", TOKENWIRE_AMQP_URL=amqp_url)
    assert (done.status, done.out.partition(",")[0]) == (0, "3 sent back to revocation")
    await eventually(lambda: consumer.dead_letters(3))


async def test_the_address_may_come_from_a_file(amqp_url: str, consumer: Consumer, tmp_path: Path) -> None:
    """The URL may come from a file, as in a container."""
    (tmp_path / "amqp_url").write_text(f"{amqp_url}\n")
    assert listed(await command("dead-letters", TOKENWIRE_AMQP_URL_FILE=str(tmp_path / "amqp_url"))) == counts()


@pytest.mark.parametrize("arguments", [("dead-letters",), ("redrive", "revocation")], ids=lambda value: value[0])
async def test_without_rabbitmq_it_says_so_in_one_line(arguments: tuple[str, ...]) -> None:
    """Without RabbitMQ one line says so; the in-process bus has no dead letters that another process could see."""
    done = await command(*arguments)
    assert (done.status, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith(f"python -m services {arguments[0]}: TOKENWIRE_AMQP_URL is not set")


@pytest.mark.parametrize(
    "url", ["amqp://user:hunter2hunter2@127.0.0.1:1/", "not a url hunter2hunter2"], ids=["nobody-there", "no-url"]
)
async def test_a_broker_that_does_not_answer_is_one_line(url: str) -> None:
    """If the broker does not respond, one line says so without the password."""
    done = await command("dead-letters", TOKENWIRE_AMQP_URL=url)
    assert (done.status, done.out) == (1, "")
    assert done.err.count("\n") == 1
    assert done.err.startswith("python -m services dead-letters: RabbitMQ: no connection")
    assert "hunter2" not in done.err


@pytest.mark.parametrize(
    "arguments",
    [("redrive",), ("redrive", "unknown"), ("redrive", "revocation", "--limit", "0"), ("unknown",)],
    ids=["no-pool", "unknown-pool", "limit-of-nothing", "unknown-command"],
)
async def test_a_command_that_is_none_is_refused(arguments: tuple[str, ...]) -> None:
    """An unknown command prints the usage and exits with 2."""
    done = await command(*arguments, TOKENWIRE_AMQP_URL="amqp://127.0.0.1:1/")
    assert done.status == 2
    assert done.err.startswith("usage: python -m services")
