"""Builders for tests: settings, running services, an HTTP client, and records created through the store."""

import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from yarl import URL

from contracts.apis import Api, DefinitionFormat
from contracts.clients import Client
from contracts.operators import Operator, Permission
from contracts.policies import AccessRight, Policy
from contracts.resource_owners import ResourceOwner
from libs import client_secrets
from libs.encryption import public_key_of
from libs.passwords import PasswordHasher
from libs.runtime import Deps
from libs.serving import runner_of
from libs.settings import Settings, load
from libs.store.operators import key_digest
from libs.tyk.classic import read_classic
from libs.tyk.definition_text import format_of
from libs.tyk.oas import read_oas
from tests.eventually import eventually
from tests.unit.tyk_definitions import changed, definition

KEYS = f"1:{base64.b64encode(bytes(range(32))).decode()}"
NOTIFIER_KEY = b"the notifier's key of the tests."
NOTIFIER_PUBLIC_KEY = base64.b64encode(public_key_of(NOTIFIER_KEY)).decode()
CALLBACK = "https://app.example.test/callback"

UNTHROTTLED = dict.fromkeys(
    ("throttle_client", "throttle_user", "throttle_user_anywhere", "throttle_address"), "1000000/60"
)
"""Most tests share one address and a stopped clock, so limits are off; tests/security tests the limits themselves."""

S = TypeVar("S", bound=Settings)


def settings(kind: type[S], mongodb_url: str, database_name: str, **own: Any) -> S:
    """Settings of a service on this database. Without `amqp_url`, pass a bus to `new_deps`."""
    common = {
        "mongodb_url": mongodb_url,
        "mongodb_database": database_name,
        "amqp_url": "amqp://no-broker.invalid/",
        "keys": KEYS,
        "access_log_sample": 0,
        **UNTHROTTLED,
    }
    return load(kind, **common | own)


class Served(TestServer):
    """The application served on a free port, as `libs.serving` does it."""

    async def _make_runner(self, **_: Any) -> web.AppRunner:
        return runner_of(self.app)


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator["Caller"]:
    """Serve the application on a free port until the block ends; it is ready when the block begins."""
    async with TestClient(Served(app)) as http:
        caller = Caller(http)
        await eventually(lambda: _ready(caller), within=30)  # creating the indexes takes a while on a busy machine
        yield caller


async def _ready(caller: "Caller") -> bool:
    response = await caller("GET", "/readyz")
    assert (response.status, response.body.get("status")) == (200, "ok"), response.body
    return True


@dataclass(frozen=True)
class Response:
    """A response whose body has been read."""

    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        """The body as JSON."""
        return orjson.loads(self.raw)

    @property
    def message(self) -> str:
        """The `Message` of a Dashboard-style response."""
        envelope = self.body
        assert set(envelope) - {"ID"} == {"Status", "Message", "Meta"}, envelope
        assert envelope["Status"] == ("OK" if self.status < 400 else "Error"), envelope
        return str(envelope["Message"])


@dataclass(frozen=True)
class Caller:
    """A client of a running application; it does not follow redirects."""

    http: "TestClient[web.Request, web.Application]"
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, method: str, path: str | URL, **request: Any) -> Response:
        headers = self.headers | request.pop("headers", {})
        async with self.http.request(method, path, headers=headers, allow_redirects=False, **request) as response:
            return Response(response.status, response.headers, await response.read())

    def with_key(self, key: str) -> "Caller":
        """The same client with this operator's key."""
        return replace(self, headers=self.headers | {"Authorization": key})


def unique(prefix: str) -> str:
    """A random id."""
    return f"{prefix}-{secrets.token_hex(6)}"


async def settle(deps: Deps) -> None:
    """Wait until every event announced so far is published, cleared, and handled in this process."""
    await deps.outbox.drain()
    await deps.bus.drain()


# Records, created through the store; `deps` must be open (see `running`)


async def make_operator(deps: Deps, *permissions: Permission) -> str:
    """Create an operator with these permissions; return its key."""
    key, ctx = secrets.token_urlsafe(24), deps.event_context("tests")
    operator = Operator(
        operator_id=secrets.token_hex(8),
        name="an operator of the tests",
        permissions=permissions,
        key_digest=key_digest(key),
        created_at=ctx.now,
        updated_at=ctx.now,
    )
    await deps.store.operators.add(operator, ctx)
    return key


def api_document(name: str = "orders-oas.json", /, **changes: Any) -> dict[str, Any]:
    """A test definition with an id and a listen path of its own.

    `changes` maps paths to values; a path has `__` between its keys.
    """
    document, api_id = definition(name), unique("api")
    oas = format_of(document) is DefinitionFormat.OAS
    info = "x-tyk-api-gateway/info/id" if oas else "api_id"
    place = "x-tyk-api-gateway/server/listenPath/value" if oas else "proxy/listen_path"
    document = changed(changed(document, info, api_id), place, f"/{unique('at')}/")
    for path, value in changes.items():
        document = changed(document, path.replace("__", "/"), value)
    return document


async def make_api(deps: Deps, document: dict[str, Any] | None = None) -> Api:
    """Create the API of this definition; by default of the OAS definition in the test data."""
    document, ctx = document or api_document(), deps.event_context("tests")
    reader = read_oas if format_of(document) is DefinitionFormat.OAS else read_classic
    return await deps.store.apis.register(reader(document, api_id=unique("api"), now=ctx.now), ctx)


async def make_client(deps: Deps, api: Api, *, public: bool = False, **fields: Any) -> tuple[Client, str]:
    """Create a client of the API; return it with its secret (empty for a public client)."""
    ctx, client_id = deps.event_context("tests"), unique("client")
    secret = "" if public else client_secrets.new_secret()
    kept = () if public else (client_secrets.protect(deps.keys, client_id, secret, ctx.now, retrievable=True),)
    given = {"redirect_uris": (CALLBACK,), "secrets": kept, "created_at": ctx.now} | fields
    client = Client(client_id=client_id, api_id=api.api_id, updated_at=ctx.now, **given)
    return await deps.store.clients.register(client, ctx), secret


async def make_policy(deps: Deps, *api_ids: str, **fields: Any) -> Policy:
    """Create a policy that grants access to these APIs."""
    ctx = deps.event_context("tests")
    rights = {api_id: AccessRight(api_id=api_id) for api_id in api_ids}
    given = {"access_rights": rights} | fields
    policy = Policy(policy_id=unique("policy"), created_at=ctx.now, updated_at=ctx.now, **given)
    return await deps.store.policies.add(policy, ctx)


async def make_resource_owner(deps: Deps, password: str, **fields: Any) -> ResourceOwner:
    """Create a resource owner with this password."""
    ctx = deps.event_context("tests")
    if "password_hash" not in fields:
        hasher = PasswordHasher(threads=1)
        fields["password_hash"] = await hasher.hash(password)
        hasher.close()
    given = {"username": unique("user")} | fields
    owner = ResourceOwner(created_at=ctx.now, updated_at=ctx.now, **given)
    return await deps.store.resource_owners.add(owner, ctx)
