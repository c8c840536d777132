"""What the console shows of the whole: health, weak records, endpoints, keys of operators, policies, the reference."""

import asyncio
import base64
import os
import re
import time
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest
from aiohttp import web

from contracts.audit_log import AuditLogEntry
from contracts.operations import ANY_METHOD, Caller, Service
from contracts.operators import Permission
from contracts.usage import ClientUsage
from contracts.webhooks import Attempt, DeliveryState
from libs.bus.local import LocalBus
from libs.runtime import Deps, new_application, new_deps, utc_now
from services.console.charts import client_shares
from services.console.record_places import page_of_entry, page_of_place
from services.console.reference_documents import events_of_document, operations_of_document
from services.console.reference_page import LONGEST_BODY
from services.console.service_calls import ServiceCalls
from services.console.service_health import WITHIN, look
from services.management import app as management
from services.management.settings import ManagementSettings
from services.notifier import app as notifier
from services.notifier.settings import NotifierSettings
from services.operation_catalog import operations_by
from tests.builders import (
    NOTIFIER_KEY,
    Served,
    make_operator,
    make_policy,
    make_resource_owner,
    running,
    settings,
    settle,
    unique,
)
from tests.notifications import api_to, stored
from tests.services.console_browser import Browser, Consoles, Seen, console_of
from tests.services.system import System, open_system


@pytest.fixture(name="consoles", scope="module")
async def _consoles(system: System) -> AsyncIterator[Consoles]:
    async with console_of(system.call) as consoles:
        yield consoles


@pytest.fixture
async def admin(consoles: Consoles, system: System) -> AsyncIterator[Browser]:
    """A browser with a session of an operator with every permission."""
    async with consoles.browser() as browser:
        seen = await browser.sign_in(await make_operator(system.deps, Permission.ADMIN))
        assert seen.status == 200, seen.text
        yield browser


@pytest.fixture
async def reader(consoles: Consoles, system: System) -> AsyncIterator[Browser]:
    """A browser with a session of an operator who may only read."""
    async with consoles.browser() as browser:
        await browser.sign_in(await make_operator(system.deps, Permission.READ))
        yield browser


# Overview


async def test_the_overview_names_what_is_degraded(admin: Browser, system: System) -> None:
    """The services' state, and each dependency that is away by name and with its reason."""

    async def away() -> None:
        raise RuntimeError("the tests have unplugged it")

    system.deps.health.register("a part", away, needed=False)
    try:
        seen = await admin.get("/console/")
    finally:
        del system.deps.health._dependencies["a part"]
    assert "degraded" in seen.plain
    assert "a part : the tests have unplugged it" in seen.plain
    assert "degraded" not in (await admin.get("/console/")).plain


def test_the_busiest_client_app_is_first_and_has_the_longest_bar() -> None:
    """The bar of each is relative to it; without any usage all are empty."""

    def used(client_id: str, **numbers: int) -> ClientUsage:
        return ClientUsage(at=None, api_id="orders", client_id=client_id, **numbers)

    shares = client_shares([used("a", issued=1), used("b", issued=4, verified=4), used("c", refused=4)])
    assert [share.usage.client_id for share in shares] == ["b", "c", "a"]
    assert [sum(share.widths.values()) for share in shares] == [100, 50, 12.5]
    assert client_shares([]) == []
    assert sum(client_shares([used("a")])[0].widths.values()) == 0


async def test_the_overview_shows_the_usage_of_each_client_app(mongodb_url: str) -> None:
    """With a link to it, while they are few."""
    async with open_system(mongodb_url) as system, console_of(system.call) as consoles:
        party = await system.party()
        await party.tokens()
        await settle(system.deps)
        async with consoles.browser() as browser:
            overview = await browser.sign_in(await make_operator(system.deps, Permission.READ))
        assert "By client app" in overview.plain
        assert f'href="/console/apis/{party.api.api_id}/clients/{party.id}"' in overview.text


async def test_services_that_hang_or_are_gone_hold_up_nothing() -> None:
    """All services are asked at once; those that do not respond are named after a couple of seconds together."""
    asked: list[str] = []
    ended = asyncio.Event()

    async def readyz(request: web.Request) -> web.Response:
        service = request.match_info["service"]
        asked.append(service)
        if service in {"token", "gateway"}:
            await ended.wait()
        if service == "notifier":
            return web.Response(text="not JSON")
        return web.json_response({"status": "unavailable", "mongodb": "no primary", "bus": "ok"}, status=503)

    app = web.Application()
    app.router.add_get("/{service}/readyz", readyz)
    async with Served(app) as server:
        calls = ServiceCalls(str(server.make_url("")).rstrip("/") + "/{service}")
        began = time.monotonic()
        async for _ in calls._opened(app):
            found = {health.name: health for health in await look(calls)}
        ended.set()
        assert time.monotonic() - began < 2 * WITHIN
    assert set(asked) == set(map(str, Service))
    assert found["management"].status == "unavailable"
    assert found["management"].faults == {"mongodb": "no primary"}
    assert {name for name, health in found.items() if health.status == "no response"} == {
        *("notifier", "token", "gateway")
    }


async def test_weak_records_are_shown_to_admins_with_their_remedy(mongodb_url: str) -> None:
    """On the overview and on a page of their own; they tell of operators, too, so `read` is not enough."""
    async with open_system(mongodb_url) as system, console_of(system.call) as consoles:
        party = await system.party(redirect_uris=("http://app.example/cb",))
        async with consoles.browser() as admin:
            overview = await admin.sign_in(await make_operator(system.deps, Permission.ADMIN))
            seen = await admin.get("/console/weaknesses")
        for page in (overview, seen):
            assert "codes are sent to http://app.example/cb over http" in page.plain
            assert "Register an https redirect URI." in page.plain
            assert f'href="/console/clients/find?client_id={party.id}"' in page.text
        async with consoles.browser() as reader:
            overview = await reader.sign_in(await make_operator(system.deps, Permission.READ))
            assert "Weak settings" not in overview.plain
            assert (await reader.get("/console/weaknesses")).status == 403


@pytest.mark.parametrize(
    ("place", "path"),
    [
        ("API orders accessTokenLifetime", "/apis/orders"),
        ("client a b/c", "/clients/find?client_id=a%20b%2Fc"),
        ("client app on API orders", "/apis/orders/clients/app"),
        ("policy gold", "/policies/gold"),
        ("operator 12ab (Ada (2))", "/operators/12ab"),
        ("resource owner alice", "/users/alice"),
        ("operators", None),
        ("TOKENWIRE_KEYS", None),
    ],
)
def test_a_finding_leads_to_its_record(place: str, path: str | None) -> None:
    """Each kind of place that a check names has a page, or none where there is no record."""
    assert page_of_place(place) == path


@pytest.mark.parametrize(
    ("action", "subject", "path"),
    [
        ("api.updated", "orders", "/apis/orders"),
        ("client.secret_rotated", "a b?c", "/apis/orders/clients/a%20b%3Fc"),
        ("policy.created", "gold", "/policies/gold"),
        ("operator.key_rotated", "12ab", "/operators/12ab"),
        ("resource_owner.updated", "alice", "/users/alice"),
        ("user.tokens_revoked", "a&b", "/grants?subject=a%26b"),
        ("grant.revoked", "g1", "/grants/g1"),
        ("token.revoked", "g1", "/grants/g1"),
        ("notification.redelivered", "evt_1", "/webhooks/evt_1"),
        ("client.deleted", "app", None),
        ("something.new", "x", None),
    ],
)
def test_an_entry_of_the_audit_log_leads_to_its_record(action: str, subject: str, path: str | None) -> None:
    """Each kind of record has a page, unless it was deleted."""
    entry = AuditLogEntry(
        id="evt_1", at=utc_now(), action=action, subject=subject, version=1, source="tests", api_id="orders"
    )
    assert page_of_entry(entry, admin=True) == path
    assert page_of_entry(entry, admin=False) == (None if action.startswith("operator.") else path)


# Webhooks


class Both(ManagementSettings, NotifierSettings):
    """Settings of two services in one process."""


@pytest.fixture
async def webhooks(mongodb_url: str, database_name: str) -> AsyncIterator[tuple[Deps, Browser]]:
    """The management service and the notifier in one process, and a session of an operator with every permission."""
    own = {"notifier_private_keys": base64.b64encode(NOTIFIER_KEY).decode(), "allow_private_destinations": True}
    configured = settings(Both, mongodb_url, database_name, **own)
    deps = new_deps(configured, "both", bus=LocalBus())
    app = new_application(configured, deps)
    management.install(app, configured, deps)
    notifier.install(app, configured, deps)
    async with running(app) as call, console_of(call) as consoles, consoles.browser() as browser:
        await browser.sign_in(await make_operator(deps, Permission.ADMIN))
        yield deps, browser


async def test_endpoints_are_listed_with_what_an_operator_needs_to_know(webhooks: tuple[Deps, Browser]) -> None:
    """Rate, latency, backlog with its age, circuit and the notifier that says so; an empty list says what to do."""
    deps, browser = webhooks
    assert "No webhook yet" in (await browser.get("/console/webhooks/endpoints")).plain
    api, now = await api_to(deps, "http://127.0.0.1:9/hook"), utc_now()
    far = now + timedelta(hours=1)
    attempts = (Attempt(at=now, latency_ms=12, status=200), Attempt(at=now, latency_ms=950, error="refused"))
    for delivery in (
        stored(api, now - timedelta(hours=2), state=DeliveryState.DELIVERED, attempts=attempts, attempt_count=2),
        stored(api, now - timedelta(hours=1), next_attempt_at=far, give_up_at=far + timedelta(hours=1)),
    ):
        await deps.store.deliveries.add(delivery)
    seen = await browser.get("/console/webhooks/endpoints")
    for text in (api.api_id, "http://127.0.0.1:9/hook", "50.0 %", "1 of 2", "950 ms", "closed", f":{os.getpid()}"):
        assert text in seen.plain, text
    assert f'href="/console/webhooks?api_id={api.api_id}&amp;state=pending">1</a>' in seen.text
    assert 'href="/console/webhooks/endpoints"' in (await browser.get("/console/webhooks")).text


async def test_sending_all_again_leads_to_where_its_progress_is_seen(webhooks: tuple[Deps, Browser]) -> None:
    """The message says how many are due, and the page shows how many are left."""
    deps, browser = webhooks
    api, now = await api_to(deps, "http://127.0.0.1:9/hook"), utc_now()
    for _ in range(3):
        await deps.store.deliveries.add(stored(api, now, state=DeliveryState.EXHAUSTED, next_attempt_at=None))
    await browser.get(f"/console/apis/{api.api_id}/webhooks/send")
    seen = await browser.post(f"/console/apis/{api.api_id}/webhooks/send", {"hours": "2"})
    assert seen.url.path == "/console/webhooks/endpoints"
    assert "3 deliveries are due now. The backlog below shrinks as they are sent." in seen.plain


# Operators


async def created(admin: Browser, **fields: str) -> tuple[str, str]:
    """Create an operator with the form; its page, and its key."""
    await admin.get("/console/operators/new")
    name = unique("Ada")
    made = await admin.post("/console/operators", {"name": name, "permissions": "read", **fields})
    assert made.status == 200, made.plain
    listed = await admin.get("/console/operators")
    found = re.search(rf'/console/operators/([0-9a-f]+)">{name}<', listed.text)
    assert found is not None
    return f"/console/operators/{found[1]}", key_on(made)


def key_on(seen: Seen) -> str:
    """The operator key on a page."""
    found = re.search(r"tw_ok_[A-Za-z0-9_-]+", seen.text)
    assert found is not None, seen.plain
    return found[0]


async def test_a_key_is_rotated_with_an_overlap_and_shown_once(admin: Browser, system: System) -> None:
    """The old key works for the hours that the form says, the new one at once, and no page shows it again."""
    place, old = await created(admin)
    await admin.get(f"{place}/rotate")
    wrong = await admin.post(f"{place}/rotate", {"overlap": "many"})
    assert (wrong.status, "a whole number from 0 to 2160" in wrong.plain) == (400, True)
    rotated = await admin.post(f"{place}/rotate", {"overlap": "2", "expires_at": ""})
    assert "The key was rotated." in rotated.plain
    new = key_on(rotated)
    assert new != old
    for key in (old, new):
        assert (await system.call.with_key(key)("GET", "/api/operators/self")).status == 200
    shown = await admin.get(place)
    assert "accepted until" in shown.plain
    assert new not in shown.text
    await admin.get(f"{place}/rotate")
    await admin.post(f"{place}/rotate", {"overlap": "0"})
    assert (await system.call.with_key(new)("GET", "/api/operators/self")).status == 401


async def test_who_rotates_their_own_key_stays_signed_in(consoles: Consoles, system: System) -> None:
    """The session goes on with the new key, although the old one works no more."""
    old = await make_operator(system.deps, Permission.ADMIN)
    mine = (await system.call.with_key(old)("GET", "/api/operators/self")).body["operator_id"]
    async with consoles.browser() as browser:
        await browser.sign_in(old)
        await browser.get(f"/console/operators/{mine}/rotate")
        rotated = await browser.post(f"/console/operators/{mine}/rotate", {"overlap": "0"})
        assert "The key was rotated." in rotated.plain
        assert (await system.call.with_key(old)("GET", "/api/operators/self")).status == 401
        assert (await browser.get("/console/operators", follow=False)).status == 200


async def test_a_key_gets_an_expiry_that_other_changes_leave_as_it_is(admin: Browser, system: System) -> None:
    """Set when the operator is created, shown in the list and on its page, changed and removed by the form."""
    soon = (utc_now() + timedelta(days=3)).replace(second=0, microsecond=0)
    text = soon.strftime("%Y-%m-%dT%H:%M")
    place, key = await created(admin, expires_at=text)
    shown = await admin.get(place)
    assert f'value="{text}"' in shown.text
    assert "soon" in shown.plain
    await admin.post(place, {"name": "Ada 2", "permissions": "read", "expires_at": text, "expires_before": text})
    asked = system.call.with_key(key)
    assert (await asked("GET", "/api/operators/self")).body["expires_at"].startswith(text)
    await admin.get(place)
    past = await admin.post(
        place, {"name": "Ada 2", "permissions": "read", "expires_at": "2020-01-01T00:00", "expires_before": text}
    )
    assert (past.status, "in the future" in past.plain) == (400, True)
    wrong = await admin.post(
        place, {"name": "Ada 2", "permissions": "read", "expires_at": "tomorrow", "expires_before": text}
    )
    assert (wrong.status, "Key expires: a date and a time" in wrong.plain) == (400, True)
    await admin.post(place, {"name": "Ada 2", "permissions": "read", "expires_at": "", "expires_before": text})
    assert "expires_at" not in (await asked("GET", "/api/operators/self")).body


# Policies


async def test_a_policy_says_who_has_it_and_what_it_allows(admin: Browser, system: System) -> None:
    """Client apps and users with links; the preview is what the gateway decides, and changes nothing."""
    policy = await make_policy(system.deps)
    party = await system.party(policy_ids=(policy.policy_id,))
    user = await make_resource_owner(system.deps, "a password", policy_ids=(policy.policy_id,))
    shown = await admin.get(f"/console/policies/{policy.policy_id}")
    assert f"/console/apis/{party.api.api_id}/clients/{party.id}" in shown.text
    assert f"/console/users/{user.username}" in shown.text
    ask = await admin.get(f"/console/policies/{policy.policy_id}/delete")
    assert "1 client app and 1 user have it" in ask.plain
    path = f"/console/policies/preview?api_id={party.api.api_id}"
    assert "not granted" in (await admin.get(f"{path}&client_id={party.id}")).plain
    other = await make_policy(system.deps, party.api.api_id, rate=5, per=10)
    tried = await admin.get(f"{path}&client_id={party.id}&policy_ids={policy.policy_id}+{other.policy_id}")
    assert "5 in 10 s" in tried.plain
    unknown = await admin.get(f"{path}&policy_ids=nowhere")
    assert (unknown.status, "there is no policy" in unknown.plain) == (400, True)


# Deleted APIs


async def test_the_progress_of_a_deletion_is_seen(admin: Browser, system: System) -> None:
    """What is left of every kind, and at the end nothing; before the deletion the page says that the API is there."""
    party = await system.party()
    await party.tokens()
    place = f"/console/apis/{party.api.api_id}"
    before = await admin.get(f"{place}/ending")
    assert "There is an API with this id" in before.plain
    assert "not deleted" in before.plain
    assert "Client apps 1 left Grants, with their tokens 1 left Webhooks to send 0 left" in before.plain
    await system.deps.store.deliveries.add(stored(party.api, utc_now()))
    await admin.get(f"{place}/delete")
    await admin.post(f"{place}/delete")
    await settle(system.deps)
    sending = await admin.get(f"{place}/ending")
    assert "in progress" in sending.plain
    assert "Client apps 0 left Grants, with their tokens 0 left Webhooks to send 1 left Deleted" in sending.plain
    assert 'data-refresh="2"' in sending.text
    await system.deps.store.mongo["deliveries"].delete_many({"api_id": party.api.api_id})
    after = await admin.get(f"{place}/ending")
    assert "done" in after.plain
    assert "data-refresh" not in after.text


# Reference


async def test_every_operation_and_every_event_has_a_page(admin: Browser) -> None:
    """With its samples and responses, or the fields of its payload."""
    for service in Service:
        names = {each.name for each in operations_by(service) if each.method != ANY_METHOD}
        assert names <= {each.name for each in operations_of_document(service)}
        first = min(names)
        seen = await admin.get(f"/console/reference/{service}/{first}")
        assert (seen.status, "curl" in seen.plain) == (200, True)
    _, events = events_of_document()
    listed = await admin.get("/console/reference?service=events")
    for event in events:
        assert f"/console/reference/events/{event.name}" in listed.text
        assert event.fields
    seen = await admin.get("/console/reference/events/TokenNew")
    assert "token.new.{api_id}" in seen.plain
    assert "data.grant_id" in seen.plain
    for path in ("events/Nothing", "management/nothing", "nowhere/listApis"):
        assert (await admin.get(f"/console/reference/{path}")).status == 404


async def test_every_operation_for_operators_can_be_tried_unless_it_never_ends() -> None:
    """The others need another credential than the session has."""
    for service in Service:
        for declared in operations_by(service):
            for view in operations_of_document(service):
                if view.name == declared.name:
                    takes_keys = declared.caller in {Caller.OPERATOR, Caller.CLIENT_OR_OPERATOR}
                    assert view.can_be_tried == (takes_keys and view.name != "streamEvents"), view.name


async def test_a_get_is_tried_with_the_key_of_the_session(admin: Browser, system: System) -> None:
    """Status, headers and body are shown, for errors, too; nothing of it may be kept."""
    party = await system.party()
    place = "/console/reference/management/listClients"
    await admin.get(place)
    seen = await admin.post(place, {"path.api_id": party.api.api_id})
    assert "200 OK" in seen.plain
    assert party.id in seen.plain
    assert "Content-Type" in seen.plain
    assert seen.headers["Cache-Control"] == "no-store"
    assert "404 Not Found" in (await admin.post(place, {"path.api_id": "nowhere"})).plain
    paged = await admin.post(place, {"path.api_id": party.api.api_id, "query.after": "x"})
    assert "not a cursor of this list" in paged.plain
    missing = await admin.post(place, {"path.api_id": " "})
    assert (missing.status, "a value is needed" in missing.plain) == (400, True)
    for wrong in ("..", "../operators", "a/../b"):
        assert (await admin.post(place, {"path.api_id": wrong})).status == 400


async def test_a_change_is_tried_only_with_its_box_ticked_and_the_token_of_the_form(
    admin: Browser, reader: Browser, system: System
) -> None:
    """Without the box nothing is sent; without `write` the service itself refuses."""
    policy = await make_policy(system.deps)
    place = "/console/reference/management/deletePolicy"
    fields = {"path.policy_id": policy.policy_id}
    await admin.get(place)
    unconfirmed = await admin.post(place, fields)
    assert (unconfirmed.status, "Nothing was sent" in unconfirmed.plain) == (400, True)
    assert (await admin.post(place, {**fields, "confirm": "1"}, csrf="wrong")).status == 403
    await reader.get("/console/")
    assert "403 Forbidden" in (await reader.post(place, {**fields, "confirm": "1"})).plain
    assert await system.deps.store.policies.get(policy.policy_id) is not None
    await admin.get(place)
    assert "Data deleted" in (await admin.post(place, {**fields, "confirm": "1"})).plain
    assert await system.deps.store.policies.get(policy.policy_id) is None


async def test_a_body_is_tried_as_it_is_written_and_within_a_bound(admin: Browser, system: System) -> None:
    """The body is passed on as typed; a larger one than the console sends is refused, and kept in the form."""
    place = "/console/reference/management/addPolicy"
    await admin.get(place)
    policy_id = unique("policy")
    sent = await admin.post(place, {"body": f'{{"id": "{policy_id}"}}', "confirm": "1"})
    assert policy_id in sent.plain
    assert await system.deps.store.policies.get(policy_id) is not None
    broken = await admin.post(place, {"body": "{", "confirm": "1"})
    assert "400 Bad Request" in broken.plain
    large = await admin.post(place, {"body": " " * LONGEST_BODY + "{}", "confirm": "1"})
    assert (large.status, "at most 256 KiB" in large.plain) == (400, True)


async def test_a_long_response_is_cut(admin: Browser, system: System) -> None:
    """The beginning is shown, and that there is more."""
    api = (await system.party()).api
    for _ in range(90):
        await system.client_of(api, description="x" * 2000)
    place = "/console/reference/management/listClients"
    await admin.get(place)
    seen = await admin.post(place, {"path.api_id": api.api_id})
    assert "longer than 128 KiB" in seen.plain


async def test_operations_without_a_key_or_an_end_cannot_be_tried(admin: Browser) -> None:
    """404 for a stream and for what takes tokens of client apps."""
    await admin.get("/console/reference/management/streamEvents")
    for path in ("management/streamEvents", "token/issueToken", "gateway/verify", "management/healthz"):
        assert (await admin.post(f"/console/reference/{path}", {"confirm": "1"})).status == 404
