"""compose.cluster.yaml on top of compose.yaml, as Compose merges them."""

import subprocess
from typing import Any

import yaml

from tests.deployment import stack
from tests.deployment.test_cluster import ADDED

FILES = ("compose.yaml", "compose.cluster.yaml")


def merged() -> dict[str, Any]:
    """Both files as Compose merges them."""
    files = [argument for name in FILES for argument in ("--file", str(stack.ROOT / name))]
    command = ["docker", "compose", *files, "--profile", "*", "config"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not done.stderr
    document: dict[str, Any] = yaml.safe_load(done.stdout)
    return document


def test_every_added_node_is_a_copy_of_the_first() -> None:
    """It has the same image, user, limits and restrictions, with its own name and volume."""
    containers = merged()["services"]
    assert set(containers) == set(stack.containers()) | set(ADDED)
    for name, original in ADDED.items():
        copy, first = dict(containers[name]), dict(containers[original])
        assert (copy.pop("hostname"), first.pop("hostname")) == (name, original)
        volumes = copy.pop("volumes"), first.pop("volumes")
        own = [{volume["source"] for volume in each if volume["type"] == "volume"} for each in volumes]
        assert own == [{name}, {original}]
        mounted = [sorted(volume["target"] for volume in each) for each in volumes]
        assert mounted[0] == mounted[1]
        assert copy == first
