"""Latency of the management API's reads on a large database: over HTTP, one process, all data in MongoDB.

`--size` (a million) is the number of grants, clients, deliveries, audit log entries, and clients with usage, all of one
API. They are inserted directly into MongoDB; the secondary indexes are built afterwards.
"""

import asyncio
import http.client
import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from urllib.parse import quote

import orjson

from bench.report import MeasurementFailed, Report, Target, required
from bench.testbed import Running, System, Testbed
from contracts.clients import Client
from contracts.operators import Permission
from contracts.pages import MOST_PAGES
from contracts.reconciliation import (
    EventBalance,
    NotificationBalance,
    ReconciliationReport,
    RecordingState,
    RefusedEvents,
    UnpublishedEvents,
)
from contracts.webhooks import DeliveryState
from libs import client_secrets
from libs.demo_credentials import CLIENT_ID
from libs.http.pages import cursor_of
from libs.runtime import Deps
from libs.store.mongo import Document
from libs.store.reconciliation_results import WINDOW, window_of
from libs.store.usage import DAYS, HOURS, UsageKey, additions, hour_of
from services.demo_data import API_ID
from tests import seed
from tests.builders import make_operator

WITHIN_MS = 100.0
ASKED = 9
"""Requests for each read, after one warm-up request."""
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
RARE = 100
"""One in this many deliveries is in each state other than delivered."""


@dataclass(frozen=True)
class Seeded:
    """The operator key for reading, the time, the number of records of each kind but grants, and of grants."""

    key: str
    now: datetime
    size: int
    grants: int


@dataclass(frozen=True)
class Read:
    """One GET request."""

    name: str
    path: str


def measure(testbed: Testbed) -> Report:
    """Insert the records, then time each read. Raises MeasurementFailed if a response is not 200."""
    system = asyncio.run(testbed.new_system())
    began = time.monotonic()
    seeded = asyncio.run(seeded_system(testbed, system, testbed.size, testbed.size))
    testbed.print_progress(f"  seeded in {time.monotonic() - began:.0f} s")
    report = Report(f"Reads with {testbed.size} of each: median of {ASKED}, and the slowest")
    report.lines += ["", f"  {'':<58}{'ms':>8}{'slowest':>9}{'entries':>9}"]
    for service, reads in _reads(seeded).items():
        with testbed.serving(system.program(service)) as running:
            for read in reads:
                _measured(report, running, seeded.key, read)
    return report


def _measured(report: Report, running: Running, key: str, read: Read) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=60)
    try:
        taken = []
        for _ in range(1 + ASKED):
            began = time.perf_counter()
            connection.request("GET", read.path, headers={"Authorization": key})
            response = connection.getresponse()
            body = response.read()
            taken.append((time.perf_counter() - began) * 1000)
            if response.status != 200:
                raise MeasurementFailed(f"{read.path} returned {response.status}: {body[:200]!r}")
    finally:
        connection.close()
    median, slowest = statistics.median(taken[1:]), max(taken[1:])
    line = f"  {read.name:<58}{median:>8.1f}{slowest:>9.1f}{_entries(body):>9}"
    report.lines.append(line)
    report.targets.append(Target(f"{read.name}, ms", median, WITHIN_MS, at_most=True))


def _entries(body: bytes) -> int:
    document = orjson.loads(body)
    lists = [document] if isinstance(document, list) else [each for each in document.values() if isinstance(each, list)]
    return max(map(len, lists), default=0)


def _reads(seeded: Seeded) -> Mapping[str, Sequence[Read]]:
    """The reads to time, by service."""
    since, until = (quote((seeded.now - age).isoformat()) for age in (20 * HOUR, 4 * HOUR))
    tokens, clients = f"/api/apis/oauth/{CLIENT_ID}/tokens", f"/api/apis/oauth/{API_ID}"
    middle = cursor_of(_client_id(seeded.size // 2))
    later = seeded.now + HOUR - HOUR / 4
    deliveries, audit = "/api/notifications/deliveries", "/api/audit"
    usage, balance = "/api/analytics/clients", "/api/events/audit"
    of_client = f"{deliveries}?client_id={CLIENT_ID}"
    week = quote((seeded.now - 7 * DAY).isoformat())
    last_page = min(MOST_PAGES, -(-seeded.size // 100))
    return {
        "revocation": [
            Read("tokens, as many as come at once", tokens),
            Read("tokens, after the middle", f"{tokens}?after={cursor_of(str(int(later.timestamp() * 1000)), '0')}"),
            Read("tokens, page 1", f"{tokens}?page=1"),
            Read(f"tokens, page {last_page}", f"{tokens}?page={last_page}"),
        ],
        "notifier": [
            Read("deliveries", deliveries),
            Read("deliveries of the API", f"{deliveries}?api_id={API_ID}"),
            Read("deliveries of the client", of_client),
            Read("deliveries of neither", f"{deliveries}?api_id=nothing&client_id={CLIENT_ID}"),
            *(Read(f"deliveries, {state}", f"{deliveries}?state={state}&limit=200") for state in DeliveryState),
            Read("deliveries, API and state", f"{deliveries}?api_id={API_ID}&state=exhausted"),
            Read("deliveries, client and state", f"{of_client}&state=pending"),
            Read("deliveries, client, state and time", f"{of_client}&state=exhausted&to={since}"),
            Read("deliveries of a time", f"{deliveries}?from={since}&to={until}"),
        ],
        "management": [
            Read("clients, page 1", clients),
            Read(f"clients, page {last_page}", f"{clients}?p={last_page}"),
            Read("clients, after the middle", f"{clients}?after={middle}"),
            Read("clients, as many as come at once", f"{clients}?p=-1"),
            Read("APIs", "/api/apis"),
            Read("changes", audit),
            Read("changes by an operator", f"{audit}?operator=busy"),
            Read("changes of a kind, by an operator", f"{audit}?operator=busy&action=client.*"),
            Read("changes of a record, rare action", f"{audit}?subject=busy&action=client.deleted"),
            Read("changes of a record by an operator, before a time", f"{audit}?subject=busy&operator=busy&to={since}"),
            Read("usage of a day by hour", usage),
            Read("usage of a day, total", f"{usage}?per=total"),
            Read("usage of a week by day", f"{usage}?per=day&from={week}"),
            Read("usage of the API of a week, total", f"{usage}?per=total&from={week}&api_id={API_ID}"),
            Read("usage of a client of a week, total", f"{usage}?per=total&from={week}&client_id={_client_id(7)}"),
            Read("usage, after the middle", f"{usage}?per=total&after=.{API_ID}.{_client_id(seeded.size // 2)}"),
            Read("reconciliation of a day", balance),
        ],
    }


def _client_id(number: int) -> str:
    return f"c{number:08}"


async def seeded_system(testbed: Testbed, system: System, size: int, grants: int) -> Seeded:
    """Insert this many records of each kind, and build the indexes."""
    async with system.opened() as deps:
        seeded = Seeded(await make_operator(deps, Permission.ADMIN), deps.now(), size, grants)
        for name, documents in (await _documents(deps, seeded)).items():
            began = time.monotonic()
            await deps.store.mongo[name].drop_indexes()
            count = await seed.insert(deps.store, name, documents)
            testbed.print_progress(f"  {count:>9} {name} in {time.monotonic() - began:.0f} s")
        await _put_reconciliation_results(deps, seeded)
        # The hourly and daily totals are stored with the refused calls that no client made.
        hours = [hour_of(seeded.now) - number * HOUR for number in range(24)]
        unidentified = {UsageKey(hour, API_ID, None): {"refused_no_token": 1} for hour in hours}
        await deps.store.usage.add("seed", 1, unidentified)
    began = time.monotonic()
    async with system.opened():  # opening creates the indexes again
        testbed.print_progress(f"  indexes in {time.monotonic() - began:.0f} s")
    return seeded


async def _documents(deps: Deps, seeded: Seeded) -> Mapping[str, Iterable[Document]]:
    store, size, grants, now = deps.store, seeded.size, seeded.grants, seeded.now
    client = required(await store.clients.get(CLIENT_ID))
    return {
        "grants": seed.grant_documents(client, grants, now - HOUR / 2, HOUR / 2 / grants),
        "clients": _clients(deps, client, size),
        "deliveries": _deliveries(size, now),
        "audit_log": _changes(size, now),
        HOURS: _usage(HOURS, size, now),
        DAYS: _usage(DAYS, size, now),
    }


def _clients(deps: Deps, client: Client, size: int) -> Iterator[Document]:
    """Each client has an encrypted secret, which operators with `write` can read."""
    for document in seed.copies(deps.store.clients, client, map(_client_id, range(size))):
        kept = client_secrets.protect(
            deps.keys, document["_id"], "a-secret-of-the-seeded", client.created_at, retrievable=True
        )
        yield {**document, "secrets": [kept.model_dump()]}


def _deliveries(size: int, now: datetime) -> Iterator[Document]:
    """Deliveries of the last day. Most are delivered; each other state occurs once in RARE."""
    step = DAY / size
    for state in DeliveryState:
        rare = state is not DeliveryState.DELIVERED
        count = size // RARE if rare else size - 3 * (size // RARE)
        yield from seed.delivery_documents(API_ID, CLIENT_ID, count, now - DAY, state, step * (RARE if rare else 1))


def _changes(size: int, now: datetime) -> Iterator[Document]:
    """Half are changes to one record by one operator, the others to various records; a rare kind is long ago."""
    yield from seed.trail_documents(10, now - 2 * DAY, "client.deleted", "busy", "busy")
    step = DAY / size
    yield from seed.trail_documents(size // 2, now - DAY, "client.updated", "busy", "busy", step)
    yield from seed.trail_documents(size // 2, now - DAY / 2, "policy.updated", "other", "other", step)


def _usage(collection: str, size: int, now: datetime) -> Iterator[Document]:
    """Calls of each client in one hour of the last day."""
    keys = [UsageKey(hour_of(now) - number * HOUR, API_ID, None) for number in range(24)]
    hours = [next(each for each in additions(key) if each.collection == collection) for key in keys]
    numbers = {"issued": 3, "verified": 40, "refused_expired": 1}
    for number in range(size):
        hour, client_id = hours[number % 24], _client_id(number)
        whose = {"who": hour.fields["who"] + client_id, "client_id": client_id}
        yield {"_id": hour.key + client_id, **hour.fields, **whose, "counts": numbers, "applied": {"seed": 0}}


async def _put_reconciliation_results(deps: Deps, seeded: Seeded) -> None:
    """Insert the reconciliation results for the records of one day."""
    last = window_of(seeded.now)
    windows = DAY // WINDOW
    share = seeded.size // windows
    balance = EventBalance(records=share, committed=share, published=share)
    for number in range(windows + 1):
        window = last - number * WINDOW
        found = ReconciliationReport.model_validate(
            {
                "from": window,
                "to": window + WINDOW,
                "as_of": seeded.now,
                "unchecked": 0,
                "balanced": True,
                "total": balance,
                "collections": {collection.name: balance for collection in deps.store.outbox_collections},
                "notifications": NotificationBalance(published=share, delivered=share),
                "recording": RecordingState(waiting=0, dead_letters=0),
                "unpublished": UnpublishedEvents(records=0, oldest=None),
                "refused": RefusedEvents(records=0, oldest=None, likely_causes=[]),
                "examples": [],
            }
        )
        await deps.store.reconciliation_results.put(window, seeded.now, found)
