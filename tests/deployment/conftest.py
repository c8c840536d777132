"""What several tests of the deployment share: secrets as they are made, and a broker that knows them."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import make_secrets
from tests.deployment.guarded import GuardedRabbit


@pytest.fixture(scope="package")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory like .secrets/ as `make secrets` leaves it."""
    directory = tmp_path_factory.mktemp("secrets")
    make_secrets.make(directory)
    return directory


@pytest.fixture(scope="package")
def broker(made: Path) -> Iterator[GuardedRabbit]:
    """A broker that was given nothing but the configuration and the definitions of the stack."""
    node = GuardedRabbit(made)
    try:
        node.start()
        yield node
    finally:
        node.close()
