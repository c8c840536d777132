"""The example identity server with a real Tokenwire: login, consent, denial, and attacks."""

from collections.abc import AsyncIterator, Callable
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest

from tests.acceptance.login import Login as AnyLogin
from tests.acceptance.login import authorize_key, login_for
from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK, Tenant, new_tenant
from tests.eventually import eventually

Login = AnyLogin[Tenant]


@pytest.fixture(scope="package", name="tenant")
async def _tenant(stack: Stack) -> Tenant:
    return await new_tenant(stack.anybody, stack.operator)


@pytest.fixture(scope="package", name="key")
async def _key(stack: Stack) -> str:
    return await authorize_key(stack)


@pytest.fixture
async def login(tenant: Tenant, stack: Stack, key: str) -> AsyncIterator[Login]:
    async with login_for(tenant, stack, key) as login:
        yield login


def query(url: str) -> dict[str, str]:
    return dict(parse_qsl(urlsplit(url).query))


async def test_consent_redirects_with_a_code(login: Login) -> None:
    """After login and consent the browser carries a code with the state, which the client can exchange."""
    consent = await login.signed_in(scope="orders other")
    assert "Order &lt;Desk&gt; wants access" in consent.text
    assert "see your orders" in consent.text
    assert login.tenant.client_id in consent.text
    back = await login.post("/consent", decision="allow", **consent.proof("/consent"))
    assert back.status == 303
    assert back.headers["Location"].startswith(f"{CALLBACK}?")
    brought = query(back.headers["Location"])
    assert brought["state"] == "a state & more"
    exchanged = await login.tenant.exchanged(brought["code"])
    assert exchanged.status == 200
    assert exchanged.body["scope"] == "orders other"


async def test_a_session_is_not_asked_to_log_in_again_but_to_consent_again(login: Login) -> None:
    """A logged-in user is asked for consent each time; after logout, for a login again."""
    await login.signed_in()
    consent = await login.get("/login", **login.request())
    left = await login.post("/session/end", **consent.proof("/session/end"))
    assert left.status == 303
    assert "/session" in (await login.get("/login", **login.request())).text
    refused = await login.post("/consent", decision="allow", **consent.proof("/consent"))
    assert refused.status == 403


async def test_a_denial_is_redirected_to_the_client(login: Login) -> None:
    """A denial sends `access_denied`, state and issuer to the verified redirect URI (RFC 6749 §4.1.2.1, RFC 9207)."""
    consent = await login.signed_in()
    back = await login.post("/consent", decision="deny", **consent.proof("/consent"))
    assert back.status == 303
    assert back.headers["Location"].startswith(f"{CALLBACK}?")
    metadata = await login.tenant.edge("GET", f"/.well-known/oauth-authorization-server{login.tenant.path}")
    said = {"error": "access_denied", "state": "a state & more", "iss": metadata.body["issuer"]}
    assert query(back.headers["Location"]) == said


async def test_a_denial_without_a_redirect_uri_is_not_redirected(login: Login) -> None:
    """Without a redirect URI in the request a denial shows a page, because only Tokenwire knows the registered URI."""
    consent = await login.signed_in(redirect_uri="")
    page = await login.post("/consent", decision="deny", **consent.proof("/consent"))
    assert page.status == 200
    assert "Location" not in page.headers


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"redirect_uri": "https://evil.example/"}, id="another-redirect-uri"),
        pytest.param({"redirect_uri": f"{CALLBACK}/../evil"}, id="a-path-further"),
        pytest.param({"client_id": "nobody"}, id="unknown-client"),
        pytest.param({"client_id": ""}, id="no-client"),
        pytest.param({"response_type": "token"}, id="another-response-type"),
    ],
)
async def test_a_forged_link_gets_no_form_and_no_redirect(login: Login, changes: dict[str, str]) -> None:
    """A request that Tokenwire refuses gets neither form nor redirect: no open redirector (RFC 9700 §4.11.2)."""
    page = await login.get("/login", **login.request(**changes))
    assert page.status == 400
    assert "Location" not in page.headers
    assert "<form" not in page.text


async def test_a_signed_in_user_cannot_be_sent_elsewhere_by_a_changed_form(login: Login) -> None:
    """The redirect URI is taken from the signed field; other form fields cannot change it."""
    consent = await login.signed_in()
    forged = {"redirect_uri": "https://evil.example/", "state": "theirs"}
    back = await login.post("/consent", decision="deny", **forged, **consent.proof("/consent"))
    assert back.headers["Location"].startswith(f"{CALLBACK}?")
    assert query(back.headers["Location"])["state"] == "a state & more"


async def test_a_form_of_another_browser_is_refused(login: Login) -> None:
    """A signed field from another browser can neither log a user in nor consent (CSRF, RFC 9700 §4.7)."""
    async with login.another_browser() as another:
        outsider = Login(another, login.tenant)
        page = await outsider.get("/login", **outsider.request())
        consent = await outsider.signed_in()
        await login.get("/login", **login.request())
        credentials = {"username": "alice", "password": "wonderland"}
        assert (await login.post("/session", **credentials, **page.proof("/session"))).status == 403
        await login.signed_in()
        assert (await login.post("/consent", decision="allow", **consent.proof("/consent"))).status == 403
        assert (await outsider.post("/consent", decision="allow", **consent.proof("/consent"))).status == 303


async def test_a_parameter_that_comes_twice_is_refused(login: Login) -> None:
    """A repeated parameter is refused (RFC 6749 §3.1)."""
    twice = f"/login?{urlencode({**login.request(), 'scope': 'a'})}&scope=b"
    page = await login.get(twice)
    assert page.status == 400
    assert "twice" in page.text


@pytest.mark.parametrize("spoil", [lambda proof: "", lambda proof: proof[:-1], lambda proof: f"{proof}0"])
async def test_a_form_without_its_proof_is_refused(login: Login, spoil: Callable[[str], str]) -> None:
    """Without the signed field, or with a changed one, there is no code."""
    consent = await login.signed_in()
    proof = spoil(consent.proof("/consent")["request"])
    assert (await login.post("/consent", decision="allow", request=proof)).status == 403


async def test_a_consent_counts_once(login: Login) -> None:
    """A consent that is sent again, even changed, yields neither a second code nor a denial; a new one does."""
    consent = await login.signed_in()
    proof = consent.proof("/consent")
    assert (await login.post("/consent", decision="allow", **proof)).status == 303
    for decision in ("allow", "deny"):
        again = await login.post("/consent", decision=decision, **proof)
        assert again.status == 403
        assert "Location" not in again.headers
    later = await login.get("/login", **login.request())
    assert (await login.post("/consent", decision="allow", **later.proof("/consent"))).status == 303


async def test_a_consent_that_came_to_nothing_may_be_sent_again(tenant: Tenant, stack: Stack) -> None:
    """If requesting the code fails, the same consent may be sent again."""
    registration = {"name": "identity server", "permissions": ["read"]}
    operator = (await stack.operator("POST", "/api/operators", json=registration)).body
    async with login_for(tenant, stack, operator["key"]) as login:
        proof = (await login.signed_in()).proof("/consent")
        assert (await login.post("/consent", decision="allow", **proof)).status == 502
        allowed = {"name": "identity server", "permissions": ["authorize"]}
        response = await stack.operator("PUT", f"/api/operators/{operator['operator_id']}", json=allowed)
        assert response.status == 200

        async def consented() -> bool:
            return (await login.post("/consent", decision="allow", **proof)).status == 303

        await eventually(consented)


async def test_the_proof_of_one_form_does_not_fit_another(login: Login) -> None:
    """The signed field of the logout form is not accepted for consent."""
    consent = await login.signed_in()
    ending = consent.proof("/session/end")
    assert (await login.post("/consent", decision="allow", **ending)).status == 403


@pytest.mark.parametrize(("name", "password"), [("alice", "wrong"), ("mallory", "wonderland"), ("<b>x</b>", "")])
async def test_a_wrong_login_shows_the_form_again(login: Login, name: str, password: str) -> None:
    """Unknown names and wrong passwords look alike, and the typed name is escaped."""
    page = await login.get("/login", **login.request())
    again = await login.post("/session", username=name, password=password, **page.proof("/session"))
    assert again.status == 422
    assert "That name and password do not match." in again.text
    assert "<b>x" not in again.text
    assert "identity_session" not in again.headers.get("Set-Cookie", "")
    assert again.proof("/session")


async def test_the_form_that_a_browser_posts_again_is_taken_too(login: Login) -> None:
    """A form re-posted by the 307 from the authorization endpoint is accepted."""
    arrived = await login.post("/login", **login.request())
    assert arrived.status == 303
    page = await login.get("/login", **query(arrived.headers["Location"]))
    assert query(arrived.headers["Location"]) == login.request()
    assert page.proof("/session")


async def test_pages_cannot_be_framed_kept_or_leaked(login: Login) -> None:
    """Pages cannot be framed (RFC 9700 §4.16) or cached, send no referrer (§4.2), and have no scripts."""
    for page in (await login.get("/login", **login.request()), await login.signed_in(), await login.get("/login")):
        policy = page.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert page.headers["Referrer-Policy"] == "no-referrer"
        assert page.headers["Cache-Control"] == "no-store"
        assert "<script" not in page.text


async def test_cookies_are_for_http_and_for_this_site(login: Login) -> None:
    """The session cookie is HttpOnly and SameSite."""
    page = await login.get("/login", **login.request())
    entered = await login.post("/session", username="alice", password="wonderland", **page.proof("/session"))
    for cookie in (page.headers["Set-Cookie"], entered.headers["Set-Cookie"]):
        assert "HttpOnly" in cookie
        assert "SameSite=Lax" in cookie


@pytest.mark.parametrize("body", [b"\xff%ff=%00&\x00", b"client_id=a&client_id=b", b"&".join([b"a=b"] * 60)])
async def test_bytes_that_are_no_form_are_answered_with_a_page(login: Login, body: bytes) -> None:
    """Malformed form bodies get an error page, never a 5xx."""
    headers = {"Content-Type": "application/x-www-form-urlencoded; charset=nonsense"}
    for path in ("/login", "/session", "/session/end", "/consent"):
        async with login.browser.post(path, data=body, headers=headers, allow_redirects=False) as response:
            assert response.status in {303, 400, 403}, path
