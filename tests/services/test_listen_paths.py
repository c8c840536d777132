"""C9: APIs at `/` and below `/api/`, upstreams by ws:// and in turn, policies for APIs that come later."""

import itertools
from collections.abc import AsyncIterator
from typing import Any

import pytest

from contracts.apis import MANAGEMENT_PATHS
from services.operation_catalog import OPERATIONS
from tests.builders import Response, api_document, unique
from tests.services.system import Party, System, document, keyless, open_system, tokens_of
from tests.services.upstreams import Upstream, upstream
from tests.unit.tyk_definitions import changed

PLACE = "x-tyk-api-gateway/server/listenPath/value"
URL = "x-tyk-api-gateway/upstream/url"
DOORS = ("proxy", "verify")


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    """A system of its own: an API at `/` answers for every path that no other API has."""
    async with open_system(mongodb_url) as system:
        yield system


@pytest.fixture(scope="module", name="behind")
async def _behind() -> AsyncIterator[Upstream]:
    async with upstream() as behind:
        yield behind


async def ask(system: System, door: str, path: str, token: str = "") -> Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if door == "verify":
        return await system.verify(path, **headers)
    return await system.call("GET", path, headers=headers)


async def token_of(party: Party) -> str:
    return tokens_of(await party.token({"grant_type": "client_credentials"})).access


def test_c9_every_management_path_is_reserved() -> None:
    """An operation under a segment that is not in MANAGEMENT_PATHS could be hidden by an API, or hide one."""
    paths = [operation.path.split("/") for operation in OPERATIONS if operation.path.startswith("/api/")]
    assert paths
    assert {path[2] for path in paths} <= MANAGEMENT_PATHS


@pytest.mark.parametrize("door", DOORS)
async def test_c9_an_api_below_api(system: System, behind: Upstream, door: str) -> None:
    """`/api/<other>/…` is an API's; its OAuth endpoints are there, with RFC 6749's errors; management is unaffected."""
    party = await system.party(changed(changed(document(), PLACE, f"/api/{unique('v')}/"), URL, behind.url))
    token = await token_of(party)
    assert (await ask(system, door, party.at("orders"), token)).status == 200
    assert (await ask(system, door, party.at("orders"))).status == 400
    refused = await system.call("POST", party.at("oauth/token"), data={"grant_type": "client_credentials"})
    assert (refused.status, refused.body["error"]) == (401, "invalid_client")
    assert (await system.operator("GET", f"/api/apis/{party.api.api_id}")).status == 200
    assert (await system.call("GET", "/api/apis")).body["Status"] == "Error"


@pytest.mark.parametrize("path", ["/api/", "/api/apis/", "/api/apis/x/", "/api/portal/", "/api/events/stream/"])
async def test_c9_management_paths_stay_reserved(system: System, path: str) -> None:
    """The paths that exist are refused as listen paths."""
    response = await system.operator("POST", "/api/apis/oas", json=changed(api_document(), PLACE, path))
    assert (response.status, "is reserved" in response.message) == (400, True)


@pytest.mark.parametrize("door", DOORS)
async def test_c9_an_api_at_the_root_answers_last(mongodb_url: str, behind: Upstream, door: str) -> None:
    """Every path that no other API has belongs to `/`, which issues tokens at `/oauth/token`."""
    async with open_system(mongodb_url) as system:
        assert (await ask(system, door, "/anything")).status == 404
        root = await system.party(changed(changed(document(), PLACE, "/"), URL, behind.url))
        other = await system.party(changed(changed(document(), PLACE, "/orders/"), URL, behind.url))
        token = await token_of(root)
        for path in ("/anything", "/", "/a/b/c", "/ordersx", f"/{root.api.api_id}/x", "/.hidden/x", "/a%20b"):
            assert (await ask(system, door, path, token)).status == 200, path
            assert (await ask(system, door, path)).status == 400, path
        assert (await ask(system, door, "/orders/x", token)).status == 403
        assert (await ask(system, door, "/orders/x", await token_of(other))).status == 200
        # Servers may read this as a path of either API.
        assert (await ask(system, door, "/orders/..%2fx", token)).status == 400
        if door == "proxy":
            assert (await ask(system, door, f"/{root.api.api_id}/x?y=1", token)).status == 200
            assert behind.latest.line.startswith("GET /x?y=1 ")
        assert (await system.call("GET", "/healthz")).status == 200
        assert (await system.operator("DELETE", f"/api/apis/{root.api.api_id}")).status == 200
        assert (await ask(system, door, "/anything", token)).status == 404


async def test_c9_an_api_at_the_root_costs_no_look_up_of_its_own(mongodb_url: str) -> None:
    """A path without an API costs one look-up whether or not there is an API at `/`."""
    async with open_system(mongodb_url) as system:
        await system.party(changed(keyless(), PLACE, "/"))
        under, at, count = system.deps.store.apis.under, system.deps.store.apis.at, itertools.count()

        async def counted(segment: str) -> Any:
            next(count)
            return await under(segment)

        async def never(api_ref: str) -> Any:
            next(count)
            return await at(api_ref)

        system.deps.store.apis.under = counted  # type: ignore[method-assign]
        system.deps.store.apis.at = never  # type: ignore[method-assign]
        for name in ("a", "b", "c"):
            assert (await system.verify(f"/{name}/x")).status == 200
        assert next(count) == 3


async def test_c9_upstreams_by_websocket_url(system: System, behind: Upstream) -> None:
    """`ws://` is http: handshakes and other calls go to the same server."""
    party = await system.party(changed(document(), URL, behind.url.replace("http://", "ws://")))
    assert party.api.upstream_url == behind.url
    assert (await ask(system, "proxy", party.at("x"), await token_of(party))).status == 200
    tls = await system.party(changed(document(), URL, "WSS://upstream.example.test/base?x=1"))
    assert tls.api.upstream_url == "https://upstream.example.test/base?x=1"


@pytest.mark.parametrize("language", ["oas", "classic"])
async def test_c9_targets_get_the_calls_in_turn(system: System, language: str) -> None:
    """With load balancing, calls go to the targets in turn, by weight; their URLs are stored encrypted."""
    async with upstream() as one, upstream() as two:
        if language == "oas":
            targets = [{"url": one.url, "weight": 1}, {"url": two.url, "weight": 2}, {"url": one.url, "weight": 0}]
            made = changed(
                document(), "x-tyk-api-gateway/upstream/loadBalancing", {"enabled": True, "targets": targets}
            )
            expected = (4, 8)
        else:
            made = api_document("orders-classic.json", proxy__enable_load_balancing=True, proxy__target_url="")
            made = changed(made, "proxy/target_list", [one.url, two.url.replace("http", "ws")])
            expected = (6, 6)
        party = await system.party(made)
        token = await token_of(party)
        for _ in range(12):
            assert (await ask(system, "proxy", party.at("x"), token)).status == 200
        assert (len(one.asked), len(two.asked)) == expected
        stored = await system.deps.store.mongo["apis"].find_one({"_id": party.api.api_id})
        assert two.url not in str(stored)


@pytest.mark.parametrize("url", ["", "tyk://other/", "h2c://grpc.example.test:50051"])
async def test_c2_an_api_without_an_upstream_issues_tokens_and_serves_verify(system: System, url: str) -> None:
    """Calls through the gateway get 502 once they are admitted, and /verify answers for a proxy of one's own."""
    party = await system.party(changed(document(), URL, url))
    token = await token_of(party)
    assert (await ask(system, "verify", party.at("x"), token)).status == 200
    proxied = await ask(system, "proxy", party.at("x"), token)
    assert (proxied.status, proxied.body) == (502, {"error": "The API has no upstream that the gateway can call"})
    assert (await ask(system, "proxy", party.at("x"), "wrong")).status == 403


async def test_c9_a_policy_may_name_apis_that_come_later(system: System) -> None:
    """An unknown API is a warning and grants nothing, until there is one with that id."""
    one, later = await system.party(), unique("later")
    rights: dict[str, Any] = {api_id: {"versions": []} for api_id in (one.api.api_id, later)}
    response = await system.operator("POST", "/api/portal/policies", json={"access_rights": rights})
    assert response.status == 200, response.body
    assert response.body["Meta"] == {
        "warnings": [f"access_rights.{later}: there is no such API; it grants nothing until there is"]
    }
    party = await system.client_of(one.api, policy_ids=(response.message,))
    token = await token_of(party)
    assert (await party.verify(token)).status == 200
    definition = changed(document(), "x-tyk-api-gateway/info/id", later)
    assert (await system.operator("POST", "/api/apis/oas", json=definition)).status == 200
    path = definition["x-tyk-api-gateway"]["server"]["listenPath"]["value"]
    assert (await system.verify(f"{path}x", Authorization=f"Bearer {token}")).status == 200
    put = await system.operator("PUT", f"/api/portal/policies/{response.message}", json={"access_rights": rights})
    assert (put.status, put.body["Meta"]) == (200, None)


async def test_c9_access_rights_may_be_an_array(system: System) -> None:
    """`access_rights_array`, alone or equal to `access_rights`, grants what the mapping would."""
    one = await system.party()
    right = {"api_id": one.api.api_id, "api_name": "x", "allowed_urls": [{"url": "/a$", "methods": ["GET"]}]}
    for body in (
        {"access_rights_array": [right]},
        {"access_rights_array": [right], "access_rights": {one.api.api_id: right}},
        {"access_rights_array": [right], "access_rights": {}},
        {"access_rights_array": [right], "access_rights": None},
    ):
        response = await system.operator("POST", "/api/portal/policies", json=body)
        assert response.status == 200, response.body
        party = await system.client_of(one.api, policy_ids=(response.message,))
        token = await token_of(party)
        statuses = [(await ask(system, "verify", party.at(name), token)).status for name in ("a", "b")]
        assert statuses == [200, 403]
