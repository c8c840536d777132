"""The settings of tracing: the environment variables that OpenTelemetry specifies, and that its SDK reads itself.

Read here are only those that decide whether and where traces are exported; the others are checked, because the SDK
would ignore a wrong value.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from libs.settings import WrongSetting

ENDPOINT, TRACES_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"
DISABLED = "OTEL_SDK_DISABLED"
EXPORTER = "OTEL_TRACES_EXPORTER"
_PROTOCOLS = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"
_COMPRESSIONS = "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION", "OTEL_EXPORTER_OTLP_COMPRESSION"
_TIMEOUTS = "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "OTEL_EXPORTER_OTLP_TIMEOUT"
_SAMPLER, _SAMPLER_ARGUMENT = "OTEL_TRACES_SAMPLER", "OTEL_TRACES_SAMPLER_ARG"
_QUEUE, _BATCH = "OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"
_INTERVAL = "OTEL_BSP_SCHEDULE_DELAY"
_SAMPLERS = frozenset(
    f"{prefix}{name}" for prefix in ("", "parentbased_") for name in ("always_on", "always_off", "traceidratio")
)
_DEFAULT_QUEUE, _DEFAULT_BATCH = 2048, 512
_SIGNAL_PATH = "/v1/traces"


@dataclass(frozen=True, slots=True)
class TraceSettings:
    """Where traces are exported to."""

    endpoint: str
    """The URL that batches of spans are posted to. It may contain credentials."""
    max_queued: int = _DEFAULT_QUEUE
    """Ended spans that wait for export; any more are dropped."""
    max_batch: int = _DEFAULT_BATCH

    @property
    def address(self) -> str:
        """Scheme, host and port of the endpoint, for a log."""
        parts = urlsplit(self.endpoint)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def trace_settings(environment: Mapping[str, str]) -> TraceSettings | None:
    """The settings; None where tracing is off. Raises WrongSetting with a line for each wrong variable."""
    given = {name: value.strip() for name, value in environment.items() if name.startswith("OTEL_")}
    base, endpoint = given.get(ENDPOINT, ""), given.get(TRACES_ENDPOINT, "")
    off = given.get(DISABLED, "").lower() == "true" or given.get(EXPORTER, "").lower() == "none"
    if off or not (base or endpoint):
        return None
    if faults := list(_faults(given)):
        raise WrongSetting("\n".join(faults))
    queue = int(given.get(_QUEUE) or _DEFAULT_QUEUE)
    return TraceSettings(
        endpoint or base.rstrip("/") + _SIGNAL_PATH, queue, min(queue, int(given.get(_BATCH) or _DEFAULT_BATCH))
    )


def _faults(given: Mapping[str, str]) -> Iterator[str]:
    # A value is never repeated: an endpoint may contain credentials.
    for name in (ENDPOINT, TRACES_ENDPOINT):
        if given.get(name) and not _is_http_url(given[name]):
            yield f"{name}: an absolute http or https URL is expected"
    if given.get(EXPORTER, "").lower() not in {"", "otlp"}:
        yield f"{EXPORTER}: otlp or none is expected"
    protocol = next(filter(given.get, _PROTOCOLS), None)
    if protocol and given[protocol].lower() != "http/protobuf":
        yield f"{protocol}: only http/protobuf is supported; collectors listen for it on port 4318"
    for name in _COMPRESSIONS:
        if given.get(name, "").lower() not in {"", "none", "gzip", "deflate"}:
            yield f"{name}: none, gzip or deflate is expected"
    for name in _TIMEOUTS:
        if given.get(name) and not _is_within(given[name], 0.001, 600):
            yield f"{name}: a number of seconds is expected, at most 600"
    if given.get(_SAMPLER, "").lower() not in {"", *_SAMPLERS}:
        yield f"{_SAMPLER}: one of {', '.join(sorted(_SAMPLERS))} is expected"
    if given.get(_SAMPLER_ARGUMENT) and not _is_within(given[_SAMPLER_ARGUMENT], 0, 1):
        yield f"{_SAMPLER_ARGUMENT}: a number from 0 to 1 is expected"
    for name in (_QUEUE, _BATCH, _INTERVAL):
        if given.get(name) and not (given[name].isdecimal() and int(given[name])):
            yield f"{name}: a positive whole number is expected"


def _is_http_url(text: str) -> bool:
    try:
        parts = urlsplit(text)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_within(text: str, least: float, most: float) -> bool:
    try:
        return least <= float(text) <= most
    except ValueError:
        return False
