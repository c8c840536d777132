"""The system under test, started once for all acceptance tests, with a webhook receiver."""

import secrets
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.acceptance.stack import Servers, Stack, running
from tests.acceptance.tenants import NewTenant, new_tenant
from tests.acceptance.webhooks import Receiver
from tests.provision import rabbitmq


@pytest.fixture(scope="package")
async def stack(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Stack]:
    """Every service as a separate process behind the edge, ready."""
    servers = Servers(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", rabbitmq.new_vhost())
    async with running(servers, tmp_path_factory.mktemp("stack")) as stack:
        yield stack


@pytest.fixture(scope="package")
async def receiver() -> AsyncIterator[Receiver]:
    """A webhook receiver that accepts and keeps every webhook."""
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture(scope="package")
def tenant_of(stack: Stack) -> NewTenant:
    """Creates an API with these changes to its definition, a client and a user (see `new_tenant`)."""
    return partial(new_tenant, stack.anybody, stack.operator)
