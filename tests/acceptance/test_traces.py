"""Traces: one leads from the token request to the webhook, over processes and retries, and none contains a secret."""

import secrets
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace

import orjson
import pytest
from aiohttp import web

from libs.version import VERSION
from tests.acceptance.stack import Servers, Stack, running
from tests.acceptance.tenants import EXTENSION, SCHEME, Tenant, issued, new_tenant
from tests.acceptance.usage import make_every_mistake, use_everything
from tests.acceptance.webhooks import Receiver
from tests.collector import Collector, Span
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually
from tests.provision import rabbitmq
from tests.services.upstreams import upstream

WITHIN = 60.0
"""Seconds until the last span of a trace has arrived; the webhook's retry comes after six at most."""


class Faltering(Receiver):
    """Refuses the first webhook at each path with 503."""

    async def _take(self, request: web.Request) -> web.Response:
        first = not any(webhook.path == request.path for webhook in self.received)
        answer = await super()._take(request)
        return web.Response(status=503) if first else answer


@dataclass(frozen=True)
class Traced:
    """A stack whose services export traces, if the caller's trace is sampled."""

    stack: Stack
    collector: Collector


@pytest.fixture(scope="module", name="traced")
async def _traced(
    mongodb_url: str, rabbitmq: rabbitmq.Broker, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Traced]:
    servers = Servers(mongodb_url, f"tokenwire_test_{secrets.token_hex(6)}", rabbitmq.new_vhost())
    async with Collector() as collector:
        settings = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
            "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=tests",
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": "0",
            "OTEL_BSP_SCHEDULE_DELAY": "100",
        }
        instances = {service: service for service in SERVICES}
        async with running(servers, tmp_path_factory.mktemp("traced"), instances, settings) as stack:
            yield Traced(stack, collector)


def new_trace(*, sampled: bool = True) -> tuple[str, str]:
    """A trace id, and the `traceparent` of a caller in that trace."""
    trace_id = secrets.token_hex(16)
    return trace_id, f"00-{trace_id}-{secrets.token_hex(8)}-0{int(sampled)}"


def of(tenant: Tenant, traceparent: str) -> Tenant:
    """The same tenant, whose requests all carry this trace context."""
    edge, operator = (caller.with_header("traceparent", traceparent) for caller in (tenant.edge, tenant.operator))
    return replace(tenant, edge=edge, operator=operator)


def the(spans: list[Span], kind: str, name: str, **attributes: str | int) -> Span:
    """The only span of this kind and name with these attributes (`_` for `.` in their names)."""
    wanted = {attribute.replace("__", "."): value for attribute, value in attributes.items()}
    found = [
        each for each in spans if (each.kind, each.name) == (kind, name) and wanted.items() <= each.attributes.items()
    ]
    assert len(found) == 1, (name, wanted, [(each.kind, each.name, dict(each.attributes)) for each in spans])
    return found[0]


async def test_a_trace_leads_from_the_token_request_to_the_webhook(traced: Traced) -> None:
    """One trace has the request, both messages, each attempt with its retry as a link, and what the notifier tells."""
    async with Faltering() as receiver:
        stack, collector = traced.stack, traced.collector
        shared = secrets.token_urlsafe(24)
        hooks = {"onKeyChangeUrl": receiver.url(f"/hooks?token={shared}"), "sharedSecret": shared}
        tenant = await new_tenant(stack.anybody, stack.operator, **{f"{SCHEME}__notifications": hooks})
        code, (trace_id, traceparent) = await tenant.code(), new_trace()
        issued(await of(tenant, traceparent).exchanged(code))

        def whole() -> list[Span]:
            spans = collector.trace(trace_id)
            the(
                spans,
                "producer",
                "publish tokenwire.events",
                cloudevents__event_type="io.tokenwire.notification.delivered",
            )
            assert len([span for span in spans if span.name == "POST"]) == 2
            the(spans, "consumer", "process tokenwire.notify")
            return spans

        spans = await eventually(whole, WITHIN)

    request = the(spans, "server", "POST /{api_ref}/oauth/token")
    assert request.parent_id == traceparent.split("-")[2]
    assert request.service == "tokenwire-token"
    assert not request.failed
    said = {
        "http.request.method": "POST",
        "http.route": "/{api_ref}/oauth/token",
        "http.response.status_code": 200,
        "url.path": f"{tenant.path}/oauth/token",
        "url.scheme": "http",
        "client.address": "127.0.0.1",
    }
    assert said.items() <= request.attributes.items()

    event = the(spans, "producer", "publish tokenwire.events", cloudevents__event_type="io.tokenwire.token.new")
    command = the(spans, "producer", "publish tokenwire.notify")
    assert event.parent_id == command.parent_id == request.span_id
    assert event.attributes["messaging.destination.name"] == f"tokenwire.events:token.new.{tenant.api_id}"
    processing = the(spans, "consumer", "process tokenwire.notify")
    assert (processing.service, processing.parent_id) == ("tokenwire-notifier", command.span_id)
    assert processing.attributes["messaging.system"] == "rabbitmq"
    recording = the(
        spans,
        "consumer",
        "process tokenwire.events",
        messaging__consumer__group__name="event_log",
        cloudevents__event_type="io.tokenwire.token.new",
    )
    assert (recording.service, recording.parent_id) == ("tokenwire-management", event.span_id)

    first, retry = sorted(
        (span for span in spans if span.name == "POST"),
        key=lambda span: span.attributes["http.response.status_code"],
        reverse=True,
    )
    assert {first.kind, retry.kind} == {"client"}
    assert first.parent_id == retry.parent_id == processing.span_id
    assert (first.failed, first.attributes["error.type"], first.links) == (True, "503", [])
    assert (retry.failed, retry.attributes["http.response.status_code"], retry.links) == (False, 204, [first.span_id])
    assert retry.attributes["http.request.resend_count"] == 1
    assert "http.request.resend_count" not in first.attributes
    assert first.attributes["server.address"] == "127.0.0.1"
    sent = [webhook.headers["traceparent"] for webhook in receiver.received]
    assert sent == [f"{first.traceparent}{sent[0][-2:]}", f"{retry.traceparent}{sent[1][-2:]}"]
    assert all(int(each[-1], 16) & 1 for each in sent)
    shown = await tenant.operator("GET", f"/api/notifications/deliveries?api_id={tenant.api_id}")
    assert [attempt["traceparent"] for attempt in shown.body["deliveries"][0]["attempts"]] == sent


async def test_a_call_of_an_api_is_traced_to_its_upstream(traced: Traced) -> None:
    """The upstream gets the context of the gateway's span for the call, which says neither path nor query."""
    stack, collector = traced.stack, traced.collector
    async with upstream() as behind:
        tenant = await new_tenant(stack.anybody, stack.operator, **{f"{EXTENSION}__upstream__url": behind.url})
        token = (await tenant.pair()).access
        trace_id, traceparent = new_trace()
        headers = {"Authorization": f"Bearer {token}", "traceparent": traceparent, "tracestate": "vendor=1"}
        answer = await stack.anybody("GET", f"{tenant.path}/reports/42?signature=confidential", headers=headers)
        assert (answer.status, answer.raw) == (200, b"ok")
        passed_on, state = behind.latest.one("traceparent"), behind.latest.one("tracestate")

    def both() -> list[Span]:
        spans = collector.trace(trace_id)
        assert len(spans) == 2
        return spans

    spans = await eventually(both, WITHIN)
    (served,), (called,) = ([span for span in spans if span.kind == kind] for kind in ("server", "client"))
    assert (served.name, served.service) == ("GET /{path}", "tokenwire-gateway")
    assert served.attributes["url.path"] == tenant.path + "/{path}"
    assert (called.name, called.parent_id) == ("GET", served.span_id)
    assert called.attributes["http.response.status_code"] == 200
    assert passed_on.startswith(called.traceparent)
    assert state == "vendor=1"
    assert not any("reports" in str(value) for span in spans for value in span.attributes.values())


async def test_no_secret_reaches_a_span_and_sampling_is_obeyed(traced: Traced) -> None:
    """No exported byte belongs to a token, code, password, secret or key. What is not sampled is not exported."""
    stack, collector = traced.stack, traced.collector
    async with Receiver() as receiver:
        shared = secrets.token_urlsafe(24)
        hooks = {"onKeyChangeUrl": receiver.url(f"/hooks?token={shared}"), "sharedSecret": shared}
        tenant = await new_tenant(stack.anybody, stack.operator, **{f"{SCHEME}__notifications": hooks})
        trace_id, traceparent = new_trace()
        unsampled_id, unsampled = new_trace(sampled=False)
        for context in (unsampled, traceparent):
            await use_everything(of(tenant, context))
            await make_every_mistake(of(tenant, context))
        assert (await tenant.client_credentials()).status == 200
        last = await of(tenant, traceparent).edge("GET", f"/{tenant.api_id}-the-end")
        assert last.status in {401, 403, 404}
        await eventually(
            lambda: [span for span in collector.trace(trace_id) if span.name == "process tokenwire.notify"], WITHIN
        )

    def seen() -> bool:
        names = {span.service for span in collector.trace(trace_id)}
        assert names >= {f"tokenwire-{service}" for service in SERVICES}, names
        return True

    await eventually(seen, WITHIN)
    await eventually(lambda: len(collector.trace(trace_id)) > 50, WITHIN)
    exported = b"\n".join(collector.raw).decode(errors="replace")
    assert tenant.api_id in exported
    assert shared in stack.secrets
    assert stack.secrets.found_in(exported) == set()
    assert collector.trace(unsampled_id) == []
    roots = [span for span in collector.spans if not span.parent_id]
    assert roots == [], "OTEL_TRACES_SAMPLER_ARG is 0 for traces that begin here"
    for resource in collector.resources:
        said = {"service.namespace": "tokenwire", "service.version": VERSION, "deployment.environment.name": "tests"}
        assert said.items() <= resource.items()


async def test_metrics_count_what_was_exported(traced: Traced) -> None:
    """`tokenwire_trace_spans_exported_total` counts the spans that the collector accepted; none were dropped."""
    stack = traced.stack
    raw = (await stack.service("token")("GET", "/metrics")).raw.decode()
    exported = next(line for line in raw.splitlines() if line.startswith("tokenwire_trace_spans_exported_total "))
    assert float(exported.split()[1]) > 0
    assert "tokenwire_trace_spans_dropped_total{" not in raw


def lines_of(stack: Stack, name: str, event: str) -> list[Mapping[str, object]]:
    """The log lines of a process with this event."""
    lines = map(orjson.loads, stack.logs(name).splitlines())
    return [line for line in lines if line["event"] == event]


async def test_a_service_says_when_it_listens_and_when_it_has_stopped(traced: Traced) -> None:
    """One line each, with address, version and configuration, and without secrets (`leaks`, when the stack ends)."""
    stack = traced.stack
    await stack.restart("revocation")
    first, second = lines_of(stack, "revocation", "listening")
    assert stack.urls["revocation"].endswith(str(first["address"]))
    configured = {
        "version": VERSION,
        "environment": "production",
        "public_url": stack.url,
        "database": stack.servers.database,
        "traces": traced.collector.url,
    }
    assert configured.items() <= first.items()
    assert str(first["mongodb"]) in stack.servers.mongodb_url
    assert str(first["rabbitmq"]) in stack.servers.amqp_url
    assert first["settings"] == {"trusted_proxies": "127.0.0.1", "log_level": "debug", "cache_ttl": 300.0}
    assert {**second, "timestamp": first["timestamp"]} == first
    (stopped,) = lines_of(stack, "revocation", "stopped")
    assert stopped["version"] == VERSION
    assert float(str(stopped["seconds"])) > 0
