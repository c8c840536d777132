"""Policies of user and client are intersected, as of the time of the call."""

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from contracts.policies import AccessRight, Policy
from contracts.resource_owners import ResourceOwner
from libs.bus.local import LocalBroker, LocalBus
from tests.builders import Response, make_policy
from tests.eventually import eventually
from tests.services.system import PASSWORD, Party, System, auth_token, open_system, tokens_of
from tests.services.test_gateway_rights import asked
from tests.services.test_gateway_verify import DISALLOWED, UNKNOWN, denied

URLS = "/api/apis/keys/basic/"


async def opening(party: Party, *names: str, **fields: Any) -> Policy:
    """A policy for these paths of the API only."""
    urls = [{"url": f"^{party.at(name)}$", "methods": []} for name in names]
    right = AccessRight.model_validate({"api_id": party.api.api_id, "allowed_urls": urls})
    return await make_policy(party.system.deps, access_rights={party.api.api_id: right}, **fields)


async def login(party: Party, user: ResourceOwner) -> str:
    """The access token of a new login."""
    return tokens_of(await party.password(user.username)).access


async def edited(system: System, user: ResourceOwner, **fields: Any) -> None:
    """Edit the user as an operator."""
    response = await system.operator("PUT", URLS + user.username, json=fields)
    assert response.status == 200, response.body


async def statuses(party: Party, token: str, paths: str = "abc") -> list[int]:
    """The gateway's status for each path."""
    return [(await asked(party, token, path)).status for path in paths]


async def test_a6_a_user_s_policy_cannot_widen_the_client_s_rights(system: System) -> None:
    """Neither side gains by the other's policy; the client's own tokens are unaffected."""
    issuing = await system.party()
    first, second = await opening(issuing, "a", "b"), await opening(issuing, "b", "c")
    party = await system.client_of(issuing.api, policy_ids=(first.policy_id,))
    user, everything = await system.user(policy_ids=(second.policy_id,)), await system.user()
    own = tokens_of(await party.token({"grant_type": "client_credentials"})).access
    assert await statuses(party, await login(party, user)) == [403, 200, 403]
    assert await statuses(party, await login(party, everything)) == [200, 200, 403]
    assert await statuses(party, own) == [200, 200, 403]


async def test_a6_without_a_policy_of_the_client_the_user_s_must_hold_the_issuing_api(system: System) -> None:
    """Without client policies the user's define all rights, and must include the issuing API."""
    issuing, accepting = await system.party(), await system.party(auth_token())
    both = await make_policy(system.deps, issuing.api.api_id, accepting.api.api_id)
    other = await make_policy(system.deps, accepting.api.api_id)
    for policy, expected in ((both, [200, 200]), (other, [403, 403])):
        token = await login(issuing, await system.user(policy_ids=(policy.policy_id,)))
        assert [(await each.verify(token)).status for each in (issuing, accepting)] == expected


async def test_a6_the_stricter_limit_of_client_and_user_counts(system: System) -> None:
    """The stricter of the client's and user's quotas applies, either way."""
    issuing = await system.party()
    narrow, wide = [await make_policy(system.deps, issuing.api.api_id, quota_max=most) for most in (1, 100)]
    for of_client, of_user in ((wide, narrow), (narrow, wide)):
        party = await system.client_of(issuing.api, policy_ids=(of_client.policy_id,))
        token = await login(party, await system.user(policy_ids=(of_user.policy_id,)))
        assert await statuses(party, token, "aa") == [200, 403]
        response = await system.call("GET", party.at("tyk/rate-limits"), headers={"Authorization": f"Bearer {token}"})
        assert response.body["quota"]["quota_max"] == 1
        listed = await system.operator("GET", f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens")
        assert [each["quota"]["quota_max"] for each in listed.body] == [1]


async def test_a6_a_user_whose_policies_are_gone_opens_nothing(system: System) -> None:
    """If the user's policies are deleted, nothing is allowed, rather than the client's full rights."""
    issuing = await system.party()
    policy = await opening(issuing, "a")
    token = await login(issuing, await system.user(policy_ids=(policy.policy_id,)))
    assert await statuses(issuing, token, "ab") == [200, 403]
    assert await system.deps.store.policies.delete(policy, system.deps.event_context("tests"))
    assert await statuses(issuing, token, "ab") == [403, 403]


@pytest.fixture(scope="module", name="gateways")
async def _gateways(mongodb_url: str) -> AsyncIterator[tuple[System, System]]:
    broker = LocalBroker()
    async with (
        open_system(mongodb_url, "tokenwire_test_user_policies", LocalBus(broker), cache_ttl=300) as one,
        open_system(mongodb_url, "tokenwire_test_user_policies", LocalBus(broker), cache_ttl=300) as two,
    ):
        yield one, two


async def become(parties: Sequence[Party], token: str, expected: list[int]) -> None:
    """Wait until every gateway agrees; the changed instance at once, the other by the bus."""
    assert await statuses(parties[0], token) == expected
    for party in parties:

        async def heard(party: Party = party) -> bool:
            return await statuses(party, token) == expected

        await eventually(heard, within=4)


async def test_a6_narrowing_a_user_holds_for_tokens_already_issued(gateways: tuple[System, System]) -> None:
    """Narrowing and widening apply to existing tokens on each gateway, although both cached the user."""
    issuing = await gateways[0].party()
    wide, narrow = await opening(issuing, "a", "b"), await opening(issuing, "a")
    user = await gateways[0].user(policy_ids=(wide.policy_id,))
    token = await login(issuing, user)
    parties = [system.knows(issuing) for system in gateways]
    await become(parties, token, [200, 200, 403])
    await edited(gateways[0], user, policy_ids=[narrow.policy_id])
    await become(parties, token, [200, 403, 403])
    await edited(gateways[0], user, policy_ids=[])
    await become(parties, token, [200, 200, 200])


async def introspected(system: System, token: str) -> Any:
    """What introspection tells an operator."""
    return (await system.operator("POST", "/oauth/introspect", data={"token": token})).body


async def test_a6_a_user_who_is_not_active_or_gone_opens_nothing(gateways: tuple[System, System]) -> None:
    """Tokens of an inactive or deleted user are refused everywhere and inactive; they work again when the user is
    active.
    """
    issuing = await gateways[0].party()
    user = await gateways[0].user()
    tokens = tokens_of(await issuing.password(user.username))
    parties = [system.knows(issuing) for system in gateways]
    await become(parties, tokens.access, [200, 200, 200])
    await edited(gateways[0], user, active=False)
    await become(parties, tokens.access, [403, 403, 403])
    for token in (tokens.access, tokens.refresh):
        assert await introspected(gateways[0], token) == {"active": False}
    await edited(gateways[0], user, active=True)
    await become(parties, tokens.access, [200, 200, 200])
    assert (await introspected(gateways[0], tokens.refresh))["active"] is True
    response = await gateways[0].operator("DELETE", URLS + user.username)
    assert response.status == 200
    await become(parties, tokens.access, [403, 403, 403])
    assert denied(await issuing.verify(tokens.access), *UNKNOWN)


async def test_a6_a_user_created_again_inherits_no_tokens(system: System) -> None:
    """A user created again under the same name does not inherit tokens."""
    issuing = await system.party()
    name = (await system.user()).username
    made: list[Response] = []
    for _ in range(2):
        await system.operator("DELETE", URLS + name)
        system.clock.advance(1)
        assert (await system.operator("POST", URLS + name, json={"password": PASSWORD})).status == 200
        made.append(await issuing.password(name))
    before, after = [tokens_of(response) for response in made]
    assert denied(await issuing.verify(before.access), *UNKNOWN)
    assert (await issuing.verify(after.access)).status == 200


async def test_a6_a_subject_of_the_identity_server_is_not_a_user_of_ours(system: System) -> None:
    """A code's subject is not a resource owner, even with the same name."""
    issuing = await system.party()
    user = await system.user(policy_ids=((await make_policy(system.deps, "elsewhere")).policy_id,))
    assert (await issuing.verify((await issuing.tokens(subject=user.username)).access)).status == 200
    assert denied(await issuing.verify(await login(issuing, user)), *DISALLOWED)
