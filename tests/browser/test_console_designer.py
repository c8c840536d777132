"""The designer in Chromium: the whole story of an API, its pages wide, narrow, dark and without scripts, with the rules
of accessibility. Screenshots are in .cache/console/designer, to look at.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, expect

from contracts.operators import Permission
from tests.browser.stage import PATIENCE, SCREENSHOTS, Visitor, chrome, visiting
from tests.browser.test_console_pages import RULES
from tests.builders import api_document, make_api, make_operator, settle, unique
from tests.services.console_browser import console_of
from tests.services.system import Party, System, open_system
from tests.unit.tyk_definitions import GUARDED_OAS

SHOTS = SCREENSHOTS / "designer"
SECRET = "a-shared-secret-of-the-story"
WIDE, NARROW = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@dataclass(frozen=True)
class Stage:
    """A browser, and a console in front of services in this process."""

    browser: Browser
    base: str
    system: System
    party: Party
    key: str

    @asynccontextmanager
    async def visitor(self, **context: Any) -> AsyncIterator[Visitor]:
        """A new session in a browser context of its own."""
        async with visiting(self.browser, self.base, **context) as visitor:
            await visitor.sign_in(self.key)
            yield visitor


@pytest.fixture(name="stage", scope="module")
async def _stage(mongodb_url: str) -> AsyncIterator[Stage]:
    async with (
        open_system(mongodb_url) as system,
        console_of(system.call) as consoles,
        chrome() as browser,
    ):
        SHOTS.mkdir(parents=True, exist_ok=True)
        guarded = api_document(**{path.replace("/", "__"): value for path, value in GUARDED_OAS.items()})
        imported = await system.operator("POST", "/api/apis?accept_unsupported=true", json=guarded)
        assert imported.status == 200, imported.body
        api = await system.deps.store.apis.get(imported.body["ID"])
        assert api is not None
        party = await system.client_of(api, name="Shop", description="The shop of the tests")
        await make_api(system.deps, api_document("orders-classic.json"))
        await settle(system.deps)
        yield Stage(browser, consoles.base, system, party, await make_operator(system.deps, Permission.ADMIN))


async def looked_at(visitor: Visitor, name: str) -> list[Any]:
    """A screenshot of the page, and what is wrong with it: failed rules, and pixels that are wider than the window."""
    found = await Axe().run(visitor.page, options=RULES)
    rules = [(rule["id"], [node["html"][:120] for node in rule["nodes"][:3]]) for rule in found.response["violations"]]
    await visitor.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)
    overflow = await visitor.overflow()
    return [*rules, *([f"{overflow} px too wide"] if overflow > 0 else [])]


async def filled_in(page: Page, name: str, listen_path: str) -> None:
    """The designer's form, as the seed's example has it: code and refresh, login page, webhooks, token in a cookie."""
    await page.fill("#f-name", name)
    await page.fill("#f-listen_path", listen_path)
    await page.fill("#f-upstream_url", "https://upstream.example.test/")
    await page.check("#f-grants-client_credentials")
    await page.fill("#f-login_url", "https://login.example.test/authorize")
    await page.fill("#f-scopes", "read Read things\nwrite")
    await page.fill("#f-access_token_lifetime", "900")
    await page.check("#f-cookie-1")
    await page.fill("#f-cookie_name", "token")
    await page.check("#f-strip_authorization_data-1")
    await page.fill("#f-notifications_url", "https://app.example.test/hooks/tokens")
    await page.fill("#f-shared_secret", SECRET)


@pytest.mark.parametrize(
    ("name", "context"),
    [
        pytest.param("wide", {"viewport": WIDE}, id="wide"),
        pytest.param("dark", {"viewport": WIDE, "color_scheme": "dark"}, id="dark"),
        pytest.param("narrow", {"viewport": NARROW}, id="narrow"),
    ],
)
async def test_every_page_of_the_designer_follows_the_rules_of_accessibility(
    stage: Stage, name: str, context: dict[str, Any]
) -> None:
    """Designer, review of a change, review of a new API, errors, confirmations: no failed rule, no page that is wider
    than the window, no error in the browser's console.
    """
    api_id = stage.party.api.api_id
    wrong: dict[str, Any] = {}
    async with stage.visitor(**context) as visitor:
        page = visitor.page

        async def look(at: str) -> None:
            if found := await looked_at(visitor, f"{name}-{at}"):
                wrong[at] = found

        await visitor.open("/apis")
        await look("list")
        await visitor.open(f"/apis?q={unique('nothing')}")
        await look("nothing-found")
        await visitor.open(f"/apis/{api_id}")
        await page.click("summary")
        await look("api")
        await visitor.open(f"/apis/{api_id}/design")
        await look("design")
        await page.fill("#f-name", "Another name")
        await page.uncheck("#f-grants-password")
        await page.fill("#f-shared_secret", SECRET)
        await page.click("button:has-text('Review the changes')")
        await expect(page.locator(".diff")).to_be_visible(timeout=PATIENCE)
        await look("review")
        await visitor.open("/apis/new?format=classic")
        await look("new-classic")
        await visitor.open("/apis/new")
        await filled_in(page, "Things", f"/{unique('at')}/")
        await look("new")
        await page.click("button:has-text('Review the changes')")
        await expect(page.locator("h1")).to_contain_text("Create the API Things?", timeout=PATIENCE)
        await look("review-new")
        await visitor.open(f"/apis/{api_id}/webhook-secrets/rotate")
        await look("rotate")
        await visitor.open(f"/apis/{api_id}/delete")
        await look("delete")
        await visitor.open("/apis/import")
        await page.fill("#f-text", json.dumps(api_document(**{"x-tyk-api-gateway__info__id": api_id})))
        await page.click("button:has-text('Check it')")
        await expect(page.get_by_text("See what replacing it changes")).to_be_visible(timeout=PATIENCE)
        await look("import-existing")
    assert wrong == {}


@pytest.mark.parametrize("scripts", [pytest.param(True, id="scripts"), pytest.param(False, id="no-scripts")])
async def test_an_api_is_configured_used_changed_and_deleted(stage: Stage, scripts: bool, tmp_path: Path) -> None:
    """The whole story, with and without scripts: configure OAuth 2.0 in the designer, see and export the definition,
    register a client app, see its secret, edit it, revoke its tokens, delete it, change the API, delete the API.
    """
    listen_path = f"/{unique('at')}/"
    async with stage.visitor(java_script_enabled=scripts, viewport=WIDE, accept_downloads=True) as visitor:
        page = visitor.page

        async def sees(text: str) -> None:
            await expect(page.locator("main")).to_contain_text(text, timeout=PATIENCE)

        async def confirm(link: str, button: str) -> None:
            await page.click(f".head >> text='{link}'")
            await page.locator(("dialog " if scripts else "") + f"button:has-text('{button}')").click()

        await visitor.open("/apis")
        await page.click(".head >> text=Design an API")
        await filled_in(page, "Story", listen_path)
        await page.click("button:has-text('Update form and text')")
        await expect(page.locator("#f-text")).to_have_value(
            re.compile(r'"onKeyChangeUrl": "https://app.example.test/hooks/tokens"'), timeout=PATIENCE
        )
        assert SECRET not in await page.content()
        await page.click("button:has-text('Review the changes')")
        await sees("Create the API Story?")
        await page.click("button:has-text('Create the API')")
        await sees("The API was created")
        api = page.url
        async with page.expect_download() as started:
            await page.click(".head >> text=Export")
        download = await started.value
        await download.save_as(tmp_path / "exported.json")
        exported = json.loads((tmp_path / "exported.json").read_text())
        scheme = exported["x-tyk-api-gateway"]["server"]["authentication"]["securitySchemes"]["oauth"]
        assert scheme["notifications"]["sharedSecret"] == SECRET
        assert (scheme["refreshToken"], scheme["cookie"]) == (True, {"enabled": True, "name": "token"})

        await page.click(".head >> text=Register a client app")
        await page.fill("#f-client_name", "Desk")
        await page.fill("#f-redirect_uris", "https://desk.example/callback")
        await page.fill("#f-meta_data", '{"tier": "gold"}')
        await page.click("button:has-text('Register')")
        await sees("The client app was registered.")
        client_id = await page.locator("code").first.inner_text()
        secret = await page.locator("code").nth(1).inner_text()
        issued = await stage.system.call(
            "POST",
            f"{listen_path}oauth/token",
            data={"grant_type": "client_credentials", "client_id": client_id, "client_secret": secret},
        )
        assert (issued.status, issued.body.get("expires_in")) == (200, 900), issued.body
        await page.click("text=Continue to the client app")
        await page.click(".head >> text=Edit")
        await page.fill("#f-description", "The desk")
        await page.click("button:has-text('Save')")
        await sees("The client app was changed.")
        await confirm("Revoke all tokens", "Revoke all tokens")
        await sees("All tokens of this client app were revoked.")
        verified = await stage.system.call(
            "GET",
            "/verify",
            headers={"X-Forwarded-Uri": f"{listen_path}x", "Authorization": f"Bearer {issued.body['access_token']}"},
        )
        assert verified.status == 403
        await confirm("Delete", "Delete the client app")
        await sees("was deleted")

        await page.goto(api)
        await page.click(".head >> text=Design")
        await page.uncheck("#f-grants-client_credentials")
        await page.click("button:has-text('Review the changes')")
        await sees("The grant type client_credentials is no longer offered")
        await page.click("button:has-text('Back to the designer')")
        await expect(page.locator("#f-grants-client_credentials")).not_to_be_checked(timeout=PATIENCE)
        await page.click("button:has-text('Review the changes')")
        await page.click("button:has-text('Replace the definition')")
        await sees("The definition was replaced")

        await page.click("button:has-text('Show the secrets')")
        await sees(SECRET)
        await page.click("text=Continue to the API")
        await page.click("a:has-text('Rotate the signing secret')")
        await page.locator(("dialog " if scripts else "") + "button.primary").click()
        await sees("The signing secret was rotated.")
        await visitor.page.screenshot(path=SHOTS / f"secrets-{scripts}.png", full_page=True)
        await page.goto(api)
        await confirm("Delete", "Delete the API")
        await sees("was deleted")


async def test_the_designer_works_with_the_keyboard_alone(stage: Stage) -> None:
    """Enter in a field reviews; the way through the form follows what is seen."""
    async with stage.visitor(viewport=WIDE) as visitor:
        page = visitor.page
        await visitor.open(f"/apis/{stage.party.api.api_id}/design")
        await page.focus("#f-name")
        await page.keyboard.press("Control+A")
        await page.keyboard.type("By keyboard")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_contain_text("Replace the definition of By keyboard?", timeout=PATIENCE)
        await page.focus("button:has-text('Replace the definition')")
        await page.keyboard.press("Enter")
        await expect(page.locator("h1")).to_have_text("By keyboard", timeout=PATIENCE)
