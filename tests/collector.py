"""A trace collector: receives OTLP over HTTP, as a real one does, and keeps every span."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Self

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan

KINDS = {
    OtlpSpan.SPAN_KIND_SERVER: "server",
    OtlpSpan.SPAN_KIND_CLIENT: "client",
    OtlpSpan.SPAN_KIND_PRODUCER: "producer",
    OtlpSpan.SPAN_KIND_CONSUMER: "consumer",
}


@dataclass(frozen=True)
class Span:
    """One received span; ids in hexadecimal."""

    service: str
    kind: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    links: Sequence[str]
    """The ids of the spans that it links to, in the same trace."""
    failed: bool
    attributes: Mapping[str, str | int]

    @property
    def traceparent(self) -> str:
        """Its context, as it is passed on."""
        return f"00-{self.trace_id}-{self.span_id}-"


@dataclass
class Collector:
    """Accepts every batch. `async with` serves on a free port."""

    spans: list[Span] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    resources: list[Mapping[str, str | int]] = field(default_factory=list)
    _runner: web.AppRunner | None = None
    _port: int = 0

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._port}"

    def trace(self, trace_id: str) -> list[Span]:
        """The spans of a trace so far."""
        return [span for span in self.spans if span.trace_id == trace_id]

    async def __aenter__(self) -> Self:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/traces", self._take)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def _take(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.raw.append(raw)
        for resource_spans in ExportTraceServiceRequest.FromString(raw).resource_spans:
            resource = _attributes(resource_spans.resource.attributes)
            self.resources.append(resource)
            for scope_spans in resource_spans.scope_spans:
                self.spans += [_span(str(resource["service.name"]), span) for span in scope_spans.spans]
        answer = ExportTraceServiceResponse().SerializeToString()
        return web.Response(body=answer, content_type="application/x-protobuf")


def _span(service: str, span: OtlpSpan) -> Span:
    assert not span.events
    return Span(
        service=service,
        kind=KINDS[span.kind],
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        links=[link.span_id.hex() for link in span.links if link.trace_id == span.trace_id],
        failed=span.status.code == span.status.STATUS_CODE_ERROR,
        attributes=_attributes(span.attributes),
    )


def _attributes(pairs: object) -> dict[str, str | int]:
    return {pair.key: getattr(pair.value, pair.value.WhichOneof("value")) for pair in pairs}  # type: ignore[attr-defined]
