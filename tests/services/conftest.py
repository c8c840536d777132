"""Fixtures for several test files."""

from collections.abc import AsyncIterator

import pytest

from tests.notifications import Receiver, receiver
from tests.services.system import System, open_system


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    """A webhook receiver."""
    async with receiver() as received:
        yield received


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    """Authorization, token, revocation, management and gateway in one process, with a stopped clock."""
    async with open_system(mongodb_url) as system:
        yield system
