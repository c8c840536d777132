"""A running system, and what each library is asked to do with it."""

import os
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.acceptance.conftest import stack
from tests.acceptance.stack import Stack
from tests.clients.relying_party import RelyingParty, registered
from tests.provision.node import Node, provide

__all__ = ["stack"]

PLAIN_HTTP = ("AUTHLIB_INSECURE_TRANSPORT", "OAUTHLIB_INSECURE_TRANSPORT")
"""The libraries' own switches: they refuse to speak without TLS, and we are on the loopback interface."""


@pytest.fixture(autouse=True, scope="package")
def _plain_http() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for switch in PLAIN_HTTP:
            patch.setitem(os.environ, switch, "1")
        yield


@pytest.fixture
async def confidential(stack: Stack) -> AsyncIterator[RelyingParty]:
    """A client with a secret, of an API of its own; whatever it was given is remembered as secret."""
    async with registered(stack) as party:
        yield party


@pytest.fixture
async def public(stack: Stack) -> AsyncIterator[RelyingParty]:
    """A client without a secret."""
    async with registered(stack, public=True) as party:
        yield party


@pytest.fixture(scope="package")
def node() -> Node:
    """Node with the packages that `tests/clients/node` pins."""
    return provide()
