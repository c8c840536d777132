"""A process that serves requests like every service, with one trivial route.

`python -m tests.acceptance.served PORT LINGER`
"""

import sys

from aiohttp import web

from libs.client_address import TrustedProxies
from libs.http.context import DRAIN, Drain, request_middleware
from libs.http.error_responses import ErrorRenderer
from libs.http.forms import read_body
from libs.http.open_connections import OPEN_CONNECTIONS, OpenConnections
from libs.http.responses import json_bytes
from libs.http.routing import routed_application
from libs.http.security_headers import SECURITY_HEADERS, security_headers
from libs.serving import listening, serve


async def response(request: web.Request) -> web.Response:
    """Respond with the length of the body."""
    return json_bytes(b"%d" % len(await read_body(request)))


def main() -> None:
    """Serve until SIGTERM."""
    constant, drain = security_headers("http://127.0.0.1"), Drain()
    app = routed_application(middlewares=[request_middleware(ErrorRenderer(), 0, drain, TrustedProxies(), constant)])
    app[SECURITY_HEADERS] = constant
    app[DRAIN] = drain
    app[OPEN_CONNECTIONS] = OpenConnections(4096, 1024)
    app.router.add_post("/", response)
    listener = listening("127.0.0.1", int(sys.argv[1]), host_from="host", port_from="port")
    serve(app, listener, linger=float(sys.argv[2]))


if __name__ == "__main__":
    main()
