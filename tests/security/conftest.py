"""Whole systems: one that the tests share, of two processes of each service, with an API and client apps of it; and one
for a test file alone: what it does to that, no other test sees.
"""

import secrets
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.stack import TWO_OF_EACH, Servers, Stack, running
from tests.acceptance.webhooks import Receiver
from tests.provision import rabbitmq
from tests.security.apps import Api, App, User, new_api

UNTHROTTLED = {f"TOKENWIRE_THROTTLE_{name}": "1000000/60" for name in ("CLIENT", "USER", "USER_ANYWHERE", "ADDRESS")}
"""All tests come from one address, and most of them fail on purpose; what is throttled is in test_throttling.py."""
AT_ONCE = {"TOKENWIRE_LINGER": "0"}
"""No request is on its way any more when the processes are stopped."""


def _servers(mongodb_url: str, broker: rabbitmq.Broker) -> Servers:
    return Servers(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", broker.new_vhost())


@pytest.fixture(scope="package")
async def cluster(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two processes of every service behind the edge, ready, on a database and a vhost of their own."""
    servers, home = _servers(mongodb_url, rabbitmq), tmp_path_factory.mktemp("cluster")
    async with running(servers, home, TWO_OF_EACH, UNTHROTTLED | AT_ONCE) as stack:
        yield stack


@pytest.fixture(scope="module")
async def stack(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Every service as a process of its own behind the edge, ready, on a database and a vhost of its own."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        caller = Caller(http, "", Secrets())
        with Stack(_servers(mongodb_url, rabbitmq), tmp_path_factory.mktemp("stack"), caller) as stack:
            await stack.ready()
            yield stack


@pytest.fixture(scope="package")
async def receiver() -> AsyncIterator[Receiver]:
    """A resource owner service that takes every webhook and keeps it."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
async def api(cluster: Stack) -> Api:
    """An API that offers every grant; no test changes it."""
    return await new_api(cluster)


@pytest.fixture(scope="package")
async def web(api: Api) -> App:
    """A client app with a secret."""
    return await api.app()


@pytest.fixture(scope="package")
async def other(api: Api) -> App:
    """Another one of the same API."""
    return await api.app()


@pytest.fixture(scope="package")
async def spa(api: Api) -> App:
    """A client app without a secret."""
    return await api.app(public=True)


@pytest.fixture(scope="package")
async def alice(cluster: Stack) -> User:
    """A user with a password."""
    return await User.new(cluster)
