"""The tracer: OpenTelemetry's SDK with a bounded queue, and its exporter (OTLP over HTTP) in a thread of its own.

What goes wrong with the export slows or fails nothing: spans that find the queue full are dropped, a failed batch is
dropped after the exporter's own retries, both are counted, and each outage is logged once.
"""

import asyncio
import logging
import re
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from contextvars import copy_context

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import (
    Link,
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    StatusCode,
    TraceFlags,
    set_span_in_context,
)
from opentelemetry.trace import Span as SdkSpan

from libs.settings import WrongSetting
from libs.telemetry import SPANS_DROPPED, SPANS_EXPORTED
from libs.tracing.spans import NO_ATTRIBUTES, Attributes, Kind, Span
from libs.tracing.trace_settings import TraceSettings
from libs.version import VERSION

FLUSH_WITHIN = 2.0
"""Seconds that a stopping process takes to export what has ended."""
_NAMESPACE = "tokenwire"
_KINDS = {kind: SpanKind[kind.name] for kind in Kind}
_TRACEPARENT = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})")
_NO_PARENT = Context()

log = structlog.get_logger("tracing")


class OtlpSpan:
    """A span of the SDK, recorded or not."""

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: SdkSpan) -> None:
        self._span = span
        context = span.get_span_context()
        self.traceparent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self, attributes: Attributes = NO_ATTRIBUTES, *, error: str | None = None) -> None:
        """End it with these further attributes. `error` says what kind of failure it was; None: none."""
        span = self._span
        if span.is_recording():
            span.set_attributes(attributes)
            if error is not None:
                span.set_attribute("error.type", error)
                span.set_status(StatusCode.ERROR)
            span.end()


class OtlpTracer:
    """Starts spans, and exports those that were sampled. Does not export before `open`. Raises WrongSetting."""

    def __init__(self, settings: TraceSettings, service: str) -> None:
        self._settings = settings
        self._provider = TracerProvider(resource=_resource(service), shutdown_on_exit=False)
        self._tracer = self._provider.get_tracer(_NAMESPACE, VERSION)
        self._exporter = _CountingExporter(_new_exporter(settings), settings.address)
        self._processor: _BoundedProcessor | None = None

    def start(
        self,
        kind: Kind,
        name: str,
        parent: str | None,
        attributes: Attributes = NO_ATTRIBUTES,
        links: Sequence[str | None] = (),
    ) -> Span:
        """Start a span; without a valid parent in a new trace."""
        above = _span_context(parent)
        context = _NO_PARENT if above is None else set_span_in_context(NonRecordingSpan(above), _NO_PARENT)
        linked = [Link(target) for target in map(_span_context, links) if target is not None]
        return OtlpSpan(self._tracer.start_span(name, context, _KINDS[kind], attributes, linked))

    def open(self) -> None:
        """Start the thread that exports; its log lines are written by the running event loop."""
        if self._processor is None:
            self._exporter.log_in(asyncio.get_running_loop())
            self._processor = _BoundedProcessor(self._exporter, self._settings)
            self._provider.add_span_processor(self._processor)

    async def close(self) -> None:
        """Export what has ended so far, for FLUSH_WITHIN seconds at most; the rest is dropped and counted."""
        processor, self._processor = self._processor, None
        if processor is None:
            return
        loop, flushed = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._provider.shutdown()
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(flushed.set)

        # A daemon, unlike a thread of the loop's executor: an export that hangs must not delay the end of the process.
        threading.Thread(target=flush, name="trace-flush", daemon=True).start()
        with suppress(TimeoutError):
            async with asyncio.timeout(FLUSH_WITHIN):
                await flushed.wait()
        self._exporter.give_up()
        if left := processor.accepted - self._exporter.settled:
            SPANS_DROPPED.labels("stopped").inc(left)
            log.warning("traces_lost_at_stop", spans=left, endpoint=self._settings.address)


class _BoundedProcessor(SpanProcessor):
    """Hands ended spans to the SDK's batches, and drops those for which there is no room.

    The SDK would drop the oldest instead, uncounted and with a log line for each.
    """

    def __init__(self, exporter: "_CountingExporter", settings: TraceSettings) -> None:
        self._exporter = exporter
        self._max_queued = settings.max_queued
        self._batches = BatchSpanProcessor(
            exporter, max_queue_size=settings.max_queued, max_export_batch_size=settings.max_batch
        )
        self.accepted = 0
        """Only the event loop's thread writes this, and only the exporting thread writes `taken`."""

    def on_end(self, span: ReadableSpan) -> None:
        """Queue the span for export."""
        if self.accepted - self._exporter.taken >= self._max_queued:
            SPANS_DROPPED.labels("queue_full").inc()
            return
        self.accepted += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Export what is queued, and end the thread."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]


class _CountingExporter(SpanExporter):
    """Counts what becomes of the spans, and logs the beginning and the end of an outage. Runs in a thread of its own.

    The log lines are written in the event loop, because the log's output belongs to its thread.
    """

    def __init__(self, exporter: SpanExporter, address: str) -> None:
        self._exporter = exporter
        self._address = address
        self._reason = _LastReason()
        self._failing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._context = copy_context()
        self.taken = 0
        """Spans that were taken from the queue."""
        self.settled = 0
        """Spans that were exported, or given up after the exporter's retries."""

    def log_in(self, loop: asyncio.AbstractEventLoop) -> None:
        """Write log lines in this event loop, with the fields that every line of the process has."""
        self._loop, self._context = loop, copy_context()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; the exporter retries for up to OTEL_EXPORTER_OTLP_TIMEOUT seconds."""
        self.taken += len(spans)
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 - whatever a library raises, the thread must go on
            self._reason.text = type(error).__name__
            result = SpanExportResult.FAILURE
        self.settled += len(spans)
        if result is SpanExportResult.SUCCESS:
            SPANS_EXPORTED.inc(len(spans))
            if self._failing:
                self._failing = False
                self._log("traces_exported_again")
        else:
            SPANS_DROPPED.labels("export_failed").inc(len(spans))
            if not self._failing:
                self._failing = True
                self._log("traces_not_exported", reason=self._reason.text)
        return result

    def shutdown(self) -> None:
        """Called by the SDK after the last batch."""
        self.give_up()

    def give_up(self) -> None:
        """End a retry that waits; idempotent."""
        exporter, self._exporter = self._exporter, _NoExporter()
        exporter.shutdown()
        self._reason.remove()

    def _log(self, event: str, **facts: object) -> None:
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(
                    lambda: log.warning(event, endpoint=self._address, **facts), context=self._context
                )


class _NoExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        return SpanExportResult.FAILURE

    def shutdown(self) -> None:
        """Nothing to do."""


class _LastReason(logging.Handler):
    """Keeps the kind of the last error that the exporter logs, which it reports in no other way.

    The text is not kept: it quotes the endpoint's URL, which may contain credentials.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = "no answer in time"
        self._logger = logging.getLogger(OTLPSpanExporter.__module__)
        self._logger.setLevel(logging.WARNING)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        for argument in record.args if isinstance(record.args, tuple) else ():
            if isinstance(argument, BaseException):
                self.text = type(_root(argument)).__name__
            elif isinstance(argument, int):
                self.text = f"status {argument}"

    def remove(self) -> None:
        self._logger.removeHandler(self)


def _root(error: BaseException) -> BaseException:
    while (below := error.__cause__ or error.__context__) is not None:
        error = below
    return error


def _new_exporter(settings: TraceSettings) -> OTLPSpanExporter:
    try:
        return OTLPSpanExporter(endpoint=settings.endpoint)
    except (ValueError, OSError, RuntimeError) as error:
        raise WrongSetting(f"OTEL_EXPORTER_OTLP_…: {type(error).__name__}: {error}") from None


def _resource(service: str) -> Resource:
    """What every span says about this process. OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES take precedence."""
    own = {
        "service.name": _NAMESPACE if service == "all" else f"{_NAMESPACE}-{service}",
        "service.namespace": _NAMESPACE,
        "service.version": VERSION,
        "service.instance.id": str(uuid.uuid4()),
    }
    given = OTELResourceDetector().detect().attributes
    return Resource.create({name: value for name, value in own.items() if name not in given})


def _span_context(traceparent: str | None) -> SpanContext | None:
    if traceparent is None or (fields := _TRACEPARENT.fullmatch(traceparent)) is None:
        return None
    trace_id, span_id, flags = (int(field, 16) for field in fields.groups())
    context = SpanContext(trace_id, span_id, is_remote=True, trace_flags=TraceFlags(flags))
    return context if context.is_valid else None
