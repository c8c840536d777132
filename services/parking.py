"""What the pools gave up on: `python -m services parked` counts it, `… redrive <pool>` sends it back."""

import argparse
import asyncio
import sys

from pydantic import Field, SecretStr

from libs import logging
from libs.bus.port import BusUnavailable
from libs.bus.rabbit import attended
from libs.bus.rabbit.topology import POOLS
from libs.settings import Settings, load


class ParkingSettings(Settings):
    """Only where the broker is; nothing else is needed here."""

    mongodb_url: SecretStr = SecretStr("")
    keys: SecretStr = SecretStr("")
    amqp_url: SecretStr = Field(SecretStr(""), description="amqp:// or amqps:// URL of RabbitMQ.")


class NothingParked(Exception):
    """It cannot be asked; the text is the one line to show."""


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The commands, as what may follow `python -m services`."""
    about = "what RabbitMQ has parked: messages that no consumer could handle"
    commands.add_parser("parked", help="how many messages each pool has parked", description=f"Count {about}.")
    redrive = commands.add_parser("redrive", help="send parked messages back", description=f"Send back {about}.")
    redrive.add_argument("pool", choices=[pool.name for pool in POOLS], help="whose they are")
    redrive.add_argument("--limit", type=_positive, help="at most so many, the oldest first (all that are there now)")


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("a number above 0 is expected")
    return number


def run(arguments: argparse.Namespace) -> int:
    """Do it, and print what was found or done; 0. Raises NothingParked, and WrongSetting."""
    url = load(ParkingSettings).amqp_url.get_secret_value()
    if not url:
        raise NothingParked("TOKENWIRE_AMQP_URL is not set; only RabbitMQ parks messages, not the bus inside a process")
    logging.configure("critical", False, "tokenwire")
    try:
        asyncio.run(_parked(url) if arguments.command == "parked" else _redrive(url, arguments.pool, arguments.limit))
    except BusUnavailable as reason:
        raise NothingParked(f"RabbitMQ: {reason}") from None
    return 0


async def _parked(url: str) -> None:
    async with attended(url) as parking:
        for pool in POOLS:
            sys.stdout.write(f"{pool.name:<12} {await parking.parked(pool.name)}\n")


async def _redrive(url: str, pool: str, limit: int | None) -> None:
    async with attended(url) as parking:
        # Not until none is left: one that is parked again at once would be sent back for ever.
        moved = await parking.redrive(pool, limit or await parking.parked(pool))
        sys.stdout.write(f"{moved} sent back to {pool}, {await parking.parked(pool)} parked\n")
