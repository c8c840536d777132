"""A resource owner service that receives Tokenwire's webhooks and verifies them.

    TOKENWIRE_WEBHOOK_SECRET=oauth-shared-secret python -m examples.webhook_receiver

The `notifications` of the API definition point here: `onKeyChangeUrl` with any path, and `sharedSecret` with the same
secret. A webhook is accepted if

- `X-Tyk-Shared-Secret` is that secret;
- `webhook-timestamp` is at most five minutes off, so that a recorded webhook cannot be replayed later;
- one of the entries of `webhook-signature` is `v1,` followed by the base64 HMAC-SHA-256 of
  `{webhook-id}.{webhook-timestamp}.` and the exact bytes of the body (Standard Webhooks 1.0.0). The key is the UTF-8 of
  the secret; for `whsec_` followed by base64 it is the decoded base64;
- the body has exactly the five keys, and all values are strings.

Delivery is at least once: the same `webhook-id` may come again, and gets 204 without effect. The body contains raw
tokens: store them as carefully as passwords. `GET /received` shows the latest webhooks to callers that send the shared
secret.
"""

import argparse
import base64
import binascii
import contextlib
import hashlib
import hmac
import json
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial

from aiohttp import web

SHARED_SECRET_HEADER = "X-Tyk-Shared-Secret"
TOLERANCE_SECONDS = 300
KEYS = frozenset({"auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type"})
REMEMBERED = 10_000
LARGEST_BODY = 64 * 1024


class Refused(Exception):
    """The webhook is not accepted."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass
class Received:
    """A verified webhook."""

    id: str
    timestamp: int
    """Unix seconds of the first attempt that was received."""
    notification: dict[str, str]
    times: int = 1
    """How often it was received."""


@dataclass(frozen=True)
class Verifier:
    """Verifies that a request comes from the holder of the shared secret."""

    shared_secret: str = field(repr=False)

    def verify(self, headers: Mapping[str, str], body: bytes, *, now: float) -> tuple[str, int]:
        """Return the id and the timestamp of a genuine webhook. Raises Refused."""
        if not self.is_shared_secret(headers.get(SHARED_SECRET_HEADER, "")):
            raise Refused(401, "wrong shared secret")
        webhook_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
        if not webhook_id or not (timestamp.isascii() and timestamp.isdigit()):
            raise Refused(400, "webhook-id or webhook-timestamp is missing")
        if abs(now - int(timestamp)) > TOLERANCE_SECONDS:
            raise Refused(401, "webhook-timestamp is too far from now")
        expected = self._signature(f"{webhook_id}.{timestamp}.".encode() + body)
        if not any(_same(entry, expected) for entry in headers.get("webhook-signature", "").split(" ")):
            raise Refused(401, "no signature fits")
        return webhook_id, int(timestamp)

    def is_shared_secret(self, presented: str) -> bool:
        """Compare with the shared secret in constant time."""
        return _same(presented, self.shared_secret)

    def _signature(self, signed: bytes) -> str:
        tag = hmac.new(signing_key(self.shared_secret), signed, hashlib.sha256).digest()
        return f"v1,{base64.b64encode(tag).decode()}"


def signing_key(shared_secret: str) -> bytes:
    """The bytes of the HMAC key."""
    if shared_secret.startswith("whsec_"):
        with contextlib.suppress(binascii.Error):
            return base64.b64decode(shared_secret.removeprefix("whsec_"), validate=True)
    return shared_secret.encode()


def _same(presented: str, expected: str) -> bool:
    return hmac.compare_digest(presented.encode(errors="replace"), expected.encode())


def read_notification(body: bytes) -> dict[str, str]:
    """Return the five strings. Raises Refused for any other body."""
    try:
        notification = json.loads(body)
    except ValueError:
        raise Refused(400, "the body is not JSON") from None
    if not isinstance(notification, dict) or notification.keys() != KEYS:
        raise Refused(400, "the body does not have the five keys")
    if not all(isinstance(value, str) for value in notification.values()):
        raise Refused(400, "a value is not a string")
    return notification


@dataclass(frozen=True)
class WebhookReceiver:
    """Accepts webhooks, each id once."""

    verifier: Verifier
    taken: OrderedDict[str, Received] = field(default_factory=OrderedDict)
    """Accepted webhooks by id, the oldest first."""
    say: Callable[[str], None] = print
    now: Callable[[], float] = time.time

    async def receive(self, request: web.Request) -> web.Response:
        """POST: 204 if the webhook is accepted, now or earlier."""
        try:
            received = self._take(request.headers, await request.read())
        except Refused as refused:
            self.say(f"refused a webhook: {refused.reason}")
            return web.json_response({"error": refused.reason}, status=refused.status)
        again = f", for the {received.times}. time" if received.times > 1 else ""
        self.say(f"webhook {received.id}: {received.notification['notification_type']}{again}")
        return web.Response(status=204)

    def _take(self, headers: Mapping[str, str], body: bytes) -> Received:
        webhook_id, timestamp = self.verifier.verify(headers, body, now=self.now())
        notification = read_notification(body)
        if known := self.taken.get(webhook_id):
            known.times += 1
            return known
        # Work that must happen once belongs here, in the same write as the id: a crash between two writes would lose or
        # repeat it.
        self.taken[webhook_id] = received = Received(webhook_id, timestamp, notification)
        if len(self.taken) > REMEMBERED:
            self.taken.popitem(last=False)
        return received

    async def show(self, request: web.Request) -> web.Response:
        """GET /received: the latest hundred webhooks, the oldest first."""
        if not self.verifier.is_shared_secret(request.headers.get(SHARED_SECRET_HEADER, "")):
            return web.json_response({"error": "wrong shared secret"}, status=401)
        latest = [asdict(received) for received in list(self.taken.values())[-100:]]
        return web.json_response(latest, headers={"Cache-Control": "no-store"})


def create_app(shared_secret: str, say: Callable[[str], None] = print) -> web.Application:
    """The receiver as an aiohttp application."""
    receiver = WebhookReceiver(Verifier(shared_secret), say=say)
    app = web.Application(client_max_size=LARGEST_BODY)
    app.router.add_get("/received", receiver.show)
    app.router.add_post("/{path:.*}", receiver.receive)
    return app


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.webhook_receiver", description="Takes token webhooks.")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=9002, help="default: %(default)s")
    options = parser.parse_args()
    shared_secret = os.environ.get("TOKENWIRE_WEBHOOK_SECRET", "")
    if not shared_secret:
        parser.error("TOKENWIRE_WEBHOOK_SECRET must hold the API's shared secret")
    print(f"onKeyChangeUrl: http://{options.host}:{options.port}/tokens", flush=True)
    app = create_app(shared_secret, partial(print, flush=True))
    try:
        web.run_app(app, host=options.host, port=options.port, print=None)
    except OSError as error:
        raise SystemExit(f"cannot listen: {error.strerror}; --port chooses another port") from None


if __name__ == "__main__":
    main()
