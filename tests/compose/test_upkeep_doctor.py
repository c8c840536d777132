"""`docker compose run upkeep doctor`: in the container it finds nothing wrong, and says what is away."""

import json
import subprocess
from typing import Any

from tests.compose.conftest import Started


def diagnosed(started: Started) -> tuple[int, dict[str, dict[str, Any]]]:
    """Exit status and checks by name, of the command that docs/operations.md shows."""
    done = subprocess.run(
        ["docker", "compose", "run", "--rm", "--no-deps", "upkeep", "doctor", "--json"],
        cwd=started.stack.directory,
        env=started.stack.environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, {check["name"]: check for check in json.loads(done.stdout)["checks"]}


def test_the_doctor_finds_nothing_wrong_in_a_new_stack(started: Started) -> None:
    """MongoDB and RabbitMQ are checked with the rights that the container has; there is no data directory."""
    status, found = diagnosed(started)
    assert status == 0, found
    assert [name for name, check in found.items() if check["state"] == "skipped"] == ["disk"]
    assert {"MongoDB", "indexes", "MongoDB clock", "RabbitMQ", "queues", "RabbitMQ rights", "keys"} <= found.keys()


def test_the_doctor_says_that_rabbitmq_is_away(started: Started) -> None:
    """It does not wait for RabbitMQ, and starts nothing."""
    started.stack.compose("stop", "rabbitmq")
    try:
        status, found = diagnosed(started)
    finally:
        started.stack.compose("up", "--detach", "--wait")
    assert (status, found["RabbitMQ"]["state"], found["MongoDB"]["state"]) == (1, "wrong", "ok"), found
    assert "docs/runbook.md" in found["RabbitMQ"]["remedy"]
