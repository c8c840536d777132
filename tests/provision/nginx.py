"""nginx for the tests of the edge: this machine's, installed if permitted."""

from pathlib import Path

from tests.provision import CannotProvide, debian

INSTEAD = "put an nginx (1.18 or later, with auth_request) on PATH"


def nginx() -> Path:
    """The program. Raises CannotProvide with what to do."""
    found = debian.program("nginx")
    if found is None:
        debian.install("nginx", INSTEAD)
        found = debian.program("nginx")
    if found is None:
        raise CannotProvide(f"nginx is installed but not to be found: {INSTEAD}")
    return found
