"""Every page of the console in Chromium: no error, no violation of the policy, no failed rule of accessibility; narrow,
dark and without scripts. Screenshots are in .cache/console, to look at.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from contracts.operators import Permission
from tests.builders import make_operator, settle
from tests.provision.chromium import chromium
from tests.services.console_browser import Consoles, console_of
from tests.services.system import Party, System, open_system

SCREENSHOTS = Path(__file__).parents[2] / ".cache" / "console"
RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}}
PATIENCE = 60_000
"""Milliseconds; a machine may be slow."""


@dataclass
class Visitor:
    """A signed-in page, with what went wrong in it."""

    page: Page
    base: str
    complaints: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        """Go to a page of the console."""
        response = await self.page.goto(f"{self.base}/console{path}")
        assert response is not None
        assert response.status == 200, path

    async def overflow(self) -> int:
        """Pixels by which the page is wider than the window."""
        return int(await self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth"))


@dataclass(frozen=True)
class Stage:
    """A browser, a console with something in it, and a key."""

    browser: Browser
    consoles: Consoles
    system: System
    party: Party
    key: str
    grant_id: str

    @property
    def paths(self) -> list[str]:
        """A path of every page that shows something."""
        api = f"/apis/{self.party.api.api_id}"
        client = f"{api}/clients/{self.party.id}"
        return [
            *("/", "/?span=30d", "/apis", "/apis/import", api, f"{api}/delete", "/clients", f"{api}/clients/new"),
            *(client, f"{client}/edit", f"{client}/rotate", f"{client}/revoke", f"{client}/delete"),
            *("/grants", f"/grants/{self.grant_id}", "/policies", "/policies/new", "/users", "/users/new", "/events"),
            *("/audit", "/operators", "/operators/new", "/reference"),
        ]

    @asynccontextmanager
    async def visitor(self, **context: Any) -> AsyncIterator[Visitor]:
        """A new session in a browser context of its own."""
        opened = await self.browser.new_context(**context)
        opened.set_default_timeout(PATIENCE)
        page = await opened.new_page()
        visitor = Visitor(page, self.consoles.base)
        page.on("console", lambda said: visitor.complaints.append(said.text) if said.type == "error" else None)
        page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        await page.goto(f"{visitor.base}/console/sign-in")
        await page.fill("#f-key", self.key)
        await page.click("button.primary")
        await page.wait_for_selector("h1:has-text('Overview')")
        yield visitor
        assert visitor.complaints == []
        await opened.close()


@pytest.fixture(name="stage", scope="module")
async def _stage(mongodb_url: str) -> AsyncIterator[Stage]:
    async with (
        open_system(mongodb_url) as system,
        console_of(system.call) as consoles,
        async_playwright() as playwright,
    ):
        party = await system.party(name="Shop", description="The shop of the tests", meta_data={"tier": "gold"})
        grant = await system.grant_of((await party.tokens(subject="bob")).access)
        await settle(system.deps)
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        yield Stage(
            browser, consoles, system, party, await make_operator(system.deps, Permission.ADMIN), grant.grant_id
        )
        await browser.close()


@pytest.mark.parametrize(
    ("name", "context"),
    [
        pytest.param("wide", {"viewport": {"width": 1280, "height": 800}}, id="wide"),
        pytest.param("dark", {"viewport": {"width": 1280, "height": 800}, "color_scheme": "dark"}, id="dark"),
        pytest.param("narrow", {"viewport": {"width": 360, "height": 740}}, id="narrow"),
    ],
)
async def test_every_page_is_without_errors_and_follows_the_rules_of_accessibility(
    stage: Stage, name: str, context: dict[str, Any]
) -> None:
    """No error and no violation of the policy in the browser's console, no failed rule, and no page that is wider than
    the window.
    """
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    failed: dict[str, Any] = {}
    async with stage.visitor(**context) as visitor:
        for number, path in enumerate(stage.paths):
            await visitor.open(path)
            found = await Axe().run(visitor.page, options=RULES)
            rules = [
                (rule["id"], [node["html"][:120] for node in rule["nodes"][:3]])
                for rule in found.response["violations"]
            ]
            if rules or await visitor.overflow() > 0:
                failed[path] = rules, await visitor.overflow()
            await visitor.page.screenshot(path=SCREENSHOTS / f"{name}-{number:02}.png", full_page=True)
    assert failed == {}


async def test_a_client_app_is_registered_and_its_tokens_are_revoked_with_the_keyboard_alone(stage: Stage) -> None:
    """Register, see the secret with ready requests, and confirm the revocation in a dialog, without a mouse."""
    async with stage.visitor() as visitor:
        page = visitor.page
        await visitor.open(f"/apis/{stage.party.api.api_id}/clients/new")
        name = f"App {secrets.token_hex(3)}"
        await page.focus("#f-client_name")
        await page.keyboard.type(name)
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("The client app was registered.")).to_be_visible(timeout=PATIENCE)
        await expect(page.locator("pre").first).to_contain_text("oauth/token")
        await page.focus("text=Continue to the client app")
        await page.keyboard.press("Enter")
        await page.focus("text=Revoke all tokens")
        await page.keyboard.press("Enter")
        await expect(page.locator("dialog")).to_be_visible(timeout=PATIENCE)
        await page.keyboard.press("Escape")
        await expect(page.locator("dialog")).to_have_count(0, timeout=PATIENCE)
        await page.keyboard.press("Enter")
        await page.focus("dialog button.danger")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("All tokens of this client app were revoked.")).to_be_visible(timeout=PATIENCE)


async def test_events_arrive_as_they_happen(stage: Stage) -> None:
    """A token that is issued now is on the page without loading it again."""
    async with stage.visitor() as visitor:
        await visitor.open("/events?types=token.*")
        await expect(visitor.page.locator("#stream-state")).to_have_text("connected", timeout=PATIENCE)
        await stage.party.tokens(subject="carol")
        await expect(visitor.page.locator("#stream summary").first).to_contain_text("token.new", timeout=PATIENCE)


async def test_everything_works_without_scripts(stage: Stage) -> None:
    """A deletion asks on a page of its own, and happens."""
    other = await stage.system.client_of(stage.party.api)
    async with stage.visitor(java_script_enabled=False) as visitor:
        page = visitor.page
        await visitor.open(f"/apis/{stage.party.api.api_id}/clients/{other.id}")
        await page.click("text=Delete")
        await expect(page.locator("h1")).to_contain_text("Delete the client app", timeout=PATIENCE)
        await page.click("button.danger")
        await expect(page.get_by_text(f"The client app {other.id} was deleted.")).to_be_visible(timeout=PATIENCE)
