"""What other pages, other people and time can do to a session of the console, in Chromium."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web
from playwright.async_api import expect

from contracts.operators import Permission
from tests.acceptance.tenants import SCHEME, import_api, register_client
from tests.browser.stage import PATIENCE, Stage, chrome, serving, visiting
from tests.builders import api_document, make_operator, unique
from tests.eventually import eventually
from tests.services.console_browser import console_of, page_paths
from tests.services.system import Clock, System, open_system

ORIGINS = [pytest.param("127.0.0.1", id="same-site"), pytest.param("localhost", id="cross-site")]
"""Hosts of a page of another origin. Of the same site, browsers send it the session's cookie in spite of SameSite."""


@pytest.fixture(name="system", scope="module")
async def _system(mongodb_url: str) -> AsyncIterator[System]:
    async with open_system(mongodb_url) as system:
        yield system


@asynccontextmanager
async def _page_with(body: str, host: str) -> AsyncIterator[str]:
    """The URL of somebody else's page."""

    async def show(_: web.Request) -> web.Response:
        return web.Response(text=f"<!doctype html><title>evil</title>{body}", content_type="text/html")

    async with serving({"/": show}, host) as url:
        yield f"{url}/"


# Other pages


@pytest.mark.parametrize("host", ORIGINS)
async def test_no_page_can_frame_the_console(stage: Stage, host: str) -> None:
    """Neither a page nor the sign-in form appears in a frame, so nobody is led to click in it (clickjacking)."""
    frames = "".join(f'<iframe src="{stage.base}/console{path}"></iframe>' for path in ("/", stage.client, "/sign-in"))
    async with stage.visitor() as visitor, _page_with(frames, host) as evil:
        page = visitor.page
        await page.goto(evil)
        await page.wait_for_load_state("networkidle")
        frames_of_it = [frame for frame in page.frames if frame is not page.main_frame]
        assert len(frames_of_it) == 3
        for frame in frames_of_it:
            assert "Tokenwire" not in await frame.content()
            assert not await frame.query_selector("button, a, input")
        refused = [said for said in visitor.complaints if "frame-ancestors" in said]
        assert len(refused) == 3, visitor.complaints
        visitor.complaints.clear()


@pytest.mark.parametrize("host", ORIGINS)
@pytest.mark.parametrize("enctype", ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"])
async def test_no_page_can_post_a_form_to_the_console(stage: Stage, host: str, enctype: str) -> None:
    """A form that another origin's page sends, in a new window or in its own, changes nothing (CSRF)."""
    api_id, client_id, _ = await _another_client(stage)
    target = f"/console/apis/{api_id}/clients/{client_id}/delete"
    form = f'<form method="post" enctype="{enctype}" action="{stage.base}{target}"><input name="csrf" value="guessed">'
    body = f"{form}<button>Win a prize</button></form>"
    async with stage.visitor() as visitor, _page_with(body, host) as evil:
        visitor.refusals_expected = True
        page = visitor.page
        await page.goto(evil)
        async with page.expect_navigation():
            await page.click("button")
        shown = await page.inner_text("main")
        # Of another site, the browser sends no cookie: there is no session, so the form is not even looked at.
        expected = "This form did not come from the console" if host == "127.0.0.1" else "Operator key"
        assert expected in shown
    there = await stage.operator("GET", f"/api/apis/oauth/{api_id}/{client_id}")
    assert there.status == 200


@pytest.mark.parametrize("host", ORIGINS)
async def test_no_page_can_read_the_console_or_send_it_a_request(stage: Stage, host: str) -> None:
    """Scripts of another origin see no response, and their requests, with cookies and the simple headers that need no
    permission, change nothing.
    """
    api_id, client_id, _ = await _another_client(stage)
    place = f"{stage.base}/console/apis/{api_id}/clients/{client_id}"
    async with stage.visitor() as visitor, _page_with("", host) as evil:
        page = visitor.page
        await page.goto(evil)
        read = await page.evaluate(
            "url => fetch(url, {credentials: 'include'}).then(r => r.text()).catch(e => 'refused')", place
        )
        assert read == "refused"
        sent = await page.evaluate(
            """url => fetch(url + "/delete", {method: "POST", mode: "no-cors", credentials: "include",
               body: new URLSearchParams({csrf: "guessed"})}).then(r => r.type).catch(e => "refused")""",
            place,
        )
        assert sent in {"opaque", "refused"}
        opened = await page.evaluate(
            "url => { const w = open(url); try { return String(w?.document?.title) } catch { return 'refused' } }",
            place,
        )
        assert opened in {"", "refused", "undefined"}
        visitor.complaints.clear()  # the browser reports what it refused
    assert (await stage.operator("GET", f"/api/apis/oauth/{api_id}/{client_id}")).status == 200


async def _another_client(stage: Stage) -> tuple[str, str, str]:
    """A client app that a test may lose."""
    api_id = await import_api(stage.operator, api_document())
    return api_id, *await register_client(stage.operator, api_id)


# Time


async def test_a_session_that_was_left_alone_ends_and_begins_again_where_it_was(stage: Stage, system: System) -> None:
    """After the idle time, and after the whole lifetime of a session that was used, the next click leads to the sign-in
    form, and the sign-in to the page that was wanted.
    """
    clock, key = Clock(), await make_operator(system.deps, Permission.READ)
    own = {"session_idle": 600, "session_lifetime": 1500}
    async with (
        console_of(system.call, clock, **own) as consoles,
        visiting(stage.browser, consoles.base) as visitor,
    ):
        page = visitor.page
        await visitor.sign_in(key)
        for _ in range(2):  # used, it lives on
            clock.advance(590)
            await page.get_by_role("link", name="Policies", exact=True).click()
            await expect(page.locator("h1")).to_have_text("Policies", timeout=PATIENCE)
        clock.advance(590)  # 1770 seconds since the sign-in
        await page.get_by_role("link", name="Users", exact=True).click()
        await expect(page.locator("h1")).to_contain_text("console", timeout=PATIENCE)
        await visitor.photograph("session-ended")
        await visitor.sign_in(key)
        await expect(page.locator("h1")).to_have_text("Users", timeout=PATIENCE)
        clock.advance(601)
        await page.get_by_role("link", name="Audit log", exact=True).click()
        await expect(page.get_by_label("Operator key")).to_be_visible(timeout=PATIENCE)


async def test_after_signing_out_the_back_button_shows_nothing(stage: Stage) -> None:
    """Neither a page that was seen before, nor the secret on it: browsers keep no page of the console, although this
    one may keep pages in its cache for going back.
    """
    async with (
        chrome(ignore_default_args=["--disable-back-forward-cache"]) as browser,
        visiting(browser, stage.base) as visitor,
    ):
        page = visitor.page
        await visitor.sign_in(stage.key)
        await visitor.open(stage.client)
        await page.click("text=Show, with ready requests")
        await expect(page.locator("main")).to_contain_text(stage.tenant.secret, timeout=PATIENCE)
        await visitor.open("/audit")
        await page.click("text=Sign out")
        await expect(page.get_by_text("You are signed out.")).to_be_visible(timeout=PATIENCE)
        for _ in range(4):
            await page.evaluate("history.back()")
            await page.wait_for_timeout(300)
            text = await page.content()
            assert stage.tenant.secret not in text
            assert "Sign out" not in text
        visitor.complaints.clear()  # of a form that the browser does not send again


# Guessing


async def test_who_tries_many_keys_is_told_to_wait(stage: Stage, mongodb_url: str) -> None:
    """The form says why, and that it was not the key."""
    async with (
        open_system(mongodb_url, throttle_address="3/60") as system,
        console_of(system.call) as consoles,
        visiting(stage.browser, consoles.base) as visitor,
    ):
        visitor.refusals_expected = True
        page = visitor.page
        await page.goto(f"{consoles.base}/console/sign-in")
        for number in range(4):
            await page.fill("#f-key", f"tw_ok_{number}")
            async with page.expect_navigation() as navigation:
                await page.keyboard.press("Enter")
            response = await navigation.value
        assert response.status == 429
        assert int((await response.all_headers())["retry-after"]) > 0
        await expect(page.get_by_role("alert")).to_be_visible()
        await expect(page.get_by_role("alert")).not_to_contain_text("No operator has this key")
        await visitor.photograph("too-many-attempts")


# Text of others

HIT = "window.hit=document.title"
NASTY = (
    f"<img src=x onerror={HIT}>",
    f"\"'><script>{HIT}</script>",
    f"</title></textarea></pre><svg onload={HIT}>",
    f"'-{HIT}-'",
    f"javascript:{HIT}",
    f'" autofocus onfocus="{HIT}" x="',
    "{{ 7 * 7 }}{% raw %}",
    "W" * 240,
    "Zalgo" + "\N{COMBINING ACUTE ACCENT}" * 100,
)


@pytest.mark.parametrize("text", NASTY, ids=range(len(NASTY)))
async def test_no_text_of_others_runs_in_a_browser(stage: Stage, text: str) -> None:
    """Names, descriptions, metadata, what a webhook's endpoint responds, and live events: as text on every page, no
    script runs, nothing is asked of another server, and no page becomes wider.
    """

    async def fail(_: web.Request) -> web.Response:
        return web.Response(status=500, text=text, content_type="text/html")

    async with serving({"/{path:.*}": fail}) as endpoint, stage.visitor() as visitor:
        page = visitor.page
        foreign: list[str] = []
        page.on("request", lambda request: foreign.append(request.url) if stage.base not in request.url else None)
        page.on("dialog", lambda dialog: foreign.append(dialog.message))
        await visitor.open("/events")
        await expect(page.locator("#stream-state")).to_have_text("connected", timeout=PATIENCE)
        ids = {**stage.ids, **await _written(stage, text, f"{endpoint}/hook")}
        await expect(page.locator("#stream")).to_contain_text("token.new", timeout=PATIENCE)
        for path in ("", *page_paths(ids)):
            if path:
                await visitor.open(path)
            await page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
            assert await page.evaluate("window.hit") is None, path
            assert await visitor.overflow() <= 0, path
        assert foreign == []


async def _written(stage: Stage, text: str, endpoint: str) -> Mapping[str, str]:
    """Write the text wherever the management API takes it. The ids of the records."""
    operator, metadata = stage.operator, {text: {text: [text]}}
    document = api_document(**{f"{SCHEME}__notifications__onKeyChangeUrl": endpoint, f"{SCHEME}__refreshToken": True})
    document["info"]["title"] = document["x-tyk-api-gateway"]["info"]["name"] = text
    document["info"]["description"] = text
    api_id = await import_api(operator, document)
    client_id, secret = await register_client(
        operator, api_id, client_name=text, description=text * 3, meta_data=metadata
    )
    policy = {"name": text, "tags": [text], "meta_data": metadata, "access_rights": {api_id: {"api_id": api_id}}}
    policy_id = (await _made(stage, "/api/portal/policies", {**policy, "active": True}))["ID"]
    named = {"name": text, "permissions": ["read"]}
    operator_id = (await _made(stage, "/api/operators", named))["operator_id"]
    username = unique("user")
    await _made(stage, f"/api/apis/keys/basic/{username}", {"password": "correct horse", "meta_data": metadata})
    form = {"response_type": "code", "client_id": client_id, "redirect_uri": _callback(), "subject": text}
    code = await operator("POST", f"/api/apis/oauth/{api_id}/authorize-client", data=form)
    assert code.status == 200, code.raw
    place = document["x-tyk-api-gateway"]["server"]["listenPath"]["value"]
    exchange = {"grant_type": "authorization_code", "code": code.body["code"], "redirect_uri": _callback()}
    tokens = await stage.tenant.edge(
        "POST", f"{place}oauth/token", data={**exchange, "client_id": client_id, "client_secret": secret}
    )
    assert tokens.status == 200, tokens.raw

    async def grant_and_delivery() -> Mapping[str, str]:
        found = (await operator("GET", f"/api/notifications/deliveries?api_id={api_id}")).body["deliveries"]
        assert found
        assert found[0]["attempts"]
        return {"grant_id": found[0]["grant_id"], "delivery_id": found[0]["id"]}

    return {
        **await eventually(grant_and_delivery, within=30),
        "api_id": api_id,
        "client_id": client_id,
        "policy_id": policy_id,
        "operator_id": operator_id,
        "username": username,
        "subject": quote(text, safe=""),
    }


def _callback() -> str:
    return "https://app.example.test/callback"


async def _made(stage: Stage, path: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    made = await stage.operator("POST", path, json=document)
    assert made.status == 200, made.raw
    body: Mapping[str, Any] = made.body
    return body
