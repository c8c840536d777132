"""Changes made through the management API reach every other process at once, whatever it has cached."""

import asyncio
from collections.abc import Sequence
from urllib.parse import quote

from tests.acceptance.stack import Stack, instances_of
from tests.acceptance.tenants import CALLBACK, NewTenant, Tenant
from tests.eventually import eventually

OVERLAP = 15
"""Seconds for which a replaced secret still works."""


async def statuses(stack: Stack, tenant: Tenant, *secrets: str) -> Sequence[int]:
    """Statuses from the token processes for these secrets: all of them for the first, then for the next."""
    processes = [stack.service(name) for name in instances_of("token")]
    asked = (tenant.client_credentials(by=process, secret=secret) for secret in secrets for process in processes)
    return [response.status for response in await asyncio.gather(*asked)]


async def test_an_edited_client_is_seen_at_once(stack: Stack, tenant_of: NewTenant) -> None:
    """A process that has cached the old redirect URI accepts the new one and refuses the old."""
    tenant = await tenant_of()
    new = "https://app.example.test/elsewhere"

    async def authorized(redirect_uri: str) -> int:
        query = f"response_type=code&client_id={tenant.client_id}&redirect_uri={quote(redirect_uri, safe='')}"
        return (await stack.service("authorization")("GET", f"{tenant.path}/oauth/authorize?{query}")).status

    assert [await authorized(CALLBACK), await authorized(new)] == [307, 400]
    place = f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}"
    edited = await stack.operator("PUT", place, json={"redirect_uri": new})
    assert (edited.status, edited.body["redirect_uri"]) == (200, new)

    async def seen() -> bool:
        return [await authorized(CALLBACK), await authorized(new)] == [400, 307]

    await eventually(seen)


async def test_a_replaced_definition_is_seen_at_once(stack: Stack, tenant_of: NewTenant) -> None:
    """A disabled API neither issues nor accepts tokens, in any process."""
    tenant = await tenant_of()
    token = (await tenant.client_credentials()).body["access_token"]
    assert await statuses(stack, tenant, tenant.secret) == [200, 200]
    assert (await tenant.verified(token)).status == 200
    place = f"/api/apis/oas/{tenant.api_id}"
    definition = (await stack.operator("GET", place)).body
    definition["x-tyk-api-gateway"]["info"]["state"]["active"] = False
    replaced = await stack.operator("PUT", place, json=definition)
    assert (replaced.status, replaced.message) == (200, "API updated")

    async def seen() -> bool:
        return (
            await statuses(stack, tenant, tenant.secret) == [404, 404] and (await tenant.verified(token)).status == 404
        )

    await eventually(seen)


async def test_a_rotated_secret_overlaps_with_the_new_one(stack: Stack, tenant_of: NewTenant) -> None:
    """Both secrets work everywhere during the overlap; after that, only the new one."""
    tenant = await tenant_of()
    assert await statuses(stack, tenant, tenant.secret) == [200, 200]
    place = f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}/rotate"
    rotated = await stack.operator("PUT", place, json={"overlap": OVERLAP})
    assert rotated.status == 200, rotated.raw
    new = rotated.body["secret"]
    stack.secrets.add_basic(tenant.client_id, new)

    async def both_work() -> bool:
        return await statuses(stack, tenant, new, tenant.secret) == [200, 200, 200, 200]

    async def only_the_new_one_works() -> bool:
        return await statuses(stack, tenant, new, tenant.secret) == [200, 200, 401, 401]

    await eventually(both_work)
    await eventually(only_the_new_one_works)


async def test_a_deleted_operator_is_locked_out_at_once(stack: Stack, tenant_of: NewTenant) -> None:
    """A deleted operator is refused by processes that had just accepted the key."""
    tenant = await tenant_of()
    registration = {"name": "an identity server", "permissions": ["authorize"]}
    operator = (await stack.operator("POST", "/api/operators", json=registration)).body

    async def asked() -> int:
        form = {"response_type": "code", "client_id": tenant.client_id}
        place = f"/api/apis/oauth/{tenant.api_id}/authorize-client"
        return (await stack.anybody.with_key(operator["key"])("POST", place, data=form)).status

    assert await asked() == 200
    assert (await stack.operator("DELETE", f"/api/operators/{operator['operator_id']}")).status == 200

    async def locked_out() -> bool:
        return await asked() == 401

    await eventually(locked_out)
