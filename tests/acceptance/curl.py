"""Commands as somebody pastes them into a terminal: run by a shell, with the machine's curl."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import multidict

from tests.acceptance.programs import run
from tests.builders import Answer
from tests.provision import CannotProvide, debian

INSTEAD = "put a curl on PATH"
_OPEN = re.compile(r"<[^<>]+>")


@functools.cache
def curl() -> Path:
    """The program, installed if permitted. Raises CannotProvide with what to do."""
    found = debian.program("curl")
    if found is None:
        debian.install("curl", INSTEAD)
        found = debian.program("curl")
    if found is None:
        raise CannotProvide(f"curl is installed but not to be found: {INSTEAD}")
    return found


def filled_in(command: str, values: Mapping[str, str]) -> str:
    """The command with what stands in angle brackets replaced; each name must be known."""
    return _OPEN.sub(lambda found: values[found[0].strip("<>")], command)


async def pasted(command: str) -> Answer:
    """What a `curl …` command, given to a shell as it is, answers."""
    assert command.startswith("curl "), command
    # curl's own way of showing status and headers; the command itself is not touched.
    shown = f"{command} --silent --show-error --include --noproxy '*'"
    outcome = await run("/bin/sh", "-c", shown, own_environment={"PATH": f"{curl().parent}:/usr/bin:/bin"})
    assert outcome.status == 0, f"{command}: {outcome.complaints}"
    head, _, body = outcome.out.partition("\r\n\r\n")
    status_line, *lines = head.split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = multidict.CIMultiDict((name, value.strip()) for name, _, value in fields)
    return Answer(int(status_line.split()[1]), headers, body.encode())
