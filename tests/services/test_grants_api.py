"""/api/grants and /api/users/{subject}/revoke_all: what operators find out about grants, and how they end them."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from yarl import URL

from contracts.clients import ClientDeletion
from libs.bus.local import LocalBroker, LocalBus
from libs.oauth.token_formats import TokenKind
from libs.store.grants import Grants
from services.gateway.refusal_counter import REFUSALS
from tests.builders import Response, make_policy, settle, unique
from tests.eventually import eventually
from tests.notifications import answering, database_of_its_own, notifier, receiver
from tests.services.system import PASSWORD, SCHEME, System, document, open_system, refused, tokens_of

STRANGE = [
    "alice",
    "a/b",
    "a%2Fb",
    "100 %",
    "{x}",
    "..a",
    "ä ö\u2028\u202e",
    "a?b#c",
    "a;b=c",
    '"\\',
    "\t",
    "user@example.com",
    "revoke_all",
    "🦊" * 64,
    "x" * 256,
]


async def get(system: System, path: str) -> Any:
    response = await system.operator("GET", path)
    assert response.status == 200, response.body
    return response.body


async def listed(system: System, **query: str) -> list[dict[str, Any]]:
    """All pages of the list."""
    found: list[dict[str, Any]] = []
    after: dict[str, str] = {}
    while True:
        response = await system.operator("GET", "/api/grants", params={**query, **after})
        assert response.status == 200, response.body
        found += response.body["grants"]
        if response.body.get("next") is None:
            assert "Link" not in response.headers
            return found
        assert response.body["next"] in response.headers["Link"]
        after = {"after": response.body["next"]}


def ids(grants: Sequence[dict[str, Any]]) -> list[str]:
    return [grant["grant_id"] for grant in grants]


async def look_up(system: System, token: str) -> Response:
    return await system.operator("POST", "/api/grants/lookup", json={"token": token})


async def timeline_of(system: System, grant_id: str) -> dict[str, Any]:
    await settle(system.deps)
    found: dict[str, Any] = await get(system, f"/api/grants/{grant_id}/timeline")
    return found


async def revoke_user(system: System, subject: str) -> Response:
    path = URL(f"/api/users/{quote(subject, safe='')}/revoke_all", encoded=True)
    return await system.operator("POST", path)


# The list


async def test_grants_are_listed_newest_first_by_every_filter(system: System) -> None:
    """By client, API, subject and state, in any combination, page by page."""
    party, subject = await system.party(), unique("user")
    other = await system.client_of(party.api)
    grants = []
    for number in range(5):
        system.clock.advance(1)
        whose = party if number % 2 else other
        grants.append((await system.grant_of((await whose.tokens(subject=subject)).access)).grant_id)
    pending = (await system.grant_of(await party.code(subject=subject))).grant_id
    ended = await party.tokens(subject=subject)
    ended_id = (await system.grant_of(ended.access)).grant_id
    await party.revoke(ended.refresh)
    everything = await listed(system, subject=subject, limit="2")
    assert sorted(ids(everything)) == sorted([*grants, pending, ended_id])
    moments = [grant["created_at"] for grant in everything]
    assert moments == sorted(moments, reverse=True)
    assert ids(await listed(system, subject=subject, client_id=other.id)) == [grants[4], grants[2], grants[0]]
    assert ids(await listed(system, client_id=party.id, state="pending")) == [pending]
    assert ids(await listed(system, api_id=party.api.api_id, state="revoked")) == [ended_id]
    assert len(await listed(system, api_id=party.api.api_id, limit="3")) == 7
    assert await listed(system, subject=subject, client_id="nobody") == []


async def test_a_shown_grant_has_no_token_and_says_whether_it_expired(system: System) -> None:
    """Public ids, times, state; no value of a code or token, no digest and no key rules."""
    party = await system.party()
    tokens = await party.tokens(subject="alice", scope="a b", key_rules='{"alias": "a"}')
    grant = await system.grant_of(tokens.access)
    shown = await get(system, f"/api/grants/{grant.grant_id}")
    assert shown["access"]["token_id"] == f"{grant.grant_id}.1"
    assert (shown["state"], shown["subject"], shown["scope"], shown["expired"]) == ("active", "alice", "a b", False)
    assert (shown["code"]["used_at"], shown["generation"]) == (shown["access"]["issued_at"], 1)
    assert "ended_reason" not in shown
    assert "key_rules" not in shown
    assert tokens.access not in str(shown)
    system.clock.advance(timedelta(days=15).total_seconds())
    assert (await get(system, f"/api/grants/{grant.grant_id}"))["expired"] is True


async def test_an_unknown_grant_is_404_and_wrong_parameters_are_400(system: System) -> None:
    """The message says what to change."""
    for method, path in (("GET", ""), ("GET", "/timeline"), ("POST", "/revoke")):
        response = await system.operator(method, f"/api/grants/{'A' * 22}{path}")
        assert (response.status, response.message) == (
            404,
            "Grant not found: it never existed, or was deleted a day after its end",
        )
    for query, named in (
        ("state=expired", "state"),
        ("limit=0", "limit"),
        ("subject=", "subject"),
        ("after=x", "after"),
        ("client=x", "client"),
        ("state=active&state=active", "repeated"),
    ):
        response = await system.operator("GET", f"/api/grants?{query}")
        assert (response.status, named in response.message) == (400, True), response.body


async def test_a_grant_that_ended_with_its_client_is_shown_as_revoked_at_once(system: System) -> None:
    """Also before the revocation service has reached it."""
    party = await system.party()
    grant = await system.grant_of((await party.tokens()).access)
    ctx = system.deps.event_context("tests")
    assert await system.deps.store.clients.delete(party.client, ClientDeletion.CLIENT_DELETED, ctx)
    await eventually(lambda: _is_shown_revoked(system, grant.grant_id), within=60)
    shown = await get(system, f"/api/grants/{grant.grant_id}")
    assert shown["ended_reason"] == "client_deleted"


async def _is_shown_revoked(system: System, grant_id: str) -> bool:
    return bool((await get(system, f"/api/grants/{grant_id}"))["state"] == "revoked")


# Lookup


async def test_a_pasted_value_finds_its_grant_and_says_whether_it_works(system: System) -> None:
    """Codes, access tokens, refresh tokens and public ids, of any generation; nothing is used up."""
    party = await system.party()
    code = await party.code()
    grant_id = (await system.grant_of(code)).grant_id

    async def outcome(value: str) -> tuple[Any, ...]:
        response = await look_up(system, value)
        assert response.status == 200, response.body
        assert response.body["grant"]["grant_id"] == grant_id
        assert value.startswith(grant_id) or value not in response.raw.decode()
        return response.body["kind"], response.body["generation"], response.body["valid"]

    assert await outcome(code) == ("code", 0, True)
    first = tokens_of(await party.exchange(code))
    assert await outcome(code) == ("code", 0, False)
    assert await outcome(f"  {first.access}\n") == ("access_token", 1, True)
    assert await outcome(first.refresh) == ("refresh_token", 1, True)
    second = await party.refreshed(first.refresh)
    assert await outcome(first.access) == ("access_token", 1, False)
    assert await outcome(first.refresh) == ("refresh_token", 1, False)
    assert await outcome(f"{grant_id}.2") == ("token_id", 2, True)
    assert await outcome(f"{grant_id}.1") == ("token_id", 1, False)
    system.clock.advance(3600)
    assert await outcome(second.access) == ("access_token", 2, False)
    assert await outcome(second.refresh) == ("refresh_token", 2, True)
    await party.revoke(second.refresh)
    assert await outcome(second.refresh) == ("refresh_token", 2, False)


async def test_a_value_of_no_grant_is_404_and_is_not_repeated(system: System) -> None:
    """Neither in the response nor, since it is in the body, in a URL."""
    forged = system.deps.token_format.mint(TokenKind.ACCESS, "A" * 22, 1).value
    for value in (forged, "tw_at_secret", "x", "A" * 22 + ".1", "é"):
        response = await look_up(system, value)
        assert (response.status, value in response.raw.decode()) == (404, False), response.body
    wrong: list[Any] = [{}, {"token": 5}, {"token": "x", "more": 1}, []]
    for body in wrong:
        assert (await system.operator("POST", "/api/grants/lookup", json=body)).status == 400
    assert (await system.operator("GET", "/api/grants/lookup")).status == 404


# Revocation of a grant


async def test_an_operator_revokes_a_grant_and_hears_what_ended(system: System) -> None:
    """The grant ends for the reason `operator`, named in event and audit log; the second time nothing ends."""
    party = await system.party()
    tokens = await party.tokens()
    grant_id = (await system.grant_of(tokens.access)).grant_id
    response = await system.operator("POST", f"/api/grants/{grant_id}/revoke")
    assert response.body == {"Status": "OK", "Message": "grant revoked", "Meta": {"ended": 1}}
    await settle(system.deps)
    assert (await party.verify(tokens.access)).status == 403
    assert refused(await party.refresh(tokens.refresh), "invalid_grant")
    again = await system.operator("POST", f"/api/grants/{grant_id}/revoke/")
    assert again.message == "the grant had been revoked before, for the reason operator"
    assert again.body["Meta"] == {"ended": 0}
    (event,) = [each for each in await system.heard.about(grant_id) if each["type"].endswith("grant.revoked")]
    assert event["data"]["reason"] == "operator"
    assert event["data"]["actor"]["operator_id"]
    (entry,) = (await get(system, f"/api/audit?subject={grant_id}"))["entries"]
    assert (entry["action"], entry["reason"]) == ("grant.revoked", "operator")


# Revocation of everything of a user


@pytest.mark.parametrize("subject", STRANGE)
async def test_e2_all_grants_of_a_user_end_whatever_the_name(system: System, subject: str) -> None:
    """Codes and tokens of every client and API end, for the reason `user_revoked`; those of others do not."""
    party, other = await system.party(), await system.party()
    system.clock.advance(1)
    await revoke_user(system, subject)  # what other tests left
    system.clock.advance(1)
    tokens = [await party.tokens(subject=subject), await other.tokens(subject=subject)]
    code = await party.code(subject=subject)
    spared = await party.tokens(subject=subject[:-1] + "-")
    assert len(await listed(system, subject=subject, state="active")) == 2
    response = await revoke_user(system, subject)
    assert (response.status, response.body["Meta"]) == (200, {"ended": 3, "remaining": False}), response.body
    await settle(system.deps)
    for issued in tokens:
        assert (await party.verify(issued.access)).status == 403
    assert refused(await party.refresh(tokens[0].refresh), "invalid_grant")
    assert refused(await party.exchange(code), "invalid_grant")
    assert (await party.verify(spared.access)).status == 200
    for grant in await listed(system, subject=subject, client_id=party.id):
        assert (grant["state"], grant["ended_reason"]) == ("revoked", "user_revoked")
    events = await system.heard.about(subject)
    assert events[-1]["type"] == "io.tokenwire.user.tokens_revoked"
    assert events[-1]["data"]["resource_owner"] == subject
    (entry, *_) = await system.deps.store.audit_log.about(subject, "user")
    assert entry.actor is not None
    system.clock.advance(1)
    assert (await party.verify((await party.tokens(subject=subject)).access)).status == 200


async def test_e2_a_name_that_is_too_long_is_400(system: System) -> None:
    """Names have at most 256 characters."""
    response = await revoke_user(system, "x" * 257)
    assert (response.status, response.message) == (400, "the name of a user has at most 256 characters")


async def test_e2_the_grants_of_a_resource_owner_end_too(system: System) -> None:
    """The password grant has the user's name as its subject; the user can log in again."""
    party, user = await system.party(), await system.user()
    tokens = tokens_of(await party.password(user.username, PASSWORD))
    assert (await revoke_user(system, user.username)).body["Meta"]["ended"] == 1
    await settle(system.deps)
    assert (await party.verify(tokens.access)).status == 403
    system.clock.advance(1)
    tokens_of(await party.password(user.username, PASSWORD))


@pytest.mark.parametrize("grant_type", ["authorization_code", "password"])
async def test_e2_a_grant_that_is_issued_at_the_same_time_ends_too(
    system: System, monkeypatch: pytest.MonkeyPatch, grant_type: str
) -> None:
    """Issued before the revocation and written after its search: it is not handed out, and is revoked."""
    party, user = await system.party(), await system.user()
    subject = user.username
    commit, written = Grants.commit, asyncio.Event()

    async def late(grants: Grants, transition: Any) -> bool:
        if transition.before is None and transition.after.subject == subject:
            assert (await revoke_user(system, subject)).body["Meta"]["ended"] == 0
            written.set()
        return await commit(grants, transition)

    monkeypatch.setattr(Grants, "commit", late)
    if grant_type == "password":
        response = await party.password(subject, PASSWORD)
    else:
        response = await party.authorize_client(subject=subject)
    assert written.is_set()
    assert (response.status, response.body["error"]) == (400, "invalid_grant"), response.body
    (grant,) = await listed(system, subject=subject)
    assert (grant["state"], grant["ended_reason"]) == ("revoked", "user_revoked")


async def test_e2_no_token_survives_a_revocation_among_many_logins(system: System) -> None:
    """Of simultaneous logins, exchanges, refreshes and a revocation, no tokens from before it work afterwards."""
    party, subject = await system.party(), unique("user")
    made = [await party.tokens(subject=subject) for _ in range(5)]
    codes = [await party.code(subject=subject) for _ in range(5)]
    responses = await asyncio.gather(
        *(party.refresh(tokens.refresh) for tokens in made),
        *(party.exchange(code) for code in codes),
        *(party.authorize_client(subject=subject) for _ in range(5)),
        revoke_user(system, subject),
    )
    await settle(system.deps)
    # The clock stands still, so every grant is one from before the revocation.
    assert {grant["state"] for grant in await listed(system, subject=subject)} == {"revoked"}
    for response in responses[:10]:
        if response.status == 200:
            assert (await party.verify(response.body["access_token"])).status == 403
    for response in responses[10:15]:
        if response.status == 200:
            assert refused(await party.exchange(response.body["code"]), "invalid_grant")


async def test_e2_the_rest_of_very_many_grants_ends_by_the_event(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The response does not wait for more than a bounded number; it says so."""
    monkeypatch.setattr("services.revocation.grant_revocation.AT_ONCE", 2)
    monkeypatch.setattr("services.revocation.revoker.REVOKED_AT_ONCE", 2)
    party, subject = await system.party(), unique("user")
    for _ in range(9):
        await party.code(subject=subject)
    assert (await revoke_user(system, subject)).body["Meta"] == {"ended": 9, "remaining": True}
    await settle(system.deps)
    assert len(await listed(system, subject=subject, state="revoked")) == 9


# The timeline


async def test_the_timeline_has_every_change_with_its_actor(system: System) -> None:
    """Code, exchange, refresh, revocation of a token and of the grant: time, sequence, publication, actor, token id."""
    party = await system.party()
    first = await party.tokens(subject="alice")
    grant_id = (await system.grant_of(first.access)).grant_id
    system.clock.advance(5)
    second = await party.refreshed(first.refresh)
    system.clock.advance(5)
    await party.revoke(second.access)
    system.clock.advance(5)
    await system.operator("POST", f"/api/grants/{grant_id}/revoke")
    found = await timeline_of(system, grant_id)
    entries = found["entries"]
    assert found["complete"] is True
    assert [entry["type"] for entry in entries] == [
        "code.issued",
        "token.new",
        "token.refresh",
        "token.revoked",
        "grant.revoked",
    ]
    assert [entry["sequence"] for entry in entries] == [1, 2, 3, 4, 5]
    assert {entry["publication"] for entry in entries} == {"published"}
    assert [entry["actor"]["kind"] for entry in entries] == ["operator", "client", "client", "client", "operator"]
    assert entries[1]["actor"]["id"] == party.id
    assert [entry.get("token_id") for entry in entries] == [
        None,
        f"{grant_id}.1",
        f"{grant_id}.2",
        f"{grant_id}.2",
        None,
    ]
    assert [entry.get("reason") for entry in entries[3:]] == ["client_request", "operator"]
    assert [entry.get("policies") for entry in entries] == [[], [], [], None, None]
    assert second.access not in str(found)
    assert entries[-1]["at"] == found["grant"]["ended_at"]


async def test_the_timeline_says_who_ended_many_grants_at_once(system: System) -> None:
    """A grant that ended with its client or its user has the operator, or the client, who ended them."""
    party, subject = await system.party(), unique("user")
    by_client = (await system.grant_of((await party.tokens()).access)).grant_id
    await system.call("POST", party.at("oauth/revoke_all"), data=party.named, headers=party.basic)
    system.clock.advance(1)
    by_user = (await system.grant_of((await party.tokens(subject=subject)).access)).grant_id
    await revoke_user(system, subject)
    system.clock.advance(1)
    by_operator = (await system.grant_of((await party.tokens()).access)).grant_id
    await system.operator("DELETE", f"/api/apis/oauth/{party.api.api_id}/{party.id}")
    for grant_id, reason, kind in (
        (by_client, "revoke_all", "client"),
        (by_user, "user_revoked", "operator"),
        (by_operator, "client_deleted", "operator"),
    ):
        last = (await timeline_of(system, grant_id))["entries"][-1]
        assert (last["type"], last["reason"], last["actor"]["kind"]) == ("grant.revoked", reason, kind), last


async def test_the_timeline_has_the_policies_that_counted_at_each_moment(system: System) -> None:
    """Their ids and versions at that time, and the changes in between, of the client, the user and the key rules."""
    api = (await system.party()).api
    one, two = await make_policy(system.deps, api.api_id), await make_policy(system.deps, api.api_id)
    party = await system.client_of(api, policy_ids=(one.policy_id,))
    await settle(system.deps)
    system.clock.advance(1)
    first = await party.tokens(key_rules=f'{{"apply_policies": ["{two.policy_id}"]}}')
    grant_id = (await system.grant_of(first.access)).grant_id
    system.clock.advance(1)
    policy = f"/api/portal/policies/{one.policy_id}"
    body = {"name": "renamed", "access_rights": {api.api_id: {"api_id": api.api_id}}, "rate": 5, "per": 1}
    assert (await system.operator("PUT", policy, json=body)).status == 200
    await settle(system.deps)
    system.clock.advance(1)
    second = await party.refreshed(first.refresh)
    system.clock.advance(1)
    client = f"/api/apis/oauth/{api.api_id}/{party.id}"
    assert (await system.operator("PUT", client, json={"policy_ids": []})).status == 200
    await settle(system.deps)
    system.clock.advance(1)
    await party.refreshed(second.refresh)
    entries = (await timeline_of(system, grant_id))["entries"]
    assert [entry["type"] for entry in entries] == [
        "code.issued",
        "token.new",
        "policy.updated",
        "token.refresh",
        "client.updated",
        "token.refresh",
    ]

    def counting(entry: dict[str, Any]) -> list[tuple[Any, ...]]:
        return [(policy["holder"], policy["policy_id"], policy["version"]) for policy in entry["policies"]]

    of_rules = ("key_rules", two.policy_id, 1)
    assert counting(entries[0]) == counting(entries[1]) == [("client", one.policy_id, 1), of_rules]
    assert counting(entries[3]) == [("client", one.policy_id, 2), of_rules]
    assert counting(entries[5]) == [of_rules]
    assert entries[2]["actor"]["kind"] == entries[4]["actor"]["kind"] == "operator"
    assert (entries[2]["subject"], entries[4]["subject"]) == (one.policy_id, party.id)


async def test_the_timeline_shows_events_that_wait_for_the_bus(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """An event that is not published yet is there, with the publication `pending`."""
    party = await system.party()
    tokens = await party.tokens()
    grant_id = (await system.grant_of(tokens.access)).grant_id
    await settle(system.deps)
    monkeypatch.setattr(system.deps.store.grants, "_announce", lambda *_: None)
    await party.refreshed(tokens.refresh)
    entries = (await get(system, f"/api/grants/{grant_id}/timeline"))["entries"]
    assert [entry["publication"] for entry in entries] == ["published", "published", "pending"]
    assert entries[-1]["token_id"] == f"{grant_id}.2"


async def test_the_timeline_admits_that_old_events_are_gone(system: System) -> None:
    """After eight days an event is not kept; the numbers of the token pairs are right all the same."""
    party = await system.party()
    tokens = await party.tokens()
    grant_id = (await system.grant_of(tokens.access)).grant_id
    second = await party.refreshed(tokens.refresh)
    await settle(system.deps)
    await system.deps.store.mongo["events"].delete_many({"subject": grant_id})
    system.clock.advance(1)
    await party.refreshed(second.refresh)
    found = await timeline_of(system, grant_id)
    assert (found["complete"], [entry["sequence"] for entry in found["entries"]]) == (False, [4])
    assert found["entries"][0]["token_id"] == f"{grant_id}.3"


async def test_the_timeline_has_the_attempts_of_each_webhook(mongodb_url: str) -> None:
    """Next to the event that the webhook is for: state, and every attempt with status and latency."""
    broker, database = LocalBroker(), database_of_its_own()
    async with (
        receiver() as received,
        open_system(mongodb_url, database, bus=LocalBus(broker), notifier=False) as system,
        notifier(mongodb_url, database, broker=broker),
    ):
        received.behave(answering(503))
        webhook = {"onKeyChangeUrl": received.url(), "sharedSecret": "a secret of the tests"}
        party = await system.party(document(**{f"{SCHEME}notifications": webhook}))
        grant_id = (await system.grant_of((await party.tokens()).access)).grant_id

        async def attempted() -> dict[str, Any]:
            entries = (await timeline_of(system, grant_id))["entries"]
            assert [entry["type"] for entry in entries] == ["code.issued", "token.new"]
            assert "webhook" not in entries[0]
            assert entries[1]["webhook"]["attempt_count"] >= 1
            return dict(entries[1])

        entry = await eventually(attempted, within=60)
        assert entry["webhook"]["delivery_id"] == entry["event_id"]
        assert entry["webhook"]["state"] == "pending"
        (attempt, *_) = entry["webhook"]["attempts"]
        assert attempt["status"] == 503
        assert attempt["latency_ms"] >= 0


async def test_refused_calls_are_counted_for_their_grant(system: System) -> None:
    """Each once, by reason; a token that was never issued belongs to no grant, and an admitted call counts nothing."""
    party = await system.party()
    tokens = await party.tokens()
    grant_id = (await system.grant_of(tokens.access)).grant_id
    refusals = system.call.http.server.app[REFUSALS]  # type: ignore[attr-defined]
    assert (await party.verify(tokens.access)).status == 200
    await refusals.write()
    found = (await timeline_of(system, grant_id))["refused"]
    assert found == {"counts": []}
    renewed = await party.refreshed(tokens.refresh)
    await settle(system.deps)
    for _ in range(3):
        assert (await party.verify(tokens.access)).status == 403
    await refusals.write()
    system.clock.advance(3600)
    assert (await party.verify(renewed.access)).status == 401
    assert (await party.verify(system.deps.token_format.mint(TokenKind.ACCESS, "A" * 22, 1).value)).status == 403
    await refusals.write()
    await refusals.write()
    found = (await timeline_of(system, grant_id))["refused"]
    assert found["counts"] == [{"reason": "expired", "count": 1}, {"reason": "unknown_token", "count": 3}]
    assert datetime.fromisoformat(found["last_at"]) == system.clock()
    assert await system.deps.store.mongo["refused_calls"].count_documents({"_id": "A" * 22}) == 0


async def test_a_repeated_write_of_refused_calls_counts_nothing_twice(system: System) -> None:
    """A batch that was written although the response was lost is repeated with its number; gateways add up."""
    store, grant_id, now = system.deps.store.refused_calls, unique("grant"), system.clock()
    for _ in range(2):
        await store.add("a", 1, {grant_id: {"expired": 2}}, now)
    await store.add("b", 1, {grant_id: {"expired": 1, "rate_limit": 1}}, now)
    await store.add("a", 2, {grant_id: {"expired": 1}}, now)
    await store.add("a", 1, {grant_id: {"expired": 2}}, now)
    found = {each.reason: each.count for each in (await store.of(grant_id)).counts}
    assert found == {"expired": 4, "rate_limit": 1}
