"""Traces calls to upstreams; takes the place of `Upstream` where tracing is on."""

from collections.abc import Sequence

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from libs.http.context import current
from libs.outbound.ssrf import Network
from libs.tracing.client_spans import end_client_span, start_client_span
from libs.tracing.spans import TRACEPARENT, Tracer
from services.gateway.relay import UpstreamResponse
from services.gateway.upstream import Failure, Upstream


class TracedUpstream(Upstream):
    """An upstream with a span for each call, which ends when the response's headers are there."""

    def __init__(self, connect_timeout: float, timeout: float, denied: Sequence[Network], tracer: Tracer) -> None:
        super().__init__(connect_timeout, timeout, denied)
        self._tracer = tracer

    async def send(self, request: web.Request, url: URL, headers: CIMultiDict[str]) -> UpstreamResponse | Failure:
        """Send the call with the context of its span, a child of the request's."""
        span = start_client_span(self._tracer, request.method, str(url.origin()), current().traceparent)
        headers[TRACEPARENT] = span.traceparent
        try:
            answer = await super().send(request, url, headers)
        except BaseException as error:
            span.end(error=type(error).__name__)
            raise
        if isinstance(answer, Failure):
            end_client_span(span, None, answer.reason)
        else:
            end_client_span(span, answer.status)
        return answer
