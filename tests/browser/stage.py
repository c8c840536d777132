"""A Tokenwire as `make run` starts it, with something to see on every page, and browsers in front of its console."""

import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.tenants import SCHEME, Pair, Tenant, basic, new_tenant, register_client
from tests.acceptance.test_make_run import own_tokenwire
from tests.acceptance.webhooks import Receiver
from tests.eventually import eventually
from tests.provision.chromium import chromium

SCREENSHOTS = Path(__file__).parents[2] / ".cache" / "console"
PATIENCE = 60_000
"""Milliseconds; a machine may be slow."""
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 360, "height": 740}
OBSERVE_SHIFTS = """() => new Promise(done => {
    let shift = 0;
    new PerformanceObserver(list => list.getEntries().forEach(entry => { shift += entry.value }))
        .observe({type: "layout-shift", buffered: true});
    requestAnimationFrame(() => setTimeout(() => done(shift), 100));
})"""
"""The layout shift of the page up to now, as browsers count it."""
_COUNT_VIOLATIONS = (
    "document.addEventListener('securitypolicyviolation', event => cspViolated(event.violatedDirective))"
)


@dataclass
class Visitor:
    """A page, with what went wrong in it."""

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)
    """Errors in the browser's console, uncaught exceptions, and violations of the Content-Security-Policy."""
    refusals_expected: bool = False
    """Whether a page with a status from 400 on, which browsers report too, is none."""

    async def open(self, path: str, status: int = 200) -> None:
        """Go to a page of the console."""
        response = await self.page.goto(f"{self.base}/console{path}")
        assert response is not None
        assert response.status == status, path

    async def sign_in(self, key: str) -> None:
        """Fill in the form that the browser is at, or that is opened."""
        if "/sign-in" not in self.page.url:
            await self.page.goto(f"{self.base}/console/sign-in")
        await self.page.fill("#f-key", key)
        await self.page.click("button.primary")
        await self.page.wait_for_selector("header.side")

    async def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))

    async def photograph(self, name: str) -> None:
        """Put a picture of the whole page among the others."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        await self.page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)

    def heard(self, said: ConsoleMessage) -> None:
        """Note an error in the browser's console."""
        if said.type == "error" and not (self.refusals_expected and "responded with a status of 4" in said.text):
            self.complaints.append(f"{self.page.url}: {said.text}")


@asynccontextmanager
async def chrome(**options: Any) -> AsyncIterator[Browser]:
    """A running Chromium."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"], **options)
        try:
            yield browser
        finally:
            await browser.close()


@asynccontextmanager
async def visiting(browser: Browser, base: str, **context: Any) -> AsyncIterator[Visitor]:
    """A page in a browser context of its own. Fails at the end if anything went wrong in it."""
    opened = await browser.new_context(**{"viewport": WIDE, **context})
    opened.set_default_timeout(PATIENCE)
    page = await opened.new_page()
    visitor = Visitor(page, base)
    page.on("console", visitor.heard)
    page.on("pageerror", lambda error: visitor.complaints.append(f"{page.url}: {error}"))
    await page.expose_function("cspViolated", lambda what: visitor.complaints.append(f"{page.url}: CSP {what}"))
    await page.add_init_script(_COUNT_VIOLATIONS)
    try:
        yield visitor
        assert visitor.complaints == []
    finally:
        await opened.close()


@dataclass(frozen=True)
class Stage:
    """A browser, a Tokenwire with something in it, and who uses it."""

    browser: Browser
    base: str
    operator: Caller
    """Has every permission."""
    key: str
    tenant: Tenant
    webhooks: Receiver
    ids: Mapping[str, str]
    """For each part of a path, a record that there is."""

    @property
    def api(self) -> str:
        """The path of the API's page."""
        return f"/apis/{self.tenant.api_id}"

    @property
    def client(self) -> str:
        """The path of the client app's page."""
        return f"{self.api}/clients/{self.tenant.client_id}"

    @asynccontextmanager
    async def visitor(self, key: str = "", **context: Any) -> AsyncIterator[Visitor]:
        """A new session, of the operator with every permission unless another key is given."""
        async with visiting(self.browser, self.base, **context) as visitor:
            await visitor.sign_in(key or self.key)
            yield visitor

    async def new_operator(self, *permissions: str) -> str:
        """Create an operator; return its key."""
        named = {"name": f"Somebody with {' and '.join(permissions)}", "permissions": list(permissions)}
        made = await self.operator("POST", "/api/operators", json=named)
        assert made.status == 200, made.raw
        return str(made.body["key"])


@asynccontextmanager
async def staged(mongodb_url: str, home: Path) -> AsyncIterator[Stage]:
    """Start it all. Every page has something to show: also refused calls, and a webhook that fails."""
    settings = {
        "TOKENWIRE_MONGODB_URL": mongodb_url,
        "TOKENWIRE_MONGODB_DATABASE": f"tokenwire_test_{secrets.token_hex(6)}",
        "TOKENWIRE_THROTTLE_ADDRESS": "1000000/60",
    }
    async with (
        own_tokenwire(home, home / "data", **settings) as own,
        aiohttp.ClientSession() as http,
        Receiver() as webhooks,
        failing() as broken,
        chrome() as browser,
    ):
        await own.start()
        base = f"http://127.0.0.1:{own.port}"
        edge = Caller(http, base, Secrets())
        operator = edge.with_key(own.operator_key)
        tenant = await new_tenant(
            edge, operator, **{f"{SCHEME}__notifications__onKeyChangeUrl": webhooks.url("/hooks/tokens"), **_ALLOWED}
        )
        ids = await _furnished(operator, tenant)
        unheard = await new_tenant(
            edge,
            operator,
            **{
                f"{SCHEME}__notifications__onKeyChangeUrl": broken,
                "x-tyk-api-gateway__info__name": "Invoices",
                **_ALLOWED,
            },
        )
        await unheard.exchanged(await unheard.code())
        failed = await _delivery(operator, unheard.api_id)
        yield Stage(browser, base, operator, own.operator_key, tenant, webhooks, {**ids, "delivery_id": failed})


_ALLOWED = {
    f"{SCHEME}__allowedAuthorizeTypes": ["code"],
    f"{SCHEME}__refreshToken": True,
}


async def _furnished(operator: Caller, tenant: Tenant) -> Mapping[str, str]:
    """Policies, more client apps, users, operators, grants in several states, and calls. The ids of one of each."""
    right = {"api_id": tenant.api_id, "allowed_urls": [{"url": "^/things", "methods": ["GET", "POST"]}]}
    policies = []
    for name, more in (
        ("Gold", {"rate": 100, "per": 60, "quota_max": 100_000, "quota_renewal_rate": 86_400}),
        ("", {}),
    ):
        document = {
            "name": name,
            "active": bool(name),
            "access_rights": {tenant.api_id: right},
            "tags": ["shop"],
            **more,
        }
        made = await operator("POST", "/api/portal/policies", json={**document, "meta_data": {"cost centre": "4711"}})
        assert made.status == 200, made.raw
        policies.append(made.body["ID"])
    for number, name in enumerate(("Order Desk", "Warehouse terminal in the second basement of the old building")):
        await register_client(
            operator,
            tenant.api_id,
            client_name=name,
            description="Takes orders by telephone, and prints what the warehouse has to pack." * (1 + number),
            policy_ids=policies[:1],
            meta_data={"team": "fulfilment", "contact": {"mail": "orders@shop.example", "phone": "+43 1 234"}},
            redirect_uri=";".join(f"https://orders-{each}.shop.example/callback" for each in range(1 + 4 * number)),
        )
    changes = {
        "client_name": "Shop",
        "description": "The web shop",
        "meta_data": {"tier": "gold"},
        "policy_ids": policies,
    }
    edited = await operator("PUT", f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}", json=changes)
    assert edited.status == 200, edited.raw
    made = await operator("POST", "/api/operators", json={"name": "Nightly report", "permissions": ["read"]})
    ended = await tenant.pair()
    await tenant.edge("POST", f"{tenant.path}/oauth/revoke", data={"token": ended.refresh}, headers=_basic(tenant))
    tokens = (await tenant.exchanged(await tenant.code())).body
    pair = await _refreshed(tenant, Pair(tokens["access_token"], tokens["refresh_token"]))
    for token in (pair.access, pair.access, ended.access, tokens["access_token"]):
        await tenant.verified(token)
    found = await operator("POST", "/api/grants/lookup", json={"token": pair.access})
    assert found.status == 200, found.raw
    return {
        "api_id": tenant.api_id,
        "client_id": tenant.client_id,
        "policy_id": policies[0],
        "username": tenant.username,
        "subject": "alice",
        "operator_id": made.body["operator_id"],
        "grant_id": found.body["grant"]["grant_id"],
    }


def _basic(tenant: Tenant) -> Mapping[str, str]:
    return basic(tenant.client_id, tenant.secret)


async def _refreshed(tenant: Tenant, pair: Pair) -> Pair:
    body = (await tenant.refreshed(pair.refresh)).body
    return Pair(body["access_token"], body["refresh_token"])


async def _delivery(operator: Caller, api_id: str) -> str:
    """The id of a delivery of this API that was tried."""

    async def tried() -> str:
        found = (await operator("GET", f"/api/notifications/deliveries?api_id={api_id}")).body["deliveries"]
        assert found
        assert found[0]["attempts"]
        return str(found[0]["id"])

    return await eventually(tried, within=30)


@asynccontextmanager
async def failing() -> AsyncIterator[str]:
    """The URL of a webhook receiver that is out of order, and says so in HTML."""

    async def fail(_: web.Request) -> web.Response:
        text = "<html><h1>502 Bad Gateway</h1><script>hit('webhook response')</script></html>"
        return web.Response(status=502, text=text, content_type="text/html")

    async with serving({"/{path:.*}": fail}) as url:
        yield f"{url}/hooks/a/path/that/is/rather/long/so/that/it/has/to/break/somewhere"


@asynccontextmanager
async def serving(handlers: Mapping[str, Any], host: str = "127.0.0.1") -> AsyncIterator[str]:
    """A web server of the test on a free port: its URL, with this name of the machine."""
    app = web.Application()
    for path, handler in handlers.items():
        app.router.add_route("*", path, handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://{host}:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
