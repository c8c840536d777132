"""What tests of more than one file ask for."""

from collections.abc import AsyncIterator

import pytest

from tests.notifications import Receiver, receiver


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    """A resource owner service that takes webhooks."""
    async with receiver() as received:
        yield received
