"""Supervised background tasks: a failure is logged, counted, retried with a backoff, and shown in `/readyz`."""

import asyncio
import random
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import structlog
from aiohttp import web

from libs.cancellation import cancel_and_wait
from libs.oauth.errors import TemporarilyUnavailable
from libs.telemetry import BACKGROUND_FAILURES, BACKGROUND_UP

TRACEBACK_FRAMES = 12
"""How many of the innermost frames of a traceback are logged."""

log = structlog.get_logger("supervision")

T = TypeVar("T")

Work = Callable[[], Awaitable[None]]


class BackgroundTaskFailed(Exception):
    """At least one background task is down; the text names each with its last failure."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """When a failed task is started again. All values are in seconds."""

    first_delay: float = 0.5
    longest_delay: float = 30.0
    """The delay doubles from the first to the longest with each failure in a row."""
    recovered_after: float = 5.0
    """A restarted task that has run for this long counts as up again, and its next delay is the first one."""

    def delay(self, failures: int) -> float:
        """Seconds to wait after this many failures in a row, with jitter so that instances do not retry in step."""
        delay = min(self.first_delay * 2.0 ** min(failures - 1, 30), self.longest_delay)
        return random.uniform(delay / 2, delay)  # noqa: S311 - jitter


class BackgroundTask:
    """One supervised task; `Supervisor.start` and `Supervisor.every` create it."""

    def __init__(self, name: str, run: Work, backoff: Backoff, *, essential: bool) -> None:
        self.name = name
        self.essential = essential
        """Whether the process is not ready while this task is down; otherwise it is degraded."""
        self.failure: str | None = None
        """The type of its last exception, or None once it has recovered. Not its text, which may quote secrets."""
        self._run = run
        self._backoff = backoff
        self._failures = 0
        """Failures in a row."""
        self._recovering: asyncio.TimerHandle | None = None
        BACKGROUND_UP.labels(name).set(1)
        self.task = asyncio.create_task(self._supervise(), name=name)

    @property
    def ended(self) -> bool:
        """True once its work is done or it was stopped."""
        return self.task.done()

    def recovered(self) -> None:
        """Count the task as up again: `/readyz` no longer names it, and its next delay is the first one. Idempotent."""
        self._forget_recovery()
        if self.failure is not None:
            log.info("background_task_recovered", task=self.name, failures=self._failures)
            BACKGROUND_UP.labels(self.name).set(1)
        self.failure, self._failures = None, 0

    async def stop(self, within: float = 0.0) -> None:
        """Cancel the task, after it had `within` seconds to end by itself, and wait until it has ended. Idempotent."""
        if within:
            await asyncio.wait((self.task,), timeout=within)
        await cancel_and_wait(self.task)

    async def _supervise(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                if self.failure is not None:
                    self._recovering = loop.call_later(self._backoff.recovered_after, self.recovered)
                try:
                    await self._run()
                except asyncio.CancelledError as error:
                    # A library may cancel the tasks that wait for it, for example when a connection is lost. Only a
                    # cancellation of this task ends it.
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        raise
                    delay = self._failed(error)
                except Exception as error:  # noqa: BLE001 - whatever failed, the task is started again
                    delay = self._failed(error)
                else:
                    self.recovered()
                    return
                await asyncio.sleep(delay)
        finally:
            self._forget_recovery()

    def _failed(self, error: BaseException) -> float:
        """Log and count the failure; seconds until the next attempt."""
        self._forget_recovery()
        self._failures += 1
        delay = self._backoff.delay(self._failures)
        BACKGROUND_FAILURES.labels(self.name).inc()
        BACKGROUND_UP.labels(self.name).set(0)
        self.failure = _type_of(error)
        log.error(
            "background_task_failed",
            task=self.name,
            failures=self._failures,
            retry_in_seconds=round(delay, 1),
            **error_fields(error),
        )
        return delay

    def _forget_recovery(self) -> None:
        if self._recovering is not None:
            self._recovering.cancel()
            self._recovering = None


class LoggedReasons:
    """The reasons logged since the last success, so that an outage fills few lines, however long it lasts."""

    LIMIT = 32
    """Reasons remembered; with more, all are forgotten and may be logged again."""

    def __init__(self) -> None:
        self._reasons: set[str] = set()

    def is_new(self, reason: str) -> bool:
        """Whether to log this reason. The next call with the same reason returns False."""
        if reason in self._reasons:
            return False
        if len(self._reasons) >= self.LIMIT:
            self._reasons.clear()
        self._reasons.add(reason)
        return True

    def clear(self) -> None:
        """Forget every reason after a success, so that the next failure is logged."""
        self._reasons.clear()


class Supervisor:
    """The background tasks of one process."""

    def __init__(self, backoff: Backoff | None = None) -> None:
        self._backoff = backoff or Backoff()
        self._tasks: list[BackgroundTask] = []

    @property
    def tasks(self) -> tuple[BackgroundTask, ...]:
        """The tasks that have not ended."""
        self._tasks = [task for task in self._tasks if not task.ended]
        return tuple(self._tasks)

    def start(
        self, name: str, run: Work, *, essential: bool = True, longest_delay: float | None = None
    ) -> BackgroundTask:
        """Run `run` until it returns, starting it again after every failure, until the task is stopped.

        A failed task counts as up again once its next run has lasted for `Backoff.recovered_after` seconds or has
        returned. Until then the process is not ready if the task is `essential`, otherwise degraded. `longest_delay`
        lowers the longest backoff, for work that must go on even while a part of it keeps failing.
        """
        backoff = self._backoff
        if longest_delay is not None:
            backoff = replace(backoff, longest_delay=min(backoff.longest_delay, longest_delay))
        task = BackgroundTask(name, run, backoff, essential=essential)
        self._tasks.append(task)
        return task

    def every(
        self,
        name: str,
        seconds: float,
        work: Work,
        *,
        essential: bool = True,
        longest_delay: float | None = None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> BackgroundTask:
        """Run `work` again and again, waiting `seconds` before each run.

        A failed task counts as up again after its first success. TemporarilyUnavailable is not a failure, because
        `/readyz` shows the missing dependency itself: each reason is logged once, and the next run comes as usual.
        """

        async def rounds() -> None:
            logged = LoggedReasons()
            while True:
                await sleep(seconds)
                try:
                    await work()
                except TemporarilyUnavailable as outage:
                    reason = outage.detail or outage.description
                    if logged.is_new(reason):
                        log.warning("background_task_postponed", task=name, reason=reason)
                else:
                    logged.clear()
                    task.recovered()

        task = self.start(name, rounds, essential=essential, longest_delay=longest_delay)
        return task

    def start_with(self, app: web.Application, start: Callable[[], BackgroundTask]) -> None:
        """Start a task when the application starts, and stop it when the application stops."""

        async def running(_: web.Application) -> AsyncIterator[None]:
            task = start()
            yield
            await task.stop()

        app.cleanup_ctx.append(running)

    def failures(self, *, essential: bool) -> dict[str, str]:
        """The essential or the other tasks that are down now, by name, with the type of the last exception of each."""
        return {
            task.name: task.failure for task in self.tasks if task.failure is not None and task.essential is essential
        }

    async def ping(self, *, essential: bool) -> None:
        """Return if every essential, or every other, task is up; else raise BackgroundTaskFailed."""
        if failures := self.failures(essential=essential):
            raise BackgroundTaskFailed(
                ", ".join(f"{name} failed ({failure}) and is started again" for name, failure in failures.items())
            )


def spawn(name: str, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Start a short task that is not retried. If it fails, that is logged and counted, even if it is awaited as well.

    Keep a reference until it is done, or it may be garbage-collected while it runs.
    """
    task = asyncio.create_task(work, name=name)
    task.add_done_callback(_report)
    return task


def _report(task: asyncio.Task[Any]) -> None:
    if task.cancelled() or (error := task.exception()) is None or isinstance(error, TemporarilyUnavailable):
        return
    BACKGROUND_FAILURES.labels(task.get_name()).inc()
    log.error("background_work_failed", task=task.get_name(), **error_fields(error))


def error_fields(error: BaseException) -> dict[str, object]:
    """Log fields of an error: its type, where it was raised, and the type of its cause.

    Without its text: validation errors quote their input and database errors their document, which may hold secrets.
    """
    fields: dict[str, object] = {"error": _type_of(error), "at": _frames(error)}
    if cause := error.__cause__ or error.__context__:
        fields["cause"] = _type_of(cause)
    return fields


def _type_of(error: BaseException) -> str:
    """The error's type, with the error code of the server if it has one."""
    number = getattr(error, "code", None)
    return f"{type(error).__name__} {number}" if isinstance(number, int) else type(error).__name__


def _frames(error: BaseException) -> list[str]:
    frames = traceback.extract_tb(error.__traceback__)[-TRACEBACK_FRAMES:]
    return [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
