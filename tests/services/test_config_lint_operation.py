"""GET /api/config-lint: what the command finds in the records, bounded, and no more often than once a minute."""

from collections.abc import AsyncIterator

import pytest

from libs.config_lint.check_records import Bounds, check_records
from libs.runtime import utc_now
from tests.builders import make_api, make_client, make_policy
from tests.services.management import Management, management
from tests.services.system import Clock, open_system

LINT = "/api/config-lint"


@pytest.fixture(name="service")
async def _service(mongodb_url: str) -> AsyncIterator[Management]:
    async with management(mongodb_url) as service:
        yield service


async def test_the_report_is_what_the_command_finds_the_most_severe_first(service: Management) -> None:
    """Every finding has its place, weakness, consequence and remedy; `limit` cuts the list, and not the counts."""
    api = await make_api(service.deps)
    client, _ = await make_client(service.deps, api, redirect_uris=("http://app.example/cb",))
    await make_policy(service.deps)
    response = await service.admin("GET", LINT)
    assert response.status == 200, response.body
    found = await check_records(service.deps.store, service.deps.keys, utc_now(), production=False)
    assert {each["rule"] for each in response.body["findings"]} == {finding.rule for finding in found.findings}
    severities = [each["severity"] for each in response.body["findings"]]
    assert severities == sorted(severities, key=["high", "medium", "low"].index)
    assert response.body["findings"][0] == {
        "severity": "high",
        "rule": "redirect-http",
        "place": f"client {client.client_id}",
        "weakness": "codes are sent to http://app.example/cb over http",
        "consequence": "they can be read in transit, and the page that receives them can be replaced",
        "remedy": "Register an https redirect URI.",
    }
    assert (response.body["records"]["APIs"], response.body["complete"]) == (1, True)
    cut = (await service.admin("GET", f"{LINT}?limit=1")).body
    assert (len(cut["findings"]), cut["counts"]) == (1, response.body["counts"])
    assert sum(cut["counts"].values()) == len(severities)


async def test_a_report_is_kept_for_a_minute(mongodb_url: str) -> None:
    """So that nobody can have all records read again and again; after a minute it is made anew."""
    clock = Clock()
    async with open_system(mongodb_url, clock=clock) as system:
        first = (await system.operator("GET", LINT)).body
        await make_policy(system.deps)
        again = (await system.operator("GET", LINT)).body
        assert (again["as_of"], again["records"]["policies"]) == (first["as_of"], 0)
        clock.advance(61)
        assert (await system.operator("GET", f"{LINT}?max_age=120")).body["as_of"] == first["as_of"]
        assert (await system.operator("GET", LINT)).body["records"]["policies"] == 1


async def test_no_more_records_are_checked_than_the_bounds_say(service: Management) -> None:
    """One of each kind, and the report says that there are more; with enough room it is complete."""
    for _ in range(2):
        await make_client(service.deps, await make_api(service.deps))
        await make_policy(service.deps)
    store, keys, now = service.deps.store, service.deps.keys, utc_now()
    report = await check_records(store, keys, now, production=False, bounds=Bounds(1, 1, 1, 1))
    assert set(report.records.values()) == {1}
    assert not report.complete
    report = await check_records(store, keys, now, production=False, bounds=Bounds(9, 9, 9, 9))
    assert (report.complete, report.records["clients"]) == (True, 2)


@pytest.mark.parametrize("query", ["limit=0", "limit=501", "limit=x", "level=high", "limit=1&limit=2", "max_age=59"])
async def test_a_bad_question_is_refused(service: Management, query: str) -> None:
    """400 in the envelope; `read` and `write` are not enough."""
    response = await service.admin("GET", f"{LINT}?{query}")
    assert (response.status, response.body["Status"]) == (400, "Error")
    assert (await service.writer("GET", LINT)).status == 403
