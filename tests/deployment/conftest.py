"""Fixtures for several deployment tests: generated secrets, and a broker that uses them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import make_secrets
from tests.deployment.guarded import GuardedRabbit


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like .secrets/ as `make secrets` creates it."""
    directory = tmp_path_factory.mktemp("secrets")
    make_secrets.make(directory)
    return directory


@pytest.fixture(scope="package")
def broker(made: Path) -> Iterator[GuardedRabbit]:
    """A broker started with only the stack's configuration and definitions."""
    node = GuardedRabbit(made)
    try:
        node.start()
        yield node
    finally:
        node.close()
