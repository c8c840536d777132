"""A resource server behind Tokenwire's gateway: a few JSON paths, with no token handling of its own.

    python -m examples.upstream

The gateway passes a call on only with a valid token. It removes the token if the API definition says so
(`stripAuthorizationData`), and sets `X-Tokenwire-*` headers that name the client and the user. It drops such headers
from callers, so this server trusts them. Only the gateway may be able to reach this server.
"""

import argparse
from urllib.parse import unquote

from aiohttp import web

ORDERS = {
    "1001": {"id": "1001", "item": "espresso machine", "quantity": 1, "state": "shipped"},
    "1002": {"id": "1002", "item": "coffee beans, 1 kg", "quantity": 4, "state": "packed"},
}


def whose(request: web.Request) -> dict[str, str]:
    """The calling client app, and the user who authorized it, if any."""
    client = request.headers.get("X-Tokenwire-Client-Id", "")
    user = unquote(request.headers.get("X-Tokenwire-Subject", ""))
    return {"client": client, "user": user}


async def list_orders(request: web.Request) -> web.Response:
    """GET /orders."""
    return web.json_response({"orders": list(ORDERS.values()), **whose(request)})


async def show_order(request: web.Request) -> web.Response:
    """GET /orders/{id}."""
    order = ORDERS.get(request.match_info["id"])
    if order is None:
        return web.json_response({"error": "no such order"}, status=404)
    return web.json_response(order)


def create_app() -> web.Application:
    """The resource server as an aiohttp application."""
    app = web.Application()
    app.router.add_get("/orders", list_orders)
    app.router.add_get("/orders/{id}", show_order)
    return app


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.upstream", description="A resource server.")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=9003, help="default: %(default)s")
    options = parser.parse_args()
    print(f"an API's upstream may now be http://{options.host}:{options.port}/", flush=True)
    try:
        web.run_app(create_app(), host=options.host, port=options.port, print=None)
    except OSError as error:
        raise SystemExit(f"cannot listen: {error.strerror}; --port chooses another port") from None


if __name__ == "__main__":
    main()
