"""Prometheus' configuration, the alerts and the dashboard of `ops/`, with the metrics that their queries use."""

import ast
import inspect
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import promql_parser
import yaml
from prometheus_client.parser import text_string_to_metric_families

from libs import telemetry
from libs.telemetry import exposition
from tests.deployment import stack

PROMETHEUS = stack.ROOT / "ops" / "prometheus"
GRAFANA = stack.ROOT / "ops" / "grafana"
DASHBOARD = GRAFANA / "dashboards" / "tokenwire.json"
BY_PROMETHEUS = {"up": frozenset[str](), "ALERTS": frozenset({"alertname", "alertstate", "severity"})}
"""Series that Prometheus makes itself, with their labels."""
TARGET = frozenset({"job", "instance"})
"""Labels that Prometheus adds to every series that it scrapes."""

_SUFFIXES = {"Counter": ("_total",), "Gauge": ("",), "Histogram": ("_bucket", "_count", "_sum")}
_OF_BUCKETS = {"_bucket": ("le",)}

_CERTAIN = {"job", "dependency", "outcome", "route"}
"""Labels whose values all exist once the whole flow has run."""


@dataclass(frozen=True)
class Used:
    """A metric that a query selects, and the labels that the query expects on it with their wanted values."""

    metric: str
    matchers: tuple[tuple[str, str, str], ...]
    """Label, operator and value."""


def configuration() -> dict[str, Any]:
    """prometheus.yml."""
    document: dict[str, Any] = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    return document


def alerts() -> dict[str, dict[str, Any]]:
    """The alert rules by name."""
    groups = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules)
    return {rule["alert"]: rule for rule in rules}


def panels() -> list[dict[str, Any]]:
    """The panels of the dashboard, without its rows."""
    return [panel for panel in json.loads(DASHBOARD.read_text())["panels"] if panel["type"] != "row"]


def dashboard_queries() -> dict[str, tuple[str, str]]:
    """Each query of the dashboard as Grafana sends it, with its legend, by a name for messages."""
    found = {
        f"{panel['title']} {target['refId']}": (_sent(target["expr"]), target["legendFormat"])
        for panel in panels()
        for target in panel["targets"]
    }
    for annotation in json.loads(DASHBOARD.read_text())["annotations"]["list"]:
        found[annotation["name"]] = (_sent(annotation["expr"]), annotation["titleFormat"])
    return found


def _sent(query: str) -> str:
    return query.replace("$__rate_interval", "1m").replace("$service", ".*")


def parsed(query: str) -> Any:
    """The syntax tree. Raises ValueError if it is not PromQL."""
    return promql_parser.parse(query)


def used(query: str) -> list[Used]:
    """The metrics that the query selects."""
    found: list[Used] = []

    def visit(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            assert node.name, query
            matchers = [(each.name, str(each.op).rpartition(".")[2], each.value) for each in node.matchers.matchers]
            found.append(Used(node.name, tuple(matchers)))

    promql_parser.walk(parsed(query), visit)
    return found


def labels_left(query: str) -> frozenset[str] | None:
    """The labels that the result can have, or None for all of its metrics."""
    tree = parsed(query)
    while isinstance(tree, promql_parser.ParenExpr | promql_parser.BinaryExpr):
        tree = tree.expr if isinstance(tree, promql_parser.ParenExpr) else tree.lhs
    if isinstance(tree, promql_parser.Call) and tree.func.name == "histogram_quantile":
        tree = tree.args[1]
    if isinstance(tree, promql_parser.AggregateExpr):
        return frozenset(tree.modifier.labels if tree.modifier else ())
    return None


def grouping(query: str) -> Iterator[str]:
    """The labels by which the query groups or joins."""
    for clause in re.findall(r"\b(?:by|on|ignoring|without) ?\(([^)]*)\)", query):
        yield from (label.strip() for label in clause.split(","))


def declared() -> dict[str, frozenset[str]]:
    """The series that a service exports, with their labels: ours as declared, and those of the process."""
    found = {name: frozenset[str]() for name in exported({"": exposition().decode()}) if name.startswith("process_")}
    for call in ast.walk(ast.parse(inspect.getsource(telemetry))):
        if isinstance(call, ast.Call) and (made := ast.unparse(call.func).removesuffix("MetricFamily")) in _SUFFIXES:
            name, *further = [ast.literal_eval(value) for value in call.args if not isinstance(value, ast.Name)]
            keywords = {each.arg: each.value for each in call.keywords}
            labels = ast.literal_eval(keywords["labels"]) if "labels" in keywords else [*further, ()][1]
            for suffix in _SUFFIXES[made]:
                found[name.removesuffix("_total") + suffix] = frozenset({*labels, *_OF_BUCKETS.get(suffix, ())})
    return found


def exported(texts: Mapping[str, str]) -> dict[str, list[dict[str, str]]]:
    """The samples of each series name in these expositions, one for each job, as Prometheus stores their labels."""
    found: dict[str, list[dict[str, str]]] = {}
    for job, text in texts.items():
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append({**sample.labels, "job": job})
    return found


def not_exported(samples: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """What alerts and dashboard expect otherwise than these samples are: labels, or values that no sample has.

    A metric whose labels have no values yet has no sample, and passes.
    """
    faults = [
        f"{name} has {sorted(labels)}"
        for name, known in declared().items()
        for labels in ({*sample} - {"job"} for sample in samples.get(name, ()))
        if labels != known
    ]
    queries = [rule["expr"] for rule in alerts().values()] + [query for query, _ in dashboard_queries().values()]
    for each in {each for query in queries for each in used(query)}:
        wanted = [(label, value) for label, op, value in each.matchers if op == "Equal" and label in _CERTAIN]
        for label, value in wanted:
            if (there := samples.get(each.metric)) and value not in {sample.get(label) for sample in there}:
                faults.append(f"{each.metric} has no {label}={value}")
    return faults
