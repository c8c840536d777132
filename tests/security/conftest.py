"""Whole systems. One has two processes of each service and is shared by all tests, with an API and clients; another
belongs to one test file, which may break it.
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
"""All tests share one address, and most fail on purpose. Throttling is tested in test_throttling.py."""
AT_ONCE = {"TOKENWIRE_LINGER": "0"}
"""No request is in flight when the processes are stopped, so they need not wait."""


def _servers(mongodb_url: str, broker: rabbitmq.Broker) -> Servers:
    return Servers(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", broker.new_vhost())


@pytest.fixture(scope="package")
async def cluster(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Two processes of every service behind the edge, with their own database and vhost."""
    servers, home = _servers(mongodb_url, rabbitmq), tmp_path_factory.mktemp("cluster")
    async with running(servers, home, TWO_OF_EACH, UNTHROTTLED | AT_ONCE) as stack:
        yield stack


@pytest.fixture(scope="module")
async def stack(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """One process of every service behind the edge, with their own database and vhost."""
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        caller = Caller(http, "", Secrets())
        with Stack(_servers(mongodb_url, rabbitmq), tmp_path_factory.mktemp("stack"), caller) as stack:
            await stack.ready()
            yield stack


@pytest.fixture(scope="package")
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook receiver that accepts and keeps every webhook."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
async def api(cluster: Stack) -> Api:
    """An API that offers every grant type; tests must not change it."""
    return await new_api(cluster)


@pytest.fixture(scope="package")
async def web(api: Api) -> App:
    """A confidential client."""
    return await api.app()


@pytest.fixture(scope="package")
async def other(api: Api) -> App:
    """Another confidential client of the same API."""
    return await api.app()


@pytest.fixture(scope="package")
async def spa(api: Api) -> App:
    """A public client."""
    return await api.app(public=True)


@pytest.fixture(scope="package")
async def alice(cluster: Stack) -> User:
    """A user with a password."""
    return await User.new(cluster)
