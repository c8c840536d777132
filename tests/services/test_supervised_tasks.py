"""Every background task survives an unexpected exception: it is logged, counted, retried and shown in readiness."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
import structlog

import libs
import services
from libs.bus.local import LocalBus
from libs.bus.rabbit import RabbitBus
from libs.supervision import BackgroundTask, Backoff
from libs.telemetry import BACKGROUND_FAILURES
from tests.eventually import eventually
from tests.services.each import SERVICES, started

SLOW_ENOUGH_TO_SEE = Backoff(first_delay=3, longest_delay=3, recovered_after=0.3)
OURS = [Path(package.__file__ or "").parent for package in (libs, services)]
COMMON = {"dependencies", "clock", "outbox-publish", "outbox-clear", "outbox-sweep", "queue-depth", "event-loop-lag"}
RABBIT = {"bus-connection-publishing", "bus-connection-consuming", "bus-publisher"}
OWN = {
    "authorization": set[str](),
    "token": set[str](),
    "revocation": {"bus-consumer-revocation"},
    "notifier": {"bus-consumer-notifier", "delivery-scheduler", "missed-notification-sweeper"},
    "management": {"bus-consumer-event_log", "bus-consumer-event-stream", "reconciliation", "recorder"},
    "gateway": {"usage", "limits-sweep", "limits-watch"},
}
"""Tasks that must exist, so that the test cannot pass by finding none."""


class Unforeseen(Exception):
    """An exception that no loop handles."""


def background(before: set["asyncio.Task[Any]"]) -> set["asyncio.Task[Any]"]:
    """Tasks of our code started since then, without this test and its connections."""
    return {task for task in asyncio.all_tasks() - before if _is_ours(task) and task is not asyncio.current_task()}


def _is_ours(task: "asyncio.Task[Any]") -> bool:
    code = getattr(task.get_coro(), "cr_code", None)
    return code is not None and any(Path(code.co_filename).is_relative_to(place) for place in OURS)


def name_of(task: "asyncio.Task[Any]") -> str:
    """The name of the task's coroutine."""
    return str(getattr(task.get_coro(), "__qualname__", ""))


def inject(task: "asyncio.Task[Any]") -> None:
    """Raise an exception wherever the task waits."""
    waited = task._fut_waiter  # type: ignore[attr-defined]
    while isinstance(waited, asyncio.Task):
        waited = waited._fut_waiter  # type: ignore[attr-defined]
    assert waited is not None, f"{task!r} does not wait"
    waited.set_exception(Unforeseen())


def failures(task: BackgroundTask) -> float:
    counted: float = BACKGROUND_FAILURES.labels(task.name)._value.get()
    return counted


@pytest.mark.parametrize(
    ("service", "kind_of_bus"),
    [*((service, "rabbit") for service in SERVICES), ("notifier", "local"), ("management", "local")],
)
async def test_b3_every_background_task_is_supervised(
    service: str, kind_of_bus: str, mongodb_url: str, database_name: str, amqp_url: str
) -> None:
    """Every background task is found and made to fail where it waits.

    A task without a supervisor, or outside a supervised task, fails this test.
    """
    bus = LocalBus() if kind_of_bus == "local" else RabbitBus(amqp_url, instance_name=service)
    before = asyncio.all_tasks()
    async with started(service, mongodb_url, database_name, bus, SLOW_ENOUGH_TO_SEE) as system:
        await eventually(lambda: system.has_status("ok"))
        supervisor = system.deps.supervisor
        supervised = {task.task: task for task in supervisor.tasks}
        expected = COMMON | OWN[service] | (RABBIT if kind_of_bus == "rabbit" else set())
        assert expected <= {task.name for task in supervised.values()}
        counted = {task: failures(task) for task in supervised.values()}
        with structlog.testing.capture_logs() as logs:
            for task in supervised:
                inject(task)
            await eventually(lambda: all(task.failure == "Unforeseen" for task in supervised.values()))
            ready = await system.readyz()
            logged = {line["task"] for line in logs if line["event"] == "background_task_failed"}
            for background_task in supervised.values():
                assert failures(background_task) == counted[background_task] + 1, background_task.name
                assert background_task.name in logged
                if background_task.essential:
                    assert ready.status == 503, background_task.name
                    assert background_task.name in ready.body["background_tasks"]
                else:
                    assert background_task.name in ready.body["auxiliary_tasks"]
            await eventually(lambda: not any(task.failure for task in supervised.values()))
            await eventually(lambda: system.has_status("ok"))
        assert not any(task.ended for task in supervised.values())

        for name in {name_of(task) for task in background(before) - set(supervised)}:
            child = next(task for task in background(before) if name_of(task) == name)
            inject(child)
            await eventually(lambda: supervisor.failures(essential=True))
            await eventually(lambda: system.has_status("ok"))
