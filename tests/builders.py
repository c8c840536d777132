"""What tests are built of: settings, running services, a caller, and records made through the store."""

import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import orjson
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer

from contracts.apis import Api, DefinitionFormat
from contracts.clients import Client
from contracts.operators import Operator, Permission
from contracts.policies import AccessRight, Policy
from contracts.resource_owners import ResourceOwner
from libs import client_secrets
from libs.passwords import PasswordHasher
from libs.runtime import Deps
from libs.sealing import public_key_of
from libs.serving import runner_of
from libs.settings import Settings, load
from libs.store.operators import key_digest
from libs.tyk.classic import read_classic
from libs.tyk.document import format_of
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
"""Most tests share one address and time that stands still; tests/security has those that are about the limits."""

S = TypeVar("S", bound=Settings)


def settings(kind: type[S], mongodb_url: str, database_name: str, **own: Any) -> S:
    """Settings of a service on this database; the bus is given to `new_deps`, or is the `amqp_url` named here."""
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
    """The application on a free port, as `libs.serving` serves it."""

    async def _make_runner(self, **_: Any) -> web.AppRunner:
        return runner_of(self.app)


@asynccontextmanager
async def running(app: web.Application) -> AsyncIterator["Caller"]:
    """The application on a free port, ready; closed at the end."""
    async with TestClient(Served(app)) as http:
        caller = Caller(http)
        await eventually(lambda: _ready(caller))
        yield caller


async def _ready(caller: "Caller") -> bool:
    answer = await caller("GET", "/readyz")
    assert answer.status == 200, answer.body
    return True


@dataclass(frozen=True)
class Answer:
    """A response, read to its end."""

    status: int
    headers: Any
    raw: bytes

    @property
    def body(self) -> Any:
        """The JSON in it."""
        return orjson.loads(self.raw)

    @property
    def message(self) -> str:
        """The Message of an envelope of the Dashboard's."""
        envelope = self.body
        assert set(envelope) - {"ID"} == {"Status", "Message", "Meta"}, envelope
        assert envelope["Status"] == ("OK" if self.status < 400 else "Error"), envelope
        return str(envelope["Message"])


@dataclass(frozen=True)
class Caller:
    """Calls a running application; redirects are not followed."""

    http: "TestClient[web.Request, web.Application]"
    headers: dict[str, str] = field(default_factory=dict)

    async def __call__(self, method: str, path: str, **request: Any) -> Answer:
        headers = self.headers | request.pop("headers", {})
        async with self.http.request(method, path, headers=headers, allow_redirects=False, **request) as response:
            return Answer(response.status, response.headers, await response.read())

    def with_key(self, key: str) -> "Caller":
        """The same, as the operator with this key."""
        return replace(self, headers=self.headers | {"Authorization": key})


def unique(prefix: str) -> str:
    """An id nobody else uses."""
    return f"{prefix}-{secrets.token_hex(6)}"


async def settle(deps: Deps) -> None:
    """Return when every event announced so far is published and cleared, and handled in this process."""
    await deps.outbox.drain()
    await deps.bus.drain()


# Records, made through the store; `deps` must be open (see `running`)


async def make_operator(deps: Deps, *permissions: Permission) -> str:
    """The key of a new operator with these permissions."""
    key, at = secrets.token_urlsafe(24), deps.origin("tests")
    operator = Operator(
        operator_id=secrets.token_hex(8),
        name="an operator of the tests",
        permissions=permissions,
        key_digest=key_digest(key),
        created_at=at.now,
        updated_at=at.now,
    )
    await deps.store.operators.add(operator, at)
    return key


def api_document(name: str = "orders-oas.json", /, **changes: Any) -> dict[str, Any]:
    """One of the tests' definitions under an id and a listen path nobody else uses.

    The changes are values by path, with `__` for its slashes.
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
    """The API of this definition; of the OAS one of the tests' data if none is given."""
    document, at = document or api_document(), deps.origin("tests")
    reader = read_oas if format_of(document) is DefinitionFormat.OAS else read_classic
    return await deps.store.apis.register(reader(document, api_id=unique("api"), now=at.now), at)


async def make_client(deps: Deps, api: Api, *, public: bool = False, **fields: Any) -> tuple[Client, str]:
    """A new client of the API, and its secret (empty for a public one)."""
    at, client_id = deps.origin("tests"), unique("client")
    secret = "" if public else client_secrets.new_secret()
    kept = () if public else (client_secrets.digested(deps.keys, client_id, secret, at.now, sealed=True),)
    given = {"redirect_uris": (CALLBACK,), "secrets": kept, "created_at": at.now} | fields
    client = Client(client_id=client_id, api_id=api.api_id, updated_at=at.now, **given)
    return await deps.store.clients.register(client, at), secret


async def make_policy(deps: Deps, *api_ids: str, **fields: Any) -> Policy:
    """A new policy that grants these APIs."""
    at = deps.origin("tests")
    rights = {api_id: AccessRight(api_id=api_id) for api_id in api_ids}
    given = {"access_rights": rights} | fields
    policy = Policy(policy_id=unique("policy"), created_at=at.now, updated_at=at.now, **given)
    return await deps.store.policies.add(policy, at)


async def make_resource_owner(deps: Deps, password: str, **fields: Any) -> ResourceOwner:
    """A new user with this password."""
    at = deps.origin("tests")
    if "password_hash" not in fields:
        hasher = PasswordHasher(threads=1)
        fields["password_hash"] = await hasher.hash(password)
        hasher.close()
    owner = ResourceOwner(username=unique("user"), created_at=at.now, updated_at=at.now, **fields)
    return await deps.store.resource_owners.add(owner, at)
