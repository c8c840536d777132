"""TOKENWIRE_TEST_WITHOUT deselects tests by part, reports it, and by default deselects none."""

import os
import subprocess
import sys

import pytest

from tests.conftest import CANNOT_PROVIDE, OPTIONAL_PARTS, WITHOUT


def collected(without: str | None) -> tuple[int, str]:
    """Exit status and output of collecting the Node client tests."""
    environment = {name: value for name, value in os.environ.items() if name != WITHOUT}
    if without is not None:
        environment[WITHOUT] = without
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "tests/clients", "tests/provision/test_rabbit_node.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_nothing_is_left_out_by_default() -> None:
    """By default every test is selected."""
    status, output = collected(None)
    assert status == 0
    assert "deselected" not in output
    assert "test_a_library_lives_with_a_secret[oauth4webapi]" in output


def test_a_part_left_out_is_named_and_its_tests_are_counted() -> None:
    """The run names the missing part, and deselects only the tests that need it."""
    status, output = collected("node-clients")
    assert status == 0
    assert f"{WITHOUT}=node-clients" in output
    assert "5 deselected" in output
    assert "test_the_packages_are_pinned_by_their_hashes" in output
    assert "test_a_library_lives" not in output


@pytest.mark.parametrize("name", ["node", "mongodb", "node-clients,rabbitmq"])
def test_only_known_parts_can_be_left_out(name: str) -> None:
    """An unknown name ends the run, rather than testing something else than intended."""
    status, output = collected(name)
    assert status == pytest.ExitCode.USAGE_ERROR
    assert f"allowed: {', '.join(OPTIONAL_PARTS)}" in output


@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["one-process", "two-workers"])
def test_a_missing_server_ends_the_run_with_the_line_that_says_how_to_provide_it(workers: tuple[str, ...]) -> None:
    """Once, with an exit status of its own, and not as the failure of every test that needs the server."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *workers, "tests/conformance/test_rabbit.py"],
        env={**os.environ, "TOKENWIRE_TEST_AMQP_URL": "amqp://127.0.0.1:1/"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == CANNOT_PROVIDE
    (line,) = [line for line in done.stdout.splitlines() if "the RabbitMQ of TOKENWIRE_TEST_AMQP_URL cannot" in line]
    assert line.startswith("! ")
