"""A running system for the client libraries."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.acceptance.conftest import stack
from tests.acceptance.stack import Stack
from tests.clients.relying_party import RelyingParty, registered
from tests.provision.node import Node, provide

__all__ = ["stack"]

PLAIN_HTTP = ("AUTHLIB_INSECURE_TRANSPORT", "OAUTHLIB_INSECURE_TRANSPORT")
"""The libraries' own switches to allow plain HTTP, which is on loopback here."""


@pytest.fixture(autouse=True, scope="package")
def _plain_http() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for switch in PLAIN_HTTP:
            patch.setitem(os.environ, switch, "1")
        yield


@pytest.fixture
async def confidential(stack: Stack) -> AsyncIterator[RelyingParty]:
    """A confidential client of its own API; its secrets are remembered for the scan of the logs."""
    async with registered(stack) as party:
        yield party


@pytest.fixture
async def public(stack: Stack) -> AsyncIterator[RelyingParty]:
    """A public client."""
    async with registered(stack, public=True) as party:
        yield party


@pytest.fixture(scope="package")
def node_clients() -> Node:
    """Node with the packages pinned in `tests/clients/node`."""
    return provide()
