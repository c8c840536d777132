"""Servers in containers, if neither an external one nor this machine's packages can be used."""

import functools
from collections.abc import Mapping, Sequence

import docker  # type: ignore[import-untyped]
from docker.errors import DockerException  # type: ignore[import-untyped]
from docker.models.containers import Container  # type: ignore[import-untyped]
from testcontainers.core.container import DockerContainer

from tests.provision import CannotProvide

__all__ = ["Container", "engine_responds", "execute", "run"]


@functools.cache
def engine_responds() -> bool:
    """Whether a Docker engine is available."""
    try:
        docker.from_env(timeout=5).ping()
    except DockerException:
        return False
    return True


def run(image: str, *, published: Mapping[int, int], command: Sequence[str] = ()) -> Container:
    """Run the image with its ports published as {inside: outside}; removed when this process ends."""
    try:
        container = DockerContainer(image).with_command(list(command))
        for inside, outside in published.items():
            container.with_bind_ports(inside, outside)
        return container.start().get_wrapped_container()
    except DockerException as fault:
        raise CannotProvide(f"the container {image} cannot be run: {fault}") from fault


def execute(container: Container, *command: str) -> str:
    """Run a command in the container and return its output; raises if it fails."""
    status, output = container.exec_run(list(command))
    if status != 0:
        raise RuntimeError(f"{command}: {output.decode(errors='replace')}")
    return str(output.decode())
