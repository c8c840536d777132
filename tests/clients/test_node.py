"""oauth4webapi, openid-client and simple-oauth2 in Node. The assertions are in the modules in `node/`."""

import json

import pytest

from tests.clients.relying_party import RelyingParty
from tests.provision.node import SOURCE, Node

RUN_WITHIN = 60.0
LIBRARIES = ["oauth4webapi", "openid-client", "simple-oauth2"]


async def lived(node: Node, library: str, party: RelyingParty) -> None:
    """Run the module; all its assertions must hold."""
    status, out, complaints = await node.run("main.mjs", library, given=party.told_to_node(), within=RUN_WITHIN)
    party.stack.secrets.overhear(out)
    assert status == 0, complaints
    assert len(out.splitlines()) >= 2, "tokens were issued, and issued again"


@pytest.mark.parametrize("library", LIBRARIES)
async def test_a_library_lives_with_a_secret(node_clients: Node, confidential: RelyingParty, library: str) -> None:
    """Discovery (if supported), code with PKCE, refresh, revocation and client_credentials; credentials in header and
    body.
    """
    await lived(node_clients, library, confidential)


@pytest.mark.parametrize("library", LIBRARIES[:2])
async def test_a_library_lives_without_a_secret(node_clients: Node, public: RelyingParty, library: str) -> None:
    """The same for a public client, which simple-oauth2 does not support."""
    await lived(node_clients, library, public)


def test_the_packages_are_pinned_by_their_hashes() -> None:
    """Packages are pinned by hash, and not by URL."""
    lock = (SOURCE / "package-lock.json").read_text()
    packages = {name: package for name, package in json.loads(lock)["packages"].items() if name}
    assert all(package["integrity"].startswith("sha512-") for package in packages.values())
    assert "://" not in lock
    wanted = json.loads((SOURCE / "package.json").read_text())["dependencies"]
    assert wanted == {name: packages[f"node_modules/{name}"]["version"] for name in wanted}
    assert set(wanted) == set(LIBRARIES)
