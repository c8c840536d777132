"""After a system has been used in every way, right and wrong, nothing it wrote contains a usable secret."""

import base64
import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import aio_pika
import pytest
from bson import Binary
from pymongo import AsyncMongoClient

from libs.bus.port import Exchange
from libs.bus.rabbit.topology import POOLS
from tests.acceptance.programs import run_python
from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, EXTENSION, SCHEME, Tenant, basic, issued, new_tenant, register_client
from tests.acceptance.usage import make_every_mistake, use_everything
from tests.acceptance.webhooks import Receiver
from tests.builders import unique
from tests.eventually import eventually
from tests.notifications import answering
from tests.notifications import receiver as told_receiver
from tests.provision import rabbitmq
from tests.security.scan import Scan, channel, everything_written, spellings

TAPS = {"tap.events": (Exchange.EVENTS, "#"), "tap.notify": (Exchange.NOTIFY, "notify")}
"""Queues that keep a copy of all messages, so that they are still there for the scan."""


@dataclass(frozen=True)
class Used:
    """A system after use in every way, and the names of all its queues."""

    stack: Stack
    queues: tuple[str, ...]

    async def found(self, *more: str) -> Any:
        """Every place where one of these secrets, or of those used so far, is found."""
        return await Scan([*self.stack.secrets, *more]).found(everything_written(self.stack, self.queues))


@pytest.fixture(scope="module", name="used")
async def _used(stack: Stack, receiver: Receiver, rabbitmq: rabbitmq.Broker) -> Used:
    await tapped(stack.servers.amqp_url)
    async with told_receiver() as gone:
        gone.behave(answering(410))
        tenants = [await provider(stack, url) for url in (receiver.url("/hooks/scan"), gone.url())]
        for tenant in tenants:
            await use_everything(tenant)
            await use_what_is_left(tenant)
            await make_every_mistake(tenant)
        await every_delivery_is_over(stack, tenants)
        await sent_again(stack, tenants[1])
    await dead_letter_everywhere(stack.servers.amqp_url, tenants[0])
    await looked_at(stack)
    await stack.anybody("GET", "/the-end-of-the-story")
    await eventually(lambda: "/the-end-of-the-story" in stack.logs("edge"))
    vhost = stack.servers.amqp_url.rpartition("/")[2]
    listed = rabbitmq.ctl("list_queues", "-p", vhost, "name").split()
    queues = tuple(name for name in listed if not name.startswith("tokenwire.broadcast"))
    assert {*TAPS, *(name for pool in POOLS for name in (pool.queue, pool.dead_letter_queue))} <= set(queues)
    return Used(stack, queues)


async def tapped(amqp_url: str) -> None:
    """Keep a copy of every message from now on."""
    async with channel(amqp_url) as opened:
        for name, (exchange, key) in TAPS.items():
            queue = await opened.declare_queue(name, durable=True)
            await queue.bind(exchange, key)


async def provider(stack: Stack, url: str) -> Tenant:
    """A new tenant whose webhooks go to this URL, which itself is a secret."""
    known = secrets.token_urlsafe(24)
    stack.secrets.add(known)
    hooks = {"onKeyChangeUrl": f"{url}?known={known}", "sharedSecret": secrets.token_urlsafe(24)}
    theirs = secrets.token_urlsafe(24)
    stack.secrets.add(theirs)
    upstream = {"name": "X-Upstream-Key", "value": theirs}
    more = {
        f"{SCHEME}__notifications": hooks,
        f"{EXTENSION}__upstream__url": f"http://127.0.0.1:9/?key={theirs}",
        f"{EXTENSION}__middleware__global__transformRequestHeaders": {"enabled": True, "add": [upstream]},
    }
    return await new_tenant(stack.anybody, stack.operator, **more)


async def use_what_is_left(tenant: Tenant) -> None:
    """Use what other steps did not: PKCE, an unused code, a password change, a chosen secret, a session, a lost
    response.
    """
    verifier = secrets.token_urlsafe(48)
    tenant.edge.secrets.add(verifier)
    challenge = base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()
    public = {"redirect_uri": CALLBACK, "public": True}
    app = (await tenant.operator("POST", f"/api/apis/oauth/{tenant.api_id}", json=public)).body["client_id"]
    form = {"response_type": "code", "client_id": app, "code_challenge": challenge, "code_challenge_method": "S256"}
    place = f"/api/apis/oauth/{tenant.api_id}/authorize-client"
    code = (await tenant.operator("POST", place, data=form | {"key_rules": '{"rate": 1, "per": 1}'})).body["code"]
    named = {"client_id": app, "redirect_uri": CALLBACK, "grant_type": "authorization_code", "code": code}
    for tried in (verifier[::-1], verifier):
        response = await tenant.edge("POST", f"{tenant.path}/oauth/token", data=named | {"code_verifier": tried})
    pair = issued(response)
    again = {"grant_type": "refresh_token", "refresh_token": pair.refresh, "client_id": app}
    issued(await tenant.edge("POST", f"{tenant.path}/oauth/token", data=again))
    lost = issued(await tenant.exchanged(await tenant.code()))
    for _ in range(2):
        issued(await tenant.refreshed(lost.refresh))
    await tenant.code()
    user = f"/api/apis/keys/basic/{tenant.username}"
    changed = {"password": secrets.token_urlsafe(16)}
    assert (await tenant.operator("PUT", user, json=changed)).status == 200
    await register_client(tenant.operator, tenant.api_id, secret=secrets.token_urlsafe(24))
    await tenant.operator("POST", f"/api/apis/{tenant.api_id}/notifications/test")
    named = {"client_id": tenant.client_id, "client_secret": secrets.token_urlsafe(24), "token": pair.access}
    await tenant.edge("POST", f"{tenant.path}/oauth/revoke", data=named)
    await tenant.edge("GET", f"{tenant.path}/oauth/authorize?client_id={app}&response_type=code&state={unique('s')}")
    await tenant.edge("GET", f"/{pair.access}/oauth/authorize")
    for asking in (basic(tenant.client_id, tenant.secret), {"Authorization": tenant.operator.headers["Authorization"]}):
        await tenant.edge("POST", "/oauth/introspect", data={"token": pair.access}, headers=asking)


async def every_delivery_is_over(stack: Stack, tenants: list[Tenant]) -> None:
    """The first tenant's deliveries are delivered; the second's, whose receiver refuses, are exhausted."""
    for tenant, state in zip(tenants, ("delivered", "exhausted"), strict=True):

        async def over(tenant: Tenant = tenant, state: str = state) -> bool:
            place = f"/api/notifications/deliveries?api_id={tenant.api_id}"
            states = [each["state"] for each in (await stack.operator("GET", place)).body["deliveries"]]
            assert states, "no delivery yet"
            assert set(states) == {state}, states
            return True

        await eventually(over)


async def sent_again(stack: Stack, tenant: Tenant) -> None:
    """Make all deliveries of the tenant due again, until they are exhausted again."""
    since = {"api_id": tenant.api_id, "since": "2020-01-01T00:00:00Z"}
    response = await stack.operator("POST", "/api/notifications/redeliver", json=since)
    assert response.body["Meta"]["count"] > 0


async def dead_letter_everywhere(amqp_url: str, tenant: Tenant) -> None:
    """Put a truncated message, cut where it holds the most, into every consumer's dead-letter queue."""
    async with channel(amqp_url) as opened:
        real = await (await opened.get_queue("tap.notify")).get()
        assert real is not None
        cut = aio_pika.Message(real.body[:-9], headers=real.headers, message_id=unique("cut"), type=real.type)
        notify = await opened.get_exchange(Exchange.NOTIFY, ensure=False)
        await notify.publish(cut, "notify")
        events = await opened.get_exchange(Exchange.EVENTS, ensure=False)
        for key in ("client.deleted", "api.deleted"):
            cut = aio_pika.Message(real.body[:-9], headers=real.headers, message_id=unique("cut"), type=real.type)
            await events.publish(cut, f"{key}.{tenant.api_id}")
        await real.reject(requeue=True)

        async def all_dead_lettered() -> bool:
            counts = [await opened.declare_queue(pool.dead_letter_queue, passive=True) for pool in POOLS]
            return all(queue.declaration_result.message_count for queue in counts)

        await eventually(all_dead_lettered)


async def looked_at(stack: Stack) -> None:
    """Read everything as an operator, and count the dead letters."""
    for path in ("/api/audit?limit=200", "/api/events/audit", "/api/operators", "/api/apis", "/api/portal/policies"):
        assert (await stack.operator("GET", path)).status == 200
    servers = stack.servers
    environment = {
        "TOKENWIRE_MONGODB_URL": servers.mongodb_url,
        "TOKENWIRE_MONGODB_DATABASE": servers.database,
        "TOKENWIRE_AMQP_URL": servers.amqp_url,
        "TOKENWIRE_KEYS_FILE": str(stack.keys.ring),
    }
    for command in (("dead-letters",), ("reencrypt",)):
        done = await run_python("services", *command, settings=environment)
        assert done.status == 0, done
        assert stack.secrets.found_in(done.out + done.complaints) == set()


async def test_nothing_that_was_written_down_opens_anything(used: Used) -> None:
    """No secret is found in any encoding in MongoDB and its oplog, in any queue or dead letter, log or metric."""
    assert len(used.stack.secrets) > 60
    assert await used.found() == {}


PLANT = "a-secret-that-was-written-down/in=clear"


async def test_the_scan_finds_planted_secrets(used: Used) -> None:
    """The scan finds a secret planted in each place, each in another encoding; so it does look there."""
    stack = used.stack
    raw, text = PLANT.encode(), PLANT
    async with AsyncMongoClient[Any](stack.servers.mongodb_url) as client:
        database = client[stack.servers.database]
        nested = {"deep": [{"binary": Binary(b"\x00beside" + base64.b64encode(b"xy" + raw + b"z"))}]}
        await database["grants"].insert_one({"_id": "planted", "pending": nested})
        await database["clients"].update_one({}, {"$set": {"name": raw.hex().upper()}})
        await database["apis"].update_one({}, {"$set": {f"field {text}": 1}})
        await database["planted"].insert_one({"_id": 1, "text": text})
        await database["planted"].drop()
    async with channel(stack.servers.amqp_url) as opened:
        there = aio_pika.Message(b"{}", headers={"h": quote(text, safe="")}, message_id="planted")
        await opened.default_exchange.publish(there, POOLS[0].dead_letter_queue)
        await opened.default_exchange.publish(aio_pika.Message(base64.urlsafe_b64encode(raw)), "tap.events")
    await stack.anybody("GET", f"/{raw.hex()}/oauth/authorize")
    await eventually(lambda: raw.hex() in stack.logs("edge"))
    await eventually(lambda: raw.hex() in stack.logs("authorization"))

    found = await used.found(PLANT)
    assert {secret for there in found.values() for secret, _ in there} == {PLANT}
    assert found.keys() == {
        "mongodb grants",
        "mongodb clients",
        "mongodb apis",
        "mongodb's log of operations",
        f"queue {POOLS[0].dead_letter_queue}",
        "queue tap.events",
        "log of edge",
        "log of authorization",
    }


SPELLINGS: dict[str, Callable[[str], bytes]] = {
    "as-it-is": lambda text: text.encode(),
    "json": lambda text: f'{{"a":"{text}"}}'.encode(),
    "url": lambda text: quote(text, safe="").encode(),
    "hex": lambda text: text.encode().hex().encode(),
    "HEX": lambda text: text.encode().hex().upper().encode(),
    "base64": lambda text: base64.b64encode(text.encode()),
    "base64-in-more": lambda text: base64.b64encode(f'{{"b":"{text}"}}'.encode()),
    "base64-in-other-more": lambda text: base64.b64encode(f'{{"bc":"{text}"}}'.encode()),
    "base64-in-yet-other-more": lambda text: base64.urlsafe_b64encode(f'{{"bcd":"{text}"}}'.encode()),
    "basic": lambda text: base64.b64encode(f"client:{text}".encode()),
    "body": lambda text: text[6:].encode(),
    "raw": lambda text: base64.urlsafe_b64decode(text[6:] + "=="),
}
TOKEN = "tw_at_" + base64.urlsafe_b64encode(bytes(range(57))).decode()
KEY = base64.b64encode(bytes(range(200, 232))).decode()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_no_spelling_hides_a_token(spelling: str) -> None:
    """The scan finds a token in any encoding that a program might produce."""
    assert Scan([TOKEN]).found_in(b"before " + SPELLINGS[spelling](TOKEN) + b" after")
    assert not Scan([TOKEN]).found_in(b"before " + SPELLINGS[spelling](TOKEN[::-1]) + b" after")


@pytest.mark.parametrize("written", [base64.b64decode(KEY), base64.b64decode(KEY).hex().encode(), KEY.encode()])
def test_a_key_is_found_by_its_bytes(written: bytes) -> None:
    """The scan finds an encryption key as raw bytes, not only as base64."""
    assert Scan([KEY]).found_in(b"\x00" + written + b"\x00")


def test_a_digest_is_no_secret() -> None:
    """The scan does not report the digests that are stored or published."""
    kept = hashlib.sha256(TOKEN.encode()).digest() + base64.urlsafe_b64encode(bytes(range(1, 17)))
    assert Scan([TOKEN]).found_in(kept) == set()
    assert min(map(len, spellings(TOKEN).values())) >= 12
