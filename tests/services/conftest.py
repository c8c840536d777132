"""Fixtures for several test files."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.notifications import Receiver, receiver
from tests.services.system import BUILT_IN, THROUGH_THE_EDGE, WAY, System, open_system


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line("markers", "built_in_only(reason): the edge cannot promise this, for this reason")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run the tests of the built-in proxy a second time through the edge, which must keep the same promises."""
    if metafunc.module.__name__.rpartition(".")[2].startswith("test_proxy_"):
        metafunc.parametrize("way", (BUILT_IN, THROUGH_THE_EDGE), indirect=True, scope="module")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect what the edge cannot promise; pytest's summary counts it."""
    deselected = [
        item
        for item in items
        if item.get_closest_marker("built_in_only") and item.callspec.params["way"] != BUILT_IN  # type: ignore[attr-defined]
    ]
    if deselected:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if item not in deselected]


@pytest.fixture(scope="module", autouse=True)
def way(request: pytest.FixtureRequest) -> Iterator[str]:
    """How systems are called."""
    chosen = getattr(request, "param", BUILT_IN)
    previous = WAY.set(chosen)
    yield chosen
    WAY.reset(previous)


@pytest.fixture
async def endpoint() -> AsyncIterator[Receiver]:
    """A webhook receiver."""
    async with receiver() as received:
        yield received


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str, way: str) -> AsyncIterator[System]:
    """Authorization, token, revocation, management and gateway in one process, with a stopped clock."""
    async with open_system(mongodb_url) as system:
        yield system
