"""A whole system for one test file alone: what it does to it, no other test sees."""

import secrets
from collections.abc import AsyncIterator

import aiohttp
import pytest

from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.stack import Servers, Stack
from tests.acceptance.webhooks import Receiver
from tests.provision import rabbitmq


@pytest.fixture(scope="module")
async def stack(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Every service as a process of its own behind the edge, ready, on a database and a vhost of its own."""
    servers = Servers(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", rabbitmq.new_vhost())
    async with aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as http:
        with Stack(servers, tmp_path_factory.mktemp("stack"), Caller(http, "", Secrets())) as stack:
            await stack.ready()
            yield stack


@pytest.fixture(scope="module")
async def receiver() -> AsyncIterator[Receiver]:
    """A resource owner service that takes webhooks and keeps them."""
    async with Receiver() as receiver:
        yield receiver
