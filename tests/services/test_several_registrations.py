"""C4: a client is registered on several APIs with one id and secret; each registration stands for itself."""

import asyncio
from typing import Any

import pytest

from contracts.clients import ClientDeletion
from contracts.events import ClientCreated, ClientDeleted
from contracts.grants import GrantState
from libs.store.clients import Clients
from tests.builders import CALLBACK, Response, make_api, make_policy, settle
from tests.eventually import eventually
from tests.services.system import Party, System, document, tokens_of
from tests.services.test_user_policies import introspected

OTHER_CALLBACK = "https://app.example.test/other"


async def register(system: System, api_id: str, **fields: Any) -> Response:
    """Register a client as an operator."""
    return await system.operator("POST", f"/api/apis/oauth/{api_id}", json=fields)


async def also(party: Party, secret: str | None = None, **fields: Any) -> Party:
    """The same client on another, new API."""
    api = await make_api(party.system.deps, fields.pop("document", None))
    body = {"client_id": party.id, "secret": secret or party.secret, "redirect_uri": CALLBACK} | fields
    response = await register(party.system, api.api_id, **body)
    assert response.status == 200, response.body
    client = await party.system.deps.store.clients.registered(party.id, api.api_id)
    assert client is not None
    return Party(party.system, api, client, party.secret)


def url(party: Party) -> str:
    """The registration's URL in the management API."""
    return f"/api/apis/oauth/{party.api.api_id}/{party.id}"


async def shown(party: Party) -> dict[str, Any]:
    """The registration as an operator sees it."""
    response = await party.system.operator("GET", url(party))
    assert response.status == 200, response.body
    body: dict[str, Any] = response.body
    return body


async def credentials_token(party: Party) -> str:
    """A token by client_credentials."""
    return tokens_of(await party.token({"grant_type": "client_credentials"})).access


async def listed(party: Party, path: str = "") -> set[str]:
    """The ids of the APIs whose tokens the list shows."""
    response = await party.system.operator("GET", path or f"{url(party)}/tokens")
    assert response.status == 200, response.body
    return {token["api_id"] for token in response.body}


async def test_c4_each_registration_has_its_own_fields(system: System) -> None:
    """Redirect URIs, policies, metadata, scope and texts belong to the registration; id and secret to the client."""
    one = await system.party(description="on the first", meta_data={"tier": "gold"})
    policy = await make_policy(system.deps, one.api.api_id)
    fields: dict[str, Any] = {
        "redirect_uri": OTHER_CALLBACK,
        "meta_data": {"tier": "tin"},
        "policy_ids": [policy.policy_id],
    }
    two = await also(one, **fields, description="on the second", client_name="Second")
    first, second = await shown(one), await shown(two)
    assert (first["redirect_uri"], second["redirect_uri"]) == (CALLBACK, OTHER_CALLBACK)
    assert (first["meta_data"], second["meta_data"]) == ({"tier": "gold"}, {"tier": "tin"})
    assert (first["policy_ids"], second["policy_ids"]) == ([], [policy.policy_id])
    assert (first["description"], second["description"]) == ("on the first", "on the second")
    assert (first["api_id"], second["api_id"]) == (one.api.api_id, two.api.api_id)
    assert first["client_id"] == second["client_id"]
    assert first["secret"] == second["secret"] == one.secret
    edited = await system.operator("PUT", url(two), json={"description": "edited"})
    assert (edited.status, edited.body["description"]) == (200, "edited")
    assert (await shown(one)) == first
    for party in (one, two):
        apps = (await system.operator("GET", f"/api/apis/oauth/{party.api.api_id}")).body["apps"]
        assert apps == [await shown(party)]


async def test_c4_another_secret_is_refused(system: System) -> None:
    """A different, generated or missing secret, or a public client, is 409 and registers nothing."""
    one, public = await system.party(), await system.party(public=True)
    api = await make_api(system.deps)
    for fields in (
        {"client_id": one.id, "secret": "x" * 40},
        {"client_id": one.id},
        {"client_id": one.id, "public": True},
        {"client_id": public.id},
        {"client_id": public.id, "secret": "x" * 40},
    ):
        response = await register(system, api.api_id, redirect_uri=CALLBACK, **fields)
        assert response.status == 409, (fields, response.body)
        assert one.secret not in response.raw.decode()
    assert (await system.operator("GET", f"/api/apis/oauth/{api.api_id}")).body["apps"] == []
    twice = await register(system, one.api.api_id, client_id=one.id, secret=one.secret)
    assert twice.status == 409
    assert (await register(system, api.api_id, client_id=public.id, public=True)).status == 200


async def test_c4_each_api_issues_tokens_of_its_own(system: System) -> None:
    """Codes, refresh tokens and redirect URIs of one API are worth nothing on the other; tokens open their own API."""
    one = await system.party()
    two = await also(one, redirect_uri=OTHER_CALLBACK)
    assert (await one.authorize_client(redirect_uri=OTHER_CALLBACK)).status == 400
    assert (await two.authorize_client(redirect_uri=CALLBACK)).status == 400
    tokens = await one.tokens()
    assert (await two.refresh(tokens.refresh)).body["error"] == "invalid_grant"
    assert (await two.exchange(await one.code())).body["error"] == "invalid_grant"
    for party, other in ((one, two), (two, one)):
        token = await credentials_token(party)
        assert ((await party.verify(token)).status, (await other.verify(token)).status) == (200, 403)
        assert (await introspected(system, token))["aud"] == [party.api.api_id]


@pytest.mark.parametrize("registered_there", [True, False], ids=["also-registered", "not-registered"])
async def test_c4_a_common_policy_opens_oauth_apis_too(system: System, registered_there: bool) -> None:
    """With a policy that grants both, the token of one OAuth API opens another: /verify and introspection agree; other
    APIs and methods of the policy's rules stay closed.
    """
    one = await system.party()
    two = await also(one) if registered_there else await system.party()
    third = await system.party()
    both = await make_policy(system.deps, one.api.api_id, two.api.api_id)
    only = await make_policy(system.deps, one.api.api_id)
    rich = await system.client_of(one.api, policy_ids=(both.policy_id,))
    poor = await system.client_of(one.api, policy_ids=(only.policy_id,))
    for party, expected in ((rich, [200, 200, 403]), (poor, [200, 403, 403])):
        token = await credentials_token(party)
        assert [(await each.verify(token)).status for each in (one, two, third)] == expected
        aud = (await introspected(system, token))["aud"]
        assert [each.api.api_id in aud for each in (one, two, third)] == [status == 200 for status in expected]


async def test_c4_rotation_replaces_the_secret_everywhere(system: System) -> None:
    """One secret for all APIs: rotated on one, the old one is dead on all, and the new one works on all."""
    one = await system.party()
    two = await also(one)
    rotated = await system.operator("PUT", f"{url(two)}/rotate")
    assert rotated.status == 200, rotated.body
    for party in (one, two):
        renewed = Party(system, party.api, party.client, rotated.body["secret"])
        assert (await party.token({"grant_type": "client_credentials"})).status == 401
        assert await credentials_token(renewed)
        assert (await shown(party))["secret"] == rotated.body["secret"]


async def test_c4_revoke_all_of_the_client_is_for_its_api(system: System) -> None:
    """The client's own revoke_all ends its grants on that API; the operator's ends them on all."""
    one = await system.party()
    two = await also(one)
    first, second = await one.tokens(), await two.tokens()
    system.clock.advance(1)
    response = await system.call("POST", one.at("oauth/revoke_all"), headers=one.basic)
    assert response.status == 200, response.body
    assert ((await one.verify(first.access)).status, (await two.verify(second.access)).status) == (403, 200)
    await eventually(lambda: _ended(system, first.access), within=60)
    assert (await system.grant_of(second.access)).state is GrantState.ACTIVE
    assert await two.refreshed(second.refresh)
    third = await two.tokens()
    system.clock.advance(1)
    assert (await system.operator("POST", f"/api/apis/oauth/{one.id}/revoke_all")).status == 200
    assert (await two.verify(third.access)).status == 403
    await eventually(lambda: _ended(system, third.access), within=60)


async def _ended(system: System, token: str) -> bool:
    return (await system.grant_of(token)).state is GrantState.REVOKED


async def test_c4_one_token_is_revoked_wherever_it_was_issued(system: System) -> None:
    """An operator revokes by client id alone; the client at the API that issued the token."""
    one = await system.party()
    two = await also(one)
    first, second = await credentials_token(one), await credentials_token(two)
    response = await system.operator("POST", f"/api/apis/oauth/{one.id}/revoke", data={"token": second})
    assert response.status == 200, response.body
    assert ((await one.verify(first)).status, (await two.verify(second)).status) == (200, 403)
    assert (await one.revoke(first)).status == 200
    assert (await one.verify(first)).status == 403


async def test_c4_token_lists_are_of_one_api_or_of_all(system: System) -> None:
    """…/{api_id}/{client_id}/tokens lists that API's; …/{client_id}/tokens those of all, in order and page by page."""
    one = await system.party()
    two = await also(one)
    for party in (one, two, one, two):
        await credentials_token(party)
        system.clock.advance(1)
    apis = {one.api.api_id, two.api.api_id}
    everywhere = f"/api/apis/oauth/{one.id}/tokens"
    assert [await listed(one), await listed(two), await listed(one, everywhere)] == [
        {one.api.api_id},
        {two.api.api_id},
        apis,
    ]
    plain = (await system.operator("GET", everywhere)).body
    assert [token["expires"] for token in plain] == sorted(token["expires"] for token in plain)
    assert len(plain) == 4
    page = (await system.operator("GET", f"{everywhere}?page=1")).body
    assert page["Tokens"] == plain
    assert page["Pagination"]["page_total"] == 1


async def test_c4_deleting_one_registration_leaves_the_other(system: System) -> None:
    """The deleted one's tokens stop at once and stay dead when it is registered there again; the other goes on."""
    one = await system.party()
    two = await also(one)
    first, second = await one.tokens(), await two.tokens()
    assert (await system.operator("DELETE", url(one))).status == 200
    assert (await system.operator("GET", url(one))).status == 404
    assert ((await one.verify(first.access)).status, (await two.verify(second.access)).status) == (403, 200)
    assert (await one.token({"grant_type": "client_credentials"})).status == 401
    await eventually(lambda: _ended(system, first.access), within=60)
    assert (await system.grant_of(second.access)).state is GrantState.ACTIVE
    assert await two.refreshed(second.refresh)
    system.clock.advance(1)
    again = {"client_id": one.id, "secret": one.secret, "redirect_uri": CALLBACK}
    assert (await register(system, one.api.api_id, **again)).status == 200
    assert (await one.verify(first.access)).status == 403
    assert (await one.refresh(first.refresh)).body["error"] == "invalid_grant"
    system.clock.advance(1)
    assert (await one.verify(await credentials_token(one))).status == 200


async def test_c4_an_unswept_grant_stays_dead_after_registration_again(system: System) -> None:
    """Even if no consumer ended the grant: the new registration does not revive it, on either order of deletion."""
    one = await system.party()
    two = await also(one)
    clients, ctx = system.deps.store.clients, system.deps.event_context("tests")
    tokens = {party.api.api_id: await party.tokens() for party in (one, two)}
    grant = await system.grant_of(tokens[one.api.api_id].access)
    for party in (one, two):
        current = await clients.registered(party.id, party.api.api_id)
        assert current is not None
        assert await clients.delete(current, ClientDeletion.CLIENT_DELETED, ctx)
    body = {"client_id": one.id, "secret": one.secret, "redirect_uri": CALLBACK}
    for party in (two, one):
        assert (await register(system, party.api.api_id, **body)).status == 200
        again = await clients.registered(party.id, party.api.api_id)
        assert again is not None
        assert again.revoked_before is not None
        assert again.revoked_before >= grant.created_at


async def test_c4_deleting_an_api_deletes_its_registrations_only(system: System) -> None:
    """The clean-up after `api.deleted` removes that API's registration, whichever was first."""
    one = await system.party()
    two = await also(one)
    kept, token = await shown(two), await credentials_token(two)
    assert (await system.operator("DELETE", f"/api/apis/{one.api.api_id}")).status == 200

    async def gone() -> bool:
        return await system.deps.store.clients.registered(one.id, one.api.api_id) is None

    await eventually(gone, within=60)
    assert await shown(two) == kept
    assert (await two.verify(token)).status == 200


async def test_c4_introspection_by_a_client_of_several_apis(system: System) -> None:
    """A client sees its tokens of every API. It is resource server only where it is registered as one."""
    one = await system.party()
    two = await also(one, resource_server=True)
    strangers = [await system.client_of(party.api) for party in (one, two)]

    async def active(token: str) -> bool:
        response = await system.call("POST", "/oauth/introspect", data={"token": token}, headers=one.basic)
        return bool(response.body["active"])

    assert [await active(await credentials_token(party)) for party in (one, two)] == [True, True]
    assert [await active(await credentials_token(party)) for party in strangers] == [False, True]


async def test_c4_events_audit_log_and_analytics_name_api_and_client(system: System) -> None:
    """Each change is one event about its API, with consecutive sequences; numbers are counted per API and client."""
    one = await system.party()
    two = await also(one)
    assert (await two.verify(await credentials_token(two))).status == 200
    assert (await system.operator("DELETE", url(two))).status == 200
    await settle(system.deps)
    events = [event for event in system.heard.events if event["subject"] == one.id]
    created = ClientCreated.model_fields["type"].default
    deleted = ClientDeleted.model_fields["type"].default
    assert [(event["type"], event["data"]["api_id"]) for event in events] == [
        (created, one.api.api_id),
        (created, two.api.api_id),
        (deleted, two.api.api_id),
    ]
    assert [int(event["sequence"]) for event in events] == [1, 2, 3]

    async def counted() -> bool:
        report = (await system.operator("GET", f"/api/analytics/clients?client_id={one.id}")).body
        return {(row["api_id"], row["issued"]) for row in report["clients"]} == {(two.api.api_id, 1)}

    await eventually(counted, within=60)


async def test_c4_concurrent_registrations_on_several_apis_all_count(system: System) -> None:
    """Six APIs at once: each of them has the client, and none has lost another's registration."""
    one = await system.party()
    apis = [await make_api(system.deps) for _ in range(6)]
    body = {"client_id": one.id, "secret": one.secret, "redirect_uri": CALLBACK}
    responses = await asyncio.gather(*(register(system, api.api_id, **body) for api in apis))
    accepted = {api.api_id for api, response in zip(apis, responses, strict=True) if response.status == 200}
    assert {response.status for response in responses} <= {200, 409}
    assert accepted
    for api in apis:
        found = await system.deps.store.clients.registered(one.id, api.api_id)
        assert (found is not None) is (api.api_id in accepted)


async def test_c4_a_document_of_the_previous_version_keeps_working(system: System) -> None:
    """A stored client without the new fields authenticates, is listed, and can be registered on a further API."""
    one = await system.party()
    collection = system.deps.store.mongo[Clients.name]
    await collection.update_one({"_id": one.id}, {"$unset": {"others": "", "unregistered_at": ""}})
    stored = await collection.find_one({"_id": one.id})
    assert stored is not None
    assert stored["api_id"] == one.api.api_id
    system.deps.catalog.forget()
    assert (await one.verify(await credentials_token(one))).status == 200
    two = await also(one)
    assert (await two.verify(await credentials_token(two))).status == 200
    assert (await shown(one))["redirect_uri"] == CALLBACK
    assert (await system.operator("DELETE", url(two))).status == 200
    # With one registration left, the document has its old form again.
    stored = await collection.find_one({"_id": one.id})
    assert stored is not None
    assert (stored["api_id"], stored["others"]) == (one.api.api_id, [])


async def test_c4_registrations_have_bounds(system: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many APIs, or too much metadata together, is refused with a sentence that says so."""
    monkeypatch.setattr("services.management.clients.MOST_REGISTRATIONS", 2)
    one = await system.party()
    two = await also(one)
    api = await make_api(system.deps)
    response = await register(system, api.api_id, client_id=one.id, secret=one.secret)
    assert (response.status, "2 APIs" in response.message) == (400, True)
    monkeypatch.setattr("services.management.clients.MOST_BYTES", 3000)
    response = await system.operator("PUT", url(two), json={"meta_data": {"long": "x" * 3000}})
    assert (response.status, "too large together" in response.message) == (400, True)


async def test_c4_a_keyless_api_is_not_opened_by_policies(system: System) -> None:
    """A policy changes nothing for an API that asks for no token: it stays open, and no `aud`."""
    one = await system.party()
    keyless = await make_api(system.deps, document(**{"x-tyk-api-gateway__server__authentication__enabled": False}))
    policy = await make_policy(system.deps, one.api.api_id, keyless.api_id)
    party = await system.client_of(one.api, policy_ids=(policy.policy_id,))
    assert (await introspected(system, await credentials_token(party)))["aud"] == [one.api.api_id]
