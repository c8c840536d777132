"""What tests of more than one file ask for."""

from collections.abc import AsyncIterator

import pytest

from tests.notifications import Receiver, receiver
from tests.services.system import System, open_system


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    """A resource owner service that takes webhooks."""
    async with receiver() as received:
        yield received


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    """Authorization, token, revocation, management and gateway, with a clock that stands still until it is moved."""
    async with open_system(mongodb_url) as system:
        yield system
