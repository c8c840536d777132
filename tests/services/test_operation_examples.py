"""The examples in the OpenAPI documents are recorded here and stay true: each is sent to the services again.

`TOKENWIRE_RECORD_EXAMPLES=1 make test T=tests/services/test_operation_examples.py` records them anew, and
`make contracts` puts them into the documents.
"""

import json
import os
import re
import socket
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest

from contracts.generate.examples import FILE, examples
from contracts.operations import ANY_METHOD, Operation
from contracts.operations import Caller as CalledBy
from contracts.operators import Permission
from libs.access import TYK_KEY_HEADER
from libs.bus.local import LocalBroker, LocalBus
from services.operation_catalog import OPERATIONS, TYK_GATEWAY_OPERATIONS
from tests.builders import Caller, Response, make_operator, settle
from tests.eventually import eventually
from tests.notifications import Receiver, answering, database_of_its_own, notifier, receiver
from tests.services.system import CHALLENGE, VERIFIER, System, basic, open_system

BY_NAME = {operation.name: operation for operation in (*OPERATIONS, *TYK_GATEWAY_OPERATIONS)}
CALLBACK = "https://app.example.com/callback"
OPERATOR_KEY = "$OPERATOR_KEY"
"""In the examples, in place of the real key."""
API, CLIENT = {"api_id": "orders"}, {"api_id": "orders", "client_id": "orders-app"}
REF = {"api_ref": "orders"}


def definition(api_id: str, webhook: str) -> dict[str, Any]:
    """A small Tyk OAS definition with every grant, webhooks and CORS."""
    flow = {"scopes": {"read": "Read orders", "write": "Change orders"}, "tokenUrl": "/oauth/token"}
    flows = {
        "authorizationCode": {**flow, "authorizationUrl": "/oauth/authorize"},
        "clientCredentials": flow,
        "password": flow,
    }
    oauth = {
        "enabled": True,
        "header": {"enabled": True, "name": "Authorization"},
        "authLoginRedirect": "https://login.example.com/authorize",
        "refreshToken": True,
        "notifications": {"onKeyChangeUrl": webhook, "sharedSecret": "Zm9yLXRoZS1leGFtcGxlcy1vbmx5"},
    }
    origins = {"enabled": True, "allowedOrigins": ["https://app.example.com"], "allowedMethods": ["GET", "POST"]}
    return {
        "openapi": "3.0.3",
        "info": {"title": api_id.capitalize(), "version": "1.0.0"},
        "paths": {},
        "security": [{"oauth": []}],
        "components": {"securitySchemes": {"oauth": {"type": "oauth2", "flows": flows}}},
        "x-tyk-api-gateway": {
            "info": {"id": api_id, "name": api_id.capitalize(), "state": {"active": True}},
            "middleware": {"global": {"cors": origins}},
            "server": {
                "listenPath": {"value": f"/{api_id}/", "strip": True},
                "authentication": {"enabled": True, "securitySchemes": {"oauth": oauth}},
            },
            "upstream": {"url": f"https://{api_id}.internal.example.com"},
        },
    }


class Recording:
    """Sends requests, and keeps what each operation was asked and answered."""

    def __init__(self, system: System, other: Caller, key: str, received: Receiver) -> None:
        self.found: dict[str, dict[str, Any]] = {}
        self.callers = {True: other, False: system.call}
        self.key = key
        self._received = received

    async def __call__(
        self,
        name: str,
        path: dict[str, str] | None = None,
        *,
        query: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        json: Any = None,
        form: dict[str, str] | None = None,
        status: int = 200,
        method: str = "",
        record: bool = True,
    ) -> Response:
        operation, headers = BY_NAME[name], dict(headers or {})
        if operation.caller is CalledBy.OPERATOR:
            header = TYK_KEY_HEADER if operation in TYK_GATEWAY_OPERATIONS else "Authorization"
            headers[header] = self.key
        target = re.sub(r"{(\w+)}", lambda part: (path or {})[part[1]], operation.path)
        body = {"json": json} if json is not None else {"data": form} if form is not None else {}
        method = method or operation.method
        asked = {"params": query or {}, "headers": headers, **body}
        response = await self.send(self.callers[operation.service == "notifier"], operation, method, target, asked)
        assert response.status == status, (name, response.status, response.raw)
        if record:
            self.found[name] = self._example(operation, method, target, query, headers, json or form, response)
        return response

    async def send(
        self, caller: Caller, operation: Operation, method: str, target: str, asked: dict[str, Any]
    ) -> Response:
        """Send the request."""
        return await caller(method, target, **asked)

    def stream(self, name: str, frame: bytes) -> None:
        operation = BY_NAME[name]
        request = {"method": "GET", "target": operation.path, "headers": {"Authorization": OPERATOR_KEY}}
        self.found[name] = {"request": request, "response": {"status": 200, "body": self._cleaned(frame.decode())}}

    def _example(
        self,
        operation: Operation,
        method: str,
        target: str,
        query: Any,
        headers: dict[str, str],
        body: Any,
        response: Any,
    ) -> dict[str, Any]:
        request: dict[str, Any] = {"method": method, "target": target}
        if query:
            request["query"] = query
        if headers:
            request["headers"] = headers
        if body is not None:
            media_types = operation.body.media_types if operation.body else ()
            request["media_type"] = next((each for each in media_types), "application/json")
            request["body"] = body
        example: dict[str, Any] = {"status": response.status}
        named = operation.responses[response.status].headers
        if sent := {name: response.headers[name] for name in named if name in response.headers}:
            example["headers"] = sent
        if response.raw:
            kind = response.headers["Content-Type"]
            example["body"] = response.body if "json" in kind else response.raw.decode().split("\n# HELP")[0] + "\n"
        return {"request": self._cleaned(request), "response": self._cleaned(example)}

    def _cleaned(self, value: Any) -> Any:
        """Without what differs from machine to machine, and without the operator's key."""
        text = orjson.dumps(value).decode().replace(self.key, OPERATOR_KEY)
        text = text.replace(self._received.url("/tokens"), "https://login.example.com/token-events")
        text = text.replace(f"{socket.gethostname()}:{os.getpid()}", "notifier-1:7")
        return orjson.loads(re.sub(r"http://127\.0\.0\.1:\d+", "https://auth.example.com", text))


async def run(record: Recording, system: System, received: Receiver) -> None:
    """Every operation once, in an order in which each finds what it needs."""
    webhook = received.url("/tokens")
    orders, invoices = definition("orders", webhook), definition("invoices", webhook)
    await record("importApi", json=orders)
    await record("importOasApi", json=invoices)
    await record("listApis")
    await record("listOasApis", query={"p": "1"})
    await record("getApi", API)
    await record("getOasApi", API)
    await record("replaceApi", API, json=orders)
    await record("replaceOasApi", API, json=orders)
    await record("getSigningSecret", API)
    await record("getApiReport", API)
    await record("getApiDeletion", API)
    await record("rotateSigningSecret", API, json={"overlap": 3600})
    right = {"api_id": "orders", "versions": ["Default"], "allowed_urls": [{"url": "^/orders", "methods": ["GET"]}]}
    policy = {"name": "Read orders", "access_rights": {"orders": right}, "rate": 100, "per": 60}
    policy |= {"id": "read-orders", "quota_max": 10000, "quota_renewal_rate": 86400}
    await record("addPolicy", json=policy)
    await record("listPolicies")
    await record("getPolicy", {"policy_id": "read-orders"})
    await record("replacePolicy", {"policy_id": "read-orders"}, json=policy | {"rate": 200})
    client = {"client_id": "orders-app", "client_name": "Orders app", "redirect_uris": [CALLBACK]}
    client |= {"policy_ids": ["read-orders"], "scope": "read"}
    await record("registerClient", API, json=client)
    await record("listClients", API)
    await record("getClient", CLIENT)
    await record("listAllClients")
    await record("findClient", {"client_id": "orders-app"})
    await record("previewPolicies", json={"api_id": "orders", "client_id": "orders-app"})
    await record("getPolicyUsage", {"policy_id": "read-orders"})
    await record("lintConfig", query={"limit": "3"})
    await record("editClient", CLIENT, json={"client_name": "Orders", "description": "The orders app"})
    rotated = await record("rotateClientSecret", CLIENT, json={"overlap": 3600})
    user, password = {"username": "alice"}, "correct horse battery staple"
    await record("addResourceOwner", user, json={"password": password})
    await record("listResourceOwners")
    await record("getResourceOwner", user)
    await record("editResourceOwner", user, json={"policy_ids": ["read-orders"]})
    auditor = {"name": "Auditor", "permissions": ["read"]}
    operator = {"operator_id": (await record("addOperator", json=auditor)).body["operator_id"]}
    await record("listOperators")
    await record("getOperator", operator)
    await record("getOwnOperator")
    await record("replaceOperator", operator, json=auditor | {"permissions": ["read", "revoke"]})
    await record("rotateOperatorKey", operator, json={"overlap": 3600})
    await tokens(record, system, basic("orders-app", rotated.body["secret"]))
    await reports(record, system, received)
    await record("deleteClient", CLIENT)
    await record("deletePolicy", {"policy_id": "read-orders"})
    await record("deleteResourceOwner", user)
    await record("deleteOperator", operator)
    await record("deleteApi", {"api_id": "invoices"})
    await record("deleteOasApi", API)
    for process in ("healthz", "readyz", "metrics"):
        await record(process)
    await the_gateways_api(record, system, definition("shop", webhook))


async def the_gateways_api(record: Recording, system: System, shop: dict[str, Any]) -> None:
    """The Tyk gateway's own API, from the first import to the last deletion."""
    shop_api, shop_client = {"api_id": "shop"}, {"api_id": "shop", "client_id": "shop-app"}
    policy = {"id": "read-shop", "name": "Read the shop", "access_rights": {"shop": {"api_id": "shop"}}}
    one_policy = {"policy_id": "read-shop"}
    await record("tykHello")
    await record("tykAddApi", json=shop)
    await record("tykAddOasApi", json=shop)
    await record("tykListApis")
    await record("tykListOasApis")
    await record("tykGetApi", shop_api)
    await record("tykGetOasApi", shop_api)
    await record("tykReplaceApi", shop_api, json=shop)
    await record("tykReplaceOasApi", shop_api, json=shop)
    await record("tykReload")
    await record("tykReloadGroup")
    await record("tykAddPolicy", json=policy)
    await record("tykListPolicies")
    await record("tykGetPolicy", one_policy)
    await record("tykReplacePolicy", one_policy, json=policy)
    client = {"client_id": "shop-app", "redirect_uri": CALLBACK, "policy_id": "read-shop"}
    await record("tykCreateClient", json=client | {"api_id": "shop"})
    await record("tykListClients", shop_api)
    await record("tykListApisOfClient", {"client_id": "shop-app"})
    await record("tykGetClient", shop_client)
    await record("tykUpdateClient", shop_client, json=client | {"description": "The shop app"})
    secret = (await record("tykRotateClientSecret", shop_client)).body["secret"]
    user, session = {"username": "bob"}, {"apply_policies": ["read-shop"]}
    await record("tykAddKey", user, json=session | {"basic_auth_data": {"password": "correct horse battery staple"}})
    await record("tykListKeys")
    await record("tykGetKey", user)
    await record("tykUpdateKey", user, json=session)
    asked = {"response_type": "code", "client_id": "shop-app", "redirect_uri": CALLBACK}
    code = (await record("tykIssueCode", form=asked)).body["code"]
    exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
    credentials = {"Authorization": basic("shop-app", secret)}
    issued = (await record("issueToken", {"api_ref": "shop"}, headers=credentials, form=exchange, record=False)).body
    await record("tykListTokens", shop_client)
    token = {"token": issued["access_token"]}
    await record("tykGetToken", token)
    await record("tykDeleteToken", token)
    await settle(system.deps)
    await record("tykRevokeToken", form={"token": issued["access_token"], "client_id": "shop-app"})
    await record("tykRevokeRefreshToken", {"token": issued["refresh_token"]}, query={"api_id": "shop"})
    await record("tykRevokeAllTokens", form={"client_id": "shop-app"})
    await record("tykPurgeTokens", query={"scope": "lapsed"})
    await record("tykDeleteKey", user)
    await record("tykDeleteClient", shop_client)
    await record("tykDeletePolicy", one_policy)
    await record("tykDeleteApi", shop_api)
    await record("tykAddOasApi", json=shop, record=False)
    await record("tykDeleteOasApi", shop_api)


async def tokens(record: Recording, system: System, client: str) -> None:
    """From the authorization request to the revocation."""
    request = {"response_type": "code", "client_id": "orders-app", "redirect_uri": CALLBACK, "scope": "read"}
    request |= {"state": "af0ifjsldkj", "code_challenge": CHALLENGE, "code_challenge_method": "S256"}
    await record("readMetadata", REF)
    await record("authorize", REF, query=request, status=307)
    await record("authorizeByPost", REF, form=request, status=307)
    for_user = request | {"subject": "alice", "key_rules": json.dumps({"alias": "alice"})}
    await record("issueCodeOnShortPath", API, form=for_user)
    await record("issueCodeOnListenPath", REF, form=for_user)
    code = (await record("issueCode", API, form=for_user)).body["code"]
    asked = {"Origin": "https://app.example.com", "Access-Control-Request-Method": "POST"}
    for preflight in ("preflightIssueToken", "preflightRevokeToken", "preflightRevokeAllTokens"):
        await record(preflight, REF, headers=asked, status=204)
    credentials = {"Authorization": client}
    exchange = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    issued = (await record("issueToken", REF, headers=credentials, form=exchange)).body
    bearer = {"Authorization": f"Bearer {issued['access_token']}"}
    call = {"X-Forwarded-Uri": "/orders/orders/42", "X-Forwarded-Method": "GET"}
    await record("verify", headers=bearer | call)
    await record("verifyItself", {"uri": "orders/orders/42"}, headers=bearer, method="GET")
    await record("readRateLimits", REF, headers=bearer)
    await record("introspect", headers=credentials, form={"token": issued["access_token"]})
    await record("listTokens", CLIENT)
    await record("listTokensOnShortPath", {"client_id": "orders-app"})
    listed = await record("listTokens", CLIENT, record=False)
    await settle(system.deps)
    of_client = {"client_id": "orders-app"}
    await record("listGrants", query={"subject": "alice", "state": "active"})
    await record("lookUpGrant", json={"token": issued["access_token"]})
    grant = {"grant_id": listed.body[0]["grant_id"]}
    await record("getGrant", grant)
    await record("getGrantTimeline", grant)
    await record("revokeTokenOfClient", of_client, form={"token": listed.body[0]["code"]})
    await record("revokeToken", REF, headers=credentials, form={"token": issued["refresh_token"]})
    await record("revokeAllTokens", REF, headers=credentials, form={})
    await record("revokeAllTokensOfClient", of_client, form={})
    await record("revokeGrant", grant)
    await record("revokeAllGrantsOfUser", {"subject": "alice"})


async def reports(record: Recording, system: System, received: Receiver) -> None:
    """What happened, and the webhooks."""
    await settle(system.deps)

    async def attempted() -> bool:
        listed = await record("listDeliveries", query={"api_id": "orders", "limit": "1"}, record=False)
        return bool(listed.body["deliveries"][0]["attempt_count"])

    await eventually(attempted)  # so that the example always has an attempt
    delivery = (await record("listDeliveries", query={"api_id": "orders", "limit": "1"})).body["deliveries"][0]
    await record("getDelivery", {"delivery_id": delivery["id"]})
    await record("listEndpoints", query={"api_id": "orders"})
    await record("redeliver", {"delivery_id": delivery["id"]})
    await record("redeliverAll", json={"api_id": "orders", "since": "2026-05-04T00:00:00Z"})
    received.behave(answering(204), "/tokens")
    await record("testNotification", API)
    await record("getClientUsage", query={"api_id": "orders", "per": "total"})
    await record("getUsage", query={"per": "day"})
    await record("getSummary", query={"per": "day"})
    await record("listChanges", query={"action": "client.secret_rotated"})
    await record("reconcileEvents")
    await record("listEvents", query={"types": "token.new", "api_id": "orders", "limit": "1"})
    async with system.call.http.get("/api/events/stream", headers={"Authorization": record.key}) as stream:
        await stream.content.readuntil(b"connected\n\n")
        other = definition("events", "")
        del other["x-tyk-api-gateway"]["server"]["authentication"]["securitySchemes"]["oauth"]["notifications"]
        await record("importApi", json=other, record=False)
        record.stream("streamEvents", await stream.content.readuntil(b"\n\n"))


def shape(value: Any) -> Any:
    """The keys and types of a JSON value; lists by their first element."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items()}
    if isinstance(value, list):
        return [shape(value[0])] if value else []
    return "number" if isinstance(value, int | float) and not isinstance(value, bool) else type(value).__name__


@pytest.fixture(name="found", scope="module")
async def _found(mongodb_url: str) -> dict[str, dict[str, Any]]:
    broker, database = LocalBroker(), database_of_its_own()
    async with (
        receiver() as received,
        open_system(mongodb_url, database, bus=LocalBus(broker), notifier=False, tyk_gateway_api=True) as system,
        notifier(mongodb_url, database, broker=broker) as sender,
    ):
        received.behave(answering(503), "/tokens")  # so that a delivery is left to be sent again
        record = Recording(system, sender.anybody, await make_operator(system.deps, Permission.ADMIN), received)
        await run(record, system, received)
    if os.environ.get("TOKENWIRE_RECORD_EXAMPLES"):
        ordered = {name: record.found[name] for name in sorted(record.found)}
        FILE.write_text(json.dumps(ordered, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return record.found


def test_every_operation_has_an_example(found: dict[str, dict[str, Any]]) -> None:
    """A new operation fails here until the scenario above calls it and the examples are recorded again."""
    assert found.keys() == BY_NAME.keys()
    assert examples().keys() == BY_NAME.keys()


@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_an_example_is_true(found: dict[str, dict[str, Any]], name: str) -> None:
    """Request and response of the example have the keys, types and status of those sent now."""
    example = examples()[name]
    for part in ("request", "response"):
        now, recorded = dict(found[name][part]), dict(example[part])
        if BY_NAME[name].method != ANY_METHOD and isinstance(now.get("body"), str):
            now["body"] = recorded["body"] = ""
        assert shape(now) == shape(recorded), part
    assert urlsplit(example["request"]["target"]).query == ""
    assert found[name]["response"]["status"] == example["response"]["status"]
