"""The open-source Tyk gateway's own API: paths, methods, statuses and envelopes as Tyk's clients know them."""

import base64
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest
import structlog

from contracts.operations import Operation
from contracts.operators import Permission
from libs.access import TYK_KEY_HEADER
from services.operation_catalog import TYK_GATEWAY_OPERATIONS
from tests.builders import CALLBACK, Caller, Response, api_document, make_operator, make_policy, unique
from tests.services.system import PASSWORD, System, open_system
from tests.unit.tyk_definitions import changed

CLIENT_FIELDS = {"client_id", "secret", "redirect_uri", "policy_id", "meta_data", "description"}


@pytest.fixture(scope="module", name="system")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url, tyk_gateway_api=True) as system:
        yield system


@pytest.fixture(scope="module", name="tyk")
async def _tyk(system: System) -> Caller:
    """A client of Tyk's gateway: the key is in Tyk's header."""
    key = await make_operator(system.deps, Permission.ADMIN)
    return Caller(system.call.http, {TYK_KEY_HEADER: key})


def ok(response: Response, status: int = 200) -> Any:
    assert response.status == status, response.raw
    assert response.headers["Content-Type"] == "application/json"
    return response.body


def refusal(response: Response) -> tuple[int, str]:
    """Status and message of an error in the gateway's envelope."""
    assert set(response.body) - {"meta"} == {"status", "message"}, response.body
    assert response.body["status"] == "error"
    return response.status, response.body["message"]


def acted(key: str, action: str) -> dict[str, str]:
    return {"key": key, "status": "ok", "action": action}


async def api_of(tyk: Caller, name: str = "orders-oas.json") -> tuple[str, str]:
    """Import an API; its id and its listen path."""
    document = api_document(name)
    if name == "orders-classic.json":
        api_id, path = document["api_id"], document["proxy"]["listen_path"]
        assert ok(await tyk("POST", "/tyk/apis/", json=document))["key"] == api_id
    else:
        extension = document["x-tyk-api-gateway"]
        api_id, path = extension["info"]["id"], extension["server"]["listenPath"]["value"]
        assert ok(await tyk("POST", "/tyk/apis/oas", json=document))["key"] == api_id
    return api_id, path


async def client_of(tyk: Caller, api_id: str, **said: Any) -> dict[str, Any]:
    body = {"api_id": api_id, "redirect_uri": CALLBACK, **said}
    client: dict[str, Any] = ok(await tyk("POST", "/tyk/oauth/clients/create", json=body))
    return client


async def token_of(system: System, path: str, client: dict[str, Any], **form: str) -> dict[str, Any]:
    credentials = base64.b64encode(f"{client['client_id']}:{client['secret']}".encode()).decode()
    form = {"grant_type": "client_credentials"} | form
    response = await system.call(
        "POST", f"{path}oauth/token", data=form, headers={"Authorization": f"Basic {credentials}"}
    )
    issued: dict[str, Any] = ok(response)
    return issued


async def passes(system: System, path: str, token: str) -> bool:
    return (await system.verify(f"{path}x", Authorization=f"Bearer {token}")).status == 200


def filled(path: str) -> str:
    """The path with ids of nothing."""
    return path.format(api_id="x", client_id="x", policy_id="x", username="x", token="tw_at_x")


@pytest.fixture(scope="module", name="keys")
async def _keys(system: System) -> dict[Permission, str]:
    """An operator key for each permission."""
    return {permission: await make_operator(system.deps, permission) for permission in Permission}


# Keys


@pytest.mark.parametrize(
    ("method", "path"),
    sorted({(each.method, each.path) for each in TYK_GATEWAY_OPERATIONS if each.permission}),
    ids=lambda value: value,
)
async def test_c6_a_missing_or_wrong_key_is_refused_as_tyk_does(system: System, method: str, path: str) -> None:
    """Every path: 403 with Tyk's sentence, whichever header has the wrong key; an OAuth error for the code request."""
    path = filled(path)
    for headers in ({}, {TYK_KEY_HEADER: "wrong"}, {"Authorization": "wrong"}):
        response = await system.call(method, path, headers=headers)
        assert refusal(response) == (403, "Attempted administrative access with invalid or missing key!"), headers


@pytest.mark.parametrize("operation", TYK_GATEWAY_OPERATIONS, ids=lambda operation: operation.name)
async def test_c6_each_operation_needs_its_permission(
    system: System, keys: dict[Permission, str], operation: Operation
) -> None:
    """403 with each other permission, before anything else is checked; not 403 with its own, or with `admin`."""
    path = filled(operation.path)
    for permission, key in keys.items():
        response = await system.call(operation.method, path, headers={TYK_KEY_HEADER: key})
        allowed = operation.permission in {None, permission} or permission is Permission.ADMIN
        assert (response.status == 403) is not allowed, (permission, response.raw)
        assert response.status < 500


async def test_c6_tyk_s_header_is_accepted_wherever_an_operator_key_is(mongodb_url: str) -> None:
    """Also without the setting: Dashboard API, code request below the listen path, introspection. It wins."""
    async with open_system(mongodb_url) as system:
        party = await system.party()
        key = await make_operator(system.deps, Permission.ADMIN)
        tyk = {TYK_KEY_HEADER: key}
        assert (await system.call("GET", "/api/apis", headers=tyk)).status == 200
        assert (await system.call("GET", "/api/apis", headers=tyk | {"Authorization": "Basic eA=="})).status == 200
        assert (
            await system.call("GET", "/api/apis", headers={TYK_KEY_HEADER: "wrong", "Authorization": key})
        ).status == 401
        form = {"response_type": "code", "client_id": party.id, "redirect_uri": CALLBACK}
        code = await system.call("POST", party.at("tyk/oauth/authorize-client"), data=form, headers=tyk)
        assert code.status == 200, code.raw
        tokens = await party.tokens()
        introspected = await system.call("POST", "/oauth/introspect", data={"token": tokens.access}, headers=tyk)
        assert introspected.body["active"], introspected.raw


async def test_c6_the_gateway_api_is_off_unless_it_is_wanted(mongodb_url: str) -> None:
    """Without the setting there is nothing at its paths."""
    async with open_system(mongodb_url) as system:
        for path in ("/tyk/apis", "/tyk/oauth/clients/x", "/tyk/policies", "/tyk/keys/x", "/tyk/reload", "/hello"):
            assert (await system.operator("GET", path)).status == 404, path
        assert (await system.operator("POST", "/tyk/oauth/authorize-client", data={})).status == 404


async def test_c6_permissions_are_those_of_our_operations(system: System) -> None:
    """An operator who may only read cannot write, revoke or issue codes, and does not see secrets."""
    tyk = Caller(system.call.http, {TYK_KEY_HEADER: await make_operator(system.deps, Permission.ADMIN)})
    reader = Caller(system.call.http, {TYK_KEY_HEADER: await make_operator(system.deps, Permission.READ)})
    api_id, _ = await api_of(tyk)
    client = await client_of(tyk, api_id)
    shown = ok(await reader("GET", f"/tyk/oauth/clients/{api_id}/{client['client_id']}"))
    assert "secret" not in shown
    for method, path in (
        ("POST", "/tyk/oauth/clients/create"),
        ("DELETE", f"/tyk/apis/{api_id}"),
        ("POST", "/tyk/oauth/revoke"),
        ("POST", "/tyk/oauth/authorize-client"),
    ):
        status, message = refusal(await reader(method, path, json={}))
        assert (status, "permission" in message) == (403, True), message


# APIs


@pytest.mark.parametrize("name", ["orders-oas.json", "orders-classic.json"])
async def test_c6_apis_are_imported_listed_replaced_and_deleted(tyk: Caller, name: str) -> None:
    """With the gateway's actions; importing the same definition again replaces it, as at Tyk."""
    api_id, _ = await api_of(tyk, name)
    shown = ok(await tyk("GET", f"/tyk/apis/{api_id}"))
    assert shown["api_id"] == api_id
    assert api_id in [api["api_id"] for api in ok(await tyk("GET", "/tyk/apis"))]
    oas = "oas" in name
    listed = [api["x-tyk-api-gateway"]["info"]["id"] for api in ok(await tyk("GET", "/tyk/apis/oas"))]
    assert (api_id in listed) is oas
    place = f"/tyk/apis/oas/{api_id}" if oas else f"/tyk/apis/{api_id}"
    document = ok(await tyk("GET", place))
    assert ok(await tyk("PUT", place, json=document)) == acted(api_id, "modified")
    assert ok(await tyk("POST", "/tyk/apis", json=document)) == acted(api_id, "added")
    assert ok(await tyk("DELETE", place)) == acted(api_id, "deleted")
    assert refusal(await tyk("GET", f"/tyk/apis/{api_id}")) == (404, "API not found")


async def test_c6_an_api_that_needs_what_is_not_supported_is_refused_in_the_gateway_s_envelope(tyk: Caller) -> None:
    """What would protect and is not enforced is refused by name, as below /api/apis."""
    document = changed(api_document("orders-classic.json"), "use_mutual_tls_auth", True)
    response = await tyk("POST", "/tyk/apis", json=document)
    status, message = refusal(response)
    assert (status, "use_mutual_tls_auth" in message) == (400, True), message
    assert response.body["meta"]["refused"]


async def test_c6_another_api_s_listen_path_is_not_taken_over(tyk: Caller) -> None:
    """Replacing by import needs the same id: a new id on a taken listen path is refused."""
    api_id, path = await api_of(tyk)
    other = changed(api_document(), "x-tyk-api-gateway/server/listenPath/value", path)
    status, message = refusal(await tyk("POST", "/tyk/apis/oas", json=other))
    assert (status, api_id in message) == (409, True), message


async def test_c6_reload_and_hello_satisfy_scripts(system: System, tyk: Caller) -> None:
    """Reload says ok; /hello needs no key and says `pass`."""
    for path in ("/tyk/reload", "/tyk/reload/", "/tyk/reload/group?block=true"):
        assert ok(await tyk("GET", path)) == {"status": "ok", "message": ""}
    hello = ok(await system.call("GET", "/hello"))
    assert (hello["status"], set(hello)) == ("pass", {"status", "version", "description"})


# Policies


async def test_c6_policies_are_created_listed_replaced_and_deleted(tyk: Caller) -> None:
    """A second POST of an id replaces the policy, as at Tyk, and PUT needs one that exists."""
    api_id, _ = await api_of(tyk)
    policy_id = unique("policy")
    policy = {"id": policy_id, "name": "Gold", "active": True, "rate": 100, "per": 60}
    policy |= {"access_rights": {api_id: {"api_id": api_id, "versions": ["Default"]}}}
    assert ok(await tyk("POST", "/tyk/policies", json=policy)) == acted(policy_id, "added")
    assert ok(await tyk("POST", "/tyk/policies", json=policy | {"rate": 50})) == acted(policy_id, "added")
    assert ok(await tyk("GET", f"/tyk/policies/{policy_id}"))["rate"] == 50
    assert policy_id in [each["id"] for each in ok(await tyk("GET", "/tyk/policies"))]
    assert ok(await tyk("PUT", f"/tyk/policies/{policy_id}", json=policy)) == acted(policy_id, "modified")
    assert ok(await tyk("DELETE", f"/tyk/policies/{policy_id}")) == acted(policy_id, "deleted")
    assert refusal(await tyk("GET", f"/tyk/policies/{policy_id}"))[0] == 404
    assert refusal(await tyk("PUT", f"/tyk/policies/{policy_id}", json=policy))[0] == 404


async def test_c6_a_list_is_complete_however_long_it_is(system: System, tyk: Caller) -> None:
    """The gateway's lists have no pages: more than one of ours come in one response."""
    api_id, _ = await api_of(tyk)
    made = [(await make_policy(system.deps, api_id)).policy_id for _ in range(230)]
    listed = [each["id"] for each in ok(await tyk("GET", "/tyk/policies"))]
    assert set(made) <= set(listed)
    assert len(listed) == len(set(listed))


# Client apps


async def test_c6_clients_are_created_read_updated_rotated_and_deleted(system: System, tyk: Caller) -> None:
    """The gateway's client object in both directions; the secret works at once, and then the rotated one."""
    api_id, path = await api_of(tyk)
    policy = (await make_policy(system.deps, api_id)).policy_id
    client = await client_of(tyk, api_id, policy_id=policy, meta_data={"tier": "gold"}, description="An app")
    assert client.keys() == CLIENT_FIELDS
    place = f"/tyk/oauth/clients/{api_id}/{client['client_id']}"
    assert ok(await tyk("GET", place)) == client
    assert ok(await tyk("GET", f"/tyk/oauth/clients/{api_id}")) == [client]
    assert ok(await tyk("GET", f"/tyk/oauth/clients/apis/{client['client_id']}?orgID=")) == [api_id]
    assert await passes(system, path, (await token_of(system, path, client))["access_token"])

    updated = ok(await tyk("PUT", place, json={"redirect_uri": f"{CALLBACK}/2", "policy_id": policy}))
    assert updated == client | {"redirect_uri": f"{CALLBACK}/2", "meta_data": {}, "description": ""}
    rotated = ok(await tyk("PUT", f"{place}/rotate/"))
    assert rotated["secret"] != client["secret"]
    await token_of(system, path, rotated)

    assert ok(await tyk("DELETE", place)) == acted(client["client_id"], "deleted")
    assert ok(await tyk("DELETE", place)) == acted(client["client_id"], "deleted")
    assert refusal(await tyk("GET", place)) == (404, "OAuth Client ID not found")


async def test_c6_a_created_client_may_choose_its_id_and_secret_and_overwrites(system: System, tyk: Caller) -> None:
    """As at Tyk, POST of an existing id overwrites it, the secret included; on another API it is not taken over."""
    api_id, path = await api_of(tyk)
    chosen = {"client_id": unique("app"), "secret": "a-secret-of-24-characters-1", "api_id": api_id}
    assert (
        ok(await tyk("POST", "/tyk/oauth/clients/create", json=chosen | {"description": "one"}))["secret"]
        == chosen["secret"]
    )
    again = ok(await tyk("POST", "/tyk/oauth/clients/create", json=chosen | {"redirect_uri": CALLBACK}))
    assert (again["secret"], again["redirect_uri"], again["description"]) == (chosen["secret"], CALLBACK, "")
    await token_of(system, path, again)
    other = ok(await tyk("POST", "/tyk/oauth/clients/create", json=chosen | {"secret": "a-secret-of-24-characters-2"}))
    assert other["secret"] == "a-secret-of-24-characters-2"
    await token_of(system, path, other)


async def test_c6_without_api_id_the_policy_names_the_api(system: System, tyk: Caller) -> None:
    """The client is registered on the OAuth API of its policy; without either, the request is refused."""
    api_id, path = await api_of(tyk)
    policy = (await make_policy(system.deps, api_id)).policy_id
    client = ok(await tyk("POST", "/tyk/oauth/clients/create", json={"policy_id": policy}))
    assert ok(await tyk("GET", f"/tyk/oauth/clients/apis/{client['client_id']}")) == [api_id]
    await token_of(system, path, client)
    assert refusal(await tyk("POST", "/tyk/oauth/clients/create", json={})) == (400, "Policy doesn't exist")


async def test_c6_without_api_id_the_client_is_registered_on_every_oauth_api_of_its_policy(
    system: System, tyk: Caller
) -> None:
    """With one id and one secret; a code request finds the API by the redirect URI, or says where to send it."""
    (one, one_path), (two, two_path) = await api_of(tyk), await api_of(tyk)
    policy = (await make_policy(system.deps, one, two)).policy_id
    body = {"policy_id": policy, "redirect_uri": CALLBACK}
    client = ok(await tyk("POST", "/tyk/oauth/clients/create", json=body))
    assert sorted(ok(await tyk("GET", f"/tyk/oauth/clients/apis/{client['client_id']}"))) == sorted([one, two])
    for path in (one_path, two_path):
        token = (await token_of(system, path, client))["access_token"]
        assert ok(await tyk("GET", f"/tyk/keys/{token}"))["oauth_client_id"] == client["client_id"]
        assert ok(await tyk("DELETE", f"/tyk/keys/{token}")) == acted(token, "deleted")
        assert not await passes(system, path, token)
    form = {"response_type": "code", "client_id": client["client_id"], "redirect_uri": CALLBACK, "subject": "alice"}
    response = await tyk("POST", "/tyk/oauth/authorize-client", data=form)
    assert (response.status, "several APIs" in response.body["error_description"]) == (400, True), response.raw
    place = f"/tyk/oauth/clients/{two}/{client['client_id']}"
    other = f"{CALLBACK}/two"
    ok(await tyk("PUT", place, json={"redirect_uri": other, "policy_id": policy}))
    code = ok(await tyk("POST", "/tyk/oauth/authorize-client", data=form | {"redirect_uri": other}))["code"]
    exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": other}
    assert await passes(system, two_path, (await token_of(system, two_path, client, **exchange))["access_token"])


async def test_c6_refusals_about_clients_are_tyk_s(system: System, tyk: Caller) -> None:
    """The documented statuses and messages."""
    api_id, _ = await api_of(tyk)
    other_api, _ = await api_of(tyk)
    client = await client_of(tyk, api_id)
    place = f"/tyk/oauth/clients/{api_id}/{client['client_id']}"
    elsewhere = (await make_policy(system.deps, other_api)).policy_id
    unknown = await tyk("GET", "/tyk/oauth/clients/nothing")
    assert (unknown.status, unknown.body) == (404, None)
    for method, path, body, refused in (
        ("POST", "/tyk/oauth/clients/create", {"api_id": "nothing"}, (400, "API doesn't exist")),
        ("GET", "/tyk/oauth/clients/nothing/x", None, (404, "OAuth Client ID not found")),
        ("PUT", f"/tyk/oauth/clients/nothing/{client['client_id']}", {}, (404, "API doesn't exist")),
        ("PUT", f"/tyk/oauth/clients/{api_id}/nothing", {}, (404, "OAuth Client ID not found")),
        ("PUT", place, {"policy_id": "nothing"}, (404, "Policy doesn't exist")),
        (
            "PUT",
            place,
            {"policy_id": elsewhere},
            (400, "Policy access rights doesn't contain API this OAuth client belongs to"),
        ),
        ("PUT", f"/tyk/oauth/clients/{api_id}/nothing/rotate", None, (404, "OAuth Client ID not found")),
        ("PUT", f"/tyk/oauth/clients/nothing/{client['client_id']}/rotate", None, (404, "API doesn't exist")),
        ("DELETE", "/tyk/oauth/clients/nothing/x", None, (404, "OAuth Client ID not found")),
    ):
        response = await tyk(method, path, **({} if body is None else {"json": body}))
        assert refusal(response) == refused, (method, path)


async def test_c6_changes_are_in_the_audit_log_under_the_operator(system: System, tyk: Caller) -> None:
    """The audit log names who did it, as for the Dashboard API."""
    api_id, _ = await api_of(tyk)
    client = await client_of(tyk, api_id)
    await system.deps.outbox.drain()
    await system.deps.bus.drain()
    entries = (await system.operator("GET", f"/api/audit?subject={client['client_id']}")).body["entries"]
    about = [entry for entry in entries if entry["action"] == "client.created"]
    assert [entry["actor"]["name"] for entry in about] == ["an operator of the tests"]


# Tokens


async def test_c6_tokens_are_listed_and_revoked(system: System, tyk: Caller) -> None:
    """List, revoke by value and by `code`, revoke all: each token is refused at once."""
    api_id, path = await api_of(tyk)
    client = await client_of(tyk, api_id)
    first, second, third = [(await token_of(system, path, client))["access_token"] for _ in range(3)]
    place = f"/tyk/oauth/clients/{api_id}/{client['client_id']}/tokens"
    assert [set(each) >= {"code", "expires"} for each in ok(await tyk("GET", place))] == [True] * 3
    assert ok(await tyk("GET", f"{place}?page=1"))["Pagination"] == {"page_num": 1, "page_total": 1, "page_size": 100}

    of_client = {"client_id": client["client_id"]}
    done = {"status": "ok", "message": "token revoked successfully"}
    form = of_client | {"token": first, "token_type_hint": "access_token"}
    assert ok(await tyk("POST", "/tyk/oauth/revoke", data=form)) == done
    assert ok(await tyk("POST", "/tyk/oauth/revoke/", data=of_client | {"token": "unknown"})) == done
    assert [await passes(system, path, each) for each in (first, second, third)] == [False, True, True]

    code = ok(await tyk("GET", place))[0]["code"]
    assert ok(await tyk("DELETE", f"/tyk/keys/{code}")) == acted(code, "deleted")
    assert [await passes(system, path, each) for each in (second, third)].count(True) == 1
    everything = of_client | {"client_secret": client["secret"], "org_id": ""}
    assert ok(await tyk("POST", "/tyk/oauth/revoke_all", data=everything))["message"] == "tokens revoked successfully"
    assert not await passes(system, path, second)
    assert not await passes(system, path, third)


async def test_c6_refusals_about_tokens_are_tyk_s(tyk: Caller) -> None:
    """The documented statuses and messages; a wrong secret is refused instead of reported as a success."""
    api_id, _ = await api_of(tyk)
    client = await client_of(tyk, api_id)
    for path, form, refused in (
        ("/tyk/oauth/revoke", {}, (400, "token is required")),
        ("/tyk/oauth/revoke", {"token": "x"}, (400, "client_id is required")),
        ("/tyk/oauth/revoke", {"token": "x", "client_id": "nothing"}, (400, "oauth client doesn't exist")),
        ("/tyk/oauth/revoke_all", {}, (401, "client_id is required")),
        ("/tyk/oauth/revoke_all", {"client_id": "nothing"}, (404, "oauth client doesn't exist")),
    ):
        assert refusal(await tyk("POST", path, data=form)) == refused, (path, form)
    wrong = {"client_id": client["client_id"], "client_secret": "wrong"}
    assert refusal(await tyk("POST", "/tyk/oauth/revoke_all", data=wrong))[0] == 400
    nobody = f"/tyk/oauth/clients/{api_id}/nothing/tokens"
    assert ok(await tyk("GET", nobody)) == []
    none = {"page_num": 1, "page_total": 0, "page_size": 100}
    assert ok(await tyk("GET", f"{nobody}?page=1")) == {"Pagination": none, "Tokens": []}
    assert refusal(await tyk("GET", "/tyk/oauth/clients/nothing/x/tokens")) == (404, "OAuth Client ID not found")
    assert ok(await tyk("DELETE", "/tyk/oauth/tokens?scope=lapsed"))["message"] == "lapsed tokens purged"
    assert refusal(await tyk("DELETE", "/tyk/oauth/tokens")) == (422, "scope parameter is required")
    assert refusal(await tyk("DELETE", "/tyk/oauth/tokens?scope=all")) == (400, "unknown scope")
    assert refusal(await tyk("DELETE", "/tyk/oauth/refresh/x")) == (400, "Missing parameter api_id")
    assert refusal(await tyk("DELETE", "/tyk/oauth/refresh/x?api_id=no"))[1] == "API for this refresh token not found"
    assert ok(await tyk("DELETE", f"/tyk/oauth/refresh/x?api_id={api_id}")) == acted("x", "deleted")


async def test_c6_a_whole_login_works_with_the_gateway_s_api_alone(system: System, tyk: Caller) -> None:
    """Code, token, session, revocation of the refresh token: the identity server and the client see Tyk's bodies."""
    api_id, path = await api_of(tyk)
    client = await client_of(tyk, api_id)
    form = {"response_type": "code", "client_id": client["client_id"], "redirect_uri": CALLBACK, "subject": "alice"}
    code = ok(await tyk("POST", "/tyk/oauth/authorize-client/", data=form))
    assert code["redirect_to"].startswith(f"{CALLBACK}?code=")
    exchange = {"grant_type": "authorization_code", "code": code["code"], "redirect_uri": CALLBACK}
    issued = await token_of(system, path, client, **exchange)
    access, refresh = issued["access_token"], issued["refresh_token"]
    session = ok(await tyk("GET", f"/tyk/keys/{access}"))
    assert (session["oauth_client_id"], session["alias"]) == (client["client_id"], "alice")
    assert session["access_rights"] == {api_id: {"api_id": api_id}}
    assert ok(await tyk("DELETE", f"/tyk/oauth/refresh/{refresh}?api_id={api_id}")) == acted(refresh, "deleted")
    assert not await passes(system, path, access)
    assert refusal(await tyk("GET", f"/tyk/keys/{access}")) == (404, "Key not found")
    assert refusal(await tyk("DELETE", f"/tyk/keys/{access}"))[0] == 404
    unknown = await tyk("POST", "/tyk/oauth/authorize-client", data=form | {"client_id": "nothing"})
    assert (unknown.status, unknown.body["error"]) == (400, "invalid_request")


async def test_c6_a_token_in_a_path_is_not_logged(mongodb_url: str) -> None:
    """Neither for an operator nor for anybody else; the access log has the path's template."""
    with structlog.testing.capture_logs() as lines:
        async with open_system(mongodb_url, tyk_gateway_api=True, access_log_sample=1) as system:
            for caller in (system.operator, system.call):
                await caller("GET", "/tyk/keys/tw_at_not-to-be-logged")
                await caller("DELETE", "/tyk/oauth/refresh/not-to-be-logged?api_id=x")
                await caller("GET", "/tyk/keys/a-user")
    logged = [str(line) for line in lines]
    assert sum("/tyk/keys/a-user" in line for line in logged) == 2  # so the log has paths
    assert sum("/tyk/oauth/refresh/{token}" in line for line in logged) == 2
    assert not any("not-to-be-logged" in line for line in logged)


@pytest.mark.parametrize("query", ["?hashed=true", "?api_id=x&hashed=1&org_id=5e9d", "?username=false"])
async def test_c6_a_token_is_found_and_deleted_by_what_the_list_shows(system: System, tyk: Caller, query: str) -> None:
    """Tyk's automation lists tokens by hash and asks for each with `hashed`: `code` is the public id here."""
    api_id, path = await api_of(tyk)
    client = await client_of(tyk, api_id)
    token = (await token_of(system, path, client))["access_token"]
    (listed,) = ok(await tyk("GET", f"/tyk/oauth/clients/{api_id}/{client['client_id']}/tokens"))
    place = f"/tyk/keys/{listed['code']}{query}"
    assert ok(await tyk("GET", place))["oauth_client_id"] == client["client_id"]
    assert ok(await tyk("DELETE", place)) == acted(listed["code"], "deleted")
    assert not await passes(system, path, token)
    assert refusal(await tyk("GET", place)) == (404, "Key not found")


@pytest.mark.parametrize(
    ("method", "path", "status", "sentence"),
    [
        ("POST", "/tyk/keys/create", 404, "POST /tyk/keys/{username}"),
        ("POST", "/tyk/keys/preview", 404, "POST /tyk/keys/{username}"),
        ("POST", "/tyk/keys/policy/{token}", 404, "PUT /tyk/policies/{policy_id}"),
        ("PATCH", "/tyk/keys/alice", 405, "POST /tyk/keys/{username}"),
        ("PUT", "/tyk/keys/{token}", 405, "in the policies of its client"),
        ("POST", "/tyk/keys/{token}", 405, "in the policies of its client"),
        ("GET", "/tyk/org/keys", 404, "limit clients with policies"),
        ("POST", "/tyk/apis/oas/import", 405, "POST /tyk/apis/oas"),
        ("GET", "/tyk/apis/oas/x/export", 404, "GET /tyk/apis/oas/{api_id}"),
        ("PATCH", "/tyk/apis/x", 405, "PUT /tyk/apis/{api_id}"),
        ("DELETE", "/tyk/cache/x", 404, "nothing to invalidate"),
        ("GET", "/tyk/certs", 404, "the proxy in front"),
        ("GET", "/tyk/health", 404, "/readyz"),
        ("GET", "/tyk/debug", 404, "TOKENWIRE_TYK_GATEWAY_API"),
    ],
)
async def test_c6_what_is_not_offered_says_what_to_do(
    system: System, tyk: Caller, method: str, path: str, status: int, sentence: str
) -> None:
    """In the gateway's envelope; a token is never taken for the name of a new user."""
    api_id, listen_path = await api_of(tyk)
    client = await client_of(tyk, api_id)
    token = (await token_of(system, listen_path, client))["access_token"]
    response = await tyk(method, path.replace("{token}", token), json={"basic_auth_data": {"password": PASSWORD}})
    refused = refusal(response)
    assert (refused[0], sentence in refused[1]) == (status, True), refused
    assert await passes(system, listen_path, token)


# Users


async def test_c6_users_of_the_password_grant_are_keys(system: System, tyk: Caller) -> None:
    """POST /tyk/keys/{username} with Basic data makes a user who can log in; PUT, GET, DELETE as Tyk's."""
    api_id, path = await api_of(tyk)
    client = await client_of(tyk, api_id)
    policy = (await make_policy(system.deps, api_id)).policy_id
    name = unique("alice")
    session = {"basic_auth_data": {"password": PASSWORD}, "apply_policies": [policy], "rate": 100, "per": 1}
    assert ok(await tyk("POST", f"/tyk/keys/{name}", json=session)) == acted(name, "added")
    password = {"grant_type": "password", "username": name, "password": PASSWORD}
    await token_of(system, path, client, **password)
    assert name in ok(await tyk("GET", "/tyk/keys"))["keys"]
    assert ok(await tyk("GET", f"/tyk/keys/{name}")) == {
        "apply_policies": [policy],
        "is_inactive": False,
        "meta_data": {},
    }
    assert ok(await tyk("PUT", f"/tyk/keys/{name}", json={"is_inactive": True})) == acted(name, "modified")
    assert ok(await tyk("GET", f"/tyk/keys/{name}"))["is_inactive"] is True
    assert ok(await tyk("POST", f"/tyk/keys/{name}", json=session)) == acted(name, "added")
    assert ok(await tyk("DELETE", f"/tyk/keys/{name}")) == acted(name, "deleted")
    assert refusal(await tyk("DELETE", f"/tyk/keys/{name}"))[0] == 404


@pytest.mark.parametrize("field", ["access_rights", "rate", "quota_max", "expires"])
async def test_c6_a_key_that_is_restricted_otherwise_than_by_policies_is_refused(tyk: Caller, field: str) -> None:
    """Such a user would be able to do more here than at Tyk; unlimited values (-1) restrict nothing."""
    value: Any = {"x": {"api_id": "x"}} if field == "access_rights" else 100
    session = {"basic_auth_data": {"password": PASSWORD}, field: value}
    status, message = refusal(await tyk("POST", f"/tyk/keys/{unique('user')}", json=session))
    assert (status, message.startswith(f"{field}: ")) == (400, True), message
    unlimited = {"basic_auth_data": {"password": PASSWORD}, "rate": -1, "quota_max": -1, "expires": -1}
    assert ok(await tyk("POST", f"/tyk/keys/{unique('user')}", json=unlimited))["action"] == "added"


# The documented requests, with the gateway's paths where it has them


async def test_c6_the_documented_requests_work_under_the_gateways_paths(system: System, tyk: Caller) -> None:
    """Client app, login, code, exchange, both other grants, refresh, call, revocation: with slashes and credentials in
    header and body, as the product's documentation writes them. The Dashboard's paths are in
    tests/acceptance/test_documented_requests.py.
    """
    api_id, path = await api_of(tyk)
    name, form_type = unique("user"), {"Content-Type": "application/x-www-form-urlencoded"}
    assert ok(await tyk("POST", f"/tyk/keys/{name}/", json={"basic_auth_data": {"password": PASSWORD}}))
    client = await client_of(tyk, api_id)
    client_id, secret, uri = client["client_id"], client["secret"], quote(CALLBACK, safe="")
    assert ok(await tyk("GET", f"/tyk/oauth/clients/{api_id}/"))[0]["client_id"] == client_id
    assert ok(await tyk("GET", f"/tyk/oauth/clients/{api_id}/{client_id}/")) == client
    basic = "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()

    async def token(form: str) -> Any:
        headers = form_type | {"Authorization": basic}
        return ok(await system.call("POST", f"{path}oauth/token/", data=form, headers=headers))

    async def notified(access_token: str) -> dict[str, str]:
        await system.deps.outbox.drain()
        await system.deps.bus.drain()
        (body,) = [each for each in system.notified.bodies.values() if each["new_oauth_token"] == access_token]
        return body

    asked = f"response_type=code&client_id={client_id}&redirect_uri={uri}"
    login = await system.call("POST", f"{path}oauth/authorize/", data=asked, headers=form_type)
    assert login.status == 307, login.raw
    for place in ("/tyk/oauth/authorize-client/", f"{path}tyk/oauth/authorize-client/"):
        code = ok(await tyk("POST", place, data=asked, headers=form_type))
        assert code["redirect_to"].startswith(f"{CALLBACK}?code={code['code']}")
    exchange = f"grant_type=authorization_code&client_id={client_id}&code={code['code']}&redirect_uri={uri}"
    issued = await token(exchange)
    assert await notified(issued["access_token"]) == {
        "auth_code": code["code"],
        "new_oauth_token": issued["access_token"],
        "refresh_token": issued["refresh_token"],
        "old_refresh_token": "",
        "notification_type": "new",
    }
    for parameter in ("client_secret", "secret"):
        own = await token(f"grant_type=client_credentials&client_id={client_id}&{parameter}={secret}")
        assert set(own) == {"access_token", "expires_in", "token_type"}
    password = f"grant_type=password&client_id={client_id}&username={name}&password={quote(PASSWORD)}"
    assert (await token(password))["refresh_token"]
    credentials = f"client_id={client_id}&client_secret={secret}"
    refreshed = await token(f"grant_type=refresh_token&{credentials}&refresh_token={issued['refresh_token']}")
    body = await notified(refreshed["access_token"])
    assert (body["notification_type"], body["old_refresh_token"]) == ("refresh", issued["refresh_token"])
    assert not await passes(system, path, issued["access_token"])
    assert await passes(system, path, refreshed["access_token"])
    for hint in ("access_token", "refresh_token"):
        form = f"token={refreshed[hint]}&token_type_hint={hint}&{credentials}"
        assert ok(await tyk("POST", "/tyk/oauth/revoke/", data=form, headers=form_type))["status"] == "ok"
    assert not await passes(system, path, refreshed["access_token"])
    spent = {"grant_type": "refresh_token", "refresh_token": refreshed["refresh_token"]}
    again = await system.call("POST", f"{path}oauth/token", data=spent, headers={"Authorization": basic})
    assert (again.status, again.body["error"]) == (400, "invalid_grant")
    assert ok(await tyk("DELETE", f"/tyk/oauth/clients/{api_id}/{client_id}/")) == acted(client_id, "deleted")
