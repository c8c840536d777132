"""Tracing in one process: off unless wanted, harmless when the collector is not there, and checked at the start."""

import asyncio
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping

import pytest
import structlog
from aiohttp import web
from prometheus_client import REGISTRY

from libs.outbound.signing import WebhookSecrets
from libs.runtime import utc_now
from libs.settings import WrongSetting
from libs.tracing.new_tracer import new_tracer
from libs.tracing.otlp import FLUSH_WITHIN, OtlpTracer
from libs.tracing.spans import Kind, Tracer, is_sampled
from libs.tracing.trace_settings import TraceSettings, trace_settings
from services.notifier.client import WebhookClient, WebhookTrace
from tests.acceptance.webhooks import Receiver
from tests.collector import Collector
from tests.eventually import eventually
from tests.ports import free_port
from tests.services.system import open_system

COLLECTOR = "http://c:4318"
PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
UNSAMPLED = f"{PARENT[:-2]}00"
WITHOUT_OPENTELEMETRY = """
import sys
from libs.bus.local import LocalBus
from libs.runtime import new_deps
from tests.builders import settings
import services.__main__
from services.gateway.app import create_app
from services.gateway.settings import GatewaySettings
configured = settings(GatewaySettings, "mongodb://nowhere.invalid/", "none")
create_app(configured, new_deps(configured, "gateway", bus=LocalBus()))
print(sorted(name for name in sys.modules if name.split(".")[0] in {"opentelemetry", "google", "requests", "urllib3"}))
"""


def dropped(reason: str) -> float:
    """How many spans this process has dropped for this reason."""
    return REGISTRY.get_sample_value("tokenwire_trace_spans_dropped_total", {"reason": reason}) or 0.0


def spans(tracer: Tracer, number: int) -> None:
    """Start and end so many sampled spans."""
    for _ in range(number):
        tracer.start(Kind.SERVER, "GET /", PARENT, {"http.request.method": "GET"}).end()


@pytest.fixture(name="hanging")
async def _hanging() -> AsyncIterator[str]:
    """The URL of a collector that never answers."""

    async def hang(_: web.Request) -> web.StreamResponse:
        await asyncio.Event().wait()
        raise AssertionError("unreachable")

    app = web.Application(client_max_size=64 * 1024 * 1024)
    app.router.add_post("/v1/traces", hang)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"
    await runner.cleanup()


@pytest.mark.parametrize("endpoint", ["", COLLECTOR], ids=["off", "on"])
def test_nothing_of_opentelemetry_is_imported_while_tracing_is_off(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the SDK nor what only its exporter needs is imported, unless an endpoint is set."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
    ran = subprocess.run([sys.executable, "-c", WITHOUT_OPENTELEMETRY], capture_output=True, text=True, check=True)
    modules = ran.stdout.strip()
    assert (modules == "[]") is (endpoint == "")
    assert ("opentelemetry.sdk.trace" in modules) is (endpoint != "")


@pytest.mark.parametrize(
    "variables",
    [
        pytest.param({}, id="unset"),
        pytest.param({"OTEL_TRACES_SAMPLER": "nonsense"}, id="no-endpoint"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": " "}, id="blank"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_SDK_DISABLED": "TRUE"}, id="disabled"),
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": COLLECTOR, "OTEL_TRACES_EXPORTER": "none"}, id="no-exporter"),
    ],
)
def test_tracing_is_off(variables: Mapping[str, str]) -> None:
    """Without an endpoint, or if the standard says so, there is no tracer, and other variables are not looked at."""
    assert new_tracer(trace_settings(variables), "tests") is None


async def test_a_collector_that_is_down_affects_no_request(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are issued and checked as always, one log line says what is wrong, and the process stops in time."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://user:hunter2@127.0.0.1:{free_port()}/?key=hunter2")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
    failed = dropped("export_failed")
    with structlog.testing.capture_logs() as logs:
        async with open_system(mongodb_url) as system:
            party = await system.party()
            for _ in range(2):
                token = (await party.tokens()).access
                assert (await party.verify(token)).status == 200
                before = dropped("export_failed")
                await eventually(lambda before=before: dropped("export_failed") > before)  # type: ignore[misc]
            began = time.monotonic()
        stopped_in = time.monotonic() - began
    assert dropped("export_failed") >= failed + 6
    told = [line for line in logs if line["event"].startswith("traces_")]
    assert [line["event"] for line in told if line["event"] != "traces_lost_at_stop"] == ["traces_not_exported"]
    assert told[0]["reason"] == "ConnectionRefusedError"
    assert "hunter2" not in str(logs)
    assert stopped_in < 30


async def test_a_full_queue_drops_spans_and_counts_them(hanging: str) -> None:
    """With a collector that hangs, the queue is bounded, starting a span never waits, and closing is bounded, too."""
    tracer = OtlpTracer(TraceSettings(hanging, max_queued=100, max_batch=10), "tests")
    full, stopped = dropped("queue_full"), dropped("stopped")
    tracer.open()
    with structlog.testing.capture_logs() as logs:
        spans(tracer, 1000)
        assert dropped("queue_full") - full >= 1000 - 100 - 10
        began = time.monotonic()
        await tracer.close()
        await tracer.close()
    assert time.monotonic() - began < FLUSH_WITHIN + 10
    lost = dropped("stopped") - stopped
    assert lost + dropped("queue_full") - full == 1000
    assert [(line["event"], line["spans"]) for line in logs] == [("traces_lost_at_stop", lost)]


async def test_what_has_ended_is_exported_before_the_process_stops() -> None:
    """`close` exports what waits, without waiting for the next interval."""
    async with Collector() as collector:
        tracer = OtlpTracer(TraceSettings(f"{collector.url}/v1/traces"), "tests")
        tracer.open()
        spans(tracer, 1500)
        await tracer.close()
        assert len(collector.spans) == 1500


async def test_an_outage_of_the_collector_is_logged_once_and_so_is_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two lines for an outage, whatever the number of batches; the reason is the collector's status."""
    statuses = [500, 404, 503, 200, 200]
    received = 0

    async def answer(_: web.Request) -> web.Response:
        nonlocal received
        received += 1
        return web.Response(status=statuses[min(received, len(statuses)) - 1])

    app = web.Application()
    app.router.add_post("/v1/traces", answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.5")
    tracer = OtlpTracer(TraceSettings(f"http://127.0.0.1:{runner.addresses[0][1]}/v1/traces"), "tests")
    try:
        merged = (structlog.contextvars.merge_contextvars,)
        with structlog.contextvars.bound_contextvars(service="tests"), structlog.testing.capture_logs(merged) as logs:
            tracer.open()
            for number in range(1, len(statuses) + 1):
                spans(tracer, 1)
                await eventually(lambda number=number: received >= number)  # type: ignore[misc]
            await tracer.close()
            await asyncio.sleep(0)
    finally:
        await runner.cleanup()
    assert [line["event"] for line in logs] == ["traces_not_exported", "traces_exported_again"]
    assert logs[0]["reason"] == "status 500"
    assert [line["service"] for line in logs] == ["tests", "tests"]


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        pytest.param({"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}, "OTEL_EXPORTER_OTLP_ENDPOINT:", id="no-scheme"),
        pytest.param({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "grpc://c"}, "OTEL_EXPORTER_OTLP_TRACES_", id="scheme"),
        pytest.param({"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "OTEL_EXPORTER_OTLP_PROTOCOL:", id="grpc"),
        pytest.param({"OTEL_TRACES_EXPORTER": "jaeger"}, "OTEL_TRACES_EXPORTER:", id="exporter"),
        pytest.param({"OTEL_TRACES_SAMPLER": "sometimes"}, "OTEL_TRACES_SAMPLER:", id="sampler"),
        pytest.param({"OTEL_TRACES_SAMPLER_ARG": "2"}, "OTEL_TRACES_SAMPLER_ARG:", id="ratio"),
        pytest.param({"OTEL_BSP_MAX_QUEUE_SIZE": "0"}, "OTEL_BSP_MAX_QUEUE_SIZE:", id="queue"),
        pytest.param({"OTEL_EXPORTER_OTLP_COMPRESSION": "zip"}, "OTEL_EXPORTER_OTLP_COMPRESSION:", id="compression"),
        pytest.param({"OTEL_EXPORTER_OTLP_TIMEOUT": "10000"}, "OTEL_EXPORTER_OTLP_TIMEOUT:", id="milliseconds"),
        pytest.param({"OTEL_BSP_SCHEDULE_DELAY": "-5"}, "OTEL_BSP_SCHEDULE_DELAY:", id="delay"),
    ],
)
async def test_a_wrong_setting_stops_the_start_with_its_name(
    variables: Mapping[str, str], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the SDK would ignore, or fail at later, is one line that begins with the variable."""
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://user:hunter2@c:4318", **variables}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(WrongSetting) as wrong:
        new_tracer(trace_settings(environment), "tests")
    assert str(wrong.value).startswith(line)
    assert "\n" not in str(wrong.value)
    assert "hunter2" not in str(wrong.value)


def test_the_endpoint_is_the_standards() -> None:
    """`/v1/traces` is appended to the common endpoint, and not to that of traces, which comes first."""
    common = {"OTEL_EXPORTER_OTLP_ENDPOINT": "https://key:hunter2@collector.example.test/otlp/"}
    settings = trace_settings(common)
    assert settings is not None
    assert settings.endpoint == "https://key:hunter2@collector.example.test/otlp/v1/traces"
    assert settings.address == "https://collector.example.test"
    both = trace_settings({**common, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/mine"})
    assert both is not None
    assert both.endpoint == "http://localhost:4318/mine"


@pytest.mark.parametrize(("parent", "sent"), [(PARENT, PARENT), (UNSAMPLED, None), (None, None)])
async def test_without_tracing_a_receiver_gets_only_a_trace_that_somebody_records(
    parent: str | None, sent: str | None
) -> None:
    """Otherwise the receiver would leave its own part out: a context that is not sampled says that nobody records."""
    client = WebhookClient(10.0, utc_now, allow_private=True)
    async with Receiver() as receiver:
        outcome = await client.send(
            receiver.url("/"), WebhookSecrets(None), secrets.token_hex(8), b"{}", WebhookTrace(parent)
        )
        await client.close()
    assert outcome.delivered
    assert outcome.attempt.traceparent is None
    assert receiver.received[0].headers.get("traceparent") == sent


def test_what_is_sampled() -> None:
    """The last bit of the flags counts; nonsense is not sampled."""
    assert [is_sampled(each) for each in (PARENT, UNSAMPLED, f"{PARENT[:-2]}03", f"{PARENT[:-2]}02", "zz", "")] == [
        *(True, False, True, False, False, False)
    ]
