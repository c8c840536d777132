"""The health of the other services: what each says about itself at /readyz."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from contracts.operations import Service
from services.console.service_calls import ServiceCalls

WITHIN = 2.5
"""Seconds; a service that waits for what it depends on gives up after two."""


@dataclass(frozen=True, slots=True)
class ServiceHealth:
    """The state of one service, or of all where one process runs them."""

    name: str
    status: str
    """`ok`, `degraded`, `unavailable`, or `no response`."""
    faults: Mapping[str, str]
    """What is wrong, by the name of the dependency."""


async def look(calls: ServiceCalls) -> Sequence[ServiceHealth]:
    """The health of every service, asked at the same time; takes no longer than WITHIN."""
    if calls.is_one_process:
        return [await _health(calls, Service.MANAGEMENT, "all services, one process")]
    return await asyncio.gather(*(_health(calls, service, str(service)) for service in Service))


async def _health(calls: ServiceCalls, service: Service, name: str) -> ServiceHealth:
    readiness = await calls.readiness(service, WITHIN)
    if readiness is None:
        return ServiceHealth(name, "no response", {})
    states = readiness.__pydantic_extra__
    return ServiceHealth(name, readiness.status, {part: state for part, state in states.items() if state != "ok"})
