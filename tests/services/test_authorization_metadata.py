"""Authorization server metadata (RFC 8414): exactly what works on an API."""

from typing import Any

import pytest
from yarl import URL

from tests.services.system import (
    CHALLENGE,
    SCHEME,
    VERIFIER,
    Party,
    System,
    auth_token,
    document,
    keyless,
    open_system,
    query_of,
)

WELL_KNOWN = "/.well-known/oauth-authorization-server"
ALL_FLOWS = ("authorizationCode", "clientCredentials", "password")


async def metadata(party: Party) -> dict[str, Any]:
    response = await party.system.call("GET", WELL_KNOWN + party.api.listen_path.rstrip("/"))
    assert response.status == 200
    assert response.headers["Content-Type"] == "application/json"
    assert isinstance(response.body, dict)
    return response.body


def flows(*names: str) -> dict[str, Any]:
    return document(
        components__securitySchemes__tykOAuth__flows={
            name: {"authorizationUrl": "/oauth/authorize", "tokenUrl": "/oauth/token", "scopes": {}} for name in names
        }
    )


async def test_the_issuer_is_the_url_it_is_found_by(system: System) -> None:
    """Row 34, RFC 8414 §3.3: the issuer matches the metadata's URL, and the endpoints are under it."""
    party = await system.party()
    found = await metadata(party)
    base = f"http://127.0.0.1:8080{party.api.listen_path.rstrip('/')}"
    assert found["issuer"] == base
    assert found["authorization_endpoint"] == f"{base}/oauth/authorize"
    assert found["token_endpoint"] == f"{base}/oauth/token"
    assert found["revocation_endpoint"] == f"{base}/oauth/revoke"
    assert found["introspection_endpoint"] == "http://127.0.0.1:8080/oauth/introspect"


@pytest.mark.parametrize("spelling", ["{at}", "{at}/", "/{id}", "/{id}/"])
async def test_every_spelling_of_the_path_is_routed(system: System, spelling: str) -> None:
    """Listen path and API id, with and without a slash, return one document with one issuer."""
    party = await system.party()
    path = spelling.format(at=party.api.listen_path.rstrip("/"), id=party.api.api_id)
    response = await system.call("GET", WELL_KNOWN + path)
    assert response.body == await metadata(party)


@pytest.mark.parametrize(
    ("base", "path"), [("/gw", "/gw"), ("/a/b/", "/a/b"), ("/g%77", "/gw"), ("/", ""), ("", "")], ids=lambda text: text
)
async def test_d9_the_path_of_the_public_url_is_in_the_issuer_and_in_its_place(
    mongodb_url: str, base: str, path: str
) -> None:
    """RFC 8414 §3.1: the well-known part goes between the host and the whole path of the issuer, including the public
    URL's path.
    """
    async with open_system(mongodb_url, public_url=f"https://auth.example.test{base}") as system:
        party = await system.party()
        own = party.api.listen_path.rstrip("/")
        base = base.rstrip("/")
        for place in (f"{path}{own}", f"{path}{own}/", f"{path}/{party.api.api_id}"):
            response = await system.call("GET", WELL_KNOWN + place)
            assert response.status == 200, place
            issuer = f"https://auth.example.test{base}{own}"
            assert response.body["issuer"] == issuer
            assert response.body["authorization_endpoint"] == f"{issuer}/oauth/authorize"
            assert response.body["token_endpoint"] == f"{issuer}/oauth/token"
            assert response.body["revocation_endpoint"] == f"{issuer}/oauth/revoke"
            assert response.body["introspection_endpoint"] == f"https://auth.example.test{base}/oauth/introspect"
        redirect = (await party.authorize_client()).body["redirect_to"]
        assert query_of(redirect)["iss"] == issuer
        told = await system.operator("POST", "/oauth/introspect", data={"token": (await party.tokens()).access})
        assert told.body["iss"] == issuer
        assert (await system.call("GET", WELL_KNOWN + own)).body == response.body, "taken off by a proxy in front"
        for wrong in (f"/x{path}{own}", f"{path}/x{own}"):
            assert (await system.call("GET", WELL_KNOWN + wrong)).status == 404, wrong


async def test_the_issuer_is_the_one_that_responses_name(system: System) -> None:
    """Row 33, RFC 9207: `iss` of authorization responses equals the issuer of the metadata, which announces it."""
    party = await system.party()
    found = await metadata(party)
    assert found["authorization_response_iss_parameter_supported"] is True
    response = await party.authorize_client()
    assert query_of(response.body["redirect_to"])["iss"] == found["issuer"]


@pytest.mark.parametrize(
    ("offered", "refresh", "expected"),
    [
        (ALL_FLOWS, True, {"authorization_code", "client_credentials", "password", "refresh_token"}),
        (ALL_FLOWS, False, {"authorization_code", "client_credentials", "password"}),
        (("authorizationCode",), True, {"authorization_code", "refresh_token"}),
        (("password",), True, {"password", "refresh_token"}),
        (("clientCredentials",), True, {"client_credentials"}),
    ],
    ids=["all", "all-without-refresh", "code", "password", "credentials-never-refresh"],
)
async def test_each_grant_is_advertised_where_it_works_and_nowhere_else(
    system: System, offered: tuple[str, ...], refresh: bool, expected: set[str]
) -> None:
    """Row 97: every advertised grant type works; every other one is unsupported."""
    definition = flows(*offered)
    oauth = definition["x-tyk-api-gateway"]["server"]["authentication"]["securitySchemes"]["tykOAuth"]
    oauth["refreshToken"] = refresh
    party = await system.party(definition)
    found = await metadata(party)
    assert set(found["grant_types_supported"]) == expected
    user = await system.user()
    grants = ("authorization_code", "client_credentials", "password", "refresh_token", "implicit")
    form = {"code": "x", "refresh_token": "x", "username": user.username, "password": "x"}
    errors = {grant: (await party.token({"grant_type": grant, **form})).body.get("error") for grant in grants}
    assert {grant for grant, error in errors.items() if error != "unsupported_grant_type"} == expected
    with_codes = "authorization_code" in expected
    assert ("authorization_endpoint" in found) is with_codes
    assert ("none" in found["token_endpoint_auth_methods_supported"]) is with_codes
    assert found.get("response_types_supported", []) == (["code"] if with_codes else [])


async def test_every_advertised_way_to_authenticate_works(system: System) -> None:
    """Row 97: `client_secret_basic`, `client_secret_post`, and `none` for public clients work."""
    party = await system.party()
    public = await system.client_of(party.api, public=True)
    found = await metadata(party)
    ways = {"client_secret_basic", "client_secret_post", "none"}
    assert set(found["token_endpoint_auth_methods_supported"]) == ways
    assert set(found["revocation_endpoint_auth_methods_supported"]) == ways
    form = {"grant_type": "client_credentials"}
    posted = {**form, "client_id": party.id, "client_secret": party.secret}
    assert (await party.token(form)).status == 200
    assert (await system.call("POST", party.at("oauth/token"), data=posted)).status == 200
    tokens = await public.tokens()
    revoked = {"token": tokens.access}
    for credentials in ({"client_id": party.id, "client_secret": party.secret}, {"client_id": public.id}):
        response = await system.call("POST", party.at("oauth/revoke"), data=revoked | credentials)
        assert response.status == 200
    assert set(found["introspection_endpoint_auth_methods_supported"]) == ways - {"none"}
    path = URL(found["introspection_endpoint"]).path
    assert (await system.call("POST", path, data={"token": "x"}, headers=party.basic)).status == 200
    posted = {"token": "x", "client_id": party.id, "client_secret": party.secret}
    assert (await system.call("POST", path, data=posted)).status == 200
    assert (await system.call("POST", path, data={"token": "x", "client_id": public.id})).status == 401


async def test_every_advertised_challenge_method_works(system: System) -> None:
    """Row 97: S256 works, and nothing else is advertised."""
    party = await system.party()
    assert (await metadata(party))["code_challenge_methods_supported"] == ["S256"]
    code = await party.code(code_challenge=CHALLENGE, code_challenge_method="S256")
    assert (await party.exchange(code, code_verifier=VERIFIER)).status == 200
    assert (await party.authorize_client(code_challenge=VERIFIER, code_challenge_method="plain")).status == 400


@pytest.mark.parametrize("place", ["/nowhere", "", "/", "/%00", "/%ff", "/a/b/c", "/..", "/" + "x" * 3000])
async def test_where_no_api_issues_tokens_is_nothing(system: System, place: str) -> None:
    """An unknown path gets 404."""
    assert (await system.call("GET", WELL_KNOWN + place)).status == 404


async def test_an_api_that_issues_nothing_has_no_metadata(system: System) -> None:
    """An inactive API or one without OAuth has no metadata."""
    inactive = await system.party(document(**{"x-tyk-api-gateway__info__state__active": False}))
    for party in (inactive, await system.party(keyless()), await system.party(auth_token())):
        assert (await system.call("GET", f"{WELL_KNOWN}/{party.api.api_id}")).status == 404


async def test_the_public_url_is_part_of_the_issuer(mongodb_url: str) -> None:
    """Row 99: the issuer starts with the public_url setting, whatever the Host header."""
    async with open_system(mongodb_url, public_url="https://auth.example.test/base/") as system:
        party = await system.party(document(**{SCHEME + "authLoginRedirect": ""}))
        response = await system.call("GET", f"{WELL_KNOWN}/{party.api.api_id}", headers={"Host": "evil.example"})
        assert response.body["issuer"] == f"https://auth.example.test/base{party.api.listen_path.rstrip('/')}"
