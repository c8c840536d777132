"""`make up` on a fresh copy of the project: what it prints and costs, and the first session through the edge."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.acceptance.caller import Caller
from tests.acceptance.curl import curl
from tests.acceptance.tenants import register_client
from tests.compose.conftest import Receiver, Started
from tests.compose.containers import ComposeStack, curl_command
from tests.eventually import eventually

CALLBACK = "https://app.example.test/callback"
BUILD_WITHIN, START_WITHIN, IMAGE_UP_TO = 180, 30, 250_000_000
"""What one may expect on a machine that does nothing else; a busy one is slower. The build downloads packages where no
wheels are cached. The start waits for RabbitMQ's boot, then for the imports of six services at once, which takes some
twenty seconds of processor time, so it depends on the cores that are free.
"""


def test_the_stack_is_up_and_says_how_to_go_on(started: Started, capfd: pytest.CaptureFixture[str]) -> None:
    """Every container is healthy, the image is small, and the suggested curl command works as it is printed."""
    built, stack = started.built, started.stack
    with capfd.disabled():
        sys.stderr.write(
            f"\nbuild {built.seconds:.0f} s (at most {BUILD_WITHIN} on an idle machine), image "
            f"{built.image_bytes / 1e6:.0f} MB, start {started.seconds:.0f} s (at most {START_WITHIN} on an idle "
            f"machine), {os.cpu_count()} cores, load {os.getloadavg()[0]:.0f}\n"
        )
    assert built.image_bytes < IMAGE_UP_TO
    states = {container.service: (container.state, container.health) for container in stack.containers()}
    assert states.pop("mongodb-init") == ("exited", "")
    assert set(states.values()) == {("running", "healthy")}, states
    assert f"Tokenwire is at {stack.url}; its operator key is in .secrets/bootstrap_operator_key" in started.said
    command = curl_command(started.said).replace("curl ", f"{shlex.quote(str(curl()))} -s ", 1)
    done = subprocess.run(["bash", "-c", command], cwd=stack.directory, capture_output=True, check=True)
    assert json.loads(done.stdout)["apis"] == []


async def test_the_first_session_works_through_the_edge(
    stack: ComposeStack, operator: Caller, anybody: Caller, upstream: str, receiver: Receiver
) -> None:
    """Register, authorize, exchange, call, refresh, call, revoke, call: as in the README, with both webhooks."""
    document = yaml.safe_load((stack.directory / "examples" / "my-oauth-api.json").read_text())
    text = json.dumps(document).replace("http://notifyme.com", receiver.url).replace("http://httpbin.org/", upstream)
    imported = await operator("POST", "/api/apis/oas", json=json.loads(text))
    assert imported.status == 200, imported.raw
    api_id = imported.body["ID"]
    client_id, secret = await register_client(operator, api_id)
    asked = f"/my-oauth-api/oauth/authorize?response_type=code&client_id={client_id}"
    redirected = await anybody("GET", asked)
    assert redirected.status == 307
    assert redirected.headers["Location"].startswith("http://identityserver.com/")

    form = {"response_type": "code", "client_id": client_id, "subject": "alice"}
    code = (await operator("POST", f"/api/apis/oauth/{api_id}/authorize-client/", data=form)).body["code"]

    async def token(**form: str) -> dict[str, str]:
        with_secret = {**form, "client_id": client_id, "client_secret": secret}
        response = await anybody("POST", "/my-oauth-api/oauth/token/", data=with_secret)
        assert response.status == 200, response.raw
        return dict(response.body)

    async def called(access: str) -> int:
        headers = {"Authorization": f"Bearer {access}"}
        return (await anybody("GET", "/my-oauth-api/orders", headers=headers)).status

    first = await token(grant_type="authorization_code", code=code)
    assert await called(first["access_token"]) == 200
    second = await token(grant_type="refresh_token", refresh_token=first["refresh_token"])
    assert await called(second["access_token"]) == 200

    async def refused(access: str) -> bool:
        return await called(access) == 403

    await eventually(lambda: refused(first["access_token"]), within=120)
    credentials = {"token": second["access_token"], "client_id": client_id, "client_secret": secret}
    assert (await anybody("POST", "/my-oauth-api/oauth/revoke", data=credentials)).status == 200
    await eventually(lambda: refused(second["access_token"]), within=120)

    async def notified() -> bool:
        kinds = [each["notification_type"] for each in await receiver.received()]
        return kinds == ["new", "refresh"]

    await eventually(notified, within=180)
    assert (await operator("DELETE", f"/api/apis/{api_id}")).status == 200


async def test_the_demo_tells_its_story_against_the_containers(stack: ComposeStack) -> None:
    """`make demo BASE=…` finds the key in .secrets/ and an address at which the containers reach this machine."""
    output = await demo(stack)
    assert re.search(r"demo passed: \d+ steps", output), output


async def demo(stack: ComposeStack) -> str:
    """The output of the demo in the copy of the project."""
    asked = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.demo"),
        cwd=stack.directory,
        env={**stack.environment, "TOKENWIRE_URL": stack.url, "PYTHONPATH": str(Path(stack.directory))},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await asyncio.wait_for(asked.communicate(), 600)
    return said.decode()
