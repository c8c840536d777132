"""`python -m examples.demo`."""

import argparse
import asyncio
import signal
import sys

from aiohttp import ClientSession, ClientTimeout

from examples.demo.stage import CannotStart, free_ports, tokenwire
from examples.demo.story import Story
from examples.demo.telling import Caller, Difference, Teller


async def tell(host_address: str) -> int:
    """The exit status: 0 when every step was as it has to be."""
    teller = Teller()
    async with ClientSession(timeout=ClientTimeout(total=20)) as http, tokenwire(http) as target:
        teller.secret(target.operator_key)
        with free_ports(host_address) as ports:
            story = Story(target, ports, Caller(http, teller), teller)
            try:
                await story.run()
            except Difference as difference:
                teller.show_difference(difference)
                return 1
            finally:
                await clean_up(story)
    print(f"\ndemo passed: {teller.steps} steps")
    return 0


async def clean_up(story: Story) -> None:
    """After a story that ended early, as far as it can be done."""
    try:
        await story.clean_up()
    except Difference as difference:
        print(f"not cleaned up: {difference.what}: {story.tell.shortened(str(difference.came))}", file=sys.stderr)


async def until_told_to_stop(host_address: str) -> int:
    """The exit status; 130 after Ctrl-C or SIGTERM."""
    telling = asyncio.ensure_future(tell(host_address))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, telling.cancel)
    try:
        return await telling
    except asyncio.CancelledError:
        print("\ninterrupted")
        return 130
    except (CannotStart, PermissionError) as reason:
        print(f"\nthe demo cannot run: {reason}", file=sys.stderr)
        return 1


def main() -> None:
    """Exits 0 when every step was as it has to be, 1 when one was not, 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo", description="The whole story, told by requests.")
    parser.add_argument(
        "--host-address",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where Tokenwire reaches this machine (default: %(default)s); for one in containers the machine's address "
        "on their network, and TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS=true for its notifier",
    )
    options = parser.parse_args()
    sys.exit(asyncio.run(until_told_to_stop(options.host_address)))


if __name__ == "__main__":
    main()
