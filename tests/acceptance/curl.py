"""Runs documented commands as a user would paste them: in a shell, with the machine's curl."""

import functools
import re
from collections.abc import Mapping
from pathlib import Path

import multidict

from tests.acceptance.programs import run
from tests.builders import Response
from tests.provision import debian

INSTEAD = "put a curl on PATH"
_OPEN = re.compile(r"<[^<>]+>")


@functools.cache
def curl() -> Path:
    """The path of curl, installed if permitted. Raises CannotProvide with what to do."""
    return debian.provided("curl", "curl", INSTEAD)


def filled_in(command: str, values: Mapping[str, str]) -> str:
    """The command with the names in angle brackets replaced; every name must be known."""
    return _OPEN.sub(lambda found: values[found[0].strip("<>")], command)


async def pasted(command: str) -> Response:
    """Run a `curl …` command in a shell, unchanged; return the response."""
    assert command.startswith("curl "), command
    # An environment setting makes curl print status and headers; the command itself is not changed.
    shown = f"{command} --silent --show-error --include --noproxy '*'"
    outcome = await run("/bin/sh", "-c", shown, own_environment={"PATH": f"{curl().parent}:/usr/bin:/bin"})
    assert outcome.status == 0, f"{command}: {outcome.complaints}"
    head, _, body = outcome.out.partition("\r\n\r\n")
    status_line, *lines = head.split("\r\n")
    fields = (line.partition(":") for line in lines)
    headers = multidict.CIMultiDict((name, value.strip()) for name, _, value in fields)
    return Response(int(status_line.split()[1]), headers, body.encode())
