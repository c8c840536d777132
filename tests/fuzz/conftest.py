"""One running Tokenwire for all files, and the server that its calls and webhooks go to."""

from collections.abc import Iterator

import pytest

from tests.fuzz.neighbour import Neighbour
from tests.fuzz.running import Running


@pytest.fixture(scope="package")
def running(mongodb_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """Every service on one port."""
    with Neighbour() as neighbour, Running(mongodb_url, tmp_path_factory.mktemp("fuzz"), neighbour) as running:
        yield running
