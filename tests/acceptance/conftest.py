"""The system under test, started once for all acceptance tests, and what listens to it."""

import secrets
from collections.abc import AsyncIterator
from functools import partial

import aiohttp
import pytest

from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.stack import INSTANCES, Servers, Stack
from tests.acceptance.tenants import NewTenant, new_tenant
from tests.acceptance.webhooks import Receiver
from tests.provision import rabbitmq


@pytest.fixture(scope="package")
async def stack(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Every service as a process of its own behind the edge, ready."""
    servers = Servers(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", rabbitmq.new_vhost())
    home = tmp_path_factory.mktemp("stack")
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        with Stack(servers, home, Caller(http, "", Secrets())) as stack:
            await stack.ready()
            yield stack
            assert await stack.stopped() == dict.fromkeys(INSTANCES, 0)
            assert stack.leaks() == {}, "what the tests sent and got is in logs"
            assert stack.errors() == []


@pytest.fixture(scope="package")
async def receiver() -> AsyncIterator[Receiver]:
    """A resource owner service that takes every webhook and keeps it."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
def tenant_of(stack: Stack) -> NewTenant:
    """Makes an API with these changes to its definition, a client and a user (see `new_tenant`)."""
    return partial(new_tenant, stack.anybody, stack.operator)
