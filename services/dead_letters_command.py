"""Dead-letter queues: `python -m services dead-letters` counts their messages, `… redrive <pool>` sends them back."""

import argparse
import asyncio
import sys

from pydantic import Field, SecretStr

from libs import logging
from libs.bus.port import BusUnavailable
from libs.bus.rabbit import open_pool_queues
from libs.bus.rabbit.topology import POOLS
from libs.settings import Settings, load


class DeadLetterSettings(Settings):
    """These commands need the broker's URL and no other setting."""

    mongodb_url: SecretStr = SecretStr("")
    keys: SecretStr = SecretStr("")
    amqp_url: SecretStr = Field(
        SecretStr(""), description="amqp:// or amqps:// URL of RabbitMQ, or comma-separated, one for each node."
    )


class DeadLettersUnavailable(Exception):
    """The dead-letter queues cannot be reached; the text is the line to print."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands, as what may follow `python -m services`."""
    about = "dead letters: messages that no consumer could handle"
    commands.add_parser("dead-letters", help="count the dead letters of each pool", description=f"Count {about}.")
    redrive = commands.add_parser("redrive", help="send dead letters back", description=f"Send back {about}.")
    redrive.add_argument("pool", choices=[pool.name for pool in POOLS], help="the pool they belong to")
    redrive.add_argument("--limit", type=_positive, help="at most so many, oldest first (default: all)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a number above 0 is expected")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Run the command and print its result. Returns 0. Raises DeadLettersUnavailable, and WrongSetting."""
    url = load(DeadLetterSettings).amqp_url.get_secret_value()
    if not url:
        raise DeadLettersUnavailable("TOKENWIRE_AMQP_URL is not set; the in-process bus cannot be read from outside")
    logging.configure("critical", False, "tokenwire")
    try:
        if arguments.command == "dead-letters":
            asyncio.run(_count(url))
        else:
            asyncio.run(_redrive(url, arguments.pool, arguments.limit))
    except BusUnavailable as reason:
        raise DeadLettersUnavailable(f"RabbitMQ: {reason}") from None
    return 0


async def _count(url: str) -> None:
    async with open_pool_queues(url) as queues:
        for pool in POOLS:
            sys.stdout.write(f"{pool.name:<12} {await queues.dead_letters(pool.name)}\n")


async def _redrive(url: str, pool: str, limit: int | None) -> None:
    async with open_pool_queues(url) as queues:
        # Count once and stop there: a message that fails again at once would otherwise be sent back forever.
        moved = await queues.redrive(pool, limit or await queues.dead_letters(pool))
        sys.stdout.write(f"{moved} sent back to {pool}, {await queues.dead_letters(pool)} dead letters left\n")
