"""What policies allow is previewed as calls are decided, and who has a policy is found."""

from typing import Any

import pytest

from contracts.operators import Permission
from contracts.policies import AccessRight, AllowedUrl
from tests.builders import make_api, make_operator, make_policy, make_resource_owner, unique
from tests.services.system import System

PREVIEW = "/api/portal/policies/preview"


async def previewed(system: System, **wanted: Any) -> dict[str, Any]:
    """The preview, by API."""
    response = await system.operator("POST", PREVIEW, json=wanted)
    assert response.status == 200, response.body
    return {api["api_id"]: api for api in response.body["apis"]} | {"": response.body}


@pytest.mark.parametrize(
    ("outcome", "policies", "status"),
    [
        pytest.param("granted", [{}], 200, id="granted"),
        pytest.param("granted", [{"active": False}, {}], 200, id="one-of-two-switched-off"),
        pytest.param("no_active_policy", [{"active": False}], 403, id="switched-off"),
        pytest.param("inactive", [{}, {"is_inactive": True}], 403, id="inactive"),
        pytest.param("not_granted", [{"access_rights": {}}], 403, id="no-right"),
    ],
)
async def test_a_preview_says_what_a_call_gets(
    system: System, outcome: str, policies: list[dict[str, Any]], status: int
) -> None:
    """The outcome of the preview is that of a call with a token of the client app."""
    api = await make_api(system.deps)
    made = [await make_policy(system.deps, api.api_id, **fields) for fields in policies]
    ids = tuple(policy.policy_id for policy in made)
    party = await system.client_of(api, policy_ids=ids)
    found = await previewed(system, api_id=api.api_id, client_id=party.id)
    assert found[api.api_id]["outcome"] == outcome
    assert found[""]["policy_ids"] == list(ids)
    assert (await party.verify((await party.tokens()).access)).status == status
    bare = await system.client_of(api)
    tried = await previewed(system, api_id=api.api_id, client_id=bare.id, policy_ids=list(ids))
    assert tried[api.api_id]["outcome"] == outcome
    assert (await bare.verify((await bare.tokens()).access)).status == 200  # nothing was changed


async def test_a_preview_has_paths_limits_and_metadata(system: System) -> None:
    """Of the policies of the client app and the user together: each must allow, and the stricter limit counts."""
    api, other = await make_api(system.deps), await make_api(system.deps)
    url = AllowedUrl(url="^/orders/[0-9]+$", methods=("GET", "POST"))
    right = AccessRight(api_id=api.api_id, allowed_urls=(url,))
    mine = await make_policy(
        system.deps,
        access_rights={api.api_id: right, other.api_id: AccessRight(api_id=other.api_id), "nowhere": right},
        rate=5,
        per=10,
        meta_data={"tier": "gold"},
    )
    theirs = await make_policy(system.deps, api.api_id, rate=2, per=10, quota_max=100, quota_renewal_rate=60)
    user = await make_resource_owner(system.deps, "a password", policy_ids=(theirs.policy_id,))
    party = await system.client_of(api, policy_ids=(mine.policy_id,), meta_data={"team": "a"})
    found = await previewed(system, api_id=api.api_id, client_id=party.id)
    assert next(iter(found)) == api.api_id
    assert found[api.api_id]["urls"] == [[{"url": "^/orders/[0-9]+$", "methods": ["GET", "POST"]}]]
    assert found[api.api_id]["limits"] == {"rate": 5, "per": 10, "quota_max": -1, "quota_renewal_rate": 0}
    assert found[api.api_id]["meta_data"] == {"team": "a", "tier": "gold"}
    assert found[other.api_id]["urls"] == []
    assert found["nowhere"]["outcome"] == "no_such_api"
    both = await previewed(system, api_id=api.api_id, client_id=party.id, username=user.username)
    assert both[api.api_id]["limits"] == {"rate": 2, "per": 10, "quota_max": 100, "quota_renewal_rate": 60}
    assert both[other.api_id]["outcome"] == "not_granted"
    assert both[""]["user_policy_ids"] == [theirs.policy_id]
    without = await previewed(system, api_id=api.api_id, client_id=party.id, policy_ids=[])
    assert (without[api.api_id]["outcome"], set(without) - {""}) == ("granted", {api.api_id})


@pytest.mark.parametrize(
    ("wanted", "status", "says"),
    [
        ({}, 400, "api_id"),
        ({"api_id": "nowhere"}, 404, "API not found"),
        ({"api_id": "REAL", "client_id": "nobody"}, 404, "not registered"),
        ({"api_id": "REAL", "username": "nobody"}, 404, "resource owner not found"),
        ({"api_id": "REAL", "policy_ids": ["nothing"]}, 400, "there is no policy 'nothing'"),
        ({"api_id": "REAL", "policy_ids": ["p"] * 51}, 400, "policy_ids"),
        ({"api_id": "REAL", "what": 1}, 400, "what"),
    ],
)
async def test_a_preview_of_what_is_not_there_is_refused(
    system: System, wanted: dict[str, Any], status: int, says: str
) -> None:
    """The message names what is wrong."""
    api = await make_api(system.deps)
    body = {name: api.api_id if value == "REAL" else value for name, value in wanted.items()}
    response = await system.operator("POST", PREVIEW, json=body)
    assert (response.status, response.body["Status"]) == (status, "Error")
    assert says in response.message


async def test_who_has_a_policy_is_found_on_every_api_of_a_client(system: System) -> None:
    """A client app that has it on its second API is found with that API; deleted records are not."""
    api, other = await make_api(system.deps), await make_api(system.deps)
    policy = await make_policy(system.deps, api.api_id)
    await system.client_of(api)
    second = unique("client")
    given = {"client_id": second, "secret": "a secret of at least 24 characters", "redirect_uri": "https://a.test/cb"}
    for api_id, policy_ids in ((other.api_id, []), (api.api_id, [policy.policy_id])):
        registered = await system.operator(
            "POST", f"/api/apis/oauth/{api_id}", json={**given, "policy_ids": policy_ids}
        )
        assert registered.status == 200, registered.body
    gone = await system.client_of(api, policy_ids=(policy.policy_id,))
    await system.operator("DELETE", f"/api/apis/oauth/{api.api_id}/{gone.id}")
    user = await make_resource_owner(system.deps, "a password", policy_ids=(policy.policy_id,))
    reader = system.call.with_key(await make_operator(system.deps, Permission.READ))
    response = await reader("GET", f"/api/portal/policies/{policy.policy_id}/usage")
    assert response.status == 200, response.body
    assert response.body == {
        "clients": [{"client_id": second, "api_id": api.api_id, "client_name": ""}],
        "client_count": 1,
        "users": [user.username],
        "user_count": 1,
    }
    assert (await reader("GET", "/api/portal/policies/nothing/usage")).status == 404
