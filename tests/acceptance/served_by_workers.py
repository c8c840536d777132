"""A service with one trivial route and no records, started as every service is.

`python -m tests.acceptance.served_by_workers`; a worker does not start while the file that FAILS names is there.
"""

import asyncio
import os
import sys
from pathlib import Path

from aiohttp import web

from libs.http.forms import read_body
from libs.http.responses import json_bytes
from libs.runtime import application_without_records, main
from libs.settings import ServerSettings

FAILS = "SERVED_FAILS"
"""Environment variable with the path of that file."""
STATUS = 7
"""Exit status of a worker that does not start."""


async def response(request: web.Request) -> web.Response:
    """Respond with the length of the body, after some time if the body says so."""
    body = await read_body(request)
    if body == b"slow":
        await asyncio.sleep(1)
    return json_bytes(b"%d" % len(body))


async def fail_if_told(_: web.Application) -> None:
    """End the process while the file is there."""
    if Path(os.environ.get(FAILS, "/nowhere")).exists():
        sys.stderr.write("this worker cannot start\n")
        sys.stderr.flush()
        os._exit(STATUS)


def create_app(settings: ServerSettings) -> web.Application:
    """The service."""
    app, _ = application_without_records(settings, "served")
    app.router.add_post("/", response)
    app.on_startup.append(fail_if_told)
    return app


if __name__ == "__main__":
    main("served", "Serve one route.", ServerSettings, create_app)
