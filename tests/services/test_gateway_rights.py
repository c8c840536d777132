"""What a call may reach: URLs and versions by policy, rules of the grant, and headers for the upstream."""

from typing import Any

import orjson
import pytest

from contracts.policies import AccessRight
from tests.builders import Response, api_document, make_policy
from tests.services.system import Party, System, document
from tests.services.test_gateway_verify import DISALLOWED, call, denied

URL_DISALLOWED = (403, "Access to this resource has been disallowed", "insufficient_scope")
EXTENSION = "x-tyk-api-gateway__"


async def limited_to(system: System, issuing: Party, **right: Any) -> Party:
    """A client of the issuing API whose policy grants this access right."""
    right = {"api_id": issuing.api.api_id, **right}
    policy = await make_policy(system.deps, access_rights={issuing.api.api_id: AccessRight.model_validate(right)})
    return await system.client_of(issuing.api, policy_ids=(policy.policy_id,))


async def asked(party: Party, token: str, path: str, method: str = "GET", **headers: str) -> Response:
    """The gateway's response for this path of the API."""
    named = {"X-Forwarded-Method": method, "Authorization": f"Bearer {token}", **headers}
    return await party.system.verify(party.at(path), **named)


async def test_only_the_allowed_urls_are_open_with_their_methods(system: System) -> None:
    """Only the allowed URLs and methods are open; no encoding bypasses them."""
    issuing = await system.party()
    urls = [{"url": f"^{issuing.at('orders')}(/|$)", "methods": ["GET"]}]
    party = await limited_to(system, issuing, allowed_urls=urls)
    token = (await party.tokens()).access
    assert (await asked(party, token, "orders/17?x=1")).status == 200
    for path, method in (
        ("orders", "POST"),
        ("others", "GET"),
        ("orders/../others", "GET"),
        ("orders/%2e%2e/others", "GET"),
        ("orders/..%2fothers", "GET"),
        ("%6frders2", "GET"),
    ):
        assert denied(await asked(party, token, path, method), *URL_DISALLOWED), path


async def test_an_edited_url_counts_for_tokens_already_issued(system: System) -> None:
    """An edited URL list applies to existing tokens at the next request."""
    issuing = await system.party()
    party = await limited_to(system, issuing, allowed_urls=[{"url": "/a$"}])
    token = (await party.tokens()).access
    assert (await asked(party, token, "a")).status == 200
    policy = await system.deps.store.policies.get(party.client.policy_ids[0])
    assert policy is not None
    right = AccessRight.model_validate({"api_id": issuing.api.api_id, "allowed_urls": [{"url": "/b$"}]})
    edited = policy.model_copy(update={"access_rights": {issuing.api.api_id: right}})
    assert await system.deps.store.policies.replace(policy, edited, system.deps.event_context("tests"))
    assert denied(await asked(party, token, "a"), *URL_DISALLOWED)
    assert (await asked(party, token, "b")).status == 200


async def test_a_url_that_cannot_be_matched_is_refused_when_it_is_written(system: System) -> None:
    """An invalid expression is refused when it is written, in policies and in key_rules; so is per_api with another
    partition.
    """
    party = await system.party()
    right = {party.api.api_id: {"api_id": party.api.api_id, "allowed_urls": [{"url": "(", "methods": []}]}}
    response = await system.operator("POST", "/api/portal/policies", json={"name": "x", "access_rights": right})
    assert response.status == 400
    assert response.message.startswith(f"access_rights.{party.api.api_id}.allowed_urls: '(' is not a valid RE2")
    refused = await party.authorize_client(key_rules=orjson.dumps({"access_rights": right}).decode())
    assert (refused.status, refused.body["error"]) == (400, "invalid_request")
    both = {"name": "x", "partitions": {"per_api": True, "quota": True}}
    response = await system.operator("POST", "/api/portal/policies", json=both)
    assert (response.status, response.message) == (400, "partitions: per_api cannot be combined with the others")


async def test_key_rules_narrow_what_the_policy_opens(system: System) -> None:
    """Key rules narrow what the policy grants; a refresh does not change that."""
    issuing = await system.party()
    party = await limited_to(system, issuing, allowed_urls=[{"url": "/a$"}, {"url": "/b$"}])
    rules = {"access_rights": {issuing.api.api_id: {"api_id": issuing.api.api_id, "allowed_urls": [{"url": "/a$"}]}}}
    tokens = await party.tokens(key_rules=orjson.dumps(rules).decode())
    later = await party.refreshed(tokens.refresh)
    assert (await asked(party, later.access, "a")).status == 200
    assert denied(await asked(party, later.access, "b"), *URL_DISALLOWED)
    assert (await asked(party, (await party.tokens()).access, "b")).status == 200


# Versions

OAS_VERSIONS = {
    "enabled": True,
    "name": "v1",
    "default": "self",
    "location": "header",
    "key": "x-api-version",
    "versions": [{"id": "another", "name": "v2"}],
}


@pytest.mark.parametrize("location", ["header", "url-param", "url"])
async def test_the_version_of_a_call_must_be_granted(system: System, location: str) -> None:
    """The version of a call (or the default one) must be granted."""
    versioning = {**OAS_VERSIONS, "location": location, "key": "" if location == "url" else "x-api-version"}
    issuing = await system.party(document(**{f"{EXTENSION}info__versioning": versioning}))
    party = await limited_to(system, issuing, versions=["v2"])
    token = (await party.tokens()).access

    async def version(name: str) -> Response:
        if location == "header":
            return await asked(party, token, "x", **{"X-Api-Version": name})
        return await asked(party, token, f"{name}/x" if location == "url" else f"x?x-api-version={name}")

    assert (await version("v2")).status == 200
    assert denied(await version("v1"), *DISALLOWED)
    assert denied(await asked(party, token, "x"), *DISALLOWED)


async def test_a_classic_api_with_versions_is_read_alike(system: System) -> None:
    """Tyk Classic's `version_data` and `definition` work alike."""
    classic = api_document(
        "orders-classic.json",
        definition={"location": "header", "key": "version"},
        version_data={"not_versioned": False, "default_version": "v1", "versions": {"v1": {"name": "v1"}, "v2": {}}},
    )
    issuing = await system.party(classic)
    party = await limited_to(system, issuing, versions=["v1"])
    token = (await party.tokens()).access
    assert (await asked(party, token, "x")).status == 200
    assert denied(await asked(party, token, "x", Version="v2"), *DISALLOWED)


# Metadata

ADDED = {
    "enabled": True,
    "add": [
        {"name": "X-Plan", "value": "$tyk_meta.plan"},
        {"name": "X-Team", "value": "team $tyk_meta.team of $tyk_meta.org"},
        {"name": "X-Fixed", "value": "fixed"},
        {"name": "X-Gone", "value": "$tyk_meta.nothing"},
    ],
}


async def test_metadata_reaches_the_upstream_where_the_definition_asks_for_it(system: System) -> None:
    """Metadata of client and policies goes to the upstream; missing values are not sent, and values cannot inject
    headers.
    """
    issuing = await system.party(document(**{f"{EXTENSION}middleware__global__transformRequestHeaders": ADDED}))
    policy = await make_policy(system.deps, issuing.api.api_id, meta_data={"plan": "gold"})
    meta_data = {"plan": "free", "team": "blau\r\nX-Admin: 1", "org": "ö"}
    party = await system.client_of(issuing.api, policy_ids=(policy.policy_id,), meta_data=meta_data)
    response = await call(party, Authorization=f"Bearer {(await party.tokens()).access}")
    assert response.status == 200
    assert response.headers["X-Plan"] == "gold"
    assert response.headers["X-Team"] == "team blau%0D%0AX-Admin: 1 of %C3%B6"
    assert response.headers["X-Fixed"] == "fixed"
    assert response.headers["X-Gone"] == ""
    assert "X-Admin" not in response.headers


async def test_a_classic_definitions_headers_are_read_alike(system: System) -> None:
    """`global_headers` of the default version work alike."""
    headers = {"X-Plan": "$tyk_meta.plan"}
    versions = {"not_versioned": True, "versions": {"Default": {"name": "Default", "global_headers": headers}}}
    issuing = await system.party(api_document("orders-classic.json", version_data=versions))
    party = await system.client_of(issuing.api, meta_data={"plan": "gold"})
    response = await call(party, Authorization=f"Bearer {(await party.tokens()).access}")
    assert response.headers["X-Plan"] == "gold"
