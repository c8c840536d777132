"""The steps of the demo, in the order of `Story.run`."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote_plus, urljoin

from aiohttp import ClientSession, ClientTimeout, CookieJar

from examples import identity_server, subscriber, upstream, webhook_receiver
from examples.demo.browser import Browser, query_of
from examples.demo.environment import Ports, Target, serving
from examples.demo.transcript import Caller, Mismatch, Response, Transcript, expect

DEFINITION = Path(__file__).parents[1] / "my-oauth-api.json"
CALLBACK = "https://app.example/callback"
CLIENT_NAME = "Order Desk"
USER = "alice"
HEARD_WITHIN_SECONDS = 20.0
REFUSED_WITHIN_SECONDS = 1.0
RATE = 30
"""Calls per minute."""
LIMIT_WITHIN_SECONDS = 10.0
SHOWN = ("grant_id", "resource_owner", "token_id", "previous_token_id", "reason")
GRANT_EVENTS = ["code.issued", "token.new", "token.refresh", "grant.revoked"]

Found = TypeVar("Found")


@dataclass(frozen=True)
class Client:
    """A confidential client."""

    client_id: str
    secret: str = field(repr=False)

    @property
    def credentials(self) -> str:
        """`client_id:secret` for HTTP Basic; both form-encoded first (RFC 6749 App. B)."""
        pair = f"{quote_plus(self.client_id)}:{quote_plus(self.secret)}"
        return base64.b64encode(pair.encode()).decode()

    def basic(self) -> dict[str, str]:
        return {"Authorization": f"Basic {self.credentials}"}


@dataclass(frozen=True)
class Pair:
    """An access token, and the refresh token issued with it."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)


@dataclass(frozen=True)
class Definition:
    """The example API definition with a listen path of its own, and the example servers as its endpoints."""

    document: dict[str, Any]

    @classmethod
    def read(cls, name: str, ports: Ports) -> "Definition":
        document: dict[str, Any] = json.loads(DEFINITION.read_text())
        definition = cls(document)
        document["x-tyk-api-gateway"]["server"]["listenPath"]["value"] = f"/{name}/"
        document["x-tyk-api-gateway"]["server"]["authentication"]["stripAuthorizationData"] = True
        document["x-tyk-api-gateway"]["upstream"]["url"] = ports.url(ports.orders, "/")
        definition.scheme["authLoginRedirect"] = ports.url(ports.login, "/login")
        definition.scheme["notifications"]["onKeyChangeUrl"] = ports.url(ports.webhooks, "/tokens")
        return definition

    @property
    def scheme(self) -> dict[str, Any]:
        scheme: dict[str, Any] = self.document["x-tyk-api-gateway"]["server"]["authentication"]["securitySchemes"]
        oauth: dict[str, Any] = scheme["oauth"]
        return oauth

    @property
    def shared_secret(self) -> str:
        return str(self.scheme["notifications"]["sharedSecret"])


@dataclass
class Story:
    """One run of the demo."""

    target: Target
    ports: Ports
    call: Caller
    transcript: Transcript
    name: str = field(default_factory=lambda: f"my-oauth-api-{secrets.token_hex(4)}")
    admitted: int = 0
    """Calls of the API that the gateway admitted."""
    created: list[tuple[str, str]] = field(default_factory=list)
    """What to delete at the end: its kind and its path, in the order of creation."""
    grant_id: str = ""
    """The grant that the user authorized; known from its events."""

    async def run(self) -> None:
        """Run every step. Raises Mismatch at the first unexpected response."""
        definition = Definition.read(self.name, self.ports)
        shared_secret = definition.shared_secret
        async with contextlib.AsyncExitStack() as around:
            seen = await around.enter_async_context(self.subscribed())
            api_id = await self.import_api(definition)
            policy_id = await self.make_policy(api_id)
            client = await self.register_client(api_id, policy_id)
            login_key = await self.make_identity_operator()
            await around.enter_async_context(self.example_servers(api_id, client, login_key, shared_secret))

            issuer = await self.discover()
            verifier = self.transcript.secret(secrets.token_urlsafe(48))
            code = await self.authorize(client, verifier, issuer)
            first = await self.exchange(client, code, verifier)
            await self.expect_new_webhook(shared_secret, code, first)
            await self.call_api(client, first)
            second = await self.refresh(client, first)
            await self.expect_refresh_webhook(shared_secret, first, second)
            await self.check_old_token_refused(first, second)
            await self.reach_the_limit(second)
            await self.revoke(client, second)
            await self.check_all_refused(client, second)
            await self.check_events(seen, client)
            await self.find_in_console()
            await self.delete_all()

    @contextlib.asynccontextmanager
    async def example_servers(self, api_id: str, client: Client, login_key: str, secret: str) -> AsyncIterator[None]:
        """Run the identity server, the webhook receiver and the resource server."""
        login = identity_server.Settings(
            tokenwire=self.target.url,
            api_id=api_id,
            listen_path=f"/{self.name}/",
            operator_key=login_key,
            users=identity_server.DEMO_USERS,
            client_names={client.client_id: CLIENT_NAME},
        )
        async with (
            serving(identity_server.create_app(login), self.ports.login),
            serving(webhook_receiver.create_app(secret, self.transcript.say), self.ports.webhooks),
            serving(upstream.create_app(), self.ports.orders),
        ):
            yield

    # Before the user logs in

    async def import_api(self, definition: Definition) -> str:
        self.transcript.step("The API provider imports the API")
        response = await self.manage("POST", "/api/apis/oas", json=definition.document)
        api_id = response.has(200).member("ID")
        self.created.append(("API", f"/api/apis/{api_id}"))
        created = {"Status": "OK", "Message": "API created", "Meta": api_id, "ID": api_id}
        expect("the response", response.json(), created)
        self.transcript.say(f"API {api_id}, reached at /{self.name}/")
        return api_id

    async def make_policy(self, api_id: str) -> str:
        self.transcript.step(f"A policy allows GET, {RATE} calls per minute")
        right = {"api_id": api_id, "allowed_urls": [{"url": "/orders$", "methods": ["GET"]}]}
        policy = {"name": f"orders of {self.name}", "access_rights": {api_id: right}, "rate": RATE, "per": 60}
        response = await self.manage("POST", "/api/portal/policies", json=policy)
        policy_id = response.has(200).member("ID")
        self.created.append(("policy", f"/api/portal/policies/{policy_id}"))
        self.transcript.say(f"policy {policy_id}")
        return policy_id

    async def register_client(self, api_id: str, policy_id: str) -> Client:
        self.transcript.step("A client app is registered for the API, under the policy")
        registration = {"redirect_uri": CALLBACK, "client_name": CLIENT_NAME, "policy_id": policy_id}
        response = (await self.manage("POST", f"/api/apis/oauth/{api_id}", json=registration)).has(200)
        client = Client(response.member("client_id"), self.transcript.secret(response.member("secret")))
        self.transcript.secret(client.credentials)
        self.created.append(("client", f"/api/apis/oauth/{api_id}/{client.client_id}"))
        expect("its API", response.member("api_id"), api_id)
        expect("its redirect URI", response.member("redirect_uri"), CALLBACK)
        self.transcript.say(f"client_id {client.client_id}, secret {client.secret}")
        return client

    async def make_identity_operator(self) -> str:
        self.transcript.step("The identity server gets an operator key that may request codes, and nothing else")
        registration = {"name": f"identity server of {self.name}", "permissions": ["authorize"]}
        response = (await self.manage("POST", "/api/operators", json=registration)).has(200)
        self.created.append(("operator", f"/api/operators/{response.member('operator_id')}"))
        expect("its permissions", response.json().get("permissions"), ["authorize"])
        key = self.transcript.secret(response.member("key"))
        (await self.call("GET", f"{self.target.url}/api/apis", headers={"Authorization": key})).has(403)
        return key

    async def discover(self) -> str:
        """Return the issuer identifier."""
        self.transcript.step("The client reads the authorization server metadata (RFC 8414)")
        url = f"{self.target.url}/.well-known/oauth-authorization-server/{self.name}"
        metadata = (await self.call("GET", url)).has(200)
        offered = {
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        expect("the metadata", {name: metadata.json().get(name) for name in offered}, offered)
        issuer = metadata.member("issuer")
        expect("the token endpoint", metadata.member("token_endpoint"), f"{issuer}/oauth/token")
        self.transcript.say(f"issuer {issuer}; authorization code with PKCE, and refresh")
        return issuer

    # The browser

    async def authorize(self, client: Client, verifier: str, issuer: str) -> str:
        """Return the authorization code."""
        state = secrets.token_urlsafe(12)
        async with ClientSession(cookie_jar=CookieJar(unsafe=True), timeout=ClientTimeout(total=20)) as http:
            browser = Browser(Caller(http, self.transcript))
            login_url = await self.ask_for_authorization(browser, client, verifier, state)
            consent = await self.log_in(browser, login_url)

            self.transcript.step("The user consents, and the browser takes the code to the client")
            back = await browser.send(consent, login_url, "/consent", {"decision": "allow"})
        brought = query_of(back.location, at=CALLBACK)
        expect("what the browser brings", set(brought), {"code", "state", "iss"})
        expect("the state that comes back", brought["state"], state)
        expect("the issuer that answers (RFC 9207)", brought["iss"], issuer)
        return self.transcript.secret(brought["code"])

    async def ask_for_authorization(self, browser: Browser, client: Client, verifier: str, state: str) -> str:
        """Return the URL of the login page that the browser is redirected to."""
        self.transcript.step("The client sends the browser to the authorization endpoint (PKCE, S256)")
        request = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": CALLBACK,
            "state": state,
            "code_challenge": s256(verifier),
            "code_challenge_method": "S256",
        }
        redirect = (await browser.call("GET", self.at_api("oauth/authorize"), params=request)).has(307)
        carried = query_of(redirect.location, at=self.ports.url(self.ports.login, "/login"))
        expect("the query of the login page", carried, request)
        return redirect.location

    async def log_in(self, browser: Browser, login_url: str) -> Response:
        """Return the consent page."""
        self.transcript.step(f"{USER} logs in at the identity server")
        password = self.transcript.secret(identity_server.DEMO_USERS[USER])
        page = await browser.open(login_url)
        entered = await browser.send(page, login_url, "/session", {"username": USER, "password": password})
        consent = (await browser.open(urljoin(login_url, entered.location))).has(200)
        if f"{CLIENT_NAME} wants access" not in consent.text:
            raise Mismatch("the consent page", expected=f"{CLIENT_NAME} wants access", actual=consent.text)
        return consent

    # The client

    async def exchange(self, client: Client, code: str, verifier: str) -> Pair:
        self.transcript.step("The client exchanges the code for tokens")
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": verifier}
        return self.pair(await self.ask_for_token(client, form))

    async def refresh(self, client: Client, pair: Pair) -> Pair:
        self.transcript.step("The client refreshes its tokens")
        form = {"grant_type": "refresh_token", "refresh_token": pair.refresh}
        renewed = self.pair(await self.ask_for_token(client, form))
        if {renewed.access, renewed.refresh} & {pair.access, pair.refresh}:
            raise Mismatch("the new pair", expected="two new tokens", actual="an old one")
        return renewed

    async def revoke(self, client: Client, pair: Pair) -> None:
        self.transcript.step("The client revokes its refresh token, and with it the whole grant (RFC 7009)")
        form = {"token": pair.refresh, "token_type_hint": "refresh_token"}
        (await self.call("POST", self.at_api("oauth/revoke"), data=form, headers=client.basic())).has(200)

    async def check_all_refused(self, client: Client, pair: Pair) -> None:
        self.transcript.step("The API call is refused, and so is another refresh")
        await self.refused_call(pair)
        form = {"grant_type": "refresh_token", "refresh_token": pair.refresh}
        response = await self.ask_for_token(client, form)
        expect("the error", response.has(400).member("error"), "invalid_grant")

    async def ask_for_token(self, client: Client, form: dict[str, str]) -> Response:
        response = await self.call("POST", self.at_api("oauth/token"), data=form, headers=client.basic())
        expect("Cache-Control", response.headers.get("cache-control"), "no-store")
        return response

    def pair(self, response: Response) -> Pair:
        body = response.has(200).json()
        expect("the members of the response", set(body), {"access_token", "expires_in", "refresh_token", "token_type"})
        expect("type and lifetime", (body["token_type"], body["expires_in"]), ("bearer", 3600))
        access, refresh = (self.transcript.secret(response.member(f"{kind}_token")) for kind in ("access", "refresh"))
        pair = Pair(access, refresh)
        self.transcript.say(f"access_token {access}, refresh_token {refresh}, expires_in {body['expires_in']}")
        return pair

    # The protected API

    async def call_api(self, client: Client, pair: Pair) -> None:
        self.transcript.step("The gateway admits a call with the token, and refuses one without")
        response = (await self.get_orders(pair)).has(200)
        seen = {"orders": list(upstream.ORDERS.values()), "client": client.client_id, "user": USER}
        expect("what the resource server says", response.json(), seen)
        self.transcript.say(f"the gateway tells the resource server: client {client.client_id}, user {USER}")
        bare = (await self.get_orders(None)).has(400)
        expect("the refusal", bare.json(), {"error": "Authorization field missing"})

    async def check_old_token_refused(self, old: Pair, new: Pair) -> None:
        self.transcript.step("The old access token is refused after the refresh; the new one works")
        await self.refused_call(old)
        (await self.get_orders(new)).has(200)

    async def reach_the_limit(self, pair: Pair) -> None:
        """The rate limit counts per grant, across tokens and gateways: exactly RATE calls per minute are admitted.

        A gateway may refuse a call for a moment while another gateway holds a reservation.
        """
        self.transcript.step("A method outside the policy is refused, and so are calls over the rate limit")
        response = await self.call("DELETE", self.at_api("orders"), headers={"Authorization": f"Bearer {pair.access}"})
        expect("the refusal", response.has(403).json(), {"error": "Access to this resource has been disallowed"})
        deadline = time.monotonic() + LIMIT_WITHIN_SECONDS
        with self.transcript.quietly():
            response = await self.get_orders(pair)
            while response.status == 200 or (self.admitted < RATE and time.monotonic() < deadline):
                await asyncio.sleep(0 if response.status == 200 else 0.2)
                response = await self.get_orders(pair)
        self.transcript.say(f"{self.admitted} calls passed, then: {response.has(429).text.strip()}")
        self.transcript.say(f"Retry-After: {response.headers['retry-after']}")
        expect("the refusal", response.json(), {"error": "Rate Limit Exceeded"})
        expect("the calls that passed", self.admitted, RATE)

    async def refused_call(self, pair: Pair) -> None:
        """Every gateway refuses the token within a second, once it has received the change over the bus."""
        deadline = time.monotonic() + REFUSED_WITHIN_SECONDS
        response = await self.get_orders(pair)
        while response.status in {200, 429} and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            response = await self.get_orders(pair)
        response.has(403)
        expect("the refusal", response.json(), {"error": "Key not authorised"})
        challenge = response.headers.get("www-authenticate", "")
        expect("the challenge", challenge.partition(" ")[0], "Bearer")

    async def get_orders(self, pair: Pair | None) -> Response:
        headers = {"Authorization": f"Bearer {pair.access}"} if pair else {}
        response = await self.call("GET", self.at_api("orders"), headers=headers)
        self.admitted += response.status == 200
        return response

    # Webhooks and events

    async def expect_new_webhook(self, shared_secret: str, code: str, pair: Pair) -> None:
        self.transcript.step("The resource owner service receives a `new` webhook and verifies it")
        said = notification("new", auth_code=code, new_oauth_token=pair.access, refresh_token=pair.refresh)
        await self.expect_webhooks(shared_secret, [said])

    async def expect_refresh_webhook(self, shared_secret: str, old: Pair, new: Pair) -> None:
        self.transcript.step("The resource owner service receives a `refresh` webhook and verifies it")
        tokens = {"new_oauth_token": new.access, "refresh_token": new.refresh, "old_refresh_token": old.refresh}
        await self.expect_webhooks(shared_secret, [notification("refresh", **tokens)], after=1)

    async def expect_webhooks(self, shared_secret: str, expected: list[dict[str, str]], *, after: int = 0) -> None:
        """Wait for these webhooks, each with its own id. The first `after` webhooks are skipped."""
        url = self.ports.url(self.ports.webhooks, "/received")
        headers = {webhook_receiver.SHARED_SECRET_HEADER: shared_secret}

        async def later() -> list[dict[str, Any]]:
            async with self.call.http.get(url, headers=headers) as response:
                received: list[dict[str, Any]] = await response.json()
                return received[after:]

        address = self.ports.url(self.ports.webhooks, "/tokens")
        try:
            actual = await eventually(f"webhooks at {address}", later, len(expected))
        except Mismatch as missing:
            raise Mismatch(missing.what, expected=missing.expected, actual=await self.what_stopped_them()) from None
        expect("what the webhook says", [webhook["notification"] for webhook in actual], expected)
        for webhook in actual:
            self.transcript.say(json.dumps(webhook["notification"]))

    async def what_stopped_them(self) -> str:
        """The error of the last delivery attempt, and what helps."""
        with self.transcript.quietly():
            deliveries = (await self.manage("GET", "/api/notifications/deliveries")).json().get("deliveries", [])
        errors = [attempt["error"] for each in deliveries[:5] for attempt in each["attempts"] if attempt.get("error")]
        if not errors:
            return "no failed attempt (if Tokenwire cannot reach this machine, see --help)"
        if "private" in errors[0]:
            return (
                f"{errors[0]}: start Tokenwire with TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS=true (in .env for `make up`)"
            )
        return f"{errors[0]} (if Tokenwire cannot reach this machine, see --help)"

    @contextlib.asynccontextmanager
    async def subscribed(self) -> AsyncIterator[list[subscriber.Event]]:
        """Follow the event stream into the list. Raises PermissionError if the operator key is refused."""
        connected = asyncio.Event()
        seen: list[subscriber.Event] = []

        async def follow() -> None:
            ledger = subscriber.Ledger()
            events = subscriber.from_stream(self.target.url, self.target.operator_key, connected=connected.set)
            async for event in events:
                if ledger.is_new(event):
                    seen.append(event)

        following = asyncio.create_task(follow())
        try:
            await wait_for_either(following, connected.wait(), within=10)
            expect("that the subscriber is connected to /api/events/stream", connected.is_set(), True)
            yield seen
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def check_events(self, seen: Sequence[subscriber.Event], client: Client) -> None:
        self.transcript.step("A subscriber received every event, with ids and without tokens")

        async def of_the_grant() -> list[subscriber.Event]:
            mine = (event for event in seen if event["data"].get("client_id") == client.client_id)
            return sorted((event for event in mine if stem(event) in GRANT_EVENTS), key=lambda event: event["sequence"])

        actual = await eventually("the events of the grant", of_the_grant, len(GRANT_EVENTS))
        for event in actual:
            ids = {name: value for name, value in event["data"].items() if name in SHOWN}
            self.transcript.say(f"{stem(event):<14} #{int(event['sequence'])}  {json.dumps(ids)}")
        expect("the events of the grant", [stem(event) for event in actual], GRANT_EVENTS)
        expect("their sequence", [int(event["sequence"]) for event in actual], [1, 2, 3, 4])
        expect("tokens in the events", re.findall(r"tw_[a-z]{2}_", json.dumps(actual)), [])
        (self.grant_id,) = {str(event["data"]["grant_id"]) for event in actual}

    async def find_in_console(self) -> None:
        self.transcript.step("The console has a page with the life of the grant, for operators who have signed in")
        response = (await self.call("GET", self.console_page)).has(303)
        wanted = f"{self.target.url}/console/sign-in?next=/console/grants/{self.grant_id}"
        expect("where the browser is sent", urljoin(self.console_page, response.location), wanted)

    @property
    def console_page(self) -> str:
        """The URL of the grant's page in the console. The page outlives the API and the client app by a day."""
        return f"{self.target.url}/console/grants/{self.grant_id}"

    # Clean-up

    async def delete_all(self) -> None:
        self.transcript.step("The demo deletes what it created")
        await self.clean_up()

    async def clean_up(self) -> None:
        """Delete what was created, in reverse order."""
        while self.created:
            what, path = self.created.pop()
            expect(f"the response to deleting the {what}", (await self.manage("DELETE", path)).status, 200)

    async def manage(self, method: str, path: str, **request: Any) -> Response:
        headers = {"Authorization": self.target.operator_key}
        return await self.call(method, f"{self.target.url}{path}", headers=headers, **request)

    def at_api(self, path: str) -> str:
        return f"{self.target.url}/{self.name}/{path}"


def s256(verifier: str) -> str:
    """The code challenge (RFC 7636 §4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def notification(kind: str, **tokens: str) -> dict[str, str]:
    """The body of a webhook: five keys, empty where not applicable."""
    return {**dict.fromkeys(webhook_receiver.KEYS, ""), **tokens, "notification_type": kind}


def stem(event: subscriber.Event) -> str:
    return str(event["type"]).removeprefix(subscriber.VENDOR)


async def wait_for_either(task: asyncio.Task[None], other: Awaitable[Any], *, within: float) -> None:
    """Wait until one of the two has ended, or `within` seconds. Raises the task's exception."""
    waiting = asyncio.ensure_future(other)
    await asyncio.wait({task, waiting}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()


async def eventually(what: str, ask: Callable[[], Awaitable[list[Found]]], number: int) -> list[Found]:
    """Wait for at least `number` results. Raises Mismatch if they do not come in time."""
    deadline = time.monotonic() + HEARD_WITHIN_SECONDS
    while len(found := await ask()) < number:
        if time.monotonic() > deadline:
            raise Mismatch(what, expected=f"{number} within {HEARD_WITHIN_SECONDS:.0f} s", actual=found)
        await asyncio.sleep(0.05)
    return found
