"""The examples, started as users start them, against real servers."""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from examples import subscriber, upstream, webhook_receiver
from libs.bus.port import BusUnavailable, Exchange, Message
from libs.bus.rabbit import RabbitBus
from tests.acceptance.programs import run_python
from tests.acceptance.stack import Stack
from tests.acceptance.tenants import EXTENSION, new_tenant
from tests.eventually import eventually

UPSTREAM = f"{EXTENSION}__upstream__url"

Client = TestClient[web.Request, web.Application]

# The webhook receiver

SECRET = "oauth-shared-secret"
NOTIFICATION = {
    "auth_code": "a code",
    "new_oauth_token": "an access token",
    "refresh_token": "a refresh token",
    "old_refresh_token": "",
    "notification_type": "new",
}


def signed(webhook_id: str, timestamp: int, body: bytes, *, key: bytes = SECRET.encode()) -> dict[str, str]:
    """The headers of a webhook (Standard Webhooks 1.0.0), made without the receiver's code."""
    tag = hmac.new(key, b".".join([webhook_id.encode(), str(timestamp).encode(), body]), hashlib.sha256).digest()
    return {
        "X-Tyk-Shared-Secret": SECRET,
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1a,AAAA v1,{base64.b64encode(tag).decode()}",
        "Content-Type": "application/json",
    }


@pytest.fixture(name="receiver")
async def _receiver() -> AsyncIterator[Client]:
    async with TestClient(TestServer(webhook_receiver.create_app(SECRET))) as client:
        yield client


async def received(receiver: Client) -> list[dict[str, object]]:
    async with receiver.get("/received", headers={"X-Tyk-Shared-Secret": SECRET}) as response:
        assert response.status == 200
        found: list[dict[str, object]] = await response.json()
        return found


async def test_a_webhook_is_taken_once_and_answered_twice(receiver: Client) -> None:
    """A repeated delivery gets 204 again, and has no second effect."""
    body, now = json.dumps(NOTIFICATION).encode(), int(time.time())
    for attempt in range(2):
        async with receiver.post("/tokens", data=body, headers=signed("evt_1", now + attempt, body)) as response:
            assert response.status == 204
    assert await received(receiver) == [{"id": "evt_1", "timestamp": now, "notification": NOTIFICATION, "times": 2}]


BODY = json.dumps(NOTIFICATION).encode()


@pytest.mark.parametrize(
    ("status", "changes", "body", "age"),
    [
        pytest.param(401, {"X-Tyk-Shared-Secret": "oauth-shared-secreT"}, BODY, 0, id="wrong-secret"),
        pytest.param(401, {"X-Tyk-Shared-Secret": ""}, BODY, 0, id="no-secret"),
        pytest.param(401, {"webhook-id": "evt_2"}, BODY, 0, id="another-id"),
        pytest.param(401, {"webhook-signature": "v1,AAAA"}, BODY, 0, id="wrong-signature"),
        pytest.param(401, {"webhook-signature": ""}, BODY, 0, id="no-signature"),
        pytest.param(400, {"webhook-id": ""}, BODY, 0, id="no-id"),
        pytest.param(400, {"webhook-timestamp": "soon"}, BODY, 0, id="timestamp-no-number"),
        pytest.param(401, {}, BODY, 301, id="too-old"),
        pytest.param(401, {}, BODY, -310, id="from-the-future"),
        pytest.param(400, {}, b"{}", 0, id="without-the-five-keys"),
        pytest.param(400, {}, json.dumps({**NOTIFICATION, "more": ""}).encode(), 0, id="a-sixth-key"),
        pytest.param(400, {}, json.dumps({**NOTIFICATION, "auth_code": None}).encode(), 0, id="not-a-string"),
        pytest.param(400, {}, b"\xff", 0, id="not-json"),
    ],
)
async def test_a_webhook_that_does_not_prove_itself_is_refused(
    receiver: Client, status: int, changes: dict[str, str], body: bytes, age: int
) -> None:
    """A webhook without the secret or with an old timestamp is refused and has no effect."""
    headers = signed("evt_1", int(time.time()) - age, body) | changes
    async with receiver.post("/tokens", data=body, headers=headers) as response:
        assert response.status == status
    assert await received(receiver) == []


async def test_received_webhooks_require_the_secret(receiver: Client) -> None:
    """Received webhooks are not shown without the secret, because they contain raw tokens."""
    async with receiver.get("/received") as response:
        assert response.status == 401


def test_the_signature_is_the_one_of_standard_webhooks() -> None:
    """The test vector of the Standard Webhooks libraries verifies, with its `whsec_…` key."""
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    headers = {
        "X-Tyk-Shared-Secret": secret,
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }
    verifier = webhook_receiver.Verifier(secret)
    assert verifier.verify(headers, b'{"test": 2432232314}', now=1614265330)[0] == headers["webhook-id"]


# The subscriber


def event(number: int, sequence: int, *, stem: str = "token.new", subject: str = "grant-1") -> dict[str, object]:
    return {
        "specversion": "1.0",
        "id": f"evt_{number}",
        "source": "urn:tokenwire:token",
        "type": f"io.tokenwire.{stem}",
        "time": "2026-01-01T00:00:00Z",
        "subject": subject,
        "sequence": f"{sequence:010d}",
        "data": {"grant_id": subject, "api_id": "my-api", "client_id": "app"},
    }


def message(content: dict[str, object] | bytes, *, key: str = "token.new.my-api", number: int = 0) -> Message:
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Message(f"message-{number}", Exchange.EVENTS, key, body)


@asynccontextmanager
async def example(*arguments: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """A running example and its output so far, on both streams."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    lines: list[str] = []

    async def read() -> None:
        assert process.stdout
        async for line in process.stdout:
            lines.append(line.decode().rstrip())

    reading = asyncio.create_task(read())
    try:
        yield process, lines
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading


@pytest.fixture
async def bus(amqp_url: str) -> AsyncIterator[RabbitBus]:
    """Tokenwire's side of the event exchange."""
    bus = RabbitBus(amqp_url, instance_name="examples")
    await bus.open()
    await eventually(partial(_is_up, bus))
    yield bus
    await bus.close()


async def _is_up(bus: RabbitBus) -> bool:
    try:
        await bus.ping()
    except BusUnavailable:
        return False
    return True


async def test_a_subscriber_sees_every_event_once_and_a_hole(bus: RabbitBus, amqp_url: str) -> None:
    """Events published while the subscriber was away wait for it; duplicates and unreadable messages do no harm; gaps
    are shown.
    """
    command = ("examples.subscriber", "--amqp", amqp_url, "--name", "billing", "token.*.my-api")
    async with example(*command) as (process, lines):
        await eventually(lambda: "sub.billing is bound" in "\n".join(lines))
        await bus.publish(
            [
                message(event(1, 2), number=1),
                message(event(1, 2), number=2),
                message(b"no event", number=3),
                message(event(2, 5, stem="token.refresh"), key="token.refresh.my-api", number=4),
                message(event(3, 1), key="token.new.another-api", number=5),
            ]
        )
        await eventually(lambda: len(lines) == 4)
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0
    shown = "\n".join(lines)
    assert [line.split()[1:3] for line in lines if line.startswith("2026")] == [
        ["token.new", "#2"],
        ["token.refresh", "#5"],
    ]
    assert "not seen before it: 3, 4" in shown
    assert "not an event: message-3" in shown

    await bus.publish([message(event(4, 6), number=6)])
    async with example(*command) as (_, lines):
        await eventually(lambda: "#6" in "\n".join(lines))
        assert sum(line.startswith("2026") for line in lines) == 1


async def test_the_stream_is_read_as_server_sent_events() -> None:
    """Comments, ids and unknown fields are skipped; data over several lines is joined."""
    text = json.dumps(event(1, 1), indent=1)
    stream = [": hello", "", "id: evt_1", "event: token.new", *(f"data: {line}" for line in text.splitlines()), "", "x"]

    async def lines() -> AsyncIterator[bytes]:
        for line in stream:
            yield f"{line}\r\n".encode()

    assert [found async for found in subscriber.server_sent_events(lines())] == [event(1, 1)]


@pytest.mark.parametrize(
    ("pattern", "key", "is_matched"),
    [
        ("#", "token.new.my-api", True),
        ("token.#", "token.new.my-api", True),
        ("token.new.my-api.#", "token.new.my-api", True),
        ("#.my-api", "token.new.my-api", True),
        ("token.*.my-api", "token.new.my-api", True),
        ("token.*", "token.new.my-api", False),
        ("token", "token.new.my-api", False),
        ("*.new.*", "token.new.my-api", True),
        ("t.ken.#", "token.new.my-api", False),
    ],
)
def test_keys_select_over_http_as_they_do_on_the_exchange(pattern: str, key: str, is_matched: bool) -> None:
    """`*` matches one word, `#` any number including none."""
    assert subscriber.matches(pattern, key) is is_matched


# The resource server


async def test_the_resource_server_answers_to_a_live_token(stack: Stack) -> None:
    """Through the gateway the resource server is reached only with a token, and learns client and user."""
    async with TestServer(upstream.create_app()) as server:
        tenant = await new_tenant(stack.anybody, stack.operator, **{UPSTREAM: str(server.make_url("/"))})
        bearer = {"Authorization": f"Bearer {(await tenant.pair()).access}"}
        order = await tenant.edge("GET", f"{tenant.path}/orders/1001?x=1", headers=bearer)
        assert (order.status, order.body) == (200, upstream.ORDERS["1001"])
        orders = await tenant.edge("GET", f"{tenant.path}/orders", headers=bearer)
        assert orders.body == {
            "orders": list(upstream.ORDERS.values()),
            "client": tenant.client_id,
            "user": tenant.username,
        }
        assert (await tenant.edge("GET", f"{tenant.path}/orders/7", headers=bearer)).status == 404
        bare = await tenant.edge("GET", f"{tenant.path}/orders")
        assert (bare.status, bare.body) == (400, {"error": "Authorization field missing"})
        strange = await tenant.edge("GET", f"{tenant.path}/orders", headers={"Authorization": "Bearer nonsense"})
        assert (strange.status, strange.body) == (403, {"error": "Key not authorised"})
        assert strange.headers["WWW-Authenticate"].startswith("Bearer")


# All of them


@pytest.mark.parametrize("name", ["identity_server", "webhook_receiver", "upstream", "subscriber", "demo"])
async def test_every_example_says_how_to_start_it(name: str) -> None:
    """`--help`."""
    told = await run_python(f"examples.{name}", "--help")
    assert told.status == 0
    assert told.out.startswith(f"usage: python -m examples.{name}")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("upstream", (), id="upstream"),
        pytest.param("webhook_receiver", (), id="webhook-receiver"),
        pytest.param("identity_server", ("--api-id", "any", "--listen-path", "/any/"), id="identity-server"),
    ],
)
async def test_e7_a_used_port_is_one_line(name: str, options: tuple[str, ...]) -> None:
    """A server whose port is in use says so in one line that names the way out, without a traceback."""
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        secrets = {"TOKENWIRE_WEBHOOK_SECRET": SECRET, "TOKENWIRE_OPERATOR_KEY": "any"}
        told = await run_python(f"examples.{name}", *options, "--port", port, settings=secrets)
    assert told.status == 1
    assert told.complaint.startswith("cannot listen: ")
    assert port in told.complaint
    assert told.complaint.endswith("; --port chooses another port")


def test_the_examples_import_nothing_of_the_project() -> None:
    """The examples import nothing of the project, because users copy them."""
    for source in Path("examples").rglob("*.py"):
        imports = re.findall(r"^\s*(?:from|import) ([a-z_]+)", source.read_text(), re.MULTILINE)
        assert not {"services", "libs", "contracts", "tests"} & set(imports), source
