"""The steps of the story, in the order of `Story.run`."""

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
from examples.demo.stage import Ports, Target, serving
from examples.demo.telling import Answer, Caller, Difference, Teller, expect

DEFINITION = Path(__file__).parents[1] / "my-oauth-api.json"
CALLBACK = "https://app.example/callback"
CLIENT_NAME = "Order Desk"
USER = "alice"
HEARD_WITHIN_SECONDS = 20.0
REFUSED_WITHIN_SECONDS = 1.0
RATE = 30
"""Calls in any minute."""
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
        """`client_id:secret` of HTTP Basic; form-encoded first (RFC 6749 App. B)."""
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
    """The shipped API definition under a listen path of its own, with the examples as its neighbours."""

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
    """One run of it."""

    target: Target
    ports: Ports
    call: Caller
    tell: Teller
    name: str = field(default_factory=lambda: f"my-oauth-api-{secrets.token_hex(4)}")
    admitted: int = 0
    """Calls of the API that passed."""
    made: list[tuple[str, str]] = field(default_factory=list)
    """What has to be deleted at the end, the latest last, and the URL to delete it by."""

    async def run(self) -> None:
        """Every step. Raises Difference at the first that is not as it has to be."""
        definition = Definition.read(self.name, self.ports)
        shared_secret = definition.shared_secret
        async with contextlib.AsyncExitStack() as around:
            seen = await around.enter_async_context(self.subscribed())
            api_id = await self.import_api(definition)
            policy_id = await self.make_policy(api_id)
            client = await self.register_client(api_id, policy_id)
            login_key = await self.make_identity_operator()
            await around.enter_async_context(self.neighbours(api_id, client, login_key, shared_secret))

            issuer = await self.discover()
            verifier = self.tell.secret(secrets.token_urlsafe(48))
            code = await self.authorize(client, verifier, issuer)
            first = await self.exchange(client, code, verifier)
            await self.hear_of_new(shared_secret, code, first)
            await self.call_api(client, first)
            second = await self.refresh(client, first)
            await self.hear_of_refresh(shared_secret, first, second)
            await self.old_token_is_dead(first, second)
            await self.reach_the_limit(second)
            await self.revoke(client, second)
            await self.everything_is_refused(client, second)
            await self.events_were_seen(seen, client)
            await self.delete_all()

    @contextlib.asynccontextmanager
    async def neighbours(self, api_id: str, client: Client, login_key: str, secret: str) -> AsyncIterator[None]:
        """The identity server, the webhook receiver and the resource server answer."""
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
            serving(webhook_receiver.create_app(secret, self.tell.say), self.ports.webhooks),
            serving(upstream.create_app(), self.ports.orders),
        ):
            yield

    # Before anybody logs in

    async def import_api(self, definition: Definition) -> str:
        self.tell.step("The API provider imports the API")
        answer = await self.manage("POST", "/api/apis/oas", json=definition.document)
        api_id = answer.has(200).member("ID")
        self.made.append(("API", f"/api/apis/{api_id}"))
        created = {"Status": "OK", "Message": "API created", "Meta": api_id, "ID": api_id}
        expect("the answer", answer.json(), created)
        self.tell.say(f"API {api_id}, reached at /{self.name}/")
        return api_id

    async def make_policy(self, api_id: str) -> str:
        self.tell.step(f"A policy opens it for GET, {RATE} calls a minute")
        right = {"api_id": api_id, "allowed_urls": [{"url": "/orders$", "methods": ["GET"]}]}
        policy = {"name": f"orders of {self.name}", "access_rights": {api_id: right}, "rate": RATE, "per": 60}
        answer = await self.manage("POST", "/api/portal/policies", json=policy)
        policy_id = answer.has(200).member("ID")
        self.made.append(("policy", f"/api/portal/policies/{policy_id}"))
        self.tell.say(f"policy {policy_id}")
        return policy_id

    async def register_client(self, api_id: str, policy_id: str) -> Client:
        self.tell.step("A client app is registered for it, under the policy")
        registration = {"redirect_uri": CALLBACK, "client_name": CLIENT_NAME, "policy_id": policy_id}
        answer = (await self.manage("POST", f"/api/apis/oauth/{api_id}", json=registration)).has(200)
        client = Client(answer.member("client_id"), self.tell.secret(answer.member("secret")))
        self.tell.secret(client.credentials)
        self.made.append(("client", f"/api/apis/oauth/{api_id}/{client.client_id}"))
        expect("its API", answer.member("api_id"), api_id)
        expect("its redirect URI", answer.member("redirect_uri"), CALLBACK)
        self.tell.say(f"client_id {client.client_id}, secret {client.secret}")
        return client

    async def make_identity_operator(self) -> str:
        self.tell.step("The identity server gets a key that may ask for codes, and for nothing else")
        registration = {"name": f"identity server of {self.name}", "permissions": ["authorize"]}
        answer = (await self.manage("POST", "/api/operators", json=registration)).has(200)
        self.made.append(("operator", f"/api/operators/{answer.member('operator_id')}"))
        expect("its permissions", answer.json().get("permissions"), ["authorize"])
        key = self.tell.secret(answer.member("key"))
        (await self.call("GET", f"{self.target.url}/api/apis", headers={"Authorization": key})).has(403)
        return key

    async def discover(self) -> str:
        """The issuer identifier."""
        self.tell.step("The client asks what this authorization server offers (RFC 8414)")
        url = f"{self.target.url}/.well-known/oauth-authorization-server/{self.name}"
        metadata = (await self.call("GET", url)).has(200)
        offered = {
            "grant_types_supported": ["authorization_code", "refresh_token"],
            "response_types_supported": ["code"],
            "code_challenge_methods_supported": ["S256"],
            "authorization_response_iss_parameter_supported": True,
        }
        expect("what it offers", {name: metadata.json().get(name) for name in offered}, offered)
        issuer = metadata.member("issuer")
        expect("the token endpoint", metadata.member("token_endpoint"), f"{issuer}/oauth/token")
        self.tell.say(f"issuer {issuer}; authorization code with PKCE, and refresh")
        return issuer

    # The browser

    async def authorize(self, client: Client, verifier: str, issuer: str) -> str:
        """The code that the browser brings to the client."""
        state = secrets.token_urlsafe(12)
        async with ClientSession(cookie_jar=CookieJar(unsafe=True), timeout=ClientTimeout(total=20)) as http:
            browser = Browser(Caller(http, self.tell))
            login_url = await self.ask_for_authorization(browser, client, verifier, state)
            consent = await self.log_in(browser, login_url)

            self.tell.step("The user allows it, and the browser brings the code to the client")
            back = await browser.send(consent, login_url, "/consent", {"decision": "allow"})
        brought = query_of(back.location, at=CALLBACK)
        expect("what the browser brings", set(brought), {"code", "state", "iss"})
        expect("the state that comes back", brought["state"], state)
        expect("the issuer that answers (RFC 9207)", brought["iss"], issuer)
        return self.tell.secret(brought["code"])

    async def ask_for_authorization(self, browser: Browser, client: Client, verifier: str, state: str) -> str:
        """The URL of the login page that the browser is sent to."""
        self.tell.step("The client sends the browser to the authorization endpoint (PKCE, S256)")
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

    async def log_in(self, browser: Browser, login_url: str) -> Answer:
        """The consent page."""
        self.tell.step(f"The identity server asks who is there, and {USER} logs in")
        password = self.tell.secret(identity_server.DEMO_USERS[USER])
        page = await browser.open(login_url)
        entered = await browser.send(page, login_url, "/session", {"username": USER, "password": password})
        consent = (await browser.open(urljoin(login_url, entered.location))).has(200)
        if f"{CLIENT_NAME} wants access" not in consent.text:
            raise Difference("the consent page", expected=f"{CLIENT_NAME} wants access", came=consent.text)
        return consent

    # The client

    async def exchange(self, client: Client, code: str, verifier: str) -> Pair:
        self.tell.step("The client exchanges the code for tokens")
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": CALLBACK, "code_verifier": verifier}
        return self.pair(await self.ask_for_token(client, form))

    async def refresh(self, client: Client, pair: Pair) -> Pair:
        self.tell.step("The client refreshes")
        form = {"grant_type": "refresh_token", "refresh_token": pair.refresh}
        renewed = self.pair(await self.ask_for_token(client, form))
        if {renewed.access, renewed.refresh} & {pair.access, pair.refresh}:
            raise Difference("the new pair", expected="two new tokens", came="an old one")
        return renewed

    async def revoke(self, client: Client, pair: Pair) -> None:
        self.tell.step("The client revokes (RFC 7009): with its refresh token the whole grant ends")
        form = {"token": pair.refresh, "token_type_hint": "refresh_token"}
        (await self.call("POST", self.at_api("oauth/revoke"), data=form, headers=client.basic())).has(200)

    async def everything_is_refused(self, client: Client, pair: Pair) -> None:
        self.tell.step("The call is refused, and so is another refresh")
        await self.refused_call(pair)
        form = {"grant_type": "refresh_token", "refresh_token": pair.refresh}
        answer = await self.ask_for_token(client, form)
        expect("the error", answer.has(400).member("error"), "invalid_grant")

    async def ask_for_token(self, client: Client, form: dict[str, str]) -> Answer:
        answer = await self.call("POST", self.at_api("oauth/token"), data=form, headers=client.basic())
        expect("Cache-Control", answer.headers.get("cache-control"), "no-store")
        return answer

    def pair(self, answer: Answer) -> Pair:
        body = answer.has(200).json()
        expect("the members of the answer", set(body), {"access_token", "expires_in", "refresh_token", "token_type"})
        expect("type and lifetime", (body["token_type"], body["expires_in"]), ("bearer", 3600))
        pair = Pair(self.tell.secret(answer.member("access_token")), self.tell.secret(answer.member("refresh_token")))
        self.tell.say(f"access_token {pair.access}, refresh_token {pair.refresh}, expires_in {body['expires_in']}")
        return pair

    # The protected API

    async def call_api(self, client: Client, pair: Pair) -> None:
        self.tell.step("The token opens the API through the gateway, and without one it stays closed")
        answer = (await self.get_orders(pair)).has(200)
        seen = {"orders": list(upstream.ORDERS.values()), "client": client.client_id, "user": USER}
        expect("what the resource server says", answer.json(), seen)
        self.tell.say(f"the resource server hears from the gateway that it is {client.client_id}, for {USER}")
        bare = (await self.get_orders(None)).has(400)
        expect("the refusal", bare.json(), {"error": "Authorization field missing"})

    async def old_token_is_dead(self, old: Pair, new: Pair) -> None:
        self.tell.step("The refresh ended the old access token; the new one works")
        await self.refused_call(old)
        (await self.get_orders(new)).has(200)

    async def reach_the_limit(self, pair: Pair) -> None:
        """One counter for the grant, whatever the token and the gateway: a minute's calls pass, and not one more.

        A gateway may hold back for a moment what another has reserved.
        """
        self.tell.step("What the policy does not allow is refused, and so is the call after the last that it allows")
        answer = await self.call("DELETE", self.at_api("orders"), headers={"Authorization": f"Bearer {pair.access}"})
        expect("the refusal", answer.has(403).json(), {"error": "Access to this resource has been disallowed"})
        deadline = time.monotonic() + LIMIT_WITHIN_SECONDS
        with self.tell.quietly():
            answer = await self.get_orders(pair)
            while answer.status == 200 or (self.admitted < RATE and time.monotonic() < deadline):
                await asyncio.sleep(0 if answer.status == 200 else 0.2)
                answer = await self.get_orders(pair)
        self.tell.say(f"{self.admitted} calls passed, then: {answer.has(429).text.strip()}")
        self.tell.say(f"Retry-After: {answer.headers['retry-after']}")
        expect("the refusal", answer.json(), {"error": "Rate Limit Exceeded"})
        expect("the calls that passed", self.admitted, RATE)

    async def refused_call(self, pair: Pair) -> None:
        """Refused by every gateway within a second, which hears of it by the bus."""
        deadline = time.monotonic() + REFUSED_WITHIN_SECONDS
        answer = await self.get_orders(pair)
        while answer.status in {200, 429} and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
            answer = await self.get_orders(pair)
        answer.has(403)
        expect("the refusal", answer.json(), {"error": "Key not authorised"})
        challenge = answer.headers.get("www-authenticate", "")
        expect("the challenge", challenge.partition(" ")[0], "Bearer")

    async def get_orders(self, pair: Pair | None) -> Answer:
        headers = {"Authorization": f"Bearer {pair.access}"} if pair else {}
        answer = await self.call("GET", self.at_api("orders"), headers=headers)
        self.admitted += answer.status == 200
        return answer

    # Who hears of it

    async def hear_of_new(self, shared_secret: str, code: str, pair: Pair) -> None:
        self.tell.step("The resource owner service hears of it: a verified webhook, `new`")
        said = notification("new", auth_code=code, new_oauth_token=pair.access, refresh_token=pair.refresh)
        await self.hear(shared_secret, [said])

    async def hear_of_refresh(self, shared_secret: str, old: Pair, new: Pair) -> None:
        self.tell.step("It hears of the refresh too: a verified webhook, `refresh`")
        tokens = {"new_oauth_token": new.access, "refresh_token": new.refresh, "old_refresh_token": old.refresh}
        await self.hear(shared_secret, [notification("refresh", **tokens)], after=1)

    async def hear(self, shared_secret: str, expected: list[dict[str, str]], *, after: int = 0) -> None:
        """These webhooks arrived, each under its own id, after so many others."""
        url = self.ports.url(self.ports.webhooks, "/received")
        headers = {webhook_receiver.SHARED_SECRET_HEADER: shared_secret}

        async def later() -> list[dict[str, Any]]:
            async with self.call.http.get(url, headers=headers) as response:
                received: list[dict[str, Any]] = await response.json()
                return received[after:]

        what = f"webhooks at {self.ports.url(self.ports.webhooks, '/tokens')} (if Tokenwire cannot reach it: --help)"
        came = await eventually(what, later, len(expected))
        expect("what the webhook says", [webhook["notification"] for webhook in came], expected)
        for webhook in came:
            self.tell.say(json.dumps(webhook["notification"]))

    @contextlib.asynccontextmanager
    async def subscribed(self) -> AsyncIterator[list[subscriber.Event]]:
        """A subscriber follows the stream of events into the list. Raises PermissionError for the operator key."""
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
            await first_of(following, connected.wait(), within=10)
            expect("that the subscriber is connected to /api/events/stream", connected.is_set(), True)
            yield seen
        finally:
            following.cancel()
            await asyncio.wait([following])

    async def events_were_seen(self, seen: Sequence[subscriber.Event], client: Client) -> None:
        self.tell.step("A subscriber saw it all: by ids, and without a token")

        async def of_the_grant() -> list[subscriber.Event]:
            mine = (event for event in seen if event["data"].get("client_id") == client.client_id)
            return sorted((event for event in mine if stem(event) in GRANT_EVENTS), key=lambda event: event["sequence"])

        came = await eventually("the events of the grant", of_the_grant, len(GRANT_EVENTS))
        for event in came:
            ids = {name: value for name, value in event["data"].items() if name in SHOWN}
            self.tell.say(f"{stem(event):<14} #{int(event['sequence'])}  {json.dumps(ids)}")
        expect("the events of the grant", [stem(event) for event in came], GRANT_EVENTS)
        expect("their sequence", [int(event["sequence"]) for event in came], [1, 2, 3, 4])
        expect("tokens in the events", re.findall(r"tw_[a-z]{2}_", json.dumps(came)), [])

    # The end

    async def delete_all(self) -> None:
        self.tell.step("What the story made is deleted")
        await self.clean_up()

    async def clean_up(self) -> None:
        """What was made and is not deleted yet is deleted, the latest first."""
        while self.made:
            what, path = self.made.pop()
            expect(f"the answer to deleting the {what}", (await self.manage("DELETE", path)).status, 200)

    async def manage(self, method: str, path: str, **request: Any) -> Answer:
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


async def first_of(task: asyncio.Task[None], other: Awaitable[Any], *, within: float) -> None:
    """One of the two has ended, or the seconds are over; what the task raised is raised."""
    waiting = asyncio.ensure_future(other)
    await asyncio.wait({task, waiting}, timeout=within, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if task.done():
        task.result()


async def eventually(what: str, ask: Callable[[], Awaitable[list[Found]]], number: int) -> list[Found]:
    """So many are there, or more. Raises Difference where they are not in time."""
    deadline = time.monotonic() + HEARD_WITHIN_SECONDS
    while len(found := await ask()) < number:
        if time.monotonic() > deadline:
            raise Difference(what, expected=f"{number} within {HEARD_WITHIN_SECONDS:.0f} s", came=found)
        await asyncio.sleep(0.05)
    return found
