"""`python -m examples.demo`."""

import argparse
import asyncio
import contextlib
import signal
import sys

from aiohttp import ClientSession, ClientTimeout

from examples.demo.environment import CannotStart, Target, address_for, free_ports, tokenwire
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
        await show_link(target, story.console_page)
    return 0


async def show_link(target: Target, page: str) -> None:
    """Print where the console shows the grant. A temporary Tokenwire is kept until the person at the terminal has
    looked; without a terminal nobody could.
    """
    person = sys.stdin.isatty() and sys.stdout.isatty()
    if target.temporary and not person:
        print("\nWith `make run` in another terminal, the demo ends with a link to its grant in the console.")
        return
    key_is_in = f"the operator key in {target.key_kept_in}"
    print(f"\nThe life of the grant, in the console; sign in with {key_is_in}:\n\n  {page}", flush=True)
    if target.temporary:
        print("\nEnter ends the demo, and the Tokenwire that it started.", flush=True)
        await pressed_enter()


async def pressed_enter() -> None:
    """Wait for a line, or the end, of standard input; or for Ctrl-C."""
    loop, pressed = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(sys.stdin, pressed.set)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await pressed.wait()
    finally:
        loop.remove_reader(sys.stdin)


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
