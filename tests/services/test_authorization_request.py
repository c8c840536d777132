"""/<listen-path>/oauth/authorize: redirects to the login page, or back to the client with an error."""

import html
import re
import string
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.http.error_page import error_page
from tests.builders import CALLBACK, Response
from tests.services.system import (
    ABSENT,
    CHALLENGE,
    SCHEME,
    Party,
    System,
    document,
    open_system,
    query_of,
    raw,
    refused,
)

LOGIN = "https://login.example.test/authorize"
PKCE = {"code_challenge": CHALLENGE, "code_challenge_method": "S256"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


async def ask(party: Party, method: str = "GET", path: str = "oauth/authorize", **parameters: str) -> Response:
    """Make an authorization request that is valid except for these parameters."""
    given = {"response_type": "code", "client_id": party.id, "redirect_uri": CALLBACK, **parameters}
    form = {name: value for name, value in given.items() if value != ABSENT}
    if method == "GET":
        return await party.system.call("GET", f"{party.at(path)}?{urlencode(form)}")
    return await party.system.call("POST", party.at(path), data=form)


def redirected_error(response: Response, party: Party, error: str, uri: str = CALLBACK) -> dict[str, str]:
    """The parameters sent back to the client; its redirect URI and this error are checked."""
    assert response.status == 302
    assert response.headers["Cache-Control"] == "no-store"
    location = response.headers["Location"]
    assert location.startswith(uri), location
    parameters = query_of(location)
    assert parameters["error"] == error, parameters
    assert parameters["iss"] == f"http://127.0.0.1:8080{party.api.listen_path.rstrip('/')}"
    return parameters


# To the login page


@pytest.mark.parametrize(
    ("login", "expected"),
    [
        pytest.param(LOGIN, LOGIN + "?{}", id="plain"),
        pytest.param(LOGIN + "?theme=dark", LOGIN + "?theme=dark&{}", id="with-a-query"),
        pytest.param(LOGIN + "?", LOGIN + "?{}", id="with-an-empty-query"),
        pytest.param(LOGIN + "?theme=dark&", LOGIN + "?theme=dark&{}", id="with-an-open-query"),
        pytest.param(LOGIN + "#form", LOGIN + "?{}#form", id="with-a-fragment"),
        pytest.param(LOGIN + "?theme=dark#/form?x", LOGIN + "?theme=dark&{}#/form?x", id="with-both"),
        pytest.param("http://login.example.test", "http://login.example.test?{}", id="without-a-path"),
    ],
)
async def test_get_forwards_the_raw_query(system: System, login: str, expected: str) -> None:
    """307 to the login page with the exact bytes of the query appended to the page's own."""
    party = await system.party(document(**{SCHEME + "authLoginRedirect": login}))
    query = (
        f"response_type=code&client_id={party.id}&redirect_uri=https%3A%2F%2Fapp.example.test/callback"
        "&state=a+b%20c%2B%C3%A9&scope=&x-unknown[]=1&flag"
    )
    request = f"GET {party.at('oauth/authorize')}?{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    head, _, body = (await raw(system.call, request.encode())).partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    assert status == "HTTP/1.1 307 Temporary Redirect"
    assert f"Location: {expected.format(query)}" in headers
    assert "Cache-Control: no-store" in headers
    assert body == b""


@pytest.mark.parametrize("login", [LOGIN, LOGIN + "?theme=dark#form"])
async def test_post_leaves_the_login_page_as_it_is(system: System, login: str) -> None:
    """307 makes the browser re-post its form, so the URL is unchanged."""
    party = await system.party(document(**{SCHEME + "authLoginRedirect": login}))
    response = await ask(party, "POST", state="s")
    assert (response.status, response.headers["Location"], response.raw) == (307, login, b"")


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("path", ["oauth/authorize", "oauth/authorize/"])
@pytest.mark.parametrize("by", ["listen path", "api id"])
async def test_every_spelling_of_the_path_is_routed(system: System, method: str, path: str, by: str) -> None:
    """Listen path and API id, with and without a slash."""
    party = await system.party()
    place = party.api.listen_path if by == "listen path" else f"/{party.api.api_id}/"
    form = {"response_type": "code", "client_id": party.id}
    sent: dict[str, Any] = {"params": form} if method == "GET" else {"data": form}
    assert (await system.call(method, place + path, **sent)).status == 307


async def test_a_public_client_with_pkce_is_sent_to_the_login_page(system: System) -> None:
    """The challenge is checked here already, so that no user logs in for a request that will fail."""
    party = await system.party(public=True)
    response = await ask(party, **PKCE)
    assert response.status == 307
    assert query_of(response.headers["Location"])["code_challenge"] == CHALLENGE


async def test_nothing_is_stored(system: System) -> None:
    """Nothing is stored; the code is created when the identity server requests it."""
    party = await system.party()
    assert (await ask(party)).status == 307
    assert await system.deps.store.mongo["grants"].count_documents({"client_id": party.id}) == 0


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH"])
async def test_other_methods_are_not_answered(system: System, method: str) -> None:
    """Other methods get 405 with the two allowed ones."""
    response = await system.call(method, (await system.party()).at("oauth/authorize"))
    assert (response.status, response.headers["Allow"]) == (405, "GET,POST")
    assert response.body["error_description"] == "this method is not allowed here; send GET or POST"


# Before client and redirect URI are verified: no redirect


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("client_id", [ABSENT, "", "nobody", "<other>", "$ne"])
async def test_an_unknown_client_is_not_redirected(system: System, method: str, client_id: str) -> None:
    """Row 26: an unknown client, or one of another API, is not redirected."""
    party, other = await system.party(), await system.party()
    response = await ask(party, method, client_id=client_id.replace("<other>", other.id))
    assert refused(response, "invalid_request")
    assert "Location" not in response.headers


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param(CALLBACK + "/more", id="extra-path"),
        pytest.param(CALLBACK + "/..", id="dots"),
        pytest.param(CALLBACK + "/", id="trailing-slash"),
        pytest.param("https://APP.example.test/callback", id="other-case-of-host"),
        pytest.param("https://app.example.test/Callback", id="other-case-of-path"),
        pytest.param("HTTPS://app.example.test/callback", id="other-case-of-scheme"),
        pytest.param(CALLBACK + "?x=1", id="extra-query"),
        pytest.param(CALLBACK + "?", id="empty-query"),
        pytest.param("https://app.example.test:8443/callback", id="other-port"),
        pytest.param("https://app.example.test:443/callback", id="default-port"),
        pytest.param("http://app.example.test/callback", id="http-for-https"),
        pytest.param("https://app.example.test@evil.example/callback", id="user-information"),
        pytest.param("https://user@app.example.test/callback", id="user-information-at-the-host"),
        pytest.param("https://app.example.test.evil.example/callback", id="longer-host"),
        pytest.param(CALLBACK + "#x", id="fragment"),
        pytest.param("https://app.example.test/%63allback", id="encoded"),
        pytest.param("https://app.example.test/x/%2e%2e/callback", id="encoded-dots"),
        pytest.param("https://app.example.test\\callback", id="backslash"),
        pytest.param("https://app.example.test/call\tback", id="tab"),
        pytest.param(CALLBACK + "\n", id="line-break"),
        pytest.param(" " + CALLBACK, id="leading-space"),
        pytest.param("https://аpp.example.test/callback", id="look-alike"),
        pytest.param("javascript:alert(1)", id="javascript"),
        pytest.param("/callback", id="relative"),
        pytest.param("https://[/callback", id="no-uri"),
    ],
)
async def test_only_a_registered_redirect_uri_is_redirected_to(system: System, uri: str) -> None:
    """Row 27: redirect URIs match exactly; a mismatch gets an error without redirect, and no code."""
    party = await system.party()
    for response in (await ask(party, redirect_uri=uri), await ask(party, "POST", redirect_uri=uri)):
        assert refused(response, "invalid_request")
        assert "Location" not in response.headers
    assert refused(await party.authorize_client(redirect_uri=uri), "invalid_request")
    assert await system.deps.store.mongo["grants"].count_documents({"client_id": party.id}) == 0


@pytest.mark.parametrize(
    ("registered", "requested", "status"),
    [
        pytest.param("http://127.0.0.1/cb", "http://127.0.0.1:51004/cb", 307, id="any-port"),
        pytest.param("http://127.0.0.1:8000/cb", "http://127.0.0.1:9/cb", 307, id="other-port"),
        pytest.param("http://[::1]/cb", "http://[::1]:51004/cb", 307, id="ipv6"),
        pytest.param("http://127.0.0.1/cb?x=1", "http://127.0.0.1:5/cb?x=1", 307, id="same-query"),
        pytest.param("http://127.0.0.1/cb", "http://127.0.0.1:5/other", 400, id="other-path"),
        pytest.param("http://127.0.0.1/cb", "http://127.0.0.1:5/cb?x=1", 400, id="other-query"),
        pytest.param("http://127.0.0.1/cb", "http://127.0.0.1:5/cb#x", 400, id="fragment"),
        pytest.param("http://127.0.0.1/cb", "http://[::1]:5/cb", 400, id="other-family"),
        pytest.param("http://127.0.0.1/cb", "https://127.0.0.1:5/cb", 400, id="https"),
        pytest.param("http://127.0.0.1/cb", "http://127.0.0.2:5/cb", 400, id="other-loopback-address"),
        pytest.param("http://127.0.0.1/cb", "http://127.0.0.1.evil.example:5/cb", 400, id="longer-host"),
        pytest.param("http://127.0.0.1/cb", "http://x@127.0.0.1:5/cb", 400, id="user-information"),
        pytest.param("http://127.0.0.1/cb", "http://127.0.0.1:99999/cb", 400, id="no-port"),
        pytest.param("http://localhost/cb", "http://localhost:5/cb", 400, id="localhost"),
        pytest.param("https://127.0.0.1/cb", "https://127.0.0.1:5/cb", 400, id="https-registered"),
    ],
)
async def test_a_loopback_address_may_have_any_port(
    system: System, registered: str, requested: str, status: int
) -> None:
    """Row 29, RFC 8252 §7.3: only the port of a loopback redirect URI may differ."""
    party = await system.party(redirect_uris=(registered,))
    assert (await ask(party, redirect_uri=requested)).status == status


@pytest.mark.parametrize(
    ("registered", "status"),
    [((CALLBACK,), 307), ((CALLBACK, CALLBACK + "/2"), 400), ((), 400)],
    ids=["one", "several", "none"],
)
async def test_a_missing_redirect_uri_is_the_only_one(system: System, registered: tuple[str, ...], status: int) -> None:
    """Row 28: a missing redirect URI means the only registered one; with several or none it is an error."""
    party = await system.party(redirect_uris=registered)
    response = await ask(party, redirect_uri=ABSENT)
    assert response.status == 307 if status == 307 else refused(response, "invalid_request", status)


@pytest.mark.parametrize("repeated", ["response_type=code", "client_id=x", "state=1", "state=", "response_mode=query"])
async def test_a_repeated_parameter_is_answered_here(system: System, repeated: str) -> None:
    """Row 31, RFC 6749 §3.1: a repeated parameter is an error without redirect."""
    party = await system.party()
    query = f"response_type=code&client_id={party.id}&redirect_uri={CALLBACK}&state=2&response_mode=query&{repeated}"
    path = party.at("oauth/authorize")
    assert refused(await system.call("GET", f"{path}?{query}"), "invalid_request")
    assert refused(await system.call("POST", path, data=query, headers=FORM), "invalid_request")


@pytest.mark.parametrize("repeated", ["resource=https://a.example.test&resource=https://b.example.test", "x=1&x="])
async def test_d11_an_unknown_parameter_may_be_repeated(system: System, repeated: str) -> None:
    """A repeated unknown parameter, such as RFC 8707's `resource`, reaches the login page unchanged."""
    party = await system.party()
    query = f"response_type=code&client_id={party.id}&redirect_uri={CALLBACK}&state=2&{repeated}"
    path = party.at("oauth/authorize")
    response = await system.call("GET", f"{path}?{query}")
    assert response.status == 307
    assert response.headers["Location"].endswith(repeated)
    assert (await system.call("POST", path, data=query, headers=FORM)).status == 307


async def test_a_parameter_in_query_and_form_is_repeated_too(system: System) -> None:
    """A parameter in both query and form counts as repeated."""
    party = await system.party()
    path = party.at(f"oauth/authorize?client_id={party.id}")
    assert (await system.call("POST", path, data={"response_type": "code"})).status == 307
    both = {"response_type": "code", "client_id": party.id}
    assert refused(await system.call("POST", path, data=both), "invalid_request")


async def test_d13_the_port_of_localhost_is_free_if_the_client_says_so(system: System) -> None:
    """If the client's setting allows it, the port of `localhost` is free in request, code and exchange; off by
    default.
    """
    party = await system.party(redirect_uris=("http://localhost/cb",))
    asked = "http://localhost:51004/cb"
    assert refused(await ask(party, redirect_uri=asked), "invalid_request")
    place = f"/api/apis/oauth/{party.api.api_id}/{party.id}"
    assert "localhost_any_port" not in (await system.operator("GET", place)).body
    response = await system.operator("PUT", place, json={"localhost_any_port": True})
    assert (response.status, response.body["localhost_any_port"]) == (200, True)
    assert (await ask(party, redirect_uri=asked)).status == 307
    response = await party.authorize_client(redirect_uri=asked)
    assert response.status == 200
    code = response.body["code"]
    assert refused(await party.exchange(code, redirect_uri="http://localhost:51005/cb"), "invalid_grant")
    assert (await party.exchange(code, redirect_uri=asked)).status == 200
    assert (await system.operator("PUT", place, json={"localhost_any_port": None})).status == 200
    assert refused(await ask(party, redirect_uri=asked), "invalid_request")


@pytest.mark.parametrize("uri", ["http://evil.test[::1]/cb", "http://127.0.0.1%00.evil.test/cb", "http://0x7f.1/cb"])
async def test_a14_a_host_of_two_readings_is_no_loopback_address(system: System, uri: str) -> None:
    """A host that parsers read differently is neither registered nor matched as loopback, on any Python version."""
    party = await system.party(redirect_uris=("http://[::1]/cb", "http://127.0.0.1/cb"))
    assert refused(await ask(party, redirect_uri=uri), "invalid_request")
    response = await system.operator("POST", f"/api/apis/oauth/{party.api.api_id}", json={"redirect_uri": uri})
    assert response.status == 400
    assert response.message.startswith("redirect_uri: the host of a redirect URI is a DNS name")


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        pytest.param(b"state=%ff", FORM, 400, id="encoded-non-utf-8"),
        pytest.param(b"state=%00", FORM, 400, id="nul"),
        pytest.param(b"\xff", FORM, 400, id="non-utf-8"),
        pytest.param(b"state=" + b"x" * 70_000, FORM, 413, id="too-large"),
        pytest.param(b"{", {"Content-Type": "application/json"}, 400, id="half-json"),
        pytest.param(b"x", {"Content-Type": "text/plain"}, 400, id="text"),
    ],
)
async def test_a_malformed_form_is_answered_here(
    system: System, body: bytes, headers: dict[str, str], status: int
) -> None:
    """A malformed form gets an error without redirect."""
    party = await system.party()
    response = await system.call("POST", party.at("oauth/authorize"), data=body, headers=headers)
    assert refused(response, "invalid_request", status)


@pytest.mark.parametrize("query", ["state=%ff", "state=%00", "&".join(f"p{n}=1" for n in range(65))])
async def test_a_malformed_query_is_answered_here(system: System, query: str) -> None:
    """A malformed query gets an error without redirect."""
    party = await system.party()
    response = await system.call("GET", f"{party.at('oauth/authorize')}?client_id={party.id}&{query}")
    assert refused(response, "invalid_request")


async def test_an_api_without_a_login_page_says_so(system: System) -> None:
    """An API without a login page refuses browsers, but may issue codes to an identity server."""
    party = await system.party(document(**{SCHEME + "authLoginRedirect": ""}))
    response = await ask(party)
    assert refused(response, "invalid_request")
    assert "authLoginRedirect" in response.body["error_description"]
    assert (await party.authorize_client()).status == 200


async def test_where_no_api_is_nothing_is_redirected(system: System) -> None:
    """Where there is no API, 404 for any client."""
    party = await system.party()
    response = await system.call("GET", f"/nowhere/oauth/authorize?response_type=code&client_id={party.id}")
    assert refused(response, "invalid_request", 404)


# Afterwards: redirect with error, state and issuer


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("parameters", "error"),
    [
        pytest.param({"response_type": ABSENT}, "invalid_request", id="row-30-no-response-type"),
        pytest.param({"response_type": "token"}, "unsupported_response_type", id="row-30-implicit"),
        pytest.param({"response_type": "foo"}, "unsupported_response_type", id="row-30-unknown"),
        pytest.param({"response_type": "code token"}, "unsupported_response_type", id="hybrid"),
        pytest.param({"response_mode": "fragment"}, "invalid_request", id="row-97-mode-fragment"),
        pytest.param({"response_mode": "form_post"}, "invalid_request", id="row-97-mode-form-post"),
        pytest.param({"scope": 'a"b'}, "invalid_scope", id="malformed-scope"),
        pytest.param({"scope": "d"}, "invalid_scope", id="scope-not-registered"),
        pytest.param({"code_challenge": CHALLENGE}, "invalid_request", id="row-44-no-method"),
        pytest.param({**PKCE, "code_challenge_method": "plain"}, "invalid_request", id="row-44-plain"),
        pytest.param({**PKCE, "code_challenge_method": "foo"}, "invalid_request", id="row-44-unknown-method"),
        pytest.param({"code_challenge_method": "S256"}, "invalid_request", id="method-without-challenge"),
        pytest.param({**PKCE, "code_challenge": CHALLENGE[:-1]}, "invalid_request", id="row-45-short-challenge"),
        pytest.param({**PKCE, "code_challenge": "x" * 129}, "invalid_request", id="row-45-long-challenge"),
        pytest.param({**PKCE, "code_challenge": CHALLENGE[:-1] + "+"}, "invalid_request", id="row-45-bad-character"),
    ],
)
async def test_errors_of_a_proven_client_go_to_its_redirect_uri(
    system: System, method: str, parameters: dict[str, str], error: str
) -> None:
    """RFC 6749 §4.1.2.1, RFC 9207 §2: 302 with error, description, state and issuer (rows 30, 33, 44, 45)."""
    party = await system.party(scope="a b c")
    response = await ask(party, method, state="s t&a=t/e", **parameters)
    sent = redirected_error(response, party, error)
    assert set(sent) == {"error", "error_description", "state", "iss"}
    assert sent["state"] == "s t&a=t/e"


@pytest.mark.parametrize("kind", ["public", "required"])
async def test_a_challenge_that_is_required_is_asked_for(system: System, kind: str) -> None:
    """Rows 42 and 43: a challenge is required from public clients, and from all if the API requires PKCE."""
    party = await system.party(document(pkceRequired=kind == "required"), public=kind == "public")
    assert set(redirected_error(await ask(party), party, "invalid_request")) == {"error", "error_description", "iss"}
    assert (await ask(party, **PKCE)).status == 307


async def test_an_api_without_the_code_grant_says_so(system: System) -> None:
    """If the API has no code grant, no response type is supported."""
    flows = {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": {}}}
    party = await system.party(document(components__securitySchemes__tykOAuth__flows=flows))
    redirected_error(await ask(party), party, "unsupported_response_type")


async def test_the_query_of_a_redirect_uri_is_kept(system: System) -> None:
    """RFC 6749 §3.1.2: the registered URI's query is kept; the error is appended."""
    uri = CALLBACK + "?tenant=a%20b&x"
    party = await system.party(redirect_uris=(uri,))
    response = await ask(party, redirect_uri=uri, response_type="token")
    assert response.headers["Location"].startswith(uri + "&error=")


STATE = string.printable.replace("\x0b", "").replace("\x0c", "") + "é漢🙂" + "~" * 1900


async def test_state_comes_back_as_it_was(system: System) -> None:
    """Row 32: the state returns unchanged, with every printable character and two kilobytes long."""
    party = await system.party()
    sent = redirected_error(await ask(party, state=STATE, response_type="foo"), party, "unsupported_response_type")
    assert sent["state"] == STATE
    assert query_of((await ask(party, state=STATE)).headers["Location"])["state"] == STATE


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        pytest.param({"client_id": "x", "response_type": "foo"}, 400, id="unknown-client-before-response-type"),
        pytest.param({"redirect_uri": "x", "response_type": "foo"}, 400, id="unproven-uri-before-response-type"),
        pytest.param({"response_type": "foo", "scope": '"'}, "unsupported_response_type", id="type-before-scope"),
        pytest.param({"code_challenge": "x", "scope": '"'}, "invalid_request", id="challenge-before-scope"),
    ],
)
async def test_of_two_errors_one_is_reported(system: System, parameters: dict[str, str], expected: int | str) -> None:
    """Order of checks: client, redirect URI, response type, challenge, scope."""
    party = await system.party()
    response = await ask(party, **parameters)
    if isinstance(expected, int):
        assert refused(response, "invalid_request", expected)
    else:
        redirected_error(response, party, expected)


async def test_tyk_s_status_is_for_direct_errors_only(mongodb_url: str) -> None:
    """`oauth_error_status=403` applies to errors without redirect only."""
    async with open_system(mongodb_url, oauth_error_status=403) as system:
        party = await system.party()
        assert refused(await ask(party, client_id="nobody"), "invalid_request", 403)
        redirected_error(await ask(party, response_type="foo"), party, "unsupported_response_type")
        assert (await ask(party)).status == 307


async def test_the_issuer_is_where_clients_reach_the_edge(mongodb_url: str) -> None:
    """Row 99: the issuer comes from the settings, not from the Host header."""
    async with open_system(mongodb_url, public_url="https://auth.example.test/base/") as system:
        party = await system.party()
        query = urlencode({"response_type": "foo", "client_id": party.id})
        headers = {"Host": "evil.example", "X-Forwarded-Host": "evil.example"}
        response = await system.call("GET", f"{party.at('oauth/authorize')}?{query}", headers=headers)
        issuer = query_of(response.headers["Location"])["iss"]
        assert issuer == f"https://auth.example.test/base{party.api.listen_path.rstrip('/')}"
        assert urlsplit(response.headers["Location"]).hostname == "app.example.test"


# Errors before the redirect is safe


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


async def browse(party: Party, accept: str, method: str = "GET", **parameters: str) -> Response:
    """An authorization request with this `Accept`, valid except for these parameters."""
    given = {"response_type": "code", "client_id": party.id, "redirect_uri": CALLBACK, **parameters}
    place = party.at("oauth/authorize")
    if method == "POST":
        return await party.system.call("POST", place, data=given, headers={"Accept": accept})
    return await party.system.call("GET", f"{place}?{urlencode(given)}", headers={"Accept": accept})


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    "parameters",
    [
        pytest.param({"client_id": "nobody"}, id="client"),
        pytest.param({"redirect_uri": "https://evil.example/"}, id="redirect-uri"),
        pytest.param({"subject": "x" * 257}, id="malformed"),
    ],
)
async def test_e8_a_browser_is_shown_a_page(system: System, method: str, parameters: dict[str, str]) -> None:
    """People read what happened, with the error for the app's provider; no script can run, nothing is cached."""
    party = await system.party()
    shown = await browse(party, BROWSER, method, **parameters)
    told = await browse(party, "application/json", method, **parameters)
    assert refused(told, "invalid_request")
    assert (shown.status, shown.headers["Content-Type"]) == (400, "text/html; charset=utf-8")
    assert (shown.headers["Cache-Control"], shown.headers["Vary"], told.headers["Vary"]) == (
        "no-store",
        "Accept",
        "Accept",
    )
    assert "script" not in shown.headers["Content-Security-Policy"].replace("default-src 'none'", "")
    assert shown.headers["X-Frame-Options"] == "DENY"
    text = shown.raw.decode()
    assert text.startswith("<!doctype html>")
    assert "invalid_request" in text
    assert html.escape(told.body["error_description"]) in text
    assert shown.headers["X-Request-Id"] in text


async def test_e8_an_unknown_api_is_a_page_too(system: System) -> None:
    """404 with the same page; also for repeated parameters, which are found before anything else."""
    party = await system.party()
    response = await system.call("GET", "/nowhere/oauth/authorize", headers={"Accept": BROWSER})
    assert (response.status, response.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    place = party.at("oauth/authorize?client_id=a&client_id=b")
    response = await system.call("GET", place, headers={"Accept": BROWSER})
    assert (response.status, response.headers["Content-Type"]) == (400, "text/html; charset=utf-8")


@pytest.mark.parametrize(
    ("accept", "page"),
    [
        ("", False),
        ("*/*", False),
        ("application/json", False),
        ("text/html", True),
        ("TEXT/HTML;q=0.5, */*;q=0.8", True),
        ("text/html;q=0.5, application/json", False),
        ("text/html;q=0", False),
        ("text/html;q=x", False),
        ("application/json;q=0.2, text/html;level=1;q=0.2", True),
        ("text/htmlx, text / html", False),
    ],
)
async def test_e8_programs_get_json(system: System, accept: str, page: bool) -> None:
    """Only a request that names HTML, and does not prefer JSON, gets the page."""
    response = await browse(await system.party(), accept, client_id="nobody")
    assert response.headers["Content-Type"].startswith("text/html") is page


async def test_e8_an_identity_server_gets_json_whatever_it_accepts(system: System) -> None:
    """`authorize-client` is called by programs."""
    party = await system.party()
    form = {"response_type": "code", "client_id": "nobody", "redirect_uri": CALLBACK}
    path = f"/api/apis/oauth/{party.api.api_id}/authorize-client"
    response = await system.operator("POST", path, data=form, headers={"Accept": BROWSER})
    assert refused(response, "invalid_request")


@given(st.text(max_size=300), st.text(max_size=50))
def test_e8_nothing_in_the_page_is_markup_but_its_own(description: str, code: str) -> None:
    """Whatever the texts contain, the page has the same elements."""
    tags = re.findall(r"<[^>]*>", error_page("x", "y", "z").decode())
    assert re.findall(r"<[^>]*>", error_page(code, description, code).decode()) == tags
