"""Restart the running container stack, on new images where they have changed, without a failed request.

    python -m deploy.roll                  every service, then the edge
    python -m deploy.roll token gateway    only these

New instances of a service are started next to the old ones. When they are healthy, the old ones stop, finish
their requests, and are removed. A single edge owns the published port, so it reads its configuration again instead; two
or more edges, each with a port of its own, are replaced one after the other.

`docker compose` finds the stack as usual: by the current directory, COMPOSE_PROJECT_NAME and COMPOSE_FILE.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

SERVICES = ("authorization", "token", "revocation", "notifier", "management", "gateway", "console")
EDGE = "edge"
_FACTS = '{{.Image}} {{.Config.Image}} {{index .Config.Labels "com.docker.compose.config-hash"}}'
"""A container's image, the name of that image, and the hash of its settings in compose.yaml."""


class CannotRoll(Exception):
    """A service could not be replaced and runs as before; those after it are untouched. The message is one line."""


def roll(names: Sequence[str]) -> None:
    """Restart these services one after the other. Raises CannotRoll."""
    for name in names:
        containers = _containers(name)
        if not containers:
            raise CannotRoll(f"no container of {name} is running: start the stack with `make up`")
        if name != EDGE:
            _replace_all(name, containers)
        elif len(containers) > 1:
            _replace_one_by_one(containers)
        else:
            _reload(containers[0])


def _replace_all(name: str, old: Sequence[str]) -> None:
    """If the new instances do not become healthy, they are removed, and the old ones stay."""
    try:
        _scale(name, 2 * len(old))
    except CannotRoll:
        new = [container for container in _containers(name, "--all") if container not in old]
        if new:
            _docker("rm", "--force", *new)
        raise
    _remove(*old)
    _say(f"{name}: {len(old)} replaced")


def _replace_one_by_one(edges: Sequence[str]) -> None:
    for edge in edges:
        _remove(edge)
        _scale(EDGE, len(edges))
    _say(f"{EDGE}: {len(edges)} replaced")


def _reload(edge: str) -> None:
    """Make nginx read its configuration again: new workers take over, the old ones finish their requests."""
    if _is_outdated(edge):
        raise CannotRoll(
            f"{EDGE}: its image or its settings in compose.yaml have changed, and the published port belongs to this "
            "one container. Recreate it with `docker compose up -d --no-deps edge`, which refuses connections for some "
            "seconds, or run two edges (docs/operations.md)"
        )
    nginx = json.loads(_docker("inspect", "-f", "{{json .Config.Entrypoint}}", edge))
    _docker("exec", edge, *nginx, "-t", "-q")
    _docker("kill", "--signal", "HUP", edge)
    _say(f"{EDGE}: configuration read again")


def _is_outdated(container: str) -> bool:
    image, name, settings = _docker("inspect", "-f", _FACTS, container).split()
    newest = _docker("image", "inspect", "-f", "{{.Id}}", name).strip()
    return newest != image or _docker("compose", "config", "--hash", EDGE).split()[-1] != settings


def _containers(name: str, *which: str) -> list[str]:
    return _docker("compose", "ps", "--quiet", *which, name).split()


def _scale(name: str, instances: int) -> None:
    """Start missing instances; wait until all are healthy."""
    _docker("compose", "up", "-d", "--no-deps", "--no-recreate", "--scale", f"{name}={instances}", "--wait", name)


def _remove(*containers: str) -> None:
    """Stop them gracefully, within their `stop_grace_period`."""
    _docker("stop", *containers)
    _docker("rm", *containers)


def _docker(*words: str) -> str:
    done = subprocess.run(["docker", *words], capture_output=True, text=True, check=False)  # noqa: S603, S607
    if done.returncode != 0:
        complaint = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise CannotRoll(f"`docker {' '.join(words)}` failed: {complaint}")
    return done.stdout


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Roll the services named on the command line, by default all."""
    parser = argparse.ArgumentParser(prog="python -m deploy.roll", description="Restart without a failed request.")
    parser.add_argument("service", nargs="*", metavar="service", help=f"by default all: {', '.join((*SERVICES, EDGE))}")
    names = parser.parse_args().service or (*SERVICES, EDGE)
    if unknown := [name for name in names if name not in (*SERVICES, EDGE)]:
        sys.exit(f"{unknown[0]} cannot be rolled: name some of {', '.join((*SERVICES, EDGE))}")
    try:
        roll(names)
    except CannotRoll as reason:
        sys.exit(f"{parser.prog}: {reason}")
    except FileNotFoundError:
        sys.exit(f"{parser.prog}: the `docker` command is missing")


if __name__ == "__main__":
    main()
