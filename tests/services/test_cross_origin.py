"""Scripts in browsers: which of the OAuth endpoints answer them, and where the API's definition must say so."""

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
    """The headers that a browser decides by."""
    return {name: value for name, value in headers.items() if name.startswith("Access-Control-")}


@pytest.fixture
async def party(system: System) -> Party:
    """A public client of an API that names one origin."""
    return await system.party(document(**{CORS: SETTINGS}), public=True)


@pytest.mark.parametrize("slash", ["", "/"], ids=["bare", "slash"])
@pytest.mark.parametrize("path", PATHS)
async def test_a_browser_may_ask_before_it_posts(party: Party, path: str, slash: str) -> None:
    """The preflight is answered without credentials, under the listen path and the API's id alike."""
    for place in (party.at(path), f"/{party.api.api_id}/{path}"):
        answer = await party.system.call("OPTIONS", place + slash, headers=PREFLIGHT)
        assert (answer.status, answer.raw) == (204, b"")
        assert protocol(answer.headers) == {
            "Access-Control-Allow-Origin": ORIGIN,
            "Access-Control-Allow-Credentials": "true",
            "Access-Control-Allow-Methods": "GET, POST, HEAD",
            "Access-Control-Allow-Headers": "Authorization",
        }


async def test_a_script_reads_its_tokens_and_its_refusals(party: Party) -> None:
    """Success and every error carry the same permission; without an origin there is none to give."""
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
    for answer in (exchanged, refused):
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert answer.headers["Vary"] == "Origin"
    assert protocol((await party.token({"grant_type": "refresh_token", "refresh_token": "x"})).headers) == {}


async def test_another_site_reads_nothing(party: Party) -> None:
    """An origin that is not named gets the answer of the endpoint, which its browser keeps from it."""
    answer = await party.token({"grant_type": "refresh_token", "refresh_token": "x"}, Origin="https://evil.test")
    assert (answer.status, protocol(answer.headers)) == (400, {})
    asked = await party.system.call(
        "OPTIONS", party.at("oauth/token"), headers=PREFLIGHT | {"Origin": "https://evil.test"}
    )
    assert (asked.status, protocol(asked.headers)) == (204, {})


async def test_nothing_is_shared_unless_the_definition_says_so(system: System) -> None:
    """An API whose definition names no origins answers scripts as if there were no such protocol."""
    party = await system.party(public=True)
    answer = await party.token({"grant_type": "refresh_token", "refresh_token": "x"}, Origin=ORIGIN)
    assert (answer.status, protocol(answer.headers)) == (400, {})
    for path in (party.at("oauth/token"), "/no-such-api/oauth/token"):
        asked = await system.call("OPTIONS", path, headers=PREFLIGHT)
        assert (asked.status, asked.headers["Allow"], protocol(asked.headers)) == (405, "POST", {})


async def test_an_edited_definition_counts_at_once(party: Party) -> None:
    """What is allowed is asked of the catalog, which hears of changes."""
    edited = document(**{CORS: SETTINGS | {"enabled": False}})
    edited["x-tyk-api-gateway"]["info"]["id"] = party.api.api_id
    edited["x-tyk-api-gateway"]["server"]["listenPath"]["value"] = party.api.listen_path
    answer = await party.system.operator("PUT", f"/api/apis/oas/{party.api.api_id}", json=edited)
    assert answer.status == 200, answer.raw
    asked = await party.system.call("OPTIONS", party.at("oauth/token"), headers=PREFLIGHT)
    assert asked.status == 405


async def test_the_authorization_endpoint_is_for_no_script(party: Party) -> None:
    """It is where a browser is sent, not what a script asks: no permission there, whatever the definition says."""
    path = f"{party.at('oauth/authorize')}?response_type=code&client_id={party.id}"
    assert protocol((await party.system.call("GET", path, headers={"Origin": ORIGIN})).headers) == {}
    asked = await party.system.call("OPTIONS", path, headers=PREFLIGHT)
    assert (asked.status, protocol(asked.headers)) == (405, {})
    issued = await party.system.operator(
        "POST", party.at("tyk/oauth/authorize-client"), data={"client_id": party.id}, headers={"Origin": ORIGIN}
    )
    assert protocol(issued.headers) == {}


async def test_a_script_may_discover_the_api(party: Party) -> None:
    """The metadata is public; a cache keeps apart what it says to which origin."""
    path = f"/.well-known/oauth-authorization-server{party.api.listen_path.rstrip('/')}"
    answer = await party.system.call("GET", path, headers={"Origin": ORIGIN})
    assert (answer.status, answer.headers["Access-Control-Allow-Origin"]) == (200, ORIGIN)
    unasked = await party.system.call("GET", path)
    assert (unasked.headers["Vary"], protocol(unasked.headers)) == ("Origin", {})
