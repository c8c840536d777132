"""Alerts and dashboard use metrics that exist, every alert fires when it should, and the runbook explains it."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deployment import observability, stack
from tests.deployment.observability import BY_PROMETHEUS, PROMETHEUS, TARGET
from tests.deployment.wiring import EVERY_SERVICE
from tests.provision.prometheus import promtool

RUNBOOK = (stack.ROOT / "docs" / "runbook.md").read_text()
ALERTS = observability.alerts()
CASES: dict[str, dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "alert_cases.yaml").read_text())
QUERIES = {
    **{name: (rule["expr"], rule["annotations"]["summary"]) for name, rule in ALERTS.items()},
    **observability.dashboard_queries(),
}
"""The queries of alerts and dashboard, each with a text that shows labels of the result."""


def check(*arguments: str | Path) -> None:
    """Run promtool; it must succeed."""
    done = subprocess.run([promtool(), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"


def test_prometheus_accepts_its_configuration_and_the_alerts() -> None:
    """promtool accepts prometheus.yml and the rules."""
    check("check", "config", PROMETHEUS / "prometheus.yml")


def test_in_kubernetes_the_targets_get_the_same_labels(tmp_path: Path) -> None:
    """promtool accepts the configuration for Kubernetes, and pods become jobs with the names of their services.

    Debian's promtool does not know Kubernetes, so it gets the rest.
    """
    document = yaml.safe_load((PROMETHEUS / "kubernetes.yml").read_text())
    (job,) = document["scrape_configs"]
    assert job.pop("kubernetes_sd_configs") == [{"role": "pod", "namespaces": {"names": ["tokenwire"]}}]
    assert {rule.get("target_label") for rule in job["relabel_configs"]} == {None, *TARGET}
    document["rule_files"] = [str(PROMETHEUS / name) for name in document["rule_files"]]
    file = tmp_path / "prometheus.yml"
    file.write_text(yaml.safe_dump(document))
    check("check", "config", file)


def test_prometheus_accepts_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    """promtool accepts each query as Grafana sends it."""
    queries = [query for query, _ in observability.dashboard_queries().values()]
    rules = [{"record": f"panel:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    check("check", "rules", file)


def test_prometheus_finds_every_instance_of_every_service() -> None:
    """Each service is a job that asks Docker's resolver for the service's container name and port."""
    jobs = {job["job_name"]: job["dns_sd_configs"][0] for job in observability.configuration()["scrape_configs"]}
    assert set(jobs) == set(EVERY_SERVICE)
    for service, found in jobs.items():
        assert (found["names"], found["type"]) == ([service], "A")
        assert str(found["port"]) == stack.environment(service)["TOKENWIRE_PORT"]
    assert observability.configuration()["rule_files"] == ["alerts.yml"]


@pytest.mark.parametrize("name", sorted(QUERIES))
def test_a_query_uses_metrics_that_services_export(name: str) -> None:
    """Each metric is exported, with the labels by which the query selects, groups and joins, and which it shows."""
    query, shown = QUERIES[name]
    known = {**observability.declared(), **BY_PROMETHEUS}
    selected = observability.used(query)
    assert {each.metric for each in selected} <= known.keys()
    for each in selected:
        labels = known[each.metric] | TARGET
        assert {label for label, _, _ in each.matchers} <= labels, each
        assert {value for label, op, value in each.matchers if (label, op) == ("job", "Equal")} <= set(EVERY_SERVICE)
    of_all = frozenset.union(*(known[each.metric] for each in selected)) | TARGET
    assert set(observability.grouping(query)) <= of_all
    left = observability.labels_left(query)
    displayed = set(re.findall(r"\{\{ ?(?:\$labels\.)?(\w+) ?\}\}", shown))
    assert displayed <= (of_all if left is None else left)


def test_panels_say_what_they_show() -> None:
    """Every panel has a title of its own, a unit and at least one query of the provisioned data source."""
    panels = observability.panels()
    assert len({panel["title"] for panel in panels}) == len(panels)
    (source,) = yaml.safe_load((observability.GRAFANA / "datasources" / "prometheus.yml").read_text())["datasources"]
    for panel in panels:
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {source["uid"]}
    host, port = source["url"].removeprefix("http://").split(":")
    assert host in stack.containers()
    assert f"127.0.0.1:{port}/" in stack.containers()[host]["healthcheck"]["test"][-1]


def test_grafana_finds_what_is_provisioned() -> None:
    """The paths in Grafana's settings are those at which the container mounts the files."""
    (mount,) = stack.containers()["grafana"]["volumes"]
    here, there, mode = mount.split(":")
    assert (stack.ROOT / here, mode) == (observability.GRAFANA, "ro")
    settings = stack.containers()["grafana"]["environment"]
    assert settings["GF_PATHS_PROVISIONING"] == there
    provider = yaml.safe_load((observability.GRAFANA / "dashboards" / "dashboards.yml").read_text())["providers"][0]
    for path in (provider["options"]["path"], settings["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]):
        assert (observability.GRAFANA / Path(path).relative_to(there)).exists()
    assert settings["GF_SECURITY_ADMIN_PASSWORD__FILE"] in stack.secrets("grafana")


def test_alerts_fire_when_they_should_and_only_then(tmp_path: Path) -> None:
    """Every alert fires for the series of its cases, with the right labels, and is quiet for the others."""
    assert {name.partition(",")[0] for name in CASES} == set(ALERTS)
    tests = []
    for case, wanted in CASES.items():
        name = case.partition(",")[0]
        labels = {"alertname": name, "alertstate": "firing", **ALERTS[name]["labels"], **wanted.get("labels", {})}
        matchers = ",".join(f'{label}="{value}"' for label, value in labels.items())
        firing = [{"labels": f"ALERTS{{{matchers}}}", "value": 1}]
        for series, expected in ((wanted["fires"], firing), (wanted["quiet"], [])):
            query = {
                "expr": f'ALERTS{{alertname="{name}",alertstate="firing"}}',
                "eval_time": f"{wanted.get('minutes', 20)}m",
                "exp_samples": expected,
            }
            given = [{"series": each, "values": str(values)} for each, values in series.items()]
            tests.append({"interval": "1m", "input_series": given, "promql_expr_test": [query]})
    file = tmp_path / "tests.yml"
    file.write_text(yaml.safe_dump({"rule_files": [str(PROMETHEUS / "alerts.yml")], "tests": tests}))
    check("test", "rules", file)


def test_every_alert_has_an_entry_in_the_runbook_and_says_how_severe_it_is() -> None:
    """Each alert links to an entry with symptom, query, cause and action, of the same severity; no entry is left."""
    entries = dict(re.findall(r"^### (\w+)\n(.*?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL))
    assert list(entries) == list(ALERTS)
    for name, rule in ALERTS.items():
        severity = rule["labels"]["severity"]
        assert severity in {"critical", "warning"}
        assert rule["annotations"]["runbook"] == f"docs/runbook.md#{name.lower()}"
        assert re.findall(r"^- \*\*(\w+)\*\*: \S", entries[name], re.MULTILINE) == [
            "Symptom",
            "Query",
            "Cause",
            "Action",
        ]
        assert entries[name].strip().startswith(f"- **Symptom**: {severity}: ")


@pytest.mark.parametrize("name", sorted(ALERTS))
def test_the_queries_of_the_runbook_can_be_run(name: str) -> None:
    """Each query of an entry is PromQL about metrics that exist."""
    entry = RUNBOOK.partition(f"### {name}\n")[2]
    text = " ".join(entry.partition("- **Query**: ")[2].partition("- **Cause**")[0].split())
    queries = re.findall(r"`([^`]+)`", text)
    assert any("(" in query or "{" in query or "_" in query or query.startswith("up") for query in queries)
    known = {**observability.declared(), **BY_PROMETHEUS}
    for query in queries:
        for each in observability.used(query):
            assert {label for label, _, _ in each.matchers} <= known[each.metric] | TARGET
