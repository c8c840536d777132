"""Chromium and a Tokenwire, shared by the tests of this directory."""

from collections.abc import AsyncIterator

import pytest

from tests.browser.stage import Stage, staged


@pytest.fixture(name="stage", scope="package")
async def _stage(mongodb_url: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Stage]:
    """Tests add records and change only those that they added."""
    async with staged(mongodb_url, tmp_path_factory.mktemp("console")) as stage:
        yield stage
