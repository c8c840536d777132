"""Whole pieces of work in the console, in Chromium: as a person does them, with the keyboard alone, without scripts."""

import json
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import parse_qs, quote, urlsplit

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from playwright.async_api import Page, expect
from yarl import URL

from examples import identity_server, upstream, webhook_receiver
from tests.acceptance.tenants import SCHEME, basic
from tests.browser.stage import PATIENCE, Stage, Visitor, serving
from tests.builders import api_document
from tests.ports import free_port

SHARED_SECRET = "a-shared-secret-of-the-story"


@dataclass(frozen=True)
class Place:
    """Where everybody else in the story is: the app, the identity server, the resource servers."""

    document: str
    """The definition of their API."""
    api_id: str
    path: str
    login_port: int
    callback: str


@asynccontextmanager
async def _place() -> AsyncIterator[Place]:
    """A client app's own web page, a webhook receiver and a resource server, which run; the identity server does not
    yet, because it needs a key first.
    """

    async def callback(_: web.Request) -> web.Response:
        return web.Response(text="<!doctype html><title>App</title><h1>Back in the app</h1>", content_type="text/html")

    login_port = free_port()
    async with (
        serving({"/callback": callback}) as app,
        TestServer(webhook_receiver.create_app(SHARED_SECRET, lambda _: None)) as hooks,
        TestServer(upstream.create_app()) as orders,
    ):
        document = api_document(
            **{
                f"{SCHEME}__authLoginRedirect": f"http://127.0.0.1:{login_port}/login",
                f"{SCHEME}__notifications__onKeyChangeUrl": str(hooks.make_url("/tokens")),
                f"{SCHEME}__notifications__sharedSecret": SHARED_SECRET,
                f"{SCHEME}__refreshToken": True,
                "x-tyk-api-gateway__upstream__url": str(orders.make_url("/")),
                "info__title": "Story",
                "x-tyk-api-gateway__info__name": "Story",
            }
        )
        extension = document["x-tyk-api-gateway"]
        yield Place(
            *(json.dumps(document), extension["info"]["id"], extension["server"]["listenPath"]["value"].strip("/")),
            *(login_port, f"{app}/callback"),
        )


async def test_from_the_import_of_an_api_to_a_refused_call(stage: Stage) -> None:
    """An operator imports an API, gives the identity server a key, and registers a client app. A user logs in and
    consents. The token and its webhook are seen as they arrive; the grant is found by its token and revoked; and the
    call that is refused then is on its timeline. Nothing is done but with the mouse, but for what others do.
    """
    async with _place() as place, stage.visitor() as visitor, stage.visitor() as watching:
        page = visitor.page
        await _import(visitor, place)
        key = await _make_operator_for_login(visitor)
        client_id, secret = await _register(visitor, place)

        await watching.open(f"/events?api_id={place.api_id}")
        await expect(watching.page.locator("#stream-state")).to_have_text("connected", timeout=PATIENCE)
        code = await _log_in(stage, place, client_id, key)
        stream = watching.page.locator("#stream")
        await expect(stream).to_contain_text("code.issued", timeout=PATIENCE)
        async with aiohttp.ClientSession() as http:
            token = await _exchanged(http, stage, place, client_id, secret, code)
            await expect(stream).to_contain_text("token.new", timeout=PATIENCE)
            await expect(stream).to_contain_text("notification.delivered", timeout=PATIENCE)
            await watching.photograph("story-events")

            await visitor.open(f"/webhooks?api_id={place.api_id}")
            await expect(page.get_by_role("table")).to_contain_text("delivered", timeout=PATIENCE)
            await page.get_by_role("table").get_by_role("link").first.click()
            await expect(page.locator("main")).to_contain_text("204", timeout=PATIENCE)
            await visitor.photograph("story-delivery")

            assert await _call(http, stage, place, token) == 200
            await page.get_by_role("link", name="Grants", exact=True).click()
            await page.fill("#f-token", token)
            await page.get_by_role("button", name="Find").click()
            await expect(page.get_by_text("This is the grant of the access token")).to_be_visible(timeout=PATIENCE)
            assert token not in page.url
            timeline = page.locator(".timeline")
            for part in ("code.issued", "token.new", "delivered", "204"):
                await expect(timeline).to_contain_text(part)
            await page.get_by_role("link", name="Revoke the grant").click()
            await page.locator("dialog").get_by_role("button", name="Revoke the grant").click()
            await expect(page.get_by_text("The grant was revoked.")).to_be_visible(timeout=PATIENCE)
            await expect(timeline).to_contain_text("grant.revoked", timeout=PATIENCE)
            await expect(stream).to_contain_text("grant.revoked", timeout=PATIENCE)

            assert await _call(http, stage, place, token) == 403
            await _until(page, timeline.get_by_text("calls refused"))
            await visitor.photograph("story-timeline")


async def _import(visitor: Visitor, place: Place) -> None:
    """From the overview to the API's page."""
    page = visitor.page
    await page.get_by_role("link", name="APIs", exact=True).click()
    await page.get_by_role("link", name="Import an API").first.click()
    await page.fill("#f-text", place.document)
    await page.get_by_role("button", name="Check it").click()
    await page.get_by_role("button", name="Import it").click()
    await expect(page.get_by_text("The API was imported.")).to_be_visible(timeout=PATIENCE)
    await expect(page.locator("main")).to_contain_text(f"/{place.path}/")


async def _make_operator_for_login(visitor: Visitor) -> str:
    """The key of an operator for the identity server, which is shown once."""
    page = visitor.page
    await page.get_by_role("link", name="Operators", exact=True).click()
    await page.get_by_role("link", name="Create an operator").click()
    await page.fill("#f-name", "Login of the story")
    await page.get_by_label("authorize", exact=True).check()
    await page.get_by_role("button", name="Create").click()
    found = re.search(r"tw_ok_[\w-]+", await page.inner_text("main"))
    assert found is not None
    return found[0]


async def _register(visitor: Visitor, place: Place) -> tuple[str, str]:
    """The client id and the secret, which the page after the registration shows."""
    page = visitor.page
    await visitor.open(f"/apis/{place.api_id}")
    await page.get_by_role("link", name="Register a client app").click()
    await page.fill("#f-client_name", "The app of the story")
    await page.fill("#f-redirect_uris", place.callback)
    await page.get_by_role("button", name="Register").click()
    await expect(page.get_by_text("The client app was registered.")).to_be_visible(timeout=PATIENCE)
    client_id, secret = await page.locator(".secret code").all_inner_texts()
    return client_id, secret


async def _log_in(stage: Stage, place: Place, client_id: str, key: str) -> str:
    """Somebody's browser, from the app's link to the code that it brings back."""
    settings = identity_server.Settings(
        *(stage.base, place.api_id, f"/{place.path}/", key, identity_server.DEMO_USERS),
        client_names={client_id: "The app of the story"},
    )
    runner = web.AppRunner(identity_server.create_app(settings), access_log=None, shutdown_timeout=0.5)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", place.login_port).start()
    context = await stage.browser.new_context()
    try:
        page = await context.new_page()
        asked = f"response_type=code&client_id={client_id}&redirect_uri={quote(place.callback)}&state=xyz"
        await page.goto(f"{stage.base}/{place.path}/oauth/authorize?{asked}")
        await page.fill("[name=username]", "alice")
        await page.fill("[name=password]", "wonderland")
        await page.keyboard.press("Enter")
        await page.click("button[value=allow]")
        await expect(page.locator("h1")).to_have_text("Back in the app", timeout=PATIENCE)
        brought = parse_qs(urlsplit(page.url).query)
        assert brought["state"] == ["xyz"]
        return brought["code"][0]
    finally:
        await context.close()
        await runner.cleanup()


async def _exchanged(
    http: aiohttp.ClientSession, stage: Stage, place: Place, client_id: str, secret: str, code: str
) -> str:
    form = {"grant_type": "authorization_code", "code": code, "redirect_uri": place.callback}
    url, headers = f"{stage.base}/{place.path}/oauth/token", basic(client_id, secret)
    async with http.post(url, data=form, headers=headers) as response:
        body = await response.json()
    assert response.status == 200, body
    return str(body["access_token"])


async def _call(http: aiohttp.ClientSession, stage: Stage, place: Place, token: str) -> int:
    url = f"{stage.base}/{place.path}/orders"
    async with http.get(url, headers={"Authorization": f"Bearer {token}"}) as response:
        return response.status


async def _until(page: Page, there: object) -> None:
    """Load the page again until this is on it: gateways report refused calls once a second."""
    assert hasattr(there, "count")
    for _ in range(30):
        if await there.count():
            return
        await page.wait_for_timeout(500)
        await page.reload()
    raise AssertionError(await page.inner_text("main"))


# The keyboard


async def _tab_to(page: Page, name: str, role: str = "") -> None:
    """Press Tab until the element with this name has the focus, which must be visible at every stop."""
    for _ in range(120):
        await page.keyboard.press("Tab")
        found = await page.evaluate(
            """() => {
                const at = document.activeElement, style = getComputedStyle(at);
                const label = at.labels?.[0]?.textContent ?? at.getAttribute("aria-label") ?? at.textContent;
                const visible = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
                return [label.trim(), at.tagName.toLowerCase(), visible];
            }"""
        )
        text, tag, visible = found
        assert visible or tag in {"body", "html", "main"}, f"the focus cannot be seen: {found}"
        if text == name and (not role or tag == role):
            return
    raise AssertionError(f"{name} cannot be reached with Tab")


async def test_a_client_app_is_registered_and_its_tokens_are_revoked_with_the_keyboard_alone(stage: Stage) -> None:
    """Sign in, find the API, register, see the secret with ready requests, go back from the confirmation and confirm
    it, and sign out: with Tab, letters, Enter, Space and Escape.
    """
    name = f"App {secrets.token_hex(3)}"
    async with stage.visitor() as visitor:
        page = visitor.page
        keyboard = page.keyboard
        await _tab_to(page, "Skip to the content")
        await _tab_to(page, "APIs")
        await keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("APIs", timeout=PATIENCE)
        await _tab_to(page, "Invoices")
        await keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Invoices", timeout=PATIENCE)
        await _tab_to(page, "Register a client app")
        await keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("Register a client app", timeout=PATIENCE)
        await _tab_to(page, "Name")
        await keyboard.type(name)
        await _tab_to(page, "Kind")
        await keyboard.press("ArrowDown")
        await keyboard.press("ArrowUp")
        await keyboard.press("Tab")
        await keyboard.press("Tab")
        await keyboard.type("https://app.example/callback")
        await _tab_to(page, "Register")
        await keyboard.press("Enter")
        await expect(page.get_by_text("The client app was registered.")).to_be_visible(timeout=PATIENCE)
        await expect(page.locator("pre").first).to_contain_text("oauth/token")
        await _tab_to(page, "Continue to the client app")
        await keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text(name, timeout=PATIENCE)
        await _tab_to(page, "Revoke all tokens")
        await keyboard.press("Enter")
        await expect(page.locator("dialog")).to_be_visible(timeout=PATIENCE)
        await keyboard.press("Escape")
        await expect(page.locator("dialog")).to_have_count(0, timeout=PATIENCE)
        assert await page.evaluate("document.activeElement.textContent") == "Revoke all tokens"
        await keyboard.press("Enter")
        await expect(page.locator("dialog")).to_be_visible(timeout=PATIENCE)
        await _tab_to(page, "Cancel")
        await keyboard.press("Shift+Tab")
        await keyboard.press("Space")
        await expect(page.get_by_text("All tokens of this client app were revoked.")).to_be_visible(timeout=PATIENCE)
        await _tab_to(page, "Sign out")
        await keyboard.press("Enter")
        await expect(page.get_by_text("You are signed out.")).to_be_visible(timeout=PATIENCE)
        await keyboard.type("tw_ok_wrong")
        assert await page.input_value("#f-key") == "tw_ok_wrong", "the key's field has the focus"


# Without scripts


async def test_everything_can_be_done_without_scripts(stage: Stage) -> None:
    """Register, show and rotate the secret, edit, revoke and delete; each asks on a page of its own where it asks."""
    async with stage.visitor(java_script_enabled=False) as visitor:
        page = visitor.page
        await visitor.open(f"{stage.api}/clients/new")
        await page.fill("#f-client_name", "Without scripts")
        await page.click("text=Register >> nth=-1")
        await expect(page.get_by_text("The client app was registered.")).to_be_visible(timeout=PATIENCE)
        await page.click("text=Continue to the client app")
        place = URL(page.url).path
        await page.click("text=Show, with ready requests")
        await expect(page.locator(".secret code").nth(1)).to_be_visible(timeout=PATIENCE)
        await page.goto(stage.base + place)
        await page.click("text=Rotate the secret")
        await page.fill("#f-overlap", "0")
        await page.click("button.primary")
        await expect(page.get_by_text("The secret was rotated.")).to_be_visible(timeout=PATIENCE)
        await page.goto(f"{stage.base}{place}/edit")
        await page.fill("#f-description", "edited without scripts")
        await page.click("button.primary")
        await expect(page.get_by_text("edited without scripts")).to_be_visible(timeout=PATIENCE)
        await page.click("text=Revoke all tokens")
        await page.click("button.danger")
        await expect(page.get_by_text("All tokens of this client app were revoked.")).to_be_visible(timeout=PATIENCE)
        await page.click("main .head >> text=Delete")
        await expect(page.locator("h1")).to_contain_text("Delete the client app", timeout=PATIENCE)
        await page.click("button.danger")
        await expect(page.get_by_text("was deleted.")).to_be_visible(timeout=PATIENCE)


# Webhooks


async def test_webhooks_are_tested_and_sent_again(stage: Stage) -> None:
    """A test event arrives and its outcome is said; one that failed is sent again, alone and with all that failed."""
    async with stage.visitor() as visitor:
        page = visitor.page
        before = len(stage.webhooks.received)
        await visitor.open(stage.api)
        await page.get_by_role("button", name=re.compile("test", re.IGNORECASE)).click()
        await expect(page.locator(".note.good")).to_contain_text("status 204", timeout=PATIENCE)
        assert len(stage.webhooks.received) == before + 1

        await visitor.open(f"/webhooks/{stage.ids['delivery_id']}")
        await expect(page.locator("main")).to_contain_text("502", timeout=PATIENCE)
        await page.get_by_role("button", name="Send again").click()
        await expect(page.locator(".note.good")).to_be_visible(timeout=PATIENCE)
        deliveries = page.get_by_role("link", name=re.compile("^api-")).first
        failing = (await deliveries.inner_text()).strip()
        await visitor.open(f"/apis/{failing}")
        await page.get_by_role("link", name="Send all failed again").click()
        await page.locator("dialog").get_by_label("Hours to go back").fill("1")
        await page.locator("dialog").get_by_role("button", name="Send all again").click()
        await expect(page.locator(".note.good")).to_be_visible(timeout=PATIENCE)


async def test_rows_are_filtered_as_one_types(stage: Stage) -> None:
    """Where a list has eight rows and more, those that do not match are hidden."""
    async with stage.visitor() as visitor:
        await visitor.open("/reference")
        rows, typed = visitor.page.locator("tbody tr:visible"), visitor.page.get_by_label("Filter the operations")
        number = await rows.count()
        await typed.fill("/API/GRANTS")
        assert 3 <= await rows.count() < number
        await typed.fill("nothing has this")
        assert await rows.count() == 0
        await visitor.open("/users")
        assert await visitor.page.locator(".row-filter").count() == 0
