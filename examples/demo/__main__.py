"""`python -m examples.demo`."""

import argparse
import asyncio
import signal
import sys

from aiohttp import ClientSession, ClientTimeout

from examples.demo.environment import CannotStart, address_for, free_ports, tokenwire
from examples.demo.story import Story
from examples.demo.transcript import Caller, Mismatch, Transcript


async def run_demo(host_address: str | None) -> int:
    """Run every step. The exit status: 0 if every response was as expected, else 1."""
    transcript = Transcript()
    async with ClientSession(timeout=ClientTimeout(total=20)) as http, tokenwire(http) as target:
        transcript.secret(target.operator_key)
        with free_ports(host_address or address_for(target)) as ports:
            story = Story(target, ports, Caller(http, transcript), transcript)
            try:
                await story.run()
            except Mismatch as mismatch:
                transcript.show_mismatch(mismatch)
                return 1
            finally:
                await clean_up(story)
    print(f"\ndemo passed: {transcript.steps} steps")
    return 0


async def clean_up(story: Story) -> None:
    """Delete what an aborted demo left behind, as far as possible."""
    try:
        await story.clean_up()
    except Mismatch as mismatch:
        print(f"not cleaned up: {mismatch.what}: {story.transcript.shortened(str(mismatch.actual))}", file=sys.stderr)


async def run_until_signal(host_address: str | None) -> int:
    """The exit status of the demo; 130 after Ctrl-C or SIGTERM."""
    running = asyncio.ensure_future(run_demo(host_address))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, running.cancel)
    try:
        return await running
    except asyncio.CancelledError:
        print("\ninterrupted")
        return 130
    except (CannotStart, PermissionError) as reason:
        print(f"\nthe demo cannot run: {reason}", file=sys.stderr)
        return 1


def main() -> None:
    """Exit with 0 if every response was as expected, 1 if not, 130 if interrupted."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.demo", description="The whole OAuth flow, request by request."
    )
    parser.add_argument(
        "--host-address",
        metavar="ADDRESS",
        help="address at which Tokenwire reaches this machine (default: 127.0.0.1, or the gateway of Docker's network "
        "for the stack of `make up`, which needs TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS=true to send webhooks there)",
    )
    options = parser.parse_args()
    sys.exit(asyncio.run(run_until_signal(options.host_address)))


if __name__ == "__main__":
    main()
