"""Metrics of this process (Prometheus)."""

import platform
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import REGISTRY, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from libs.version import VERSION
from libs.workers.metric_families import Families


class _Latency:
    """Response times of one route."""

    __slots__ = ("counts", "seconds")

    def __init__(self) -> None:
        self.seconds = 0.0
        self.counts = [0] * (len(RequestMetrics.BOUNDS) + 1)


class RequestMetrics(Collector):
    """Counts requests and response times. Replaces prometheus_client's Counter and Histogram on the hot path: all
    requests of a process run in one event loop, so the locks of those are not needed.
    """

    BOUNDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

    def __init__(self) -> None:
        self._requests: dict[tuple[str, str, int], int] = {}
        self._latencies: dict[str, _Latency] = {}

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one response. `route` is the route's pattern, never the path: callers must not create labels."""
        what = (route, method, status)
        try:
            self._requests[what] += 1
            latency = self._latencies[route]
        except KeyError:
            self._requests.setdefault(what, 1)
            latency = self._latencies.setdefault(route, _Latency())
        latency.seconds += seconds
        latency.counts[bisect_left(self.BOUNDS, seconds)] += 1

    def collect(self) -> Iterator[Metric]:
        """The metrics in the form that the registry wants."""
        requests = CounterMetricFamily(
            "tokenwire_http_requests",
            "HTTP requests, by route, method and response status.",
            labels=("route", "method", "status"),
        )
        for (route, method, status), number in self._requests.items():
            requests.add_metric((route, method, str(status)), number)
        yield requests
        times = HistogramMetricFamily("tokenwire_http_request_seconds", "Response time in seconds.", labels=("route",))
        for route, latency in self._latencies.items():
            bounds = [*map(str, self.BOUNDS), "+Inf"]
            times.add_metric((route,), list(zip(bounds, accumulate(latency.counts), strict=True)), latency.seconds)
        yield times


REQUEST_METRICS = RequestMetrics()
REGISTRY.register(REQUEST_METRICS)
EVENTS_PUBLISHED = Counter("tokenwire_events_published_total", "Events that the broker confirmed.", ("collection",))
EVENTS_UNPUBLISHED = Counter(
    "tokenwire_events_unconfirmed_total",
    "Publications without a confirmation from the broker; they are repeated.",
    ("collection",),
)
EVENTS_REFUSED = Counter(
    "tokenwire_events_refused_total",
    "Events that a queue refused, by queue: one of Tokenwire's own (`pool`), or a subscriber's.",
    ("collection", "by"),
)
OUTBOX_WAITING = Gauge(
    "tokenwire_outbox_waiting", "Events in this process that are not yet published, or not yet removed from the outbox."
)
OUTBOX_BACKLOG = Gauge("tokenwire_outbox_backlog", "Records with unpublished events.", ("collection",))
OUTBOX_AGE = Gauge("tokenwire_outbox_oldest_seconds", "Age of the oldest unpublished event.", ("collection",))
OUTBOX_REFUSED = Gauge(
    "tokenwire_outbox_refused", "Records with events that a queue refused; they are retried.", ("collection",)
)
OUTBOX_REFUSED_AGE = Gauge(
    "tokenwire_outbox_refused_oldest_seconds", "Age of the oldest event that a queue refused.", ("collection",)
)
QUEUE_DEPTH = Gauge("tokenwire_queue_messages", "Messages in the queue of a pool of consumers.", ("pool",))
DEAD_LETTERS = Gauge("tokenwire_dead_letters", "Messages in the dead-letter queue of a pool.", ("pool",))
CACHED_TOKENS = Gauge("tokenwire_cached_tokens", "Access tokens in the cache of this gateway.")
RECONCILIATION_EVENTS = Gauge(
    "tokenwire_reconciliation_events",
    "Committed events of the records made in the compared time, and what became of them.",
    ("collection", "state"),
)
RECONCILIATION_NOTIFICATIONS = Gauge(
    "tokenwire_reconciliation_notifications", "What became of the published events of the compared grants.", ("state",)
)
RECONCILIATION_BALANCED = Gauge(
    "tokenwire_reconciliation_balanced", "1: nothing was missing, phantom or doubled; 0: something."
)
RECONCILED_AT = Gauge("tokenwire_reconciliation_time_seconds", "When events were last compared (Unix time).")
USAGE_LOST = Counter(
    "tokenwire_usage_lost_total", "Calls missing in the usage analytics, because too many counts were pending."
)
USAGE_WAITING = Gauge(
    "tokenwire_usage_waiting", "Usage counts (by API, client and outcome) that are not yet written to MongoDB."
)
CONNECTIONS_DROPPED = Counter(
    "tokenwire_connections_dropped_total",
    "Connections closed because a limit of the process was exceeded.",
    ("reason",),
)
ATTEMPTS_FAILED = Counter(
    "tokenwire_attempts_failed_total", "Failed attempts to prove who one is, by what counts them.", ("kind",)
)
ATTEMPTS_REFUSED = Counter(
    "tokenwire_attempts_refused_total", "Attempts refused because too many had failed, by what counted them.", ("kind",)
)
ISSUANCE_REFUSED = Counter("tokenwire_issuance_refused_total", "Token requests refused by the client's issuance limit.")
WEBHOOK_ATTEMPTS = Counter("tokenwire_webhook_attempts_total", "Webhook attempts.", ("outcome",))
WEBHOOKS_IN_FLIGHT = Gauge("tokenwire_webhooks_in_flight", "Webhook attempts whose result is not recorded yet.")
SPANS_EXPORTED = Counter("tokenwire_trace_spans_exported_total", "Spans that the trace collector accepted.")
SPANS_DROPPED = Counter(
    "tokenwire_trace_spans_dropped_total", "Spans that were not exported, by reason; see Tracing.", ("reason",)
)
WEBHOOK_LATENCY = Histogram(
    "tokenwire_webhook_seconds",
    "Seconds until the endpoint responded or the attempt failed.",
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)

LIMIT_RESERVATIONS = Counter(
    "tokenwire_limit_reservations_total", "Leases requested from the shared rate and quota counters.", ("outcome",)
)
LIMIT_REFUSALS = Counter("tokenwire_limit_refusals_total", "Calls refused by the rate limiter.", ("kind",))
LIMIT_UNCOUNTED = Counter(
    "tokenwire_limit_uncounted_total", "Calls admitted without counting, because the counters were unreachable."
)
LIMIT_WAITING = Gauge("tokenwire_limit_waiting", "Calls that wait for the shared rate and quota counters.")
BACKGROUND_FAILURES = Counter(
    "tokenwire_background_failures_total", "Unexpected exceptions of background tasks.", ("task",)
)
BACKGROUND_UP = Gauge(
    "tokenwire_background_task_up", "1: the background task runs; 0: it failed and is being restarted.", ("task",)
)
DEPENDENCY_UP = Gauge(
    "tokenwire_dependency_up", "1: the last check of the dependency succeeded; 0: it failed.", ("dependency",)
)
EVENT_LOOP_LAG = Gauge(
    "tokenwire_event_loop_lag_seconds", "How late the event loop ran a timer: the worst of the last thirty seconds."
)
MEMORY_LIMIT = Gauge("tokenwire_memory_limit_bytes", "The memory limit of the container; 0: there is none.")
WORKERS = Gauge("tokenwire_workers", "Processes of this service that share its port (TOKENWIRE_WORKERS).")
BUILD_INFO = Gauge(
    "tokenwire_build_info",
    "Always 1; the labels are the versions of Tokenwire and Python, and the number of workers.",
    ("version", "python", "workers"),
)

# Only the parent of several workers has values for these, and adds them to the metrics of the workers.
WORKER_UP = Gauge("tokenwire_worker_up", "1: the worker is ready and reports its metrics; 0: it does not.", ("worker",))
WORKER_RESTARTS = Counter(
    "tokenwire_worker_restarts_total", "How often the worker has ended unexpectedly.", ("worker",)
)
WORKER_REQUESTS = Counter("tokenwire_worker_http_requests_total", "HTTP requests, by worker.", ("worker",))
WORKER_CPU = Counter("tokenwire_worker_cpu_seconds_total", "Processor time in seconds, by worker.", ("worker",))
WORKER_MEMORY = Gauge("tokenwire_worker_resident_memory_bytes", "Resident memory, by worker.", ("worker",))
WORKER_LAG = Gauge("tokenwire_worker_event_loop_lag_seconds", "Lag of the event loop, by worker.", ("worker",))

ACROSS_WORKERS: Mapping[str, str] = {
    # What each worker has of its own adds up.
    "tokenwire_outbox_waiting": "sum",
    "tokenwire_cached_tokens": "sum",
    "tokenwire_usage_waiting": "sum",
    "tokenwire_limit_waiting": "sum",
    "tokenwire_webhooks_in_flight": "sum",
    "process_resident_memory_bytes": "sum",
    "process_virtual_memory_bytes": "sum",
    # What all of them look up in the same place, or the worst of them.
    "tokenwire_outbox_backlog": "max",
    "tokenwire_outbox_oldest_seconds": "max",
    "tokenwire_outbox_refused": "max",
    "tokenwire_outbox_refused_oldest_seconds": "max",
    "tokenwire_queue_messages": "max",
    "tokenwire_dead_letters": "max",
    "tokenwire_reconciliation_events": "max",
    "tokenwire_reconciliation_notifications": "max",
    "tokenwire_reconciliation_time_seconds": "max",
    # Each worker shows the same result once it has looked; until then its value is 0.
    "tokenwire_reconciliation_balanced": "max",
    "tokenwire_event_loop_lag_seconds": "max",
    "tokenwire_memory_limit_bytes": "max",
    "tokenwire_workers": "max",
    "tokenwire_build_info": "max",
    "python_info": "max",
    # Limits and what is used of them belong to one worker: the one with the most.
    "process_open_fds": "max",
    "process_max_fds": "max",
    # The parent adds them, one for each worker.
    "tokenwire_worker_up": "max",
    "tokenwire_worker_resident_memory_bytes": "max",
    "tokenwire_worker_event_loop_lag_seconds": "max",
    # 1 means that all is well, so one worker with 0 counts.
    "tokenwire_background_task_up": "min",
    "tokenwire_dependency_up": "min",
    # The parent replaces it with its own.
    "process_start_time_seconds": "min",
}
"""How the values of a gauge are combined over the workers of a service. Counters and histograms are summed."""


def set_workers(number: int) -> None:
    """Show the number of workers of this service."""
    WORKERS.set(number)
    BUILD_INFO.clear()
    BUILD_INFO.labels(VERSION, platform.python_version(), str(number)).set(1)


set_workers(1)


def families() -> Families:
    """The metrics of this process as data, to be added to those of other workers."""
    found = Families()
    for metric in REGISTRY.collect():
        family = found.family(metric.name, metric.documentation, metric.type, ACROSS_WORKERS.get(metric.name, "sum"))
        for sample in metric.samples:
            family.add(sample.name, tuple(sample.labels.items()), sample.value)
    return found


def exposition() -> bytes:
    """All metrics of this process in the Prometheus text format."""
    return generate_latest()
