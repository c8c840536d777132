"""The services under test, running once a file."""

from collections.abc import AsyncIterator

import pytest

from tests.services.system import System, open_system


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    """Authorization, token, revocation, management and gateway, with a clock that stands still until it is moved."""
    async with open_system(mongodb_url) as system:
        yield system
