"""Logs: enough to see what happened, and no secrets."""

import secrets
from functools import partial

import orjson

from tests.acceptance.stack import INSTANCES, Stack
from tests.acceptance.tenants import SCHEME, NewTenant, Tenant
from tests.acceptance.usage import make_every_mistake, use_everything
from tests.acceptance.webhooks import Receiver
from tests.eventually import eventually
from tests.ports import free_port


async def has_failed(tenant: Tenant) -> bool:
    """Whether a webhook of the API has failed."""
    deliveries = await tenant.operator("GET", f"/api/notifications/deliveries?api_id={tenant.api_id}")
    return any(attempt["error"] for delivery in deliveries.body["deliveries"] for attempt in delivery["attempts"])


def served_badly(stack: Stack, tenant: Tenant) -> list[str]:
    """Access lines of the API with a 5xx."""
    lines = [line for name in INSTANCES for line in stack.logs(name).splitlines() if '"status":5' in line]
    return [line for line in lines if tenant.path in line or tenant.api_id in line]


async def test_no_secret_reaches_a_log(stack: Stack, receiver: Receiver, tenant_of: NewTenant) -> None:
    """No token, code, password, client secret, operator key, shared secret or server key is in any log."""
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
    """The caller's request id appears in the edge's log, the service's log and the response."""
    tenant, request_id = await tenant_of(), secrets.token_hex(8)
    response = await tenant.edge("POST", f"{tenant.path}/oauth/token", headers={"X-Request-Id": request_id})
    assert response.status == 400
    assert response.headers.getall("X-Request-Id") == [request_id]
    await eventually(lambda: request_id in stack.logs("edge"))
    lines = await eventually(
        lambda: [line for name in INSTANCES for line in stack.logs(name).splitlines() if request_id in line]
    )
    (line,) = map(orjson.loads, lines)
    said = {"event": "request", "service": "token", "method": "POST", "status": 400, "level": "info"}
    assert said.items() <= line.items()
    assert line["path"] == f"{tenant.path}/oauth/token"


async def test_every_line_is_an_event_with_facts(stack: Stack) -> None:
    """Every log line is one JSON object, from libraries too."""
    await stack.anybody("GET", "/nothing-here")
    for name in INSTANCES:
        lines = [orjson.loads(line) for line in stack.logs(name).splitlines()]
        assert lines, name
        for line in lines:
            assert {"event", "level", "timestamp", "service"} <= line.keys(), line
