"""A resource server: a few JSON paths, and nothing without a token that Tokenwire vouches for.

    python -m examples.upstream --listen-path /my-oauth-api/

Before every answer it asks Tokenwire's `/verify`, as a proxy with forward authentication would: which URI and method
were asked for, with the caller's own credentials. 200 lets the request through; a refusal goes back to the caller as it
is, status, body and challenge. When Tokenwire cannot be asked the answer is 503: a resource server fails closed.
"""

import argparse
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass

from aiohttp import ClientError, ClientSession, ClientTimeout, web
from aiohttp.typedefs import Handler, Middleware

CREDENTIALS = ("Authorization", "Cookie")
OF_A_REFUSAL = ("Content-Type", "WWW-Authenticate", "Retry-After", "Cache-Control")

ORDERS = {
    "1001": {"id": "1001", "item": "espresso machine", "quantity": 1, "state": "shipped"},
    "1002": {"id": "1002", "item": "coffee beans, 1 kg", "quantity": 4, "state": "packed"},
}

HTTP = web.AppKey("http", ClientSession)


@dataclass(frozen=True)
class Guard:
    """Lets through what Tokenwire lets through."""

    tokenwire: str
    """The base URL of Tokenwire."""
    listen_path: str
    """Where Tokenwire knows this API, e.g. `/my-oauth-api/`."""
    token_header: str = "Authorization"
    """The header that carries the token, as the API definition says."""

    async def refusal(self, request: web.Request) -> web.Response | None:
        """None when the request may pass, else what its sender gets."""
        headers = self._question(request)
        try:
            async with request.app[HTTP].get(
                f"{self.tokenwire}/verify", headers=headers, allow_redirects=False
            ) as answer:
                if answer.status == 200:
                    return None
                body = await answer.read()
        except (ClientError, TimeoutError) as error:
            print(f"no answer from {self.tokenwire}/verify: {error!r}", file=sys.stderr, flush=True)
            return _unavailable()
        if not 400 <= answer.status < 500:
            print(f"{self.tokenwire}/verify answered {answer.status}", file=sys.stderr, flush=True)
            return _unavailable()
        kept = {name: answer.headers[name] for name in OF_A_REFUSAL if name in answer.headers}
        return web.Response(status=answer.status, body=body, headers=kept)

    def _question(self, request: web.Request) -> dict[str, str]:
        uri = f"/{self.listen_path.strip('/')}{request.raw_path}"
        asked = {
            "X-Original-URI": uri,
            "X-Original-Method": request.method,
            "X-Forwarded-Uri": uri,
            "X-Forwarded-Method": request.method,
        }
        names = {*CREDENTIALS, self.token_header}
        return asked | {name: request.headers[name] for name in names if name in request.headers}

    def middleware(self) -> Middleware:
        """What stands in front of every handler."""

        @web.middleware
        async def ask_first(request: web.Request, handler: Handler) -> web.StreamResponse:
            return await self.refusal(request) or await handler(request)

        return ask_first


def _unavailable() -> web.Response:
    return web.json_response({"error": "tokens cannot be checked"}, status=503, headers={"Retry-After": "5"})


async def list_orders(_: web.Request) -> web.Response:
    """GET /orders."""
    return web.json_response({"orders": list(ORDERS.values())})


async def show_order(request: web.Request) -> web.Response:
    """GET /orders/{id}."""
    order = ORDERS.get(request.match_info["id"])
    if order is None:
        return web.json_response({"error": "no such order"}, status=404)
    return web.json_response(order)


async def _http(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(timeout=ClientTimeout(total=10)) as http:
        app[HTTP] = http
        yield


def create_app(guard: Guard) -> web.Application:
    """The resource server as an aiohttp application."""
    app = web.Application(middlewares=[guard.middleware()])
    app.cleanup_ctx.append(_http)
    app.router.add_get("/orders", list_orders)
    app.router.add_get("/orders/{id}", show_order)
    return app


def main() -> None:
    """Serves until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.upstream", description="A resource server.")
    parser.add_argument("--tokenwire", default="http://127.0.0.1:8080", metavar="URL", help="default: %(default)s")
    parser.add_argument("--listen-path", required=True, help="where Tokenwire knows this API, e.g. /my-oauth-api/")
    parser.add_argument("--token-header", default="Authorization", help="default: %(default)s")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=9003, help="default: %(default)s")
    options = parser.parse_args()
    guard = Guard(options.tokenwire.rstrip("/"), options.listen_path, options.token_header)
    print(
        f"try: curl http://{options.host}:{options.port}/orders -H 'Authorization: Bearer <access token>'", flush=True
    )
    web.run_app(create_app(guard), host=options.host, port=options.port, print=None)


if __name__ == "__main__":
    main()
