"""`make down` keeps the data, `make down V=1` deletes it."""

import json
import subprocess
from pathlib import Path

from tests.compose.containers import ComposeStack, copied

_CALL = """
import json, sys, urllib.request
method, path, key, *body = sys.argv[1:]
headers = {"Authorization": key, "Content-Type": "application/json"}
data = body[0].encode() if body else None
request = urllib.request.Request("http://127.0.0.1:8080" + path, data, headers, method=method)
print(urllib.request.urlopen(request).read().decode())
"""


def managed(stack: ComposeStack, method: str, path: str, *body: str) -> str:
    """A request to the management service from inside its container."""
    status, said = stack.exec("management", "python", "-c", _CALL, method, path, stack.operator_key, *body)
    assert status == 0, said
    return said


def of_the_project(kind: str, stack: ComposeStack) -> list[str]:
    """Names of the project's volumes or networks."""
    command = ["docker", kind, "ls", f"--filter=label=com.docker.compose.project={stack.project}", "--format={{.Name}}"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.split()


def test_down_keeps_the_data_and_deletes_it_only_when_told_to(tmp_path: Path) -> None:
    """After `make down` the next start finds everything again; after `make down V=1` nothing is left in Docker."""
    with copied(tmp_path / "clone") as stack:
        stack.make("images", "secrets")
        stack.compose("up", "--detach", "--wait", "management")
        managed(stack, "POST", "/api/operators", json.dumps({"name": "a witness", "permissions": ["read"]}))

        # It has a profile, as Prometheus and Grafana have, whose images cannot be had everywhere.
        stack.compose("--profile=tools", "up", "--detach", "--no-deps", "dead_letters")
        stack.make("down")
        assert stack.containers() == []
        volumes = sorted(of_the_project("volume", stack))
        assert volumes == [f"{stack.project}_mongodb", f"{stack.project}_rabbitmq"]
        stack.compose("up", "--detach", "--wait", "management")
        assert "a witness" in managed(stack, "GET", "/api/operators")

        stack.make("down", "V=1")
        assert (stack.containers(), of_the_project("volume", stack), of_the_project("network", stack)) == ([], [], [])
