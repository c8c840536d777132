"""nginx for tests of the edge: this machine's, installed if permitted."""

from pathlib import Path

from tests.provision import debian

INSTEAD = "put an nginx (1.18 or later, with auth_request) on PATH"


def nginx() -> Path:
    """The path of nginx. Raises CannotProvide with what to do."""
    return debian.provided("nginx", "nginx", INSTEAD)
