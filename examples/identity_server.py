"""An identity server for Tokenwire: a login page, a consent page, and the request for the code.

    python -m examples.identity_server --api-id <api id> --listen-path /my-oauth-api/ --operator-key-file key

The `authLoginRedirect` of the API definition points to `/login` here. Tokenwire redirects the browser there with 307: a
GET carries the authorization request in the query; a POST makes the browser post the same form again. Then

1. the user logs in, unless a session identifies the user already;
2. the user sees which client requests which scopes, and allows or denies it;
3. if allowed, this server requests a code from Tokenwire with an operator key that has only the permission `authorize`,
   and redirects the browser to the `redirect_to` of the response.

If denied, the browser returns to the client with `error=access_denied` (RFC 6749 §4.1.2.1). The redirect URI in the
query cannot be trusted, because anyone can write a link to `/login`: a server that trusted it would be an open
redirector (RFC 9700 §4.11.2). So before it shows a page, this server sends the same request to the API's authorization
endpoint. Only a 307 from there shows that the redirect URI is registered for the client. The verified parameters are
signed into the form, bound to this browser and valid for ten minutes, and a denial redirects to the signed URI. A
request without a redirect URI (when the client registered exactly one) is denied on a page, because only Tokenwire
knows the address. A denial names the issuer, as every authorization response does (RFC 9207); it is read from the API's
metadata.

Every form has such a signed field, which must match a signed cookie: the login form the browser's cookie, the consent
form the session's. Another site's page can read neither, so it can neither log a user in nor consent for the user
(CSRF). A consent can be used once: sending the form again, even concurrently, does not issue a second code.

Left to you: real users, a limit on login attempts, and, for several instances, a shared signing key in place of the
one made at the start, and a shared record of the consents used.
"""

import argparse
import asyncio
import base64
import hashlib
import hmac
import html
import json
import os
import secrets
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from aiohttp import ClientError, ClientResponse, ClientSession, ClientTimeout, web
from aiohttp.typedefs import Handler

AUTHORIZATION_PARAMETERS = (
    "response_type",
    "response_mode",
    "client_id",
    "redirect_uri",
    "scope",
    "state",
    "code_challenge",
    "code_challenge_method",
)
"""RFC 6749 §4.1.1, RFC 7636 §4.3, and how the client wants its response; others are ignored."""

SESSION_SECONDS = 3600
FORM_SECONDS = 600
LARGEST_FORM = 64 * 1024

DEMO_USERS = {"alice": "wonderland"}

Fields = dict[str, str]


# Configuration


@dataclass(frozen=True)
class Settings:
    """The API whose users log in here, and the users."""

    tokenwire: str
    """The base URL of Tokenwire, e.g. `http://127.0.0.1:8080`."""
    api_id: str
    listen_path: str
    operator_key: str = field(repr=False)
    users: Mapping[str, str] = field(repr=False)
    """Name to password."""
    client_names: Mapping[str, str] = field(default_factory=dict)
    """Client id to display name; a client without one is shown by its id."""
    scopes: Mapping[str, str] = field(default_factory=dict)
    """Scope to the sentence that users read on the consent page."""
    secure_cookies: bool = False
    """True if browsers use https."""


class Users:
    """User names and scrypt hashes. An unknown name takes as long as a wrong password."""

    def __init__(self, passwords: Mapping[str, str]) -> None:
        self._salt = secrets.token_bytes(16)
        self._hashes = {name: self._hash(password) for name, password in passwords.items()}
        self._nobody = secrets.token_bytes(64)

    async def are(self, name: str, password: str) -> bool:
        """Whether the name and the password are right."""
        presented = await asyncio.to_thread(self._hash, password)
        return hmac.compare_digest(presented, self._hashes.get(name, self._nobody))

    def _hash(self, password: str) -> bytes:
        return hashlib.scrypt(password.encode(errors="replace"), salt=self._salt, n=2**14, r=8, p=1)


# Signed fields


@dataclass(frozen=True)
class Signer:
    """Signs text for one purpose until a Unix time, so that only this server can have written it."""

    key: bytes = field(default_factory=lambda: secrets.token_bytes(32), repr=False)

    def sign(self, purpose: str, content: dict[str, Any], *, until: float) -> str:
        """The text and its signature, usable in a cookie and in a form."""
        # Hex and a dot, because a cookie value of these needs no quoting.
        body = json.dumps({**content, "until": until}).encode().hex()
        return f"{body}.{self._tag(purpose, body)}"

    def open(self, purpose: str, text: str, *, now: float) -> dict[str, Any] | None:
        """The signed text; None if the signature or the purpose is wrong, or the time is over."""
        body, _, tag = text.encode(errors="replace").decode().rpartition(".")
        if not hmac.compare_digest(tag.encode(), self._tag(purpose, body).encode()):
            return None
        content: dict[str, Any] = json.loads(bytes.fromhex(body))
        return content if now < content.pop("until") else None

    def _tag(self, purpose: str, body: str) -> str:
        return hmac.new(self.key, f"{purpose}.{body}".encode(), hashlib.sha256).hexdigest()


@dataclass
class Once:
    """Remembers what was used, for as long as it could be used again."""

    _used: dict[str, float] = field(default_factory=dict, repr=False)

    @contextmanager
    def use(self, proof: str, *, now: float) -> Iterator[None]:
        """Accept the first use until it expires. Raises Refused for any further use."""
        if proof in self._used:
            raise foreign_form()
        for old in [old for old, until in self._used.items() if until <= now]:
            del self._used[old]
        self._used[proof] = now + FORM_SECONDS
        try:
            yield
        except Refused:
            del self._used[proof]
            raise


# Refusals


class Refused(Exception):
    """The browser gets an error page."""

    def __init__(self, status: int, title: str, text: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.text = text


def invalid_link(text: str) -> Refused:
    return Refused(400, "This sign-in link does not work", text)


def foreign_form() -> Refused:
    return Refused(
        403,
        "This form cannot be used any more",
        "It was used before, is too old, or was opened in another browser. Go back to the application and start again.",
    )


def unavailable() -> Refused:
    return Refused(502, "We cannot reach the authorization server", "Please try again in a moment.")


# Requests to Tokenwire


@dataclass(frozen=True)
class Tokenwire:
    """The requests that an identity server makes."""

    http: ClientSession
    settings: Settings

    async def prove(self, parameters: Fields) -> None:
        """Raises Refused unless the client exists and the redirect URI is registered for it."""
        url = f"{self.settings.tokenwire}/{self.settings.listen_path.strip('/')}/oauth/authorize"
        status, body, _ = await self._ask("GET", url, params=parameters)
        if status == 307:
            return
        if status >= 500:
            raise unavailable()
        said = body.get("error_description") or body.get("message") or body.get("error") or ""
        raise invalid_link(f"The application sent a request that is not valid. {said}".strip())

    async def code(self, parameters: Fields, *, subject: str) -> str:
        """Issue a code for this user; return the client's redirect URI with the code in it."""
        url = f"{self.settings.tokenwire}/api/apis/oauth/{self.settings.api_id}/authorize-client"
        headers = {"Authorization": self.settings.operator_key}
        status, body, text = await self._ask("POST", url, data={**parameters, "subject": subject}, headers=headers)
        if status == 200:
            return str(body["redirect_to"])
        print(f"no code: {status} {text[:300]}", file=sys.stderr)
        raise unavailable()

    async def issuer(self) -> str:
        """The issuer identifier of the API (RFC 8414)."""
        url = f"{self.settings.tokenwire}/.well-known/oauth-authorization-server/{self.settings.listen_path.strip('/')}"
        status, body, text = await self._ask("GET", url)
        if status == 200:
            return str(body["issuer"])
        print(f"no issuer: {status} {text[:300]}", file=sys.stderr)
        raise unavailable()

    async def _ask(self, method: str, url: str, **request: Any) -> tuple[int, dict[str, Any], str]:
        try:
            async with self.http.request(method, url, allow_redirects=False, **request) as response:
                return response.status, *await _json_and_text(response)
        except (ClientError, TimeoutError) as error:
            print(f"no response from {url}: {error!r}", file=sys.stderr)
            raise unavailable() from error


async def _json_and_text(response: ClientResponse) -> tuple[dict[str, Any], str]:
    text = await response.text(errors="replace")
    try:
        body = json.loads(text)
    except ValueError:
        body = {}
    return (body if isinstance(body, dict) else {}), text


# Requests from the browser


def fields(text: str) -> Fields:
    """The parameters of a query or a form; empty values are left out (RFC 6749 §3.1)."""
    try:
        pairs = parse_qsl(text, max_num_fields=50)
    except ValueError:
        raise invalid_link("It has too many parameters.") from None
    found = dict(pairs)
    # "Request and response parameters MUST NOT be included more than once." (RFC 6749 §3.1)
    if len(found) != len(pairs):
        raise invalid_link("It names a parameter twice.")
    return found


async def form(request: web.Request) -> Fields:
    return fields((await request.read()).decode(errors="replace"))


def authorization_request(found: Fields) -> Fields:
    return {name: found[name] for name in AUTHORIZATION_PARAMETERS if name in found}


def denied(redirect_uri: str, *, state: str | None, issuer: str) -> str:
    """The client's address with `error=access_denied`, its own query kept (RFC 6749 §3.1.2)."""
    parts = urlsplit(redirect_uri)
    error = urlencode({"error": "access_denied", **({"state": state} if state else {}), "iss": issuer})
    return urlunsplit(parts._replace(query=f"{parts.query}&{error}" if parts.query else error))


# Pages


STYLE = """
:root{color-scheme:light dark;--ground:#eef1f7;--glow:#dfe6ff;--card:#fff;--ink:#161a2b;--soft:#565e75;
--line:#d3d9e6;--edge:#7f8aa5;--field:#fff;--accent:#3346d3;--accent-ink:#fff;--accent-deep:#2735ab;--tint:#eef0ff;--bad:#a3132b;--bad-tint:#fdecef}
@media (prefers-color-scheme:dark){:root{--ground:#0e111b;--glow:#1b2350;--card:#171b28;--ink:#eef0f8;--soft:#a5adc4;
--line:#343b50;--edge:#6b7590;--field:#10141f;--accent:#8b9bff;--accent-ink:#0c1030;--accent-deep:#a5b1ff;--tint:#20263f;
--bad:#ff9aa9;--bad-tint:#3a1a22}}
*,*::before,*::after{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;min-height:100vh;min-height:100dvh;display:grid;place-items:center;padding:1.25rem;color:var(--ink);
background:radial-gradient(70rem 34rem at 50% -8rem,var(--glow),transparent 70%),var(--ground);
font:1rem/1.5 system-ui,-apple-system,"Segoe UI",Roboto,"Noto Sans",sans-serif}
main{width:100%;max-width:26rem;background:var(--card);border:1px solid var(--line);border-radius:1.125rem;
padding:2rem;box-shadow:0 1px 2px rgb(20 26 60/.06),0 18px 48px rgb(20 26 60/.12)}
.mark{display:flex;align-items:center;gap:.625rem;margin:0 0 1.75rem;font-weight:650;letter-spacing:-.01em}
.mark svg{width:1.75rem;height:1.75rem;color:var(--accent)}
h1{margin:0 0 .375rem;font-size:1.5rem;line-height:1.25;letter-spacing:-.02em;overflow-wrap:anywhere;text-wrap:balance}
p{margin:0 0 1.25rem;color:var(--soft)}
strong{color:var(--ink);font-weight:650;overflow-wrap:anywhere}
label{display:block;margin:0 0 .375rem;font-weight:600;font-size:.9375rem}
input{display:block;width:100%;min-height:2.875rem;margin:0 0 1.125rem;padding:.5rem .875rem;font:inherit;color:inherit;
background:var(--field);border:1px solid var(--edge);border-radius:.625rem}
input[aria-invalid=true]{border-color:var(--bad)}
button{min-height:2.875rem;padding:.5rem 1.125rem;font:inherit;font-weight:650;border-radius:.625rem;cursor:pointer;
border:1px solid var(--edge);background:transparent;color:var(--ink)}
button:hover{background:var(--tint)}
.primary{background:var(--accent);border-color:var(--accent);color:var(--accent-ink)}
.primary:hover{background:var(--accent-deep);border-color:var(--accent-deep)}
.wide{width:100%}
:focus-visible{outline:3px solid var(--accent);outline-offset:2px}
.choice{display:flex;gap:.75rem}.choice button{flex:1}
.alert{margin:0 0 1.25rem;padding:.75rem .875rem;border-radius:.625rem;background:var(--bad-tint);color:var(--bad);
font-weight:550}
.asks{margin:0 0 1.25rem;padding:.875rem 1rem;list-style:none;border-radius:.75rem;background:var(--tint)}
.asks li{display:flex;gap:.625rem;padding:.25rem 0;overflow-wrap:anywhere}
.asks svg{flex:none;width:1.125rem;height:1.125rem;margin-top:.1875rem;color:var(--accent)}
.facts{margin:0 0 1.5rem;font-size:.875rem;display:grid;grid-template-columns:auto 1fr;gap:.25rem .875rem}
.facts dt{color:var(--soft)}.facts dd{margin:0;overflow-wrap:anywhere}
.who{display:flex;align-items:center;justify-content:space-between;gap:.75rem;margin:1.5rem 0 0;padding-top:1.125rem;
border-top:1px solid var(--line);font-size:.875rem;color:var(--soft)}
.who button{min-height:2.25rem;padding:.25rem .75rem;font-size:.875rem;white-space:nowrap}
@media (max-width:26rem){body{padding:.75rem}main{padding:1.5rem 1.25rem}}
"""

SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

# No form-action: browsers also apply it to the redirect after a form, and after consent the client's address may
# redirect further.
CONTENT_SECURITY_POLICY = (
    f"default-src 'none'; style-src 'sha256-{base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()}'; "
    "base-uri 'none'; frame-ancestors 'none'"
)

MARK = (
    '<p class="mark"><svg viewBox="0 0 28 28" fill="none" aria-hidden="true"><rect width="28" height="28" rx="8" '
    'fill="currentColor" opacity=".16"/><path d="M14 6.5a4 4 0 0 1 4 4c0 1.6-.9 2.9-2.2 3.6L17 21h-6l1.2-6.9A4 4 0 0 1 '
    '14 6.5Z" fill="currentColor"/></svg>Example Identity</p>'
)

TICK = (
    '<svg viewBox="0 0 18 18" fill="none" aria-hidden="true"><circle cx="9" cy="9" r="9" fill="currentColor" '
    'opacity=".18"/><path d="m5 9.3 2.7 2.7L13 6.6" stroke="currentColor" stroke-width="1.8" stroke-linecap="round" '
    'stroke-linejoin="round"/></svg>'
)


def page(title: str, inside: str, *, status: int = 200) -> web.Response:
    """A whole document. `inside` is inserted as markup, the title as text."""
    document = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="robots" content="noindex">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head><body><main>{MARK}{inside}</main></body></html>"
    )
    headers = {"Content-Security-Policy": CONTENT_SECURITY_POLICY}
    return web.Response(text=document, content_type="text/html", charset="utf-8", status=status, headers=headers)


def hidden(proof: str) -> str:
    return f'<input type="hidden" name="request" value="{html.escape(proof)}">'


def login_page(client: str, proof: str, *, name: str = "", wrong: bool = False) -> web.Response:
    """The login form. After a wrong attempt it says so and keeps the name."""
    alert = '<p class="alert" role="alert" id="wrong">That name and password do not match.</p>' if wrong else ""
    marked = ' aria-invalid="true" aria-describedby="wrong"' if wrong else ""
    on_name, on_password = ("", " autofocus") if wrong else (" autofocus", "")
    inside = (
        f"<h1>Sign in</h1><p>to continue to <strong>{html.escape(client)}</strong></p>{alert}"
        f'<form method="post" action="/session">{hidden(proof)}'
        '<label for="username">User name</label>'
        f'<input id="username" name="username" value="{html.escape(name)}" autocomplete="username" '
        f'autocapitalize="none" spellcheck="false" required maxlength="256"{marked}{on_name}>'
        '<label for="password">Password</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required '
        f'maxlength="256"{marked}{on_password}><button class="primary wide">Sign in</button></form>'
    )
    return page("Sign in", inside, status=422 if wrong else 200)


def consent_page(
    client: str, parameters: Fields, asks: list[str], *, subject: str, proof: str, ending: str
) -> web.Response:
    """Shows which client asks for which scopes and for which user, with two buttons."""
    items = "".join(f"<li>{TICK}<span>{html.escape(ask)}</span></li>" for ask in asks)
    back_to = urlsplit(parameters.get("redirect_uri", ""))
    facts = f"<dt>Client id</dt><dd>{html.escape(parameters['client_id'])}</dd>"
    if back_to.scheme:
        facts += f"<dt>Returns to</dt><dd>{html.escape(back_to.netloc or back_to.scheme + ':')}</dd>"
    inside = (
        f"<h1>{html.escape(client)} wants access</h1><p>If you allow it, it may:</p>"
        f'<ul class="asks">{items}</ul><dl class="facts">{facts}</dl>'
        f'<form method="post" action="/consent">{hidden(proof)}<div class="choice">'
        '<button name="decision" value="deny">Deny</button>'
        '<button class="primary" name="decision" value="allow">Allow</button></div></form>'
        f'<form class="who" method="post" action="/session/end">{hidden(ending)}'
        f"<span>Signed in as <strong>{html.escape(subject)}</strong></span><button>Not you?</button></form>"
    )
    return page(f"Allow {client}?", inside)


def message_page(title: str, text: str, *, status: int) -> web.Response:
    return page(title, f'<h1>{html.escape(title)}</h1><p role="alert">{html.escape(text)}</p>', status=status)


# The server


@dataclass(frozen=True)
class IdentityServer:
    """The four endpoints; Tokenwire redirects to `/login`."""

    settings: Settings
    users: Users
    signer: Signer
    consents: Once = field(default_factory=Once)
    now: Callable[[], float] = time.time

    async def arrive(self, request: web.Request) -> web.Response:
        """GET /login: the login page, or the consent page if the user is already logged in."""
        parameters = authorization_request(fields(request.query_string))
        await self._tokenwire(request).prove(parameters)
        session = self._cookie(request, "session")
        if session is None:
            return self._ask_to_log_in(request, parameters)
        return self._ask_for_consent(parameters, session)

    async def arrive_by_form(self, request: web.Request) -> web.Response:
        """POST /login: turn a form posted across sites into a GET, because SameSite cookies come only with that."""
        return see_other(_entrance(authorization_request(await form(request))))

    async def log_in(self, request: web.Request) -> web.Response:
        """POST /session: start a session if the password is right; otherwise show the form again."""
        sent = await form(request)
        parameters = self._proven("login", sent, self._cookie(request, "browser"))
        name = sent.get("username", "")
        if not await self.users.are(name, sent.get("password", "")):
            return self._ask_to_log_in(request, parameters, name=name, wrong=True)
        response = see_other(_entrance(parameters))
        # A new id at each login, so that knowing the browser's earlier id gives no access to the session (session
        # fixation).
        self._set_cookie(response, "session", {"id": secrets.token_urlsafe(16), "subject": name})
        return response

    async def log_out(self, request: web.Request) -> web.Response:
        """POST /session/end: drop the session cookie and show the login page again."""
        parameters = self._proven("end", await form(request), self._cookie(request, "session"))
        response = see_other(_entrance(parameters))
        self._drop_cookie(response, "session")
        return response

    async def decide(self, request: web.Request) -> web.Response:
        """POST /consent: back to the client, with a code or with `access_denied`."""
        sent = await form(request)
        session = self._cookie(request, "session")
        parameters = self._proven("consent", sent, session)
        with self.consents.use(sent["request"], now=self.now()):
            return await self._decided(self._tokenwire(request), sent.get("decision", ""), parameters, session)

    async def _decided(
        self, tokenwire: Tokenwire, decision: str, parameters: Fields, session: dict[str, Any] | None
    ) -> web.Response:
        match decision:
            case "allow" if session:
                # 303, never 307: the client must not receive this form (RFC 9700 §4.12).
                return see_other(await tokenwire.code(parameters, subject=session["subject"]))
            case "deny" if "redirect_uri" in parameters:
                issuer = await tokenwire.issuer()
                return see_other(denied(parameters["redirect_uri"], state=parameters.get("state"), issuer=issuer))
            case "deny":
                return message_page("Access denied", "The application was not given access.", status=200)
            case _:
                raise foreign_form()

    def _ask_to_log_in(
        self, request: web.Request, parameters: Fields, *, name: str = "", wrong: bool = False
    ) -> web.Response:
        browser = self._cookie(request, "browser") or {"id": secrets.token_urlsafe(16)}
        proof = self._proof("login", parameters, browser)
        response = login_page(self._client_name(parameters), proof, name=name, wrong=wrong)
        self._set_cookie(response, "browser", browser)
        return response

    def _ask_for_consent(self, parameters: Fields, session: dict[str, Any]) -> web.Response:
        scopes = parameters.get("scope", "").split()
        asks = [self.settings.scopes.get(scope, scope) for scope in scopes] or ["use this API in your name"]
        return consent_page(
            self._client_name(parameters),
            parameters,
            asks,
            subject=session["subject"],
            proof=self._proof("consent", parameters, session),
            ending=self._proof("end", parameters, session),
        )

    def _proof(self, form: str, parameters: Fields, holder: dict[str, Any]) -> str:
        """The form's hidden field: the verified parameters, bound to this browser or session."""
        content = {"bound_to": holder["id"], "parameters": parameters}
        return self.signer.sign(f"form {form}", content, until=self.now() + FORM_SECONDS)

    def _proven(self, form: str, sent: Fields, holder: dict[str, Any] | None) -> Fields:
        """The parameters in a form's hidden field. Raises Refused if the field is forged, expired or from another
        browser.
        """
        proof = self.signer.open(f"form {form}", sent.get("request", ""), now=self.now())
        if proof is None or holder is None or proof["bound_to"] != holder["id"]:
            raise foreign_form()
        parameters: Fields = proof["parameters"]
        return parameters

    def _cookie(self, request: web.Request, name: str) -> dict[str, Any] | None:
        return self.signer.open(f"cookie {name}", request.cookies.get(self._cookie_name(name), ""), now=self.now())

    def _set_cookie(self, response: web.StreamResponse, name: str, content: dict[str, Any]) -> None:
        value = self.signer.sign(f"cookie {name}", content, until=self.now() + SESSION_SECONDS)
        response.set_cookie(
            self._cookie_name(name),
            value,
            max_age=SESSION_SECONDS,
            path="/",
            httponly=True,
            samesite="Lax",
            secure=self.settings.secure_cookies,
        )

    def _drop_cookie(self, response: web.StreamResponse, name: str) -> None:
        secure = self.settings.secure_cookies
        response.del_cookie(self._cookie_name(name), path="/", httponly=True, samesite="Lax", secure=secure)

    def _cookie_name(self, name: str) -> str:
        # With this prefix, browsers accept the cookie only from this exact host, over https.
        return f"__Host-{name}" if self.settings.secure_cookies else f"identity_{name}"

    def _client_name(self, parameters: Fields) -> str:
        client_id = parameters["client_id"]
        return self.settings.client_names.get(client_id, client_id)

    def _tokenwire(self, request: web.Request) -> Tokenwire:
        return Tokenwire(request.app[HTTP], self.settings)


HTTP = web.AppKey("http", ClientSession)


def see_other(location: str) -> web.Response:
    """Redirect with 303, so that the browser continues with a GET. The location is not re-encoded."""
    return web.Response(status=303, headers={"Location": location})


def _entrance(parameters: Fields) -> str:
    return f"/login?{urlencode(parameters)}"


@web.middleware
async def show_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn a Refused into an error page."""
    try:
        return await handler(request)
    except Refused as refused:
        return message_page(refused.title, refused.text, status=refused.status)


async def _secure(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(SECURITY_HEADERS)


async def _http(app: web.Application) -> AsyncIterator[None]:
    async with ClientSession(timeout=ClientTimeout(total=10)) as http:
        app[HTTP] = http
        yield


def create_app(settings: Settings) -> web.Application:
    """The identity server as an aiohttp application."""
    server = IdentityServer(settings, Users(settings.users), Signer())
    app = web.Application(middlewares=[show_refusals], client_max_size=LARGEST_FORM)
    app.cleanup_ctx.append(_http)
    app.on_response_prepare.append(_secure)
    app.router.add_get("/login", server.arrive)
    app.router.add_post("/login", server.arrive_by_form)
    app.router.add_post("/session", server.log_in)
    app.router.add_post("/session/end", server.log_out)
    app.router.add_post("/consent", server.decide)
    return app


# Command line


def _pair(text: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    return name, value


def _users(path: Path | None) -> Mapping[str, str]:
    if path is None:
        return DEMO_USERS
    lines = (line.strip() for line in path.read_text().splitlines())
    return dict(line.split(":", 1) for line in lines if ":" in line)


def _operator_key(path: Path | None) -> str:
    if path is not None:
        return path.read_text().strip()
    if key := os.environ.get("TOKENWIRE_OPERATOR_KEY"):
        return key
    raise SystemExit("an operator key is needed: --operator-key-file FILE, or TOKENWIRE_OPERATOR_KEY")


def main() -> None:
    """Serve until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m examples.identity_server", description="A login and consent page.")
    parser.add_argument("--tokenwire", default="http://127.0.0.1:8080", metavar="URL", help="default: %(default)s")
    parser.add_argument("--api-id", required=True, help="the API that codes are asked for")
    parser.add_argument("--listen-path", required=True, help="where that API is reached, e.g. /my-oauth-api/")
    parser.add_argument("--operator-key-file", type=Path, help="a key with permission `authorize`")
    parser.add_argument("--users", type=Path, metavar="FILE", help="lines of name:password; default: alice, wonderland")
    parser.add_argument("--client-name", type=_pair, action="append", default=[], metavar="CLIENT_ID=NAME")
    parser.add_argument("--scope", type=_pair, action="append", default=[], metavar="SCOPE=SENTENCE")
    parser.add_argument("--secure-cookies", action="store_true", help="browsers come over https")
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument("--port", type=int, default=9001, help="default: %(default)s")
    options = parser.parse_args()
    settings = Settings(
        tokenwire=options.tokenwire.rstrip("/"),
        api_id=options.api_id,
        listen_path=options.listen_path,
        operator_key=_operator_key(options.operator_key_file),
        users=_users(options.users),
        client_names=dict(options.client_name),
        scopes=dict(options.scope),
        secure_cookies=options.secure_cookies,
    )
    print(f"authLoginRedirect: http://{options.host}:{options.port}/login")
    try:
        web.run_app(create_app(settings), host=options.host, port=options.port, print=None)
    except OSError as error:
        raise SystemExit(f"cannot listen: {error.strerror}; --port chooses another port") from None


if __name__ == "__main__":
    main()
