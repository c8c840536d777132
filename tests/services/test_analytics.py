"""GET /api/analytics/clients counts what clients did."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from contracts.clients import ClientDeletion
from contracts.operators import Permission
from libs.bus.rabbit import RabbitBus
from libs.event_encoding import new_event_id
from libs.store.recorded_events import RecordedEvents
from libs.store.usage import UsageKey, hour_of, new_source
from services.management import config_lint, summary_endpoint
from services.reconciliation import recorder
from tests.builders import make_operator, settle
from tests.eventually import eventually
from tests.services.system import Party, System, open_system

PATH = "/api/analytics/clients"
KINDS = ("issued", "refreshed", "revoked", "verified", "refused")


@pytest.fixture(name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    """Its own database, because the totals cover everything in it."""
    async with open_system(mongodb_url) as system:
        # Most tests continue later in the same hour.
        system.clock.advance((hour_of(system.clock()) + timedelta(hours=1) - system.clock()).total_seconds())
        yield system


async def usage(system: System, **query: str) -> dict[str, Any]:
    """The response, after everything announced has arrived."""
    await settle(system.deps)
    response = await system.operator("GET", PATH, params={"to": after(system), **query})
    assert response.status == 200, response.body
    assert response.headers["Cache-Control"] == "no-store"
    assert set(response.body) == {"from", "to", "per", "total", "clients", "next"}
    return dict(response.body)


def after(system: System) -> str:
    return (system.clock() + timedelta(milliseconds=1)).isoformat()


def numbers(counts: dict[str, Any]) -> tuple[int, ...]:
    return tuple(counts[kind] for kind in KINDS)


async def story(party: Party) -> None:
    """Issue 2 tokens, refresh 3, revoke 2."""
    tokens = await party.tokens()
    for _ in range(3):
        tokens = await party.refreshed(tokens.refresh)
    assert (await party.revoke(tokens.access)).status == 200
    assert (await party.revoke(tokens.refresh)).status == 200
    assert (await party.token({"grant_type": "client_credentials"})).status == 200


async def test_token_events_are_counted_by_client(system: System) -> None:
    """Token events are counted for each client, API and hour, and in the total."""
    one, other = await system.party(), await system.party()
    await story(one)
    await story(one)
    await story(other)
    system.clock.advance(3600)
    await other.code()
    await other.tokens()
    found = await usage(system)
    began = hour_of(system.clock())
    rows = {(row["at"], row["api_id"], row["client_id"]): numbers(row) for row in found["clients"]}
    assert rows == {
        (as_text(began - timedelta(hours=1)), one.api.api_id, one.id): (4, 6, 4, 0, 0),
        (as_text(began - timedelta(hours=1)), other.api.api_id, other.id): (2, 3, 2, 0, 0),
        (as_text(began), other.api.api_id, other.id): (1, 0, 0, 0, 0),
    }
    assert numbers(found["total"]) == (7, 9, 6, 0, 0)
    assert [row["at"] for row in found["clients"]] == sorted(row["at"] for row in found["clients"])


def as_text(moment: Any) -> str:
    return str(moment.isoformat().replace("+00:00", "Z"))


async def test_every_grant_that_ends_is_revoked(system: System) -> None:
    """Every revoked grant counts, even one with only a code: the number equals that of the events."""
    party = await system.party()
    for _ in range(3):
        await party.tokens()
    await party.code()
    assert (await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke_all")).status == 200

    async def ended() -> dict[str, Any]:
        found = await usage(system, client_id=party.id)
        assert found["total"]["revoked"] == 4
        return found

    assert numbers((await eventually(ended))["total"]) == (3, 0, 4, 0, 0)


async def test_usage_of_a_deleted_client_stays(system: System) -> None:
    """A deleted client's usage stays for its retention time, and includes the revocation of its grants."""
    party = await system.party()
    await party.tokens()
    deletion = ClientDeletion.CLIENT_DELETED
    assert await system.deps.store.clients.delete(party.client, deletion, system.deps.event_context("tests"))

    async def ended() -> tuple[int, ...]:
        found = numbers((await usage(system, client_id=party.id))["total"])
        assert found[2] == 1
        return found

    assert await eventually(ended) == (1, 0, 1, 0, 0)


async def test_verifications_and_refusals_are_in_the_same_rows(system: System) -> None:
    """Calls counted by gateways are in the same rows as events; calls without a client have their own row."""
    party = await system.party()
    await party.tokens()
    hour, api = hour_of(system.clock()), party.api.api_id
    for _ in range(2):
        batch = {
            UsageKey(hour, api, party.id): {"verified": 5, "refused_expired": 1, "refused_rate_limit": 2},
            UsageKey(hour, api, None): {"refused_missing": 3},
            UsageKey(hour, None, None): {"refused_no_api": 1},
        }
        await system.deps.store.usage.add(new_source(), 1, batch)
    found = await usage(system)
    assert found["clients"] == [
        {
            "issued": 0,
            "refreshed": 0,
            "revoked": 0,
            "verified": 0,
            "refused": 2,
            "reasons": {"no_api": 2},
            "at": as_text(hour),
            "api_id": None,
            "client_id": None,
        },
        {
            "issued": 0,
            "refreshed": 0,
            "revoked": 0,
            "verified": 0,
            "refused": 6,
            "reasons": {"missing": 6},
            "at": as_text(hour),
            "api_id": api,
            "client_id": None,
        },
        {
            "issued": 1,
            "refreshed": 0,
            "revoked": 0,
            "verified": 10,
            "refused": 6,
            "reasons": {"expired": 2, "rate_limit": 4},
            "at": as_text(hour),
            "api_id": api,
            "client_id": party.id,
        },
    ]
    assert (await usage(system, client_id=party.id))["total"]["reasons"] == {"expired": 2, "rate_limit": 4}


async def test_the_usual_time_is_a_day(system: System) -> None:
    """Default period: the last 24 hours, from a full hour; with only `to`, the day before it."""
    party = await system.party()
    await party.tokens()
    first = system.clock()
    await settle(system.deps)

    async def issued(**query: str) -> tuple[int, str]:
        response = await system.operator("GET", f"{PATH}/", params=query)
        return response.body["total"]["issued"], response.body["from"]

    system.clock.advance(24 * 3600 + 3599)
    assert await issued() == (1, as_text(first))
    system.clock.advance(1)
    assert await issued() == (0, as_text(first + timedelta(hours=1)))
    assert await issued(to=as_text(first)) == (0, as_text(first - timedelta(days=1)))
    assert await issued(to=as_text(first + timedelta(seconds=1))) == (1, as_text(first - timedelta(days=1)))
    assert await issued(**{"from": as_text(first + timedelta(minutes=59))}) == (1, as_text(first))
    assert await issued(**{"from": (first + timedelta(hours=2)).isoformat(), "api_id": party.api.api_id}) == (
        0,
        as_text(first + timedelta(hours=2)),
    )


async def test_pages_and_periods(system: System) -> None:
    """`limit` rows on a page, `next` leads to the next; `per` sets the period of a row."""
    parties = [await system.party() for _ in range(3)]
    for _ in range(2):
        for party in parties:
            await party.tokens()
        system.clock.advance(3600)
    first = await usage(system, limit="4")
    rest = await usage(system, limit="4", after=first["next"])
    assert (len(first["clients"]), len(rest["clients"]), rest["next"]) == (4, 2, None)
    assert first["total"] == rest["total"]
    total = await usage(system, per="total")
    assert [(row["at"], row["issued"]) for row in total["clients"]] == [(None, 2)] * 3
    assert {row["client_id"] for row in total["clients"]} == {party.id for party in parties}
    days = await usage(system, per="day", client_id=parties[0].id)
    assert sum(row["issued"] for row in days["clients"]) == 2
    assert all(row["at"].endswith("T00:00:00Z") for row in days["clients"])


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("from=yesterday", id="no-moment"),
        pytest.param("from=2026-01-01T00:00:00", id="no-time-zone"),
        pytest.param("from=", id="empty-moment"),
        pytest.param("from=0001-01-01T00:00:00%2B14:00", id="before-time-began"),
        pytest.param("to=0001-01-01T00:00:00Z", id="ends-before-time-began"),
        pytest.param("to=9999-12-31T23:59:59-14:00", id="after-time-ends"),
        pytest.param("from=2999-01-01T00:00:00Z", id="begins-after-its-end"),
        pytest.param("from=2026-01-01T00:00:00Z&to=2026-01-01T00:00:00Z", id="no-time-at-all"),
        pytest.param("per=minute", id="unknown-period"),
        pytest.param("per=", id="empty-period"),
        pytest.param("api_id=a.b", id="no-api-id"),
        pytest.param("client_id=a%2Fb", id="no-client-id"),
        pytest.param("client_id=", id="empty-client-id"),
        pytest.param("limit=0", id="no-rows"),
        pytest.param("limit=1001", id="too-many-rows"),
        pytest.param("limit=ten", id="no-number"),
        pytest.param("after=%24where", id="no-row"),
        pytest.param("after=%00", id="nul"),
        pytest.param("after=" + "a" * 300, id="endless-row"),
        pytest.param("client=abc", id="unknown-parameter"),
        pytest.param("api_id=a&api_id=b", id="repeated-parameter"),
    ],
)
async def test_a_bad_question_is_refused(shared: System, query: str) -> None:
    """An invalid query gets 400 in the Dashboard's format, with one line that names the parameter."""
    response = await shared.operator("GET", f"{PATH}?{query}")
    assert response.status == 400, response.body
    assert response.message.startswith((f"{query.partition('=')[0]}: ", "a parameter is repeated"))
    assert "\n" not in response.message


@pytest.fixture(scope="module", name="shared")
async def _shared(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url) as system:
        yield system


async def test_it_is_for_operators_with_read(shared: System) -> None:
    """Only operators with `read` may see usage."""
    deps = shared.deps
    assert (await shared.call("GET", PATH)).status == 401
    for permission in Permission:
        caller = shared.call.with_key(await make_operator(deps, permission))
        expected = 200 if permission in {Permission.READ, Permission.ADMIN} else 403
        assert (await caller("GET", PATH)).status == expected, permission


async def test_counting_of_a_dead_process_is_finished(mongodb_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A running service completes what a dead process recorded but did not count."""
    monkeypatch.setattr(recorder, "ABANDONED_AFTER", timedelta(0))
    monkeypatch.setattr(recorder, "INTERVAL", 0.05)
    async with open_system(mongodb_url) as system:
        party = await system.party()
        dead = RecordedEvents(system.deps.store.mongo, system.deps.store.usage).batches
        now = system.clock()
        batch = dead.next_batch(
            [
                {"_id": new_event_id(now), "type": kind, "time": now, "api_id": party.api.api_id, "client_id": party.id}
                for kind in ("token.new", "token.new", "token.refresh")
            ]
        )
        await dead.write_ahead(batch)
        await dead.insert(batch)

        async def counted() -> bool:
            return numbers((await usage(system, client_id=party.id))["total"]) == (2, 1, 0, 0, 0)

        await eventually(counted)


async def test_two_recorders_on_the_broker(mongodb_url: str, database_name: str, amqp_url: str) -> None:
    """Two instances on one queue count each event once."""

    def instance(number: int) -> Any:
        return open_system(mongodb_url, database_name, bus=RabbitBus(amqp_url, instance_name=f"usage-test-{number}"))

    async with instance(1) as one, instance(2) as other:
        party = await one.party()
        await asyncio.gather(*(story(party) for _ in range(20)))

        async def counted() -> bool:
            found = await usage(other, client_id=party.id)
            return numbers(found["total"]) == (40, 60, 40, 0, 0)

        await eventually(counted)


async def test_usage_over_time_is_the_sum_of_all_clients(system: System) -> None:
    """Each hour is one row of all client apps together; `api_id` selects those of one API."""
    one, other = await system.party(), await system.party()
    for party in (one, other, other):
        await story(party)
    await settle(system.deps)
    query = {"to": after(system), "per": "hour"}
    path = "/api/analytics/usage"

    async def rows(**more: str) -> list[tuple[int, ...]]:
        response = await system.operator("GET", path, params=query | more)
        assert response.status == 200, response.body
        return [numbers(row) for row in response.body["clients"]]

    (whole,) = await rows()
    (first,), (second,) = await rows(api_id=one.api.api_id), await rows(api_id=other.api.api_id)
    assert whole == tuple(map(sum, zip(first, second, strict=True)))
    assert second[0] == 2 * first[0] == 4
    assert await rows(api_id="nowhere") == []
    assert (await system.operator("GET", path, params={"per": "total"})).status == 400


async def test_the_summary_has_what_an_operator_looks_at_first(system: System) -> None:
    """The usage as `getUsage` has it, the latest changes, and for `admin` alone what is weak."""
    await story(await system.party())
    await settle(system.deps)
    query = {"to": after(system), "per": "hour"}
    path, lint = "/api/analytics/summary", "/api/config-lint"
    found = (await system.operator("GET", path, params=query)).body
    assert found["usage"] == (await system.operator("GET", "/api/analytics/usage", params=query)).body
    rows = (await system.operator("GET", PATH, params={"to": after(system), "per": "total"})).body["clients"]
    assert found["clients"] == rows != []
    changes = (await system.operator("GET", "/api/audit", params={"limit": "8"})).body["entries"]
    assert found["changes"] == changes
    expected = (await system.operator("GET", lint, params={"limit": "5", "max_age": "900"})).body
    assert found["weaknesses"] == expected
    assert expected["findings"]
    reader = system.call.with_key(await make_operator(system.deps, Permission.READ))
    assert (await reader("GET", path, params=query)).body.keys() == {"usage", "clients", "changes"}
    for wrong in ({"per": "total"}, {"from": after(system), "to": after(system)}, {"limit": "3"}):
        assert (await system.operator("GET", path, params=wrong)).status == 400


async def test_the_summary_does_not_wait_for_a_check_that_takes_long(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is returned without the weaknesses, and the next request gets them."""

    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patched:
        patched.setattr(summary_endpoint, "LINT_WITHIN", 0.05)
        patched.setattr(config_lint.ConfigLintEndpoint, "_current", never)
        assert "weaknesses" not in (await system.operator("GET", "/api/analytics/summary")).body
    assert "weaknesses" in (await system.operator("GET", "/api/analytics/summary")).body


async def test_the_summary_lists_client_apps_while_they_are_few(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one more than it lists, it lists none: which are the busiest, it could not say."""
    monkeypatch.setattr(summary_endpoint, "CLIENTS", 2)
    listed = []
    for _ in range(3):
        await story(await system.party())
        await settle(system.deps)
        found = (await system.operator("GET", "/api/analytics/summary", params={"to": after(system)})).body
        listed.append(len(found["clients"]) if "clients" in found else None)
    assert listed == [1, 2, None]
