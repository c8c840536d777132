"""The stack, started once for all tests of the containers, with an upstream and a webhook receiver beside it."""

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from functools import partial

import aiohttp
import pytest

from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.tenants import NewTenant, new_tenant
from tests.compose.containers import ComposeStack, copied, image_size

SHARED_SECRET = "oauth-shared-secret"
"""The shared secret of examples/my-oauth-api.json."""
WITHIN = 2400
"""Seconds for one test, the start of the stack included."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each test time to start containers."""
    for item in items:
        if "tests/compose/" in item.path.as_posix():
            item.add_marker(pytest.mark.timeout(WITHIN), append=False)


@dataclass(frozen=True)
class Built:
    """A fresh copy of the project with its secrets and images."""

    stack: ComposeStack
    seconds: float
    """How long the application image took; the base images were there."""
    image_bytes: int


@dataclass(frozen=True)
class Started:
    """The running stack."""

    built: Built
    said: str
    """What `make up` printed."""
    seconds: float

    @property
    def stack(self) -> ComposeStack:
        """The running stack."""
        return self.built.stack


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    """A fresh copy of the project, not started, with webhooks to private addresses allowed."""
    directory = tmp_path_factory.mktemp("clone")
    with copied(directory, TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS="true") as stack:
        stack.make("images")
        began = time.monotonic()
        stack.make("secrets")
        stack.compose("build")
        yield Built(stack, time.monotonic() - began, image_size(stack.image))


@pytest.fixture(scope="session")
def image(built: Built) -> str:
    """The tag of the application image, for tests that run stacks of their own."""
    return built.stack.project


@pytest.fixture(scope="session")
def started(built: Built) -> Started:
    """`make up` in that copy."""
    began = time.monotonic()
    said = built.stack.make("up")
    return Started(built, said, time.monotonic() - began)


@pytest.fixture(scope="session")
def stack(started: Started) -> ComposeStack:
    """The running stack, every container healthy. A test that harms it must repair it."""
    return started.stack


@pytest.fixture(scope="session")
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    """An HTTP client without cookies."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session:
        yield session


@pytest.fixture(scope="session")
def anybody(stack: ComposeStack, http: aiohttp.ClientSession) -> Caller:
    """Calls the edge without credentials."""
    return Caller(http, stack.url, Secrets())


@pytest.fixture(scope="session")
def operator(stack: ComposeStack, anybody: Caller) -> Caller:
    """Calls the edge as the first operator."""
    return anybody.with_key(stack.operator_key)


@pytest.fixture(scope="session")
def tenant_of(anybody: Caller, operator: Caller) -> NewTenant:
    """Creates an API with these changes to its definition, a client and a user (see `new_tenant`)."""
    return partial(new_tenant, anybody, operator)


@pytest.fixture(scope="session")
async def upstream(stack: ComposeStack) -> str:
    """The URL of examples/upstream.py for the stack, in a container beside it."""
    beside = stack.beside("upstream", "python", "-m", "examples.upstream", "--host=0.0.0.0", "--port=9003")
    await stack.serving(beside, 9003)
    return "http://upstream:9003/"


@dataclass(frozen=True)
class Receiver:
    """examples/webhook_receiver.py in a container beside the stack."""

    url: str
    """For the stack."""
    http: aiohttp.ClientSession
    from_here: str

    async def received(self) -> list[dict[str, str]]:
        """The latest notifications, the oldest first."""
        headers = {"X-Tyk-Shared-Secret": SHARED_SECRET}
        async with self.http.get(f"{self.from_here}/received", headers=headers) as response:
            return [webhook["notification"] for webhook in await response.json()]


@pytest.fixture(scope="session")
async def receiver(stack: ComposeStack, http: aiohttp.ClientSession) -> Receiver:
    """A webhook receiver that verifies and keeps webhooks with SHARED_SECRET."""
    command = ("python", "-m", "examples.webhook_receiver", "--host=0.0.0.0", "--port=9002")
    beside = stack.beside("receiver", *command, environment={"TOKENWIRE_WEBHOOK_SECRET": SHARED_SECRET})
    return Receiver("http://receiver:9002/hook", http, await stack.serving(beside, 9002))
