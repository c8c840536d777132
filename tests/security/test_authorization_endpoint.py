"""The authorization endpoint (RFC 6749 §3.1, §4.1; RFC 9700 §2.1, §4; RFC 9207; RFC 8252) and the example identity
server: rows 26 to 39, and 41.
"""

import base64
import string
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from urllib.parse import quote, urlencode

import pytest

from tests.acceptance.login import Login, Page, authorize_key, login_for
from tests.acceptance.stack import Stack
from tests.acceptance.subscriber import subscribed
from tests.acceptance.tenants import CALLBACK
from tests.builders import Response
from tests.eventually import eventually
from tests.security.apps import Api, App, new_api, query_of, refused, together

LOOPBACK = "http://127.0.0.1/cb?app=1"
STATE = string.printable.strip() + " \t" + "ü€\U0001f511"


async def no_redirect(app: App, error: str = "invalid_request", **changes: str) -> bool:
    """Whether the request is refused without a redirect, both at the authorization endpoint and for the identity
    server.
    """
    responses = [await app.authorize(**changes), await app.authorized(**changes)]
    for response in responses:
        assert refused(response, error), response.raw
        assert "Location" not in response.headers
        assert b"redirect_to" not in response.raw
        assert b"tw_ac_" not in response.raw
    return True


def sent_back(response: Response) -> dict[str, str]:
    """The parameters that the response sends to the client through the browser."""
    to = response.headers["Location"] if response.status == 302 else response.body["redirect_to"]
    assert to.startswith(f"{CALLBACK}?"), to
    return query_of(to)


# Before the client and the redirect URI are verified


@pytest.mark.parametrize("client_id", ["nobody", "", "$ne", "x" * 3000, "\u00e4", "a\0b"])
async def test_026_an_unknown_client_is_not_redirected(web: App, client_id: str) -> None:
    """An unknown client gets 400 and no redirect (§4.1.2.1)."""
    assert await no_redirect(web, client_id=client_id)


async def test_026_a_client_of_another_api_is_unknown(cluster: Stack, web: App) -> None:
    """A client of another API is unknown, because each API is an authorization server of its own."""
    outsider = await (await new_api(cluster)).app()
    assert await no_redirect(web, client_id=outsider.client_id)


HOST = "app.example.test"
NOT_REGISTERED = {
    "extra-path": f"{CALLBACK}/more",
    "dot-dot": f"{CALLBACK}/../callback",
    "encoded-dot-dot": f"{CALLBACK}/%2e%2e/callback",
    "encoded-dot": "https://app%2eexample.test/callback",
    "slash": f"{CALLBACK}/",
    "path-case": f"https://{HOST}/Callback",
    "host-case": f"https://{HOST.upper()}/callback",
    "scheme-case": f"HTTPS://{HOST}/callback",
    "query": f"{CALLBACK}?x=1",
    "empty-query": f"{CALLBACK}?",
    "port": f"https://{HOST}:8443/callback",
    "default-port": f"https://{HOST}:443/callback",
    "http": f"http://{HOST}/callback",
    "userinfo": f"https://{HOST}@evil.example/callback",
    "userinfo-before": f"https://user@{HOST}/callback",
    "longer-host": f"https://{HOST}.evil.example/callback",
    "other-host": "https://evil.example/callback",
    "fragment": f"{CALLBACK}#x",
    "encoded": "https://app.example.test/%63allback",
    "backslash": f"https://{HOST}\\@evil.example/callback",
    "backslashes": "https:\\\\evil.example\\callback",
    "tab": f"https://{HOST}/call\tback",
    "space": f"{CALLBACK} ",
    "newline": f"{CALLBACK}\r\nSet-Cookie: x=1",
    "look-alike": "https://app.ex\u0430mple.test/callback",
    "full-width": "https://app.example.test/call\uff42ack",
    "relative": "//app.example.test/callback",
    "path-only": "/callback",
    "script": "javascript:alert(1)",
    "two": f"{CALLBACK};{CALLBACK}",
}


@pytest.mark.parametrize("redirect_uri", [pytest.param(uri, id=name) for name, uri in NOT_REGISTERED.items()])
async def test_027_a_redirect_uri_that_is_not_registered_is_not_used(web: App, redirect_uri: str) -> None:
    """Redirect URIs are compared as strings (RFC 9700 §2.1). An unregistered one gets 400: no redirect, no code."""
    assert await no_redirect(web, redirect_uri=redirect_uri)


async def test_028_a_missing_redirect_uri_is_the_only_one_there_is(api: Api, web: App) -> None:
    """If only one redirect URI is registered, the request may omit it, and then so may the token request (§4.1.3).

    With several registered, omitting it is refused.
    """
    several = await api.app(redirect_uris=[CALLBACK, f"{CALLBACK}/2"])
    assert await no_redirect(several, redirect_uri="")
    assert (await web.authorize(redirect_uri="")).status == 307
    for repeated in ("", CALLBACK):
        response = await web.authorized(redirect_uri="")
        assert sent_back(response)["code"] == response.body["code"]
        assert (await web.exchange(response.body["code"], redirect_uri=repeated)).status == 200
    code = await web.code(redirect_uri="")
    assert refused(await web.exchange(code, redirect_uri=f"{CALLBACK}/2"), "invalid_grant")


@pytest.fixture(scope="module", name="native")
async def _native(api: Api) -> App:
    uris = [LOOPBACK, "http://[::1]:4000/cb", "com.example.app:/cb", "http://localhost:4000/cb"]
    return await api.app(public=True, redirect_uris=uris)


@pytest.mark.parametrize(
    "redirect_uri",
    [
        LOOPBACK,
        "http://127.0.0.1:1/cb?app=1",
        "http://127.0.0.1:65535/cb?app=1",
        "http://[::1]/cb",
        "http://[::1]:8765/cb",
        "com.example.app:/cb",
        "http://localhost:4000/cb",
    ],
)
async def test_029_a_loopback_address_may_have_any_port(native: App, redirect_uri: str) -> None:
    """Any port is accepted for a loopback redirect URI (RFC 8252 §7.3), and the code is bound to the requested one."""
    assert (await native.authorize(redirect_uri=redirect_uri)).status == 307
    code = await native.code(redirect_uri=redirect_uri)
    assert refused(await native.exchange(code, redirect_uri="http://127.0.0.1:2/cb?app=1"), "invalid_grant")
    assert (await native.exchange(code, redirect_uri=redirect_uri)).status == 200


@pytest.mark.parametrize(
    "redirect_uri",
    [
        "http://127.0.0.1:8765/other?app=1",
        "http://127.0.0.1:8765/cb",
        "http://127.0.0.1:8765/cb?app=2",
        "https://127.0.0.1:8765/cb?app=1",
        "http://127.0.0.1.evil.example:8765/cb?app=1",
        "http://127.0.0.1:8765@evil.example/cb?app=1",
        "http://user@127.0.0.1:8765/cb?app=1",
        "http://127.0.0.2:8765/cb?app=1",
        "http://127.1:8765/cb?app=1",
        "http://0x7f000001:8765/cb?app=1",
        "http://localhost:8765/cb?app=1",
        "http://localhost:8765/cb",
        "http://127.0.0.1:8765/cb?app=1#x",
        "http://127.0.0.1:99999/cb?app=1",
        "http://[::1]:8765/cb/..",
        "http://[::ffff:127.0.0.1]:8765/cb",
        "com.example.app:8765/cb",
    ],
)
async def test_029_only_the_port_of_a_loopback_address_may_differ(native: App, redirect_uri: str) -> None:
    """Only the port may differ: path and query must match, and neither `localhost` nor look-alike hosts are
    accepted.
    """
    assert await no_redirect(native, redirect_uri=redirect_uri)


# After they are verified


@pytest.mark.parametrize(
    ("response_type", "error"),
    [
        ("", "invalid_request"),
        ("token", "unsupported_response_type"),
        ("foo", "unsupported_response_type"),
        ("code token", "unsupported_response_type"),
    ],
)
async def test_030_another_response_type_is_reported_to_the_client(web: App, response_type: str, error: str) -> None:
    """An unsupported response type is reported to the client by redirect, with state and issuer (§4.1.2.1, RFC 9207
    §2).
    """
    issuer = (await web.metadata())["issuer"]
    for response in (
        await web.authorize(response_type=response_type),
        await web.authorized(response_type=response_type),
    ):
        told = sent_back(response)
        assert (told["error"], told["state"], told["iss"]) == (error, "a state", issuer)
        assert "code" not in told


async def test_d11_an_unknown_parameter_of_an_authorization_request_may_repeat(spa: App) -> None:
    """An unknown parameter may repeat, such as `resource` (RFC 8707 §2). All its values reach the login page."""
    resources = [("resource", "https://a.example"), ("resource", "https://b.example")]
    query = urlencode([*spa.request().items(), *resources])
    response = await spa.edge("GET", f"{spa.path}/oauth/authorize?{query}")
    assert response.status == 307
    assert urlencode(resources) in response.headers["Location"]


@pytest.mark.parametrize("name", ["response_type", "client_id", "redirect_uri", "state", "scope", "code_challenge"])
async def test_031_a_parameter_that_comes_twice_is_refused(spa: App, name: str) -> None:
    """A repeated known parameter is refused without a redirect, because neither value can be trusted (§3.1).

    This includes one value in the query and one in the body.
    """
    request = spa.request(scope="a")
    query = urlencode([*request.items(), (name, request[name])])
    place = f"{spa.path}/oauth/authorize"
    again = {name: request[name]}
    for response in (
        await spa.edge("GET", f"{place}?{query}"),
        await spa.edge("POST", f"{place}?{urlencode(request)}", data=again),
        await spa.operator("POST", f"/api/apis/oauth/{spa.api_id}/authorize-client?{urlencode(again)}", data=query),
        await spa.operator(
            "POST",
            f"/api/apis/oauth/{spa.api_id}/authorize-client",
            data=query,
            headers={"Content-Type": "application/x-www-form-urlencoded"},
        ),
    ):
        assert response.status == 400, response.raw
        assert "Location" not in response.headers
        assert b"tw_ac_" not in response.raw


@pytest.mark.parametrize("state", [STATE, "s" * 2048, "%41%zz%", "&code=x#y"], ids=["all", "2-kB", "percent", "code"])
async def test_032_the_state_comes_back_as_it_was(web: App, state: str) -> None:
    """The state returns byte for byte, on success and on errors, and the query reaches the login page unchanged."""
    response = await web.authorized(state=state)
    assert sent_back(response)["state"] == response.body["state"] == state
    for error in (await web.authorize(state=state, scope='"'), await web.authorized(state=state, scope='"')):
        assert sent_back(error)["state"] == state
        assert "code" not in sent_back(error)
    written = urlencode(web.request()) + f"&nonce={quote(state, safe='')}"
    passed_on = await web.edge("GET", f"{web.path}/oauth/authorize?{written}")
    assert passed_on.status == 307
    assert passed_on.headers["Location"].endswith(f"?{written}")


async def test_033_every_response_names_the_issuer(web: App) -> None:
    """Every authorization response, including errors, has an `iss` equal to the issuer in the metadata, which announces
    it (RFC 9207 §2, §3).
    """
    metadata = await web.metadata()
    assert metadata["authorization_response_iss_parameter_supported"] is True
    response = await web.authorized()
    assert sent_back(response) == {"code": response.body["code"], "state": "a state", "iss": metadata["issuer"]}
    for error in (await web.authorize(scope='"'), await web.authorized(scope='"')):
        assert sent_back(error)["iss"] == metadata["issuer"]


@pytest.mark.parametrize("path", ["", "/more/than/one.segment"])
async def test_034_the_issuer_is_the_url_that_the_metadata_is_found_by(cluster: Stack, path: str) -> None:
    """The issuer is exactly the URL from which the metadata's location is derived (RFC 8414 §3.1, §3.3)."""
    api = await new_api(cluster)
    if path:
        await api.change("x-tyk-api-gateway__server__listenPath__value", f"{api.path}{path}/")
    app = await api.app()

    async def found() -> bool:
        assert (await app.metadata())["issuer"] == cluster.url + api.path
        return True

    await eventually(found)
    appended = await app.edge("GET", f"{api.path}/.well-known/oauth-authorization-server")
    assert b"issuer" not in appended.raw
    response = await app.edge(
        "GET", f"/.well-known/oauth-authorization-server{api.path}", headers={"Host": "evil.example"}
    )
    assert response.body["issuer"] == cluster.url + api.path


# The identity server


@pytest.fixture(scope="package", name="key")
async def _key(cluster: Stack) -> str:
    return await authorize_key(cluster)


@pytest.fixture(name="login")
async def _login(cluster: Stack, web: App, key: str) -> AsyncIterator[Login[App]]:
    async with login_for(web, cluster, key) as login:
        yield login


async def test_035_after_a_form_the_browser_goes_on_with_a_get(login: Login[App]) -> None:
    """After the login form and after consent the redirect is 303, never 307 or 308, which would post the password to
    the client.
    """
    page = await login.get("/login", **login.request())
    entered = await login.post("/session", username="alice", password="wonderland", **page.proof("/session"))
    consent = await login.get("/login", **login.request())
    back = await login.post("/consent", decision="allow", **consent.proof("/consent"))
    assert (entered.status, back.status) == (303, 303)


def is_guarded(page: Page) -> bool:
    """Whether the page cannot be framed or cached, sends no referrer, and loads nothing from other sites."""
    policy = dict(part.strip().partition(" ")[::2] for part in page.headers["Content-Security-Policy"].split(";"))
    assert policy["frame-ancestors"] == policy["default-src"] == "'none'"
    assert set(policy) == {"default-src", "style-src", "base-uri", "frame-ancestors"}
    assert policy["style-src"].startswith("'sha256-")
    assert page.headers["X-Frame-Options"] == "DENY"
    assert page.headers["Referrer-Policy"] == "no-referrer"
    assert page.headers["Cache-Control"] == "no-store"
    return not any(mark in page.text for mark in ("<script", "<img", "<link", "<iframe", " src=", "url(", "@import"))


async def test_036_pages_are_guarded(login: Login[App]) -> None:
    """The login, consent and error pages have these protections (RFC 9700 §4.2.4, §4.16)."""
    pages = [await login.get("/login", **login.request()), await login.signed_in(), await login.get("/login")]
    assert all(is_guarded(page) for page in pages)
    assert is_guarded(await login.post("/consent", decision="allow"))


async def test_037_a_consent_that_the_page_did_not_make_is_refused(login: Login[App]) -> None:
    """Consent without the form's token, or with another form's or another browser's, gets 403 and no code (RFC 9700
    §4.7).
    """
    consent = await login.signed_in()
    ending = consent.proof("/session/end")
    async with login.another_browser() as another:
        theirs = (await Login(another, login.tenant).signed_in()).proof("/consent")
        for proof in ({}, {"request": "x.y"}, ending, theirs):
            response = await login.post("/consent", decision="allow", **proof)
            assert response.status == 403
            assert "Location" not in response.headers


async def test_038_a_denial_is_reported_to_the_client(login: Login[App]) -> None:
    """A denial redirects to the client with `access_denied`, state and issuer (§4.1.2.1)."""
    consent = await login.signed_in(state="theirs")
    back = await login.post("/consent", decision="deny", **consent.proof("/consent"))
    told = query_of(back.headers["Location"])
    assert (told["error"], told["state"]) == ("access_denied", "theirs")
    assert told["iss"] == (await login.tenant.metadata())["issuer"]


async def test_039_a_consent_counts_once_and_in_its_own_browser(login: Login[App]) -> None:
    """A consent can be used only once, and only with the cookies of the browser that it was shown in."""
    proof = (await login.signed_in()).proof("/consent")
    async with login.another_browser() as another:
        outsider = Login(another, login.tenant)
        await outsider.signed_in()
        assert (await outsider.post("/consent", decision="allow", **proof)).status == 403
        assert (await login.post("/consent", decision="allow", **proof)).status == 303
        assert (await login.post("/consent", decision="allow", **proof)).status == 403


# Codes

CODES = 1000
RANDOM_BYTES = 20
"""The random bytes follow key id, grant id and generation. The tag behind them adds no secrecy."""


async def test_041_codes_are_beyond_guessing(web: App) -> None:
    """Codes are unique, URL-safe and contain 160 random bits: each bit is set in about half of them."""
    codes = [code for _ in range(CODES // 100) for code in await together(*(web.code() for _ in range(100)))]
    assert len(set(codes)) == CODES
    bodies = [code.removeprefix("tw_ac_") for code in codes]
    assert all(set(body) <= set(string.ascii_letters + string.digits + "-_") for body in bodies)
    secrets = [int.from_bytes(base64.urlsafe_b64decode(body + "==")[21 : 21 + RANDOM_BYTES], "big") for body in bodies]
    for bit in range(RANDOM_BYTES * 8):
        share = sum(secret >> bit & 1 for secret in secrets) / CODES
        assert 0.4 < share < 0.6, bit


@pytest.mark.parametrize("lifetime", [0, 601, 3600])
async def test_041_a_code_cannot_be_given_more_than_ten_minutes(cluster: Stack, api: Api, lifetime: int) -> None:
    """A definition with a code lifetime over ten minutes is refused (§4.1.2: "A maximum authorization code lifetime of
    10 minutes is RECOMMENDED").
    """
    document = {**api.document, "x-tokenwire": {"codeLifetime": lifetime}}
    response = await cluster.operator("PUT", f"/api/apis/{api.api_id}", json=document)
    assert response.status == 400
    assert "codeLifetime" in response.message


async def test_041_a_code_lasts_a_minute_where_nothing_else_is_said(cluster: Stack, api: Api) -> None:
    """A code is valid for one minute by default; its event says so."""
    app = await api.app()
    async with subscribed(cluster.servers.amqp_url, f"code.issued.{api.api_id}") as subscriber:
        await app.code()
        (event,) = await subscriber.hears("code.issued", client_id=app.client_id)
    issued, expires = (datetime.fromisoformat(text) for text in (event["time"], event["data"]["expires_at"]))
    assert expires - issued == timedelta(seconds=60)
