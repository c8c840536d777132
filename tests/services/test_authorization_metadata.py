"""Authorization server metadata (RFC 8414): what works on an API, and nothing else."""

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
    answer = await party.system.call("GET", WELL_KNOWN + party.api.listen_path.rstrip("/"))
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert isinstance(answer.body, dict)
    return answer.body


def flows(*names: str) -> dict[str, Any]:
    return document(
        components__securitySchemes__tykOAuth__flows={
            name: {"authorizationUrl": "/oauth/authorize", "tokenUrl": "/oauth/token", "scopes": {}} for name in names
        }
    )


async def test_the_issuer_is_the_url_it_is_found_by(system: System) -> None:
    """Row 34, RFC 8414 §3.3: the issuer with the well-known part put between host and path; endpoints are under it."""
    party = await system.party()
    found = await metadata(party)
    base = f"http://127.0.0.1:8080{party.api.listen_path.rstrip('/')}"
    assert found["issuer"] == base
    assert found["authorization_endpoint"] == f"{base}/oauth/authorize"
    assert found["token_endpoint"] == f"{base}/oauth/token"
    assert found["revocation_endpoint"] == f"{base}/oauth/revoke"
    assert found["introspection_endpoint"] == "http://127.0.0.1:8080/oauth/introspect"


@pytest.mark.parametrize("spelling", ["{at}", "{at}/", "/{id}", "/{id}/"])
async def test_every_spelling_of_the_path_answers(system: System, spelling: str) -> None:
    """Listen path or API id, with and without a slash: one document, with the one issuer."""
    party = await system.party()
    path = spelling.format(at=party.api.listen_path.rstrip("/"), id=party.api.api_id)
    answer = await system.call("GET", WELL_KNOWN + path)
    assert answer.body == await metadata(party)


async def test_the_issuer_is_the_one_that_responses_name(system: System) -> None:
    """Row 33, RFC 9207: `iss` of the authorization response is exactly the issuer of the metadata, which says so."""
    party = await system.party()
    found = await metadata(party)
    assert found["authorization_response_iss_parameter_supported"] is True
    answer = await party.authorize_client()
    assert query_of(answer.body["redirect_to"])["iss"] == found["issuer"]


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
    """Row 97: every advertised grant is exercised, every other one refused as unsupported."""
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
    """Row 97: `client_secret_basic`, `client_secret_post`, and `none` for public clients."""
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
        answer = await system.call("POST", party.at("oauth/revoke"), data=revoked | credentials)
        assert answer.status == 200
    assert set(found["introspection_endpoint_auth_methods_supported"]) == ways - {"none"}
    path = URL(found["introspection_endpoint"]).path
    assert (await system.call("POST", path, data={"token": "x"}, headers=party.basic)).status == 200
    posted = {"token": "x", "client_id": party.id, "client_secret": party.secret}
    assert (await system.call("POST", path, data=posted)).status == 200
    assert (await system.call("POST", path, data={"token": "x", "client_id": public.id})).status == 401


async def test_every_advertised_challenge_method_works(system: System) -> None:
    """Row 97: S256, and nothing else."""
    party = await system.party()
    assert (await metadata(party))["code_challenge_methods_supported"] == ["S256"]
    code = await party.code(code_challenge=CHALLENGE, code_challenge_method="S256")
    assert (await party.exchange(code, code_verifier=VERIFIER)).status == 200
    assert (await party.authorize_client(code_challenge=VERIFIER, code_challenge_method="plain")).status == 400


@pytest.mark.parametrize("place", ["/nowhere", "", "/", "/%00", "/%ff", "/a/b/c", "/..", "/" + "x" * 3000])
async def test_where_no_api_issues_tokens_is_nothing(system: System, place: str) -> None:
    """404, never a 5xx."""
    assert (await system.call("GET", WELL_KNOWN + place)).status == 404


async def test_an_api_that_issues_nothing_has_no_metadata(system: System) -> None:
    """Neither one that is not active, nor one without OAuth."""
    inactive = await system.party(document(**{"x-tyk-api-gateway__info__state__active": False}))
    for party in (inactive, await system.party(keyless()), await system.party(auth_token())):
        assert (await system.call("GET", f"{WELL_KNOWN}/{party.api.api_id}")).status == 404


async def test_the_public_url_is_part_of_the_issuer(mongodb_url: str) -> None:
    """Row 99: as the setting has it, whatever Host says."""
    async with open_system(mongodb_url, public_url="https://auth.example.test/base/") as system:
        party = await system.party(document(**{SCHEME + "authLoginRedirect": ""}))
        answer = await system.call("GET", f"{WELL_KNOWN}/{party.api.api_id}", headers={"Host": "evil.example"})
        assert answer.body["issuer"] == f"https://auth.example.test/base{party.api.listen_path.rstrip('/')}"
