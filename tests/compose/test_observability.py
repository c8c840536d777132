"""Prometheus of the profile `observability` watches the running stack."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from libs.version import VERSION
from tests.compose.containers import ComposeStack
from tests.deployment import observability
from tests.deployment.wiring import EVERY_SERVICE
from tests.eventually import eventually


@pytest.fixture(name="prometheus")
def _prometheus(stack: ComposeStack) -> Iterator[ComposeStack]:
    """The stack with Prometheus, which nothing starts by itself."""
    stack.make("images", "S=prometheus")
    try:
        stack.compose("up", "--detach", "--wait", "--no-deps", "prometheus")
        yield stack
    finally:
        stack.compose("rm", "--stop", "--force", "--volumes", "prometheus")


def asked(stack: ComposeStack, path: str) -> Any:
    """What Prometheus' HTTP API answers, from inside its container: no port is published."""
    status, said = stack.exec("prometheus", "wget", "-q", "-O", "-", f"http://127.0.0.1:9090/api/v1/{path}")
    assert status == 0, said
    answer = json.loads(said)
    assert answer["status"] == "success", said
    return answer["data"]


async def test_prometheus_scrapes_every_service_and_evaluates_the_alerts(prometheus: ComposeStack) -> None:
    """Every instance of every service is a target that is up, under the version that was built; the alerts are those of
    ops/, each is evaluated without an error, and none of a service that is down fires.
    """

    def scraped() -> bool:
        targets = asked(prometheus, "targets")["activeTargets"]
        assert {each["labels"]["job"] for each in targets} == set(EVERY_SERVICE)
        assert [each["lastError"] for each in targets if each["health"] != "up"] == []
        return True

    await eventually(scraped, within=180, every=1)

    def evaluated() -> bool:
        groups = asked(prometheus, "rules?type=alert")["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert sorted(rule["name"] for rule in rules) == sorted(observability.alerts())
        assert {rule["name"]: rule.get("lastError") for rule in rules if rule["health"] != "ok"} == {}
        return True

    await eventually(evaluated, within=180, every=1)
    built = asked(prometheus, "query?query=count%20by%20(job,version)%20(tokenwire_build_info)")["result"]
    assert {(each["metric"]["job"], each["metric"]["version"], each["value"][1]) for each in built} == {
        (service, VERSION, "1") for service in EVERY_SERVICE
    }
    firing = [
        each["labels"]["alertname"] for each in asked(prometheus, "alerts")["alerts"] if each["state"] == "firing"
    ]
    assert not {"ServiceDown", "InstanceDown"} & set(firing)
