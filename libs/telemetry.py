"""Metrics of this process (Prometheus)."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector


class _Latency:
    """How long the answers of one route took."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.counts = [0] * (len(Answers.BOUNDS) + 1)


class Answers(Collector):
    """Requests answered and the time it took, counted in one event loop: without a metric's locks."""

    BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._latencies: dict[str, _Latency] = {}

    def count(self, route: str, method: str, status: int, seconds: float) -> None:
        """One more."""
        what = (route, method, status)
        self._requests[what] = self._requests.get(what, 0) + 1
        latency = self._latencies.get(route)
        if latency is None:
            latency = self._latencies[route] = _Latency()
        latency.seconds += seconds
        latency.counts[bisect_left(self.BOUNDS, seconds)] += 1

    def collect(self) -> Iterator[Metric]:
        """For the registry."""
        requests = CounterMetricFamily(
            "tokenwire_http_requests", "Requests answered.", labels=("route", "method", "status")
        )
        for (route, method, status), number in self._requests.items():
            requests.add_metric((route, method, str(status)), number)
        yield requests
        times = HistogramMetricFamily("tokenwire_http_request_seconds", "Time to answer.", labels=("route",))
        for route, latency in self._latencies.items():
            bounds = [*map(str, self.BOUNDS), "+Inf"]
            times.add_metric((route,), list(zip(bounds, accumulate(latency.counts), strict=True)), latency.seconds)
        yield times


ANSWERS = Answers()
REGISTRY.register(ANSWERS)
EVENTS_PUBLISHED = Counter("tokenwire_events_published_total", "Events confirmed by the bus.", ("collection",))
EVENTS_UNPUBLISHED = Counter("tokenwire_events_unconfirmed_total", "Publications to be repeated.", ("collection",))
OUTBOX_WAITING = Gauge("tokenwire_outbox_waiting", "Events waiting in this process to be published or cleared.")
OUTBOX_BACKLOG = Gauge("tokenwire_outbox_backlog", "Records with unpublished events.", ("collection",))
OUTBOX_AGE = Gauge("tokenwire_outbox_oldest_seconds", "Age of the oldest unpublished event.", ("collection",))
MESSAGES_WAITING = Gauge("tokenwire_waiting_messages", "Messages of a pool that nobody handles yet.", ("pool",))
MESSAGES_PARKED = Gauge("tokenwire_parked_messages", "Messages that a pool gave up on.", ("pool",))
CACHED_TOKENS = Gauge("tokenwire_cached_tokens", "Access tokens whose grants this process keeps in memory.")
AUDIT_EVENTS = Gauge(
    "tokenwire_audit_events",
    "Committed events of the records made in the audited time, and what became of them.",
    ("collection", "state"),
)
AUDIT_NOTIFICATIONS = Gauge(
    "tokenwire_audit_notifications", "What became of the published events of the audited grants.", ("state",)
)
AUDIT_BALANCED = Gauge("tokenwire_audit_balanced", "1: nothing audited was missing, phantom or doubled; 0: something.")
AUDITED_AT = Gauge("tokenwire_audit_time_seconds", "When the last audit was made (Unix time).")
USAGE_LOST = Counter("tokenwire_usage_lost_total", "Calls that the usage analytics do not count.")
USAGE_WAITING = Gauge(
    "tokenwire_usage_waiting", "Numbers of calls that wait to be written, by API, client and outcome."
)
ATTEMPTS_FAILED = Counter(
    "tokenwire_attempts_failed_total", "Failed attempts to prove who one is, by what counts them.", ("kind",)
)
ATTEMPTS_REFUSED = Counter(
    "tokenwire_attempts_refused_total", "Attempts refused because too many had failed, by what counted them.", ("kind",)
)
WEBHOOKS = Counter("tokenwire_webhook_attempts_total", "Webhook attempts.", ("outcome",))
WEBHOOKS_UNDER_WAY = Gauge("tokenwire_webhooks_under_way", "Webhook attempts that have begun and are not recorded yet.")
WEBHOOK_LATENCY = Histogram(
    "tokenwire_webhook_seconds",
    "Time until an endpoint answered, or the attempt was given up.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

LIMIT_RESERVATIONS = Counter(
    "tokenwire_limit_reservations_total", "Slices asked of the shared limit counters.", ("outcome",)
)
LIMIT_REFUSALS = Counter("tokenwire_limit_refusals_total", "Calls that a limit refused.", ("kind",))
LIMIT_UNCOUNTED = Counter("tokenwire_limit_uncounted_total", "Calls let through uncounted, the counters being away.")
LIMIT_WAITING = Gauge("tokenwire_limit_waiting", "Calls that wait for the shared limit counters.")


def exposition() -> bytes:
    """Every metric in Prometheus' text format."""
    return generate_latest()
