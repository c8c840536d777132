"""GET /api/events: what happened in the last days, by type, API, client app and time."""

from collections.abc import AsyncIterator
from datetime import timedelta
from typing import Any

import pytest

from contracts.operators import Permission
from contracts.reconciliation import RecordedEvent
from libs.event_encoding import new_event_id
from libs.store import recorded_events
from tests.builders import make_operator, settle
from tests.services.system import System, open_system, tokens_of

PATH = "/api/events"


@pytest.fixture(name="system", scope="module")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url) as system:
        yield system


async def listed(system: System, query: str) -> dict[str, Any]:
    await settle(system.deps)
    response = await system.operator("GET", f"{PATH}?{query}")
    assert response.status == 200, response.body
    body: dict[str, Any] = response.body
    return body


async def test_e6_events_are_listed_the_latest_first(system: System) -> None:
    """With ids, sequence, reason and operator, and without a token; by API, client app and type."""
    party, other = await system.party(), await system.party()
    system.clock.advance(1)  # events of one moment have no order
    code = await party.code(subject="alice")
    system.clock.advance(1)
    tokens = tokens_of(await party.exchange(code))
    await other.tokens()
    system.clock.advance(1)
    await system.operator("POST", f"/api/apis/oauth/{party.id}/revoke_all", data={})
    found = (await listed(system, f"client_id={party.id}"))["events"]
    types = [event["type"] for event in found]
    assert types[-3:] == ["token.new", "code.issued", "client.created"]
    assert {"grant.revoked", "client.tokens_revoked"} <= set(types[:-3])
    assert tokens.access not in str(found)
    issued = found[-3]
    assert (issued["api_id"], issued["sequence"]) == (party.api.api_id, 2)
    assert issued["grant_id"] == issued["subject"]
    (ended,) = [event for event in found if event["type"] == "client.tokens_revoked"]
    assert ended["actor"]["name"] == "an operator of the tests"
    of_type = (await listed(system, f"types=token.*,code.issued&api_id={party.api.api_id}"))["events"]
    assert {event["type"] for event in of_type} == {"token.new", "code.issued"}
    assert {event["api_id"] for event in of_type} == {party.api.api_id}


async def test_e6_pages_lead_through_all_events_once(system: System) -> None:
    """`next` and `Link` until there is none; with a filter, and between two times."""
    party = await system.party()
    for _ in range(5):
        await party.tokens()
    whole = (await listed(system, f"client_id={party.id}&limit=200"))["events"]
    query, ids = f"client_id={party.id}&limit=3", list[str]()
    while True:
        response = await system.operator("GET", f"{PATH}?{query}")
        ids += [event["id"] for event in response.body["events"]]
        assert len(response.body["events"]) <= 3
        if "next" not in response.body:
            assert "Link" not in response.headers
            break
        assert f"after={response.body['next']}" in response.headers["Link"]
        query = f"client_id={party.id}&limit=3&after={response.body['next']}"
    assert ids == [event["id"] for event in whole]
    assert (await listed(system, f"client_id={party.id}&to=2026-01-01T00:00:00Z"))["events"] == []
    later = (system.clock() + timedelta(hours=1)).isoformat().replace("+00:00", "Z")
    assert (await listed(system, f"client_id={party.id}&from={later}"))["events"] == []


async def test_e6_a_request_looks_at_a_bounded_number_of_events(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page without what is looked for leads on; the last one does not."""
    monkeypatch.setattr(recorded_events, "SCANNED", 4)
    events, at = system.deps.store.events, system.clock() + timedelta(days=1)
    made = [
        RecordedEvent(
            id=new_event_id(at + timedelta(seconds=number)),
            type="api.updated",
            collection="apis",
            subject="bounded",
            sequence=number + 1,
            time=at,
            api_id="bounded" if number == 0 else "others",
        )
        for number in range(10)
    ]
    for event in made:
        await events.add(event)
    moment = at.isoformat().replace("+00:00", "Z")
    query, sizes = f"api_id=bounded&from={moment}", list[int]()
    while True:
        page = await listed(system, query)
        sizes.append(len(page["events"]))
        if "next" not in page:
            break
        query = f"api_id=bounded&from={moment}&after={page['next']}"
    assert sizes == [0, 0, 1]


@pytest.mark.parametrize(
    "query",
    [
        "types=tokens.*",
        "types=token.new,NO",
        "limit=201",
        "limit=0",
        "after=abc",
        "from=yesterday",
        "x=1",
        "limit=1&limit=2",
    ],
)
async def test_e6_a_wrong_parameter_is_refused(system: System, query: str) -> None:
    """400, and the name of the parameter."""
    response = await system.operator("GET", f"{PATH}?{query}")
    assert response.status == 400
    assert query.split("=")[0] in response.message or "repeated" in response.message


async def test_e6_listing_events_needs_read(system: System) -> None:
    """Another permission is not enough."""
    key = await make_operator(system.deps, Permission.AUTHORIZE)
    assert (await system.call.with_key(key)("GET", PATH)).status == 403
