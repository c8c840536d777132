"""What `make run` finds on its first start: one API with every grant, a policy, one client app under it, one user."""

from contracts.apis import Api
from contracts.clients import Client
from contracts.policies import AccessRight, Policy
from contracts.resource_owners import ResourceOwner
from libs import client_secrets
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET, PASSWORD, USERNAME
from libs.passwords import PasswordHasher
from libs.runtime import Deps
from libs.tyk.oas import read_oas

API_ID = "demo-api"
POLICY_ID = "demo-policy"
RATE, PER, QUOTA = 5, 10, 1000
"""What the policy allows: so many calls in so many seconds, and so many a day."""


def _definition(port: int) -> dict[str, object]:
    flow = {"tokenUrl": "/oauth/token", "scopes": {"read": "Read what the demo has", "write": "Change it"}}
    return {
        "openapi": "3.0.3",
        "info": {"title": "Demo API", "version": "1.0.0"},
        "paths": {},
        "security": [{"oauth": []}],
        "components": {
            "securitySchemes": {
                "oauth": {
                    "type": "oauth2",
                    "flows": {
                        "authorizationCode": {**flow, "authorizationUrl": "/oauth/authorize"},
                        "clientCredentials": flow,
                        "password": flow,
                    },
                }
            }
        },
        "x-tyk-api-gateway": {
            "info": {"id": API_ID, "name": "Demo API", "state": {"active": True}},
            "server": {
                "listenPath": {"value": "/demo-api/", "strip": True},
                "authentication": {
                    "enabled": True,
                    "securitySchemes": {
                        "oauth": {
                            "enabled": True,
                            "header": {"enabled": True, "name": "Authorization"},
                            "allowedAuthorizeTypes": ["code"],
                            "authLoginRedirect": "http://127.0.0.1:9001/login",
                            "refreshToken": True,
                        }
                    },
                },
            },
            "upstream": {"url": f"http://127.0.0.1:{port}/healthz"},
        },
        "x-tokenwire": {"anonymousGrants": False},
    }


def _api(deps: Deps, port: int) -> Api:
    return read_oas(_definition(port), api_id=API_ID, now=deps.now())


def _policy(deps: Deps) -> Policy:
    return Policy(
        policy_id=POLICY_ID,
        name="Demo policy",
        access_rights={API_ID: AccessRight(api_id=API_ID)},
        rate=RATE,
        per=PER,
        quota_max=QUOTA,
        quota_renewal_rate=86_400,
        created_at=deps.now(),
        updated_at=deps.now(),
    )


def _client(deps: Deps) -> Client:
    now = deps.now()
    return Client(
        client_id=CLIENT_ID,
        api_id=API_ID,
        name="Demo client",
        redirect_uris=("http://127.0.0.1:9002/callback",),
        policy_ids=(POLICY_ID,),
        secrets=(client_secrets.protect(deps.keys, CLIENT_ID, CLIENT_SECRET, now, retrievable=True),),
        created_at=now,
        updated_at=now,
    )


async def load_demo_data(deps: Deps, port: int) -> None:
    """The demo's API, policy, client and user exist. Raises Conflict where one of them does already."""
    ctx = deps.event_context("demo")
    hasher = PasswordHasher()
    password_hash = await hasher.hash(PASSWORD)
    hasher.close()
    await deps.store.apis.register(_api(deps, port), ctx)
    await deps.store.policies.add(_policy(deps), ctx)
    await deps.store.clients.register(_client(deps), ctx)
    owner = ResourceOwner(username=USERNAME, password_hash=password_hash, created_at=ctx.now, updated_at=ctx.now)
    await deps.store.resource_owners.add(owner, ctx)
