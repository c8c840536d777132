"""Authorization server metadata (RFC 8414, RFC 9207): row 97. Each item that an API advertises is exercised, and shown
not to work on an API that does not advertise it.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from yarl import URL

from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, SCHEME
from tests.builders import Answer
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
    """An API that offers some grants, who uses it, and what it says of itself."""

    app: App
    public: App
    user: User
    metadata: Mapping[str, Any]

    def advertises(self, name: str, item: str) -> bool:
        """Whether the list of this name has the item."""
        return item in self.metadata.get(name, ())


@pytest.fixture(scope="module", params=OFFERS, name="offered")
async def _offered(request: pytest.FixtureRequest, cluster: Stack, alice: User) -> Offered:
    flows, refresh = OFFERS[request.param]
    declared = {flow: {"authorizationUrl": "/a", "tokenUrl": "/t", "scopes": {}} for flow in flows}
    api = await new_api(cluster, **{FLOWS: declared, f"{SCHEME}__refreshToken": refresh})
    app = await api.app()
    return Offered(app, await api.app(public=True), alice, await app.metadata())


def works(answer: Answer) -> bool:
    """Whether it did; where it did not, it was refused, and nothing has failed."""
    assert answer.status < 500, answer.raw
    return answer.status in {200, 307}


# Grants


async def refresh_token(offered: Offered) -> str:
    """One, if some advertised grant gives any."""
    if offered.advertises("grant_types_supported", "authorization_code"):
        return (await offered.app.pair()).refresh
    answer = await offered.app.password(offered.user)
    return str(answer.body.get("refresh_token", "tw_rt_none"))


async def of_code(offered: Offered) -> Answer:
    """The exchange of a code, if one can be had."""
    authorized = await offered.app.authorized()
    return await offered.app.exchange(authorized.body.get("code", "tw_ac_none"))


GRANTS: Mapping[str, Callable[[Offered], Awaitable[Answer]]] = {
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
    """It brings a token there, and elsewhere `unsupported_grant_type`."""
    if grant_type == "refresh_token":
        answer = await offered.app.refresh(await refresh_token(offered))
    elif grant_type in GRANTS:
        answer = await GRANTS[grant_type](offered)
    else:
        answer = await offered.app.token(grant_type=grant_type, assertion="x", device_code="x", subject_token="x")
    advertised = offered.advertises("grant_types_supported", grant_type)
    assert works(answer) is advertised
    assert advertised or answer.body["error"] == "unsupported_grant_type"


# Authentication


def proofs(app: App, public: App) -> Mapping[str, tuple[dict[str, str], dict[str, str]]]:
    """By the registered name of each method: what the header says, and what the body says."""
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
    """A token request that would bring tokens to whoever proves to be the client."""
    if method == "none" or offered.advertises("grant_types_supported", "authorization_code"):
        app = offered.public if method == "none" else offered.app
        code = (await app.authorized(**PKCE)).body.get("code", "tw_ac_none")
        return {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": VERIFIER}
    if offered.advertises("grant_types_supported", "password"):
        return {"grant_type": "password", "username": offered.user.username, "password": offered.user.password}
    return {"grant_type": "client_credentials"}


@pytest.mark.parametrize("method", METHODS)
async def test_097_an_auth_method_works_where_it_is_advertised(offered: Offered, method: str) -> None:
    """At each of the three endpoints that ask for one, at the address that the metadata names."""
    headers, body = proofs(offered.app, offered.public)[method]
    forms = {"token": await a_grant(offered, method), "revocation": {"token": "x"}, "introspection": {"token": "x"}}
    for endpoint, form in forms.items():
        place = URL(offered.metadata[f"{endpoint}_endpoint"]).path
        answer = await offered.app.edge("POST", place, data=form | body, headers=headers)
        advertised = offered.advertises(f"{endpoint}_endpoint_auth_methods_supported", method)
        assert works(answer) is advertised, (endpoint, answer.raw)


# Authorization


async def starts(offered: Offered, **changes: str) -> bool:
    """Whether such a request leads to the login page, and whoever logs in there to a code in the query."""
    to_login = works(await offered.app.authorize(**changes))
    answer = await offered.app.authorized(**changes)
    assert works(answer) is to_login
    brought = query_of(answer.body["redirect_to"])
    assert ("code" in brought) is to_login
    assert brought["iss"] == offered.metadata["issuer"]
    assert offered.metadata.get("authorization_response_iss_parameter_supported", not to_login) is True
    return to_login


@pytest.mark.parametrize("response_type", ["code", "token", "id_token", "code token", "none"])
async def test_097_a_response_type_works_where_it_is_advertised(offered: Offered, response_type: str) -> None:
    """And there alone; without any there is no authorization endpoint in the metadata."""
    advertised = offered.advertises("response_types_supported", response_type)
    assert await starts(offered, response_type=response_type) is advertised
    assert ("authorization_endpoint" in offered.metadata) is bool(offered.metadata["response_types_supported"])


@pytest.mark.parametrize("response_mode", ["query", "fragment", "form_post", "jwt", "query.jwt", "web_message"])
async def test_097_a_response_mode_works_where_it_is_advertised(offered: Offered, response_mode: str) -> None:
    """Another one is refused, and not answered in a way that the client did not want."""
    advertised = offered.advertises("response_modes_supported", response_mode)
    assert await starts(offered, response_mode=response_mode) is advertised


@pytest.mark.parametrize("method", ["S256", "plain", "S512"])
async def test_097_a_challenge_method_works_where_it_is_advertised(offered: Offered, method: str) -> None:
    """From the challenge to the tokens."""
    challenge = CHALLENGE if method == "S256" else VERIFIER
    answer = await offered.app.authorized(code_challenge=challenge, code_challenge_method=method)
    exchanged = await offered.app.exchange(answer.body.get("code", "tw_ac_none"), code_verifier=VERIFIER)
    assert works(exchanged) is offered.advertises("code_challenge_methods_supported", method)


# The document


async def test_097_every_item_is_exercised(offered: Offered) -> None:
    """What is in the document is tried here; each address is one, and each list has something in it, or is empty."""
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
async def test_097_what_is_not_advertised_is_not_there(offered: Offered, absent: str) -> None:
    """No address under the API's `oauth` is an endpoint that the metadata does not name."""
    for method in ("GET", "POST"):
        answer = await offered.app.edge(method, f"{offered.app.path}/oauth/{absent}", headers=offered.app.basic)
        assert 400 <= answer.status < 500, answer.raw
