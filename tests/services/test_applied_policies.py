"""Policies that the identity server applies to one grant take effect live, and what else it may set."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from contracts.policies import AccessRight, Policy
from libs.bus.local import LocalBroker, LocalBus
from libs.oauth.token_formats import TokenKind
from libs.policies import KeyRules
from services.gateway.access_rights import Right, Rights
from services.gateway.token_grants import token_grant
from tests.builders import make_policy
from tests.services.system import Party, System, auth_token, open_system
from tests.services.test_authorization_code import refused_with_redirect
from tests.services.test_gateway_verify import DISALLOWED, UNKNOWN, denied
from tests.services.test_user_policies import become, introspected, opening, statuses

INACTIVE = (403, "Key is inactive, please renew", "invalid_token")


def applying(*policies: Policy, **others: Any) -> str:
    """`key_rules` that apply these policies."""
    return json.dumps({"apply_policies": [policy.policy_id for policy in policies], **others})


async def edit(system: System, policy: Policy, **fields: Any) -> None:
    """Edit the policy as an operator."""
    document = policy.model_dump(mode="json", exclude={"policy_id", "created_at", "updated_at", "version"})
    path = f"/api/portal/policies/{policy.policy_id}"
    response = await system.operator("PUT", path, json={**document, **fields})
    assert response.status == 200, response.body


@pytest.mark.parametrize("legacy", [False, True], ids=["apply_policies", "apply_policy_id"])
async def test_c1_an_applied_policy_defines_the_rights_where_the_client_has_none(system: System, legacy: bool) -> None:
    """If the client has no policy, the applied ones alone define the grant's rights, after refresh too; other grants
    are unaffected.
    """
    party = await system.party()
    public = await opening(party, "a")
    rules = json.dumps({"apply_policy_id": public.policy_id}) if legacy else applying(public)
    tokens = await party.tokens(key_rules=rules)
    assert await statuses(party, tokens.access) == [200, 403, 403]
    assert await statuses(party, (await party.refreshed(tokens.refresh)).access) == [200, 403, 403]
    assert await statuses(party, (await party.tokens()).access) == [200, 200, 200]


async def test_c1_applied_policies_intersect_with_the_clients(system: System) -> None:
    """Applied policies are combined with each other and intersected with the client's; neither widens the other."""
    issuing = await system.party()
    ab, b, c = await opening(issuing, "a", "b"), await opening(issuing, "b"), await opening(issuing, "c")
    party = await system.client_of(issuing.api, policy_ids=(ab.policy_id,))
    assert await statuses(party, (await party.tokens(key_rules=applying(b, c))).access) == [403, 200, 403]
    assert await statuses(party, (await party.tokens(key_rules=applying(c))).access) == [403, 403, 403]
    assert await statuses(party, (await party.tokens()).access) == [200, 200, 403]


async def test_c1_the_stricter_limit_counts(system: System) -> None:
    """The stricter limit applies, at the gateway, in rate-limits and in the client's token list."""
    issuing = await system.party()
    narrow, wide = [await make_policy(system.deps, issuing.api.api_id, quota_max=most) for most in (1, 100)]
    for of_client, applied in ((wide, narrow), (narrow, wide)):
        party = await system.client_of(issuing.api, policy_ids=(of_client.policy_id,))
        token = (await party.tokens(key_rules=applying(applied))).access
        assert await statuses(party, token, "aa") == [200, 403]
        response = await system.call("GET", party.at("tyk/rate-limits"), headers={"Authorization": f"Bearer {token}"})
        assert response.body["quota"]["quota_max"] == 1
        listed = await system.operator("GET", f"/api/apis/oauth/{party.api.api_id}/{party.id}/tokens")
        assert [each["quota"]["quota_max"] for each in listed.body] == [1]


async def test_c1_another_api_opens_only_by_every_holder(system: System) -> None:
    """Another API is open only if both the client's and the applied policies allow it; introspection's `aud` agrees
    with the gateway.
    """
    issuing, accepting = await system.party(), await system.party(auth_token())
    both = await make_policy(system.deps, issuing.api.api_id, accepting.api.api_id)
    one = await make_policy(system.deps, issuing.api.api_id)
    rich = await system.client_of(issuing.api, policy_ids=(both.policy_id,))
    for party, applied, expected in ((issuing, both, [200, 200]), (rich, both, [200, 200]), (rich, one, [200, 403])):
        token = (await party.tokens(key_rules=applying(applied))).access
        assert [(await each.verify(token)).status for each in (party, accepting)] == expected
        aud = (await introspected(system, token))["aud"]
        assert (accepting.api.api_id in aud) is (expected[1] == 200)


async def test_c1_an_applied_policy_narrows_what_the_user_may_as_well(system: System) -> None:
    """If a grant has a resource owner and key_rules, client, rules and user must all allow a call."""
    issuing = await system.party()
    of_client, of_user = await opening(issuing, "a", "b"), await opening(issuing, "b", "c")
    applied = await make_policy(system.deps, issuing.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(of_client.policy_id,))
    user = await system.user(policy_ids=(of_user.policy_id,))
    response = await party.password(user.username)
    grant = await system.grant_of(response.body["access_token"])
    presented = system.deps.token_format.read(TokenKind.ACCESS, response.body["access_token"])
    assert presented is not None
    found = replace(token_grant(grant, presented), rules=KeyRules(apply_policies=(applied.policy_id,)))
    rights = Rights(system.deps.catalog)
    right = await rights.of(found, party.client, party.api)
    assert isinstance(right, Right)
    assert [right.access.allows("GET", [party.at(name)]) for name in "abc"] == [False, True, False]
    await edit(system, applied, access_rights={})
    assert not isinstance(await rights.of(found, party.client, party.api), Right)


# Edits of policies


@pytest.fixture(scope="module", name="gateways")
async def _gateways(mongodb_url: str) -> AsyncIterator[tuple[System, System]]:
    broker = LocalBroker()
    async with (
        open_system(mongodb_url, "tokenwire_test_key_rules", LocalBus(broker), cache_ttl=300) as one,
        open_system(mongodb_url, "tokenwire_test_key_rules", LocalBus(broker), cache_ttl=300) as two,
    ):
        yield one, two


@pytest.mark.parametrize("with_policy", [False, True], ids=["client-without-policy", "client-with-policy"])
async def test_c1_an_edit_of_an_applied_policy_holds_for_tokens_already_issued(
    gateways: tuple[System, System], with_policy: bool
) -> None:
    """An edit applies at the next call on each gateway, although both have cached the policy; a deleted one grants
    nothing.
    """
    issuing = await gateways[0].party()
    everything = await make_policy(gateways[0].deps, issuing.api.api_id)
    party = await gateways[0].client_of(issuing.api, policy_ids=(everything.policy_id,) if with_policy else ())
    policy = await opening(party, "a", "b")
    tokens = await party.tokens(key_rules=applying(policy))
    parties = [system.knows(party) for system in gateways]
    await become(parties, tokens.access, [200, 200, 403])
    urls = [{"url": f"^{party.at('c')}$", "methods": []}]
    right = AccessRight.model_validate({"api_id": party.api.api_id, "allowed_urls": urls}).model_dump(mode="json")
    await edit(gateways[0], policy, access_rights={party.api.api_id: right})
    await become(parties, tokens.access, [403, 403, 200])
    assert (await introspected(gateways[1], tokens.access))["aud"] == [party.api.api_id]
    await edit(gateways[0], policy, access_rights={})
    await become(parties, tokens.access, [403, 403, 403])
    assert denied(await party.verify(tokens.access), *DISALLOWED)
    await edit(gateways[0], policy)
    await become(parties, tokens.access, [200, 200, 403])
    assert (await gateways[0].operator("DELETE", f"/api/portal/policies/{policy.policy_id}")).status == 200
    await become(parties, tokens.access, [403, 403, 403])
    assert denied(await party.verify(tokens.access), *UNKNOWN)
    for system in gateways:
        assert await introspected(system, tokens.access) == {"active": False}
    refreshed = await party.refreshed(tokens.refresh)
    assert await statuses(party, refreshed.access) == [403, 403, 403]


async def test_c1_a_policy_that_is_not_active_or_locks_counts_as_everywhere(system: System) -> None:
    """`active: false` grants nothing, `is_inactive` locks the token."""
    party = await system.party()
    policy = await opening(party, "a")
    token = (await party.tokens(key_rules=applying(policy))).access
    await edit(system, policy, active=False)
    assert denied(await party.verify(token), *UNKNOWN)
    await edit(system, policy, is_inactive=True)
    assert denied(await party.verify(token), *INACTIVE)
    await edit(system, policy)
    assert await statuses(party, token) == [200, 403, 403]


# Refused code requests


async def refusal(party: Party, key_rules: str) -> str:
    """The error text; the format is that of every refused code request."""
    response = await party.authorize_client(key_rules=key_rules)
    refused_with_redirect(response, party, "invalid_request")
    return str(response.body["error_description"])


@pytest.mark.parametrize("with_policy", [False, True])
async def test_c1_an_unknown_policy_is_named(system: System, with_policy: bool) -> None:
    """An unknown policy gets 400, and no code is issued."""
    issuing = await system.party()
    policy = await make_policy(system.deps, issuing.api.api_id)
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,) if with_policy else ())
    for rules in ({"apply_policies": [policy.policy_id, "nowhere"]}, {"apply_policy_id": "nowhere"}):
        assert "'nowhere'" in await refusal(party, json.dumps(rules))


async def test_c1_applied_policies_must_include_the_issuing_api_if_the_client_has_none(system: System) -> None:
    """Without policies of the client, the applied ones must include the issuing API. A client with policies may have a
    token that does not.
    """
    issuing = await system.party()
    elsewhere, here = await make_policy(system.deps, "elsewhere"), await make_policy(system.deps, issuing.api.api_id)
    assert elsewhere.policy_id in await refusal(issuing, applying(elsewhere))
    party = await system.client_of(issuing.api, policy_ids=(here.policy_id,))
    assert denied(await party.verify((await party.tokens(key_rules=applying(elsewhere))).access), *DISALLOWED)


async def test_c1_rules_narrow_applied_policies(system: System) -> None:
    """Rules next to applied policies narrow them: rights and limits stay within the client's and the applied
    policies.
    """
    issuing, other = await system.party(), await system.party(auth_token())
    limited = await make_policy(system.deps, issuing.api.api_id, rate=10, per=60)
    named: dict[str, object] = {issuing.api.api_id: {}, other.api.api_id: {}}
    for rules in (applying(limited, rate=11, per=60), applying(limited, access_rights=named)):
        refused_with_redirect(await issuing.authorize_client(key_rules=rules), issuing, "access_denied", 403)
    urls = [{"url": f"^{issuing.at('b')}$", "methods": ["GET"]}]
    rights = {issuing.api.api_id: {"allowed_urls": urls}}
    tokens = await issuing.tokens(key_rules=applying(limited, rate=5, per=60, access_rights=rights))
    assert await statuses(issuing, tokens.access) == [403, 200, 403]


@pytest.mark.parametrize("as_json", [False, True], ids=["form", "json"])
async def test_c1_a_field_that_is_not_supported_is_refused_by_its_path(system: System, as_json: bool) -> None:
    """An unsupported field is refused with its path, in both encodings of the request."""
    party = await system.party()
    unsupported: list[tuple[dict[str, Any], str]] = [
        ({"hmac_enabled": True}, "hmac_enabled"),
        ({"unheard_of": "x"}, "unheard_of"),
        (
            {"access_rights": {party.api.api_id: {"limit": {"rate": 1, "per": 1}}}},
            f"access_rights.{party.api.api_id}.limit.rate",
        ),
    ]
    path = f"/api/apis/oauth/{party.api.api_id}/authorize-client"
    for rules, named in unsupported:
        form = {"response_type": "code", "client_id": party.id}
        asked = (
            {"json": {**form, "key_rules": rules}} if as_json else {"data": {**form, "key_rules": json.dumps(rules)}}
        )
        response = await system.operator("POST", path, **asked)
        assert (response.status, response.body["error"]) == (400, "invalid_request")
        assert f"key_rules: {named} is not supported" in response.body["error_description"]


# is_inactive and expires


async def test_c1_inactive_rules_open_nothing_from_the_start(system: System) -> None:
    """A grant with inactive rules is accepted nowhere, like an inactive session of Tyk's; introspection agrees."""
    party = await system.party()
    policy = await make_policy(system.deps, party.api.api_id)
    for rules in ('{"is_inactive": true}', applying(policy, is_inactive=True)):
        tokens = await party.tokens(key_rules=rules)
        assert denied(await party.verify(tokens.access), *INACTIVE)
        assert denied(await party.verify((await party.refreshed(tokens.refresh)).access), *INACTIVE)
        assert await introspected(system, tokens.access) == {"active": False}


async def test_c1_expires_ends_the_grant(system: System) -> None:
    """`expires` ends the grant with its tokens and code; it cannot extend anything."""
    party = await system.party()
    now = int(system.clock().timestamp())
    assert "expires is in the past" in await refusal(party, json.dumps({"expires": now - 1}))
    usual = (await party.tokens()).body["expires_in"]
    for expires in (0, -1, now + 10**9, 2**60):
        assert (await party.tokens(key_rules=json.dumps({"expires": expires}))).body["expires_in"] == usual
    tokens = await party.tokens(key_rules=json.dumps({"expires": now + 20}))
    grant = await system.grant_of(tokens.access)
    assert grant.expires_at.timestamp() == now + 20
    assert tokens.body["expires_in"] <= 20
    code = await party.code(key_rules=json.dumps({"expires": now + 20}))
    assert (await party.verify(tokens.access)).status == 200
    system.clock.advance(timedelta(seconds=21).total_seconds())
    assert (await party.verify(tokens.access)).status == 401
    assert (await party.refresh(tokens.refresh)).status == 400
    assert (await party.exchange(code)).status == 400
