"""Health endpoints: /healthz, /readyz and /metrics. The reverse proxy in `edge/` exposes none of them."""

import asyncio
import enum
from collections.abc import Awaitable, Callable, Mapping
from typing import NamedTuple

import orjson
import structlog
from aiohttp import web

from contracts.health import Readiness as ReadinessBody
from contracts.health import Status
from contracts.operations import Caller, Operation, ResponseSpec
from libs.http.operations import operation
from libs.http.responses import json_bytes
from libs.oauth.errors import TemporarilyUnavailable
from libs.telemetry import DEPENDENCY_UP, exposition

Ping = Callable[[], Awaitable[None]]
PING_TIMEOUT = 2.0
LOOK_EVERY = 5.0
"""Seconds between two checks of the dependencies, for the metric and the log."""

EXPOSITION: web.AppKey[Callable[[], Awaitable[bytes]]] = web.AppKey("exposition")
"""Where the metrics of all workers of the service come from, if it has several."""

_OK = "ok"

log = structlog.get_logger("health")


class Readiness(enum.StrEnum):
    """Whether the process can serve requests."""

    OK = "ok"
    DEGRADED = "degraded"
    """Requests are served, but something that can wait is delayed."""
    UNAVAILABLE = "unavailable"


class _Dependency(NamedTuple):
    ping: Ping
    needed: bool


class Health:
    """The state of all dependencies; the code that registers a resource registers its ping here."""

    def __init__(self) -> None:
        self._dependencies: dict[str, _Dependency] = {}
        self._unreachable: set[str] = set()
        """Dependencies that were logged as unreachable."""

    def register(self, name: str, ping: Ping, *, needed: bool = True) -> None:
        """Make readiness depend on this ping; registering a name again replaces its ping.

        If a `needed` dependency fails, the process is unavailable; if another one fails, it is degraded.
        """
        self._dependencies[name] = _Dependency(ping, needed)

    @operation(
        Operation(
            method="GET",
            path="/healthz",
            name="healthz",
            tag="Process",
            summary="Check that the process is alive",
            description="Always 200 while the process can respond; checks no dependency.",
            caller=Caller.ANYBODY,
            responses={200: ResponseSpec(description="The process is alive.", models=(Status,))},
            supports_head=True,
        )
    )
    async def healthz(self, _request: web.Request) -> web.Response:
        """Return 200; no dependency is checked."""
        return json_bytes(b'{"status":"ok"}')

    @operation(
        Operation(
            method="GET",
            path="/readyz",
            name="readyz",
            tag="Process",
            summary="Check that the process is ready",
            description="The state of each dependency by name: `ok`, or what is wrong with it.",
            caller=Caller.ANYBODY,
            responses={
                200: ResponseSpec(
                    description="Ready, or `degraded`: requests are served, background work is late.",
                    models=(ReadinessBody,),
                ),
                503: ResponseSpec(description="Not ready: a required dependency is missing.", models=(ReadinessBody,)),
            },
            supports_head=True,
        )
    )
    async def readyz(self, _request: web.Request) -> web.Response:
        """Return 200 if ready or degraded, otherwise 503, with the state of each dependency by name."""
        states = await self.look()
        readiness = self.readiness(states)
        body = orjson.dumps({"status": readiness, **states})
        return json_bytes(body, 503 if readiness is Readiness.UNAVAILABLE else 200)

    async def look(self) -> dict[str, str]:
        """Check all dependencies and update the metric; the state of each by name, `ok` or the error."""
        names = list(self._dependencies)
        states = dict(zip(names, await asyncio.gather(*(self._state(name) for name in names)), strict=True))
        for name, state in states.items():
            DEPENDENCY_UP.labels(name).set(state == _OK)
        return states

    async def watch(self) -> None:
        """Check all dependencies; log those that became unreachable or came back."""
        for name, state in (await self.look()).items():
            if state != _OK and name not in self._unreachable:
                self._unreachable.add(name)
                readiness = Readiness.UNAVAILABLE if self._dependencies[name].needed else Readiness.DEGRADED
                log.warning("dependency_unreachable", dependency=name, reason=state, readiness=str(readiness))
            elif state == _OK and name in self._unreachable:
                self._unreachable.remove(name)
                log.warning("dependency_recovered", dependency=name)

    def readiness(self, states: Mapping[str, str]) -> Readiness:
        """Whether the process can serve requests with its dependencies in these states."""
        away = [self._dependencies[name] for name, state in states.items() if state != _OK]
        if any(dependency.needed for dependency in away):
            return Readiness.UNAVAILABLE
        return Readiness.DEGRADED if away else Readiness.OK

    async def _state(self, name: str) -> str:
        try:
            async with asyncio.timeout(PING_TIMEOUT):
                await self._dependencies[name].ping()
        except TimeoutError:
            return "no response in time"
        except TemporarilyUnavailable as error:
            return error.description
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a dependency is its state
            return str(error) or type(error).__name__
        return _OK

    @operation(
        Operation(
            method="GET",
            path="/metrics",
            name="metrics",
            tag="Process",
            summary="Get metrics",
            description="Metrics of this instance, all its workers together, in Prometheus' text format.",
            caller=Caller.ANYBODY,
            responses={200: ResponseSpec(description="The metrics.", media_type="text/plain")},
            supports_head=True,
        )
    )
    async def metrics(self, request: web.Request) -> web.Response:
        """The metrics in the Prometheus text format."""
        of_all_workers = request.app.get(EXPOSITION)
        body = exposition() if of_all_workers is None else await of_all_workers()
        return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})
