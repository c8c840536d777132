"""What the services write down: enough to see what happened, and nothing that opens anything."""

import secrets
from functools import partial

import orjson

from tests.acceptance.stack import INSTANCES, Stack
from tests.acceptance.tenants import CALLBACK, SCHEME, NewTenant, Tenant, basic, issued
from tests.acceptance.webhooks import Receiver
from tests.builders import api_document, unique
from tests.eventually import eventually
from tests.ports import free_port


async def use_everything(tenant: Tenant) -> None:
    """Every way in which a secret comes in or goes out when all is well."""
    code = await tenant.code()
    first = issued(await tenant.exchanged(code))
    second = issued(await tenant.refreshed(first.refresh))
    await tenant.verified(second.access)
    await tenant.edge("GET", "/verify", headers={"X-Forwarded-Uri": f"{tenant.path}/1?token={second.access}"})
    await tenant.listed()
    headers = basic(tenant.client_id, tenant.secret)
    await tenant.edge("POST", f"{tenant.path}/oauth/revoke", data={"token": second.refresh}, headers=headers)
    await tenant.pair()
    await tenant.client_credentials()
    await tenant.operator("GET", f"/api/apis/{tenant.api_id}")
    await tenant.operator("POST", "/api/operators", json={"name": unique("operator"), "permissions": ["read"]})
    place = f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}/rotate"
    await tenant.operator("PUT", place, json={"secret": secrets.token_urlsafe(24), "overlap": 60})
    await tenant.operator("POST", f"/api/apis/oauth/{tenant.client_id}/revoke_all")


async def make_every_mistake(tenant: Tenant) -> None:
    """Secrets where they do not belong, wrong ones, and bodies that are refused with a secret in them."""
    wrong = secrets.token_urlsafe(24)
    tenant.edge.secrets.add(wrong)
    code = await tenant.code()
    token_path = f"{tenant.path}/oauth/token"
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK}
    await tenant.edge("POST", f"{token_path}?client_secret={tenant.secret}&code={code}", data=form)
    await tenant.edge("POST", token_path, data=f"code={code}&code={code}&client_secret={tenant.secret}")
    await tenant.edge("POST", token_path, json={"grant_type": ["password"], "password": tenant.password})
    await tenant.edge("POST", token_path, data=form, headers={"Authorization": f"Basic {wrong}"})
    await tenant.token(grant_type="password", username=tenant.username, password=wrong)
    await tenant.token(secret=wrong, grant_type="refresh_token", refresh_token=f"tw_rt_{wrong}")
    await tenant.exchanged(code)
    await tenant.exchanged(code)
    await tenant.edge("GET", f"{tenant.path}/oauth/authorize?client_secret={tenant.secret}&access_token={wrong}")
    await tenant.edge.with_key(wrong)("GET", "/api/apis")
    await tenant.operator("POST", "/api/apis", json={**api_document(), "openapi": 3, "secret": wrong})
    place = f"/api/apis/oauth/{tenant.api_id}"
    await tenant.operator("POST", place, json={"secret": wrong, "client_secret": wrong, "redirect_uri": 1})
    await tenant.operator("PUT", f"{place}/{tenant.client_id}", json={"secret": wrong})
    await tenant.operator("POST", f"/api/apis/keys/basic/{unique('user')}", json={"password": wrong, "more": wrong})
    await tenant.operator("POST", f"/api/apis/oauth/{tenant.client_id}/revoke", data={"token": wrong, "secret": wrong})


async def has_failed(tenant: Tenant) -> bool:
    """Whether webhooks of the API were tried in vain."""
    deliveries = await tenant.operator("GET", f"/api/notifications/deliveries?api_id={tenant.api_id}")
    return any(attempt["error"] for delivery in deliveries.body["deliveries"] for attempt in delivery["attempts"])


def served_badly(stack: Stack, tenant: Tenant) -> list[str]:
    """The access lines about the API that say that a service could not cope."""
    lines = [line for name in INSTANCES for line in stack.logs(name).splitlines() if '"status":5' in line]
    return [line for line in lines if tenant.path in line or tenant.api_id in line]


async def test_no_secret_reaches_a_log(stack: Stack, receiver: Receiver, tenant_of: NewTenant) -> None:
    """No token, code, password, client secret, operator key, shared secret or key of the server, whatever is done."""
    shared = secrets.token_urlsafe(24)
    hooks = {"onKeyChangeUrl": receiver.url("/hooks/logs"), "sharedSecret": shared}
    deaf = {"onKeyChangeUrl": f"http://127.0.0.1:{free_port()}/?token={shared}", "sharedSecret": shared}
    for notifications in (hooks, deaf):
        tenant = await tenant_of(**{f"{SCHEME}__notifications": notifications})
        await use_everything(tenant)
        await make_every_mistake(tenant)
        assert served_badly(stack, tenant) == []
    await eventually(partial(has_failed, tenant))
    await stack.anybody("GET", f"/{tenant.api_id}-the-end")
    await eventually(lambda: f"/{tenant.api_id}-the-end" in stack.logs("edge"))
    assert shared in stack.secrets.found_in(f"a line with {shared}")
    assert len(stack.secrets) > 40
    assert stack.leaks() == {}


async def test_a_request_can_be_followed(stack: Stack, tenant_of: NewTenant) -> None:
    """Its id is the caller's, in the edge's line, in the service's line and in the answer."""
    tenant, request_id = await tenant_of(), secrets.token_hex(8)
    answer = await tenant.edge("POST", f"{tenant.path}/oauth/token", headers={"X-Request-Id": request_id})
    assert answer.status == 400
    assert answer.headers.getall("X-Request-Id") == [request_id]
    await eventually(lambda: request_id in stack.logs("edge"))
    lines = [line for name in INSTANCES for line in stack.logs(name).splitlines() if request_id in line]
    (line,) = (orjson.loads(line) for line in lines)
    said = {"event": "request", "service": "token", "method": "POST", "status": 400, "level": "info"}
    assert said.items() <= line.items()
    assert line["path"] == f"{tenant.path}/oauth/token"


async def test_every_line_is_an_event_with_facts(stack: Stack) -> None:
    """JSON, one object a line, whoever wrote it; so a collector needs no rule for anything else."""
    await stack.anybody("GET", "/nothing-here")
    for name in INSTANCES:
        lines = [orjson.loads(line) for line in stack.logs(name).splitlines()]
        assert lines, name
        for line in lines:
            assert {"event", "level", "timestamp", "service"} <= line.keys(), line
