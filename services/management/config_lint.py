"""GET /api/config-lint: what is weak in the records."""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from aiohttp import web

from contracts.config_lint import LintFinding, LintQuery, LintReport
from contracts.operations import Parameters, ResponseSpec
from contracts.operators import Permission
from libs.config_lint.check_records import Bounds, RecordsReport, check_records
from libs.config_lint.findings import sorted_findings
from libs.encryption import KeyRing
from libs.http.error_responses import BadRequest
from libs.http.operations import operator_operation
from libs.store.store import Store
from services.management.success_responses import as_it_is

CHECKED = Bounds(apis=200, clients=2000, policies=1000, operators=200)
"""Records of each kind that one report is about, so that it takes a second at most, however many there are."""


@dataclass(slots=True)
class _Made:
    at: datetime
    report: RecordsReport


@dataclass(slots=True)
class ConfigLintEndpoint:
    """Keeps the latest report, and makes one report at a time."""

    store: Store
    keys: KeyRing
    production: bool
    now: Callable[[], datetime]
    bounds: Bounds = CHECKED
    _latest: _Made | None = None
    _one_at_a_time: asyncio.Lock = field(default_factory=asyncio.Lock)

    @operator_operation(
        "GET",
        "/api/config-lint",
        "lintConfig",
        Permission.ADMIN,
        tag="Configuration",
        summary="Check the records for weaknesses",
        description="What `python -m services config-lint` finds in APIs, client apps, policies and operators: each "
        "weakness with its consequence and remedy, the most severe first. The settings of the processes are not "
        "checked. At most 200 APIs, 2000 client apps, 1000 policies and 200 operators are checked, the first by id; "
        "the command checks all. The same report is returned for a minute, or as long as `max_age` allows.",
        parameters=Parameters(model=LintQuery),
        response=ResponseSpec(description="The report.", models=(LintReport,)),
        errors=(400,),
    )
    async def lint(self, request: web.Request) -> web.Response:
        """GET /api/config-lint."""
        if len(request.query) != len(set(request.query)):
            raise BadRequest("a parameter is repeated")
        query = LintQuery.model_validate(dict(request.query))
        report = await self.report(query.limit, timedelta(seconds=query.max_age))
        return as_it_is(report.model_dump_json().encode())

    async def report(self, limit: int, max_age: timedelta) -> LintReport:
        """The report with the `limit` most severe findings; an earlier one, unless it is older than `max_age`."""
        async with self._one_at_a_time:
            made = await self._current(max_age)
        findings = sorted_findings(made.report.findings)
        return LintReport(
            as_of=made.at,
            findings=[LintFinding.model_validate(finding.fields) for finding in findings[:limit]],
            counts=Counter(finding.severity for finding in findings),
            records=made.report.records,
            complete=made.report.complete,
        )

    async def _current(self, max_age: timedelta) -> _Made:
        now = self.now()
        if self._latest is None or now - self._latest.at > max_age:
            checked = check_records(self.store, self.keys, now, production=self.production, bounds=self.bounds)
            self._latest = _Made(now, await checked)
        return self._latest
