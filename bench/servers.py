"""The servers that Tokenwire is compared with: a bare handler, and a straightforward token endpoint.

`python -m bench.servers bare|naive --port N [--mongodb URL --amqp URL]`.
"""

import argparse
import base64
import hashlib
import hmac
import json
import secrets
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import aio_pika
import uvloop
from aiohttp import web
from motor.motor_asyncio import AsyncIOMotorClient

SECRET = "benchmark-secret-of-the-naive-server"


async def bare(_request: web.Request) -> web.Response:
    """Respond with constant bytes of a token response's length."""
    return web.Response(body=b'{"access_token":"tw_at_' + b"x" * 76 + b'","expires_in":3600,"token_type":"bearer"}')


async def ready(_request: web.Request) -> web.Response:
    """Always ready."""
    return web.Response()


class Naive:
    """One insert, then one awaited publish with confirmation, then the response. Requests share nothing."""

    def __init__(self, mongodb: str, amqp: str) -> None:
        self._mongodb = mongodb
        self._amqp = amqp

    async def connected(self, _app: web.Application) -> AsyncIterator[None]:
        """Connect to MongoDB and RabbitMQ for the application's lifetime."""
        client: AsyncIOMotorClient[dict[str, Any]] = AsyncIOMotorClient(self._mongodb, w="majority", journal=True)
        self._tokens = client["naive"]["tokens"]
        connection = await aio_pika.connect_robust(self._amqp)
        channel = await connection.channel(publisher_confirms=True)
        self._exchange = await channel.declare_exchange("naive.events", aio_pika.ExchangeType.TOPIC, durable=True)
        queue = await channel.declare_queue("naive.sink", durable=True, arguments={"x-queue-type": "quorum"})
        await queue.bind(self._exchange, "#")
        yield
        await connection.close()
        client.close()

    async def token(self, request: web.Request) -> web.Response:
        """The client_credentials grant as a tutorial would write it."""
        form = await request.post()
        given = base64.b64decode(request.headers["Authorization"][6:]).decode().partition(":")[2]
        if form["grant_type"] != "client_credentials" or not hmac.compare_digest(given, SECRET):
            raise web.HTTPUnauthorized
        token = "tw_at_" + secrets.token_urlsafe(57)
        now = datetime.now(UTC)
        document = {
            "_id": hashlib.sha256(token.encode()).hexdigest(),
            "client_id": "bench",
            "created_at": now,
            "expires_at": now + timedelta(hours=1),
        }
        await self._tokens.insert_one(document)
        event = {"type": "token.new", "id": secrets.token_hex(16), "client_id": "bench", "time": now.isoformat()}
        message = aio_pika.Message(
            json.dumps(event).encode(), message_id=event["id"], delivery_mode=aio_pika.DeliveryMode.PERSISTENT
        )
        await self._exchange.publish(message, "token.new.bench")
        return web.json_response({"access_token": token, "expires_in": 3600, "token_type": "bearer"})


def main() -> None:
    """Serve until stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["bare", "naive"])
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--mongodb", default="")
    parser.add_argument("--amqp", default="")
    arguments = parser.parse_args()
    app = web.Application()
    app.router.add_get("/readyz", ready)
    if arguments.what == "bare":
        app.router.add_post("/demo-api/oauth/token", bare)
        app.router.add_get("/orders/17", bare)
    else:
        naive = Naive(arguments.mongodb, arguments.amqp)
        app.cleanup_ctx.append(naive.connected)
        app.router.add_post("/demo-api/oauth/token", naive.token)
    web.run_app(app, host="127.0.0.1", port=arguments.port, access_log=None, print=None, loop=uvloop.new_event_loop())


if __name__ == "__main__":
    main()
