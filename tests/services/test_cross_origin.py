"""CORS: which OAuth endpoints respond to scripts, as the API's definition allows."""

import pytest

from tests.services.system import Party, System, document

ORIGIN = "https://app.example.test"
CORS = "x-tyk-api-gateway__middleware__global__cors"
SETTINGS = {"enabled": True, "allowedOrigins": [ORIGIN], "allowedHeaders": ["Authorization"], "allowCredentials": True}
PREFLIGHT = {
    "Origin": ORIGIN,
    "Access-Control-Request-Method": "POST",
    "Access-Control-Request-Headers": "authorization",
}
PATHS = ["oauth/token", "oauth/revoke", "oauth/revoke_all"]


def protocol(headers: dict[str, str]) -> dict[str, str]:
    """The CORS headers of a response."""
    return {name: value for name, value in headers.items() if name.startswith("Access-Control-")}


@pytest.fixture
async def party(system: System) -> Party:
    """A public client of an API that allows one origin."""
    return await system.party(document(**{CORS: SETTINGS}), public=True)


@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_browser_may_ask_before_it_posts(party: Party, path: str, slash: str) -> None:
    """The preflight needs no credentials, under listen path and API id."""
    for place in (party.at(path), f"/{party.api.api_id}/{path}"):
        response = await party.system.call("OPTIONS", place + slash, headers=PREFLIGHT)
        assert (response.status, response.raw) == (204, b"")
        assert protocol(response.headers) == {
            "Access-Control-Allow-Origin": ORIGIN,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": "GET, POST, HEAD",
            "Access-Control-Allow-Headers": "Authorization",
        }


async def test_a_script_reads_its_tokens_and_its_refusals(party: Party) -> None:
    """Successes and errors have the same CORS headers; without Origin there are none."""
    exchanged = await party.token(
        {
            "grant_type": "authorization_code",
            "code": await party.code(),
            "redirect_uri": "https://app.example.test/callback",
            "code_verifier": "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
        },
        Origin=ORIGIN,
    )
    refused = await party.token({"grant_type": "refresh_token", "refresh_token": "x"}, Origin=ORIGIN)
    assert (exchanged.status, refused.status) == (200, 400)
    for response in (exchanged, refused):
        assert response.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert response.headers["Vary"] == "Origin"
    assert protocol((await party.token({"grant_type": "refresh_token", "refresh_token": "x"})).headers) == {}


async def test_another_site_reads_nothing(party: Party) -> None:
    """For an origin that is not allowed the response has no CORS headers."""
    response = await party.token({"grant_type": "refresh_token", "refresh_token": "x"}, Origin="https://evil.test")
    assert (response.status, protocol(response.headers)) == (400, {})
    asked = await party.system.call(
        "OPTIONS", party.at("oauth/token"), headers=PREFLIGHT | {"Origin": "https://evil.test"}
    )
    assert (asked.status, protocol(asked.headers)) == (204, {})


async def test_nothing_is_shared_unless_the_definition_says_so(system: System) -> None:
    """Without origins in the definition nothing is allowed."""
    party = await system.party(public=True)
    response = await party.token({"grant_type": "refresh_token", "refresh_token": "x"}, Origin=ORIGIN)
    assert (response.status, protocol(response.headers)) == (400, {})
    for path in (party.at("oauth/token"), "/no-such-api/oauth/token"):
        asked = await system.call("OPTIONS", path, headers=PREFLIGHT)
        assert (asked.status, asked.headers["Allow"], protocol(asked.headers)) == (405, "POST", {})


async def test_an_edited_definition_counts_at_once(party: Party) -> None:
    """An edited definition applies at once."""
    edited = document(**{CORS: SETTINGS | {"enabled": False}})
    edited["x-tyk-api-gateway"]["info"]["id"] = party.api.api_id
    edited["x-tyk-api-gateway"]["server"]["listenPath"]["value"] = party.api.listen_path
    response = await party.system.operator("PUT", f"/api/apis/oas/{party.api.api_id}", json=edited)
    assert response.status == 200, response.raw
    asked = await party.system.call("OPTIONS", party.at("oauth/token"), headers=PREFLIGHT)
    assert asked.status == 405


async def test_the_authorization_endpoint_is_for_no_script(party: Party) -> None:
    """The authorization endpoint never has CORS headers, because browsers navigate to it."""
    path = f"{party.at('oauth/authorize')}?response_type=code&client_id={party.id}"
    assert protocol((await party.system.call("GET", path, headers={"Origin": ORIGIN})).headers) == {}
    asked = await party.system.call("OPTIONS", path, headers=PREFLIGHT)
    assert (asked.status, protocol(asked.headers)) == (405, {})
    issued = await party.system.operator(
        "POST", party.at("tyk/oauth/authorize-client"), data={"client_id": party.id}, headers={"Origin": ORIGIN}
    )
    assert protocol(issued.headers) == {}


async def test_a_script_may_discover_the_api(party: Party) -> None:
    """The metadata is readable by allowed scripts, and varies by Origin for caches."""
    path = f"/.well-known/oauth-authorization-server{party.api.listen_path.rstrip('/')}"
    response = await party.system.call("GET", path, headers={"Origin": ORIGIN})
    assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    unasked = await party.system.call("GET", path)
    assert (unasked.headers["Vary"], protocol(unasked.headers)) == ("Origin", {})
