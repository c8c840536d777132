"""docs/security.md lists everything that grows with input; what can be found automatically is checked here."""

import functools
import gc
import re
from pathlib import Path

from libs.telemetry import RequestMetrics
from services import __main__ as every_service

SECURITY = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
BOUNDED = {
    "libs.client_address": "X-Forwarded-For",
    "libs.bus.rabbit.publish_encoder": None,  # words of our own messages
    "libs.http.context": None,  # routes
    "libs.logging": None,  # names of our own fields
    "libs.policies": "compiled expressions",
    "libs.allowances": "*operators:* APIs",  # limits of policies
    "libs.encryption": None,  # one value
    "services.gateway.upstream_urls": "*operators:* APIs",
    "services.gateway.header_fields": "names of forwarded headers",
    "services.gateway.upstream_headers": "*operators:* APIs",
    "services.notifier.client": "*operators:* APIs",  # URLs of webhooks
    "libs.outbound.signing": "*operators:* APIs",  # secrets of webhooks
    "services.console.reference_documents": None,  # our own documents
}
"""Modules that cache function results, with the row of the table about it; None if nothing comes from callers."""


def test_every_cache_of_results_is_known_and_bounded() -> None:
    """A new cache needs a bound and a row."""
    assert every_service
    # type(), because isinstance() asks a weakref.proxy for its referent, which may be gone
    caches = [thing for thing in gc.get_objects() if type(thing) is functools._lru_cache_wrapper]
    ours = {cache for cache in caches if cache.__wrapped__.__module__.split(".")[0] in {"libs", "services"}}
    assert {cache.__wrapped__.__module__ for cache in ours} <= BOUNDED.keys()
    assert all(0 < cache.cache_parameters()["maxsize"] <= 8192 for cache in ours)
    rows = re.findall(r"^\| (.*?) \|", SECURITY, re.MULTILINE)
    assert all(any(named in row.replace("`", "") for row in rows) for named in BOUNDED.values() if named)


def test_every_test_that_the_table_names_is_there() -> None:
    """Every test named in the table exists."""
    tests = Path(__file__).parents[1]
    text = "\n".join(path.read_text() for path in tests.rglob("test_*.py"))
    for name in re.findall(r"`(test_[a-z0-9_]+)(?:\*)?`", SECURITY):
        assert re.search(rf"def {name}", text), name
    for name in re.findall(r"`(test_\w+\.py)`", SECURITY):
        assert list(tests.rglob(name)), name


def test_no_label_of_a_metric_is_a_callers() -> None:
    """Metric labels have fixed values for routes, methods and statuses, whatever is requested."""
    responses = RequestMetrics()
    for number in range(100):
        responses.observe("/{api_ref}/oauth/token", "other", 404, number / 1000)
    assert len(responses._requests) == len(responses._latencies) == 1
