"""All uses of a tenant, right and wrong."""

import secrets

from tests.acceptance.tenants import CALLBACK, Tenant, basic, issued
from tests.builders import api_document, unique


async def use_everything(tenant: Tenant) -> None:
    """Every way in which a secret is sent or received in normal use."""
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
    """Secrets in wrong places, wrong secrets, and refused bodies that contain secrets."""
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
