"""Authorization server metadata (RFC 8414, RFC 9207): row 97. Each advertised item is used, and shown not to work on an
API that does not advertise it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from yarl import URL

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, SCHEME
from tests.builders import Response
from tests.security.apps import CHALLENGE, PKCE, VERIFIER, App, User, basic, new_api, query_of

FLOWS = "components__securitySchemes__tykOAuth__flows"
CODE, CREDENTIALS, PASSWORD = "authorizationCode", "clientCredentials", "password"
ALL = (CODE, CREDENTIALS, PASSWORD)
OFFERS = {
    "all": (ALL, True),
    "all-without-refresh": (ALL, False),
    "code": ((CODE,), True),
    "credentials": ((CREDENTIALS,), True),
    "password": ((PASSWORD,), True),
    "password-without-refresh": ((PASSWORD,), False),
    "code-and-credentials": ((CODE, CREDENTIALS), False),
}
BEFORE_TOKENS = {"issuer", "authorization_endpoint", "token_endpoint", "revocation_endpoint", "introspection_endpoint"}


@dataclass(frozen=True)
class Offered:
    """An API that offers some grant types, its users, and its metadata."""

    app: App
    public: App
    user: User
    metadata: Mapping[str, Any]

    def advertises(self, name: str, item: str) -> bool:
        """Whether the list of this name contains the item."""
        return item in self.metadata.get(name, ())


@pytest.fixture(scope="module", params=OFFERS, name="offered")
async def _offered(request: pytest.FixtureRequest, cluster: Stack, alice: User) -> Offered:
    flows, refresh = OFFERS[request.param]
    declared = {flow: {"authorizationUrl": "/a", "tokenUrl": "/t", "scopes": {}} for flow in flows}
    changes: dict[str, Any] = {FLOWS: declared, f"{SCHEME}__refreshToken": refresh}
    api = await new_api(cluster, **changes)
    app = await api.app()
    return Offered(app, await api.app(public=True), alice, await app.metadata())


def works(response: Response) -> bool:
    """Whether it succeeded. If not, it must have been refused cleanly."""
    assert response.status < 500, response.raw
    return response.status in {200, 307}


# Grants


async def refresh_token(offered: Offered) -> str:
    """A refresh token, if an advertised grant type issues one."""
    if offered.advertises("grant_types_supported", "authorization_code"):
        return (await offered.app.pair()).refresh
    response = await offered.app.password(offered.user)
    return str(response.body.get("refresh_token", "tw_rt_none"))


async def of_code(offered: Offered) -> Response:
    """The exchange of a code, if a code can be obtained."""
    authorized = await offered.app.authorized()
    return await offered.app.exchange(authorized.body.get("code", "tw_ac_none"))


GRANTS: Mapping[str, Callable[[Offered], Awaitable[Response]]] = {
    "authorization_code": of_code,
    "client_credentials": lambda offered: offered.app.credentials(),
    "password": lambda offered: offered.app.password(offered.user),
}
NEVER = (
    "implicit",
    "urn:ietf:params:oauth:grant-type:device_code",
    "urn:ietf:params:oauth:grant-type:jwt-bearer",
    "urn:ietf:params:oauth:grant-type:token-exchange",
)


@pytest.mark.parametrize("grant_type", [*GRANTS, "refresh_token", *NEVER])
async def test_097_a_grant_type_works_where_it_is_advertised(offered: Offered, grant_type: str) -> None:
    """A grant type yields a token where it is advertised, and `unsupported_grant_type` elsewhere."""
    if grant_type == "refresh_token":
        response = await offered.app.refresh(await refresh_token(offered))
    elif grant_type in GRANTS:
        response = await GRANTS[grant_type](offered)
    else:
        response = await offered.app.token(grant_type=grant_type, assertion="x", device_code="x", subject_token="x")
    advertised = offered.advertises("grant_types_supported", grant_type)
    assert works(response) is advertised
    assert advertised or response.body["error"] == "unsupported_grant_type"


# Authentication


def proofs(app: App, public: App) -> Mapping[str, tuple[dict[str, str], dict[str, str]]]:
    """Header and body of each authentication method, by its registered name."""
    named = {"client_id": app.client_id}
    kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    assertion = {"client_assertion_type": kind, "client_assertion": "e30.e30.e30", **named}
    return {
        "client_secret_basic": ({"Authorization": basic(app.client_id, app.secret)}, {}),
        "client_secret_post": ({}, {**named, "client_secret": app.secret}),
        "none": ({}, {"client_id": public.client_id}),
        "client_secret_jwt": ({}, assertion),
        "private_key_jwt": ({}, assertion),
        "tls_client_auth": ({"X-Client-Cert": "x", "X-SSL-Client-Verify": "SUCCESS"}, named),
    }


METHODS = (
    "client_secret_basic",
    "client_secret_post",
    "none",
    "client_secret_jwt",
    "private_key_jwt",
    "tls_client_auth",
)


async def a_grant(offered: Offered, method: str) -> dict[str, str]:
    """A token request that succeeds if the client authenticates."""
    if method == "none" or offered.advertises("grant_types_supported", "authorization_code"):
        app = offered.public if method == "none" else offered.app
        code = (await app.authorized(**PKCE)).body.get("code", "tw_ac_none")
        return {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    if offered.advertises("grant_types_supported", "password"):
        return {"grant_type": "password", "username": offered.user.username, "password": offered.user.password}
    return {"grant_type": "client_credentials"}


@pytest.mark.parametrize("method", METHODS)
async def test_097_an_auth_method_works_where_it_is_advertised(offered: Offered, method: str) -> None:
    """An authentication method works at each endpoint that advertises it, at the URL in the metadata."""
    headers, body = proofs(offered.app, offered.public)[method]
    forms = {"token": await a_grant(offered, method), "revocation": {"token": "x"}, "introspection": {"token": "x"}}
    for endpoint, form in forms.items():
        place = URL(offered.metadata[f"{endpoint}_endpoint"]).path
        response = await offered.app.edge("POST", place, data=form | body, headers=headers)
        advertised = offered.advertises(f"{endpoint}_endpoint_auth_methods_supported", method)
        assert works(response) is advertised, (endpoint, response.raw)


# Authorization


async def starts(offered: Offered, **changes: str) -> bool:
    """Whether the request reaches the login page, and login yields a code in the query."""
    to_login = works(await offered.app.authorize(**changes))
    response = await offered.app.authorized(**changes)
    assert works(response) is to_login
    brought = query_of(response.body["redirect_to"])
    assert ("code" in brought) is to_login
    assert brought["iss"] == offered.metadata["issuer"]
    assert offered.metadata.get("authorization_response_iss_parameter_supported", not to_login) is True
    return to_login


@pytest.mark.parametrize("response_type", ["code", "token", "id_token", "code token", "none"])
async def test_097_a_response_type_works_where_it_is_advertised(offered: Offered, response_type: str) -> None:
    """A response type works only where advertised. Without any, the metadata has no authorization endpoint."""
    advertised = offered.advertises("response_types_supported", response_type)
    assert await starts(offered, response_type=response_type) is advertised
    assert ("authorization_endpoint" in offered.metadata) is bool(offered.metadata["response_types_supported"])


@pytest.mark.parametrize("response_mode", ["query", "fragment", "form_post", "jwt", "query.jwt", "web_message"])
async def test_097_a_response_mode_works_where_it_is_advertised(offered: Offered, response_mode: str) -> None:
    """An unadvertised response mode is refused, rather than answered in a mode the client did not ask for."""
    advertised = offered.advertises("response_modes_supported", response_mode)
    assert await starts(offered, response_mode=response_mode) is advertised


@pytest.mark.parametrize("method", ["S256", "plain", "S512"])
async def test_097_a_challenge_method_works_where_it_is_advertised(offered: Offered, method: str) -> None:
    """An advertised challenge method works from the challenge to the tokens."""
    challenge = CHALLENGE if method == "S256" else VERIFIER
    response = await offered.app.authorized(code_challenge=challenge, code_challenge_method=method)
    exchanged = await offered.app.exchange(response.body.get("code", "tw_ac_none"), code_verifier=VERIFIER)
    assert works(exchanged) is offered.advertises("code_challenge_methods_supported", method)


# The document


async def test_097_every_item_is_exercised(offered: Offered) -> None:
    """Every item of the metadata is used here. Each URL occurs once; lists may be empty."""
    tried = BEFORE_TOKENS | {
        "grant_types_supported",
        "response_types_supported",
        "response_modes_supported",
        "code_challenge_methods_supported",
        "authorization_response_iss_parameter_supported",
        *(f"{endpoint}_endpoint_auth_methods_supported" for endpoint in ("token", "revocation", "introspection")),
    }
    assert set(offered.metadata) <= tried
    assert set(offered.metadata["grant_types_supported"]) <= {*GRANTS, "refresh_token"}
    for endpoint in ("token", "revocation", "introspection"):
        assert set(offered.metadata[f"{endpoint}_endpoint_auth_methods_supported"]) <= set(METHODS)


@pytest.mark.parametrize("absent", ["register", "device_authorization", "par", "jwks", "userinfo", "logout"])
async def test_097_endpoints_that_are_not_advertised_do_not_exist(offered: Offered, absent: str) -> None:
    """No path under the API's `oauth` is an endpoint unless the metadata names it."""
    for method in ("GET", "POST"):
        response = await offered.app.edge(method, f"{offered.app.path}/oauth/{absent}", headers=offered.app.basic)
        assert 400 <= response.status < 500, response.raw
