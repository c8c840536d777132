"""Every page of the console in Chromium: no error, no violation of the policy, no failed rule of accessibility; wide,
narrow, dark, without scripts, with and without records. Screenshots are in .cache/console, to look at.
"""

import asyncio
import re
from typing import Any

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Route

from contracts.operators import Permission
from services.console.app import PAGES
from tests.browser.stage import NARROW, OBSERVE_SHIFTS, WIDE, Stage, Visitor, visiting
from tests.builders import make_operator
from tests.services.console_browser import console_of, page_paths
from tests.services.system import open_system

RULES = {"runOnly": {"type": "tag", "values": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}}
CONTEXTS = [
    pytest.param("wide", {"viewport": WIDE}, id="wide"),
    pytest.param("dark", {"viewport": WIDE, "color_scheme": "dark"}, id="dark"),
    pytest.param("narrow", {"viewport": NARROW, "has_touch": True, "is_mobile": True}, id="narrow"),
]


async def _faults(visitor: Visitor) -> list[Any]:
    """The rules that the page breaks, and how much wider than the window it is."""
    found = await Axe().run(visitor.page, options=RULES)
    broken: list[Any] = [
        (rule["id"], [node["html"][:160] for node in rule["nodes"][:3]]) for rule in found.response["violations"]
    ]
    wider = await visitor.overflow()
    return broken + ([f"{wider} px wider than the window"] if wider > 0 else [])


def _name(path: str, ids: dict[str, str]) -> str:
    """A file name for the page."""
    for part, value in ids.items():
        path = path.replace(value, part)
    return re.sub(r"\W+", "-", path).strip("-") or "overview"


@pytest.mark.parametrize(("name", "context"), CONTEXTS)
async def test_every_page_is_without_errors_and_follows_the_rules_of_accessibility(
    stage: Stage, name: str, context: dict[str, Any]
) -> None:
    """No error and no violation of the policy in the browser's console, no failed rule, and no page that is wider than
    the window.
    """
    failed: dict[str, Any] = {}
    async with stage.visitor(**context) as visitor:
        for path in page_paths(stage.ids):
            await visitor.open(path)
            if faults := await _faults(visitor):
                failed[path] = faults
            await visitor.photograph(f"{name}-{_name(path, dict(stage.ids))}")
    assert failed == {}


@pytest.mark.parametrize(("name", "context"), CONTEXTS)
async def test_every_list_says_what_to_do_first(
    mongodb_url: str, stage: Stage, name: str, context: dict[str, Any]
) -> None:
    """Without any record, each page is as good, and those with lists explain what would be there."""
    failed: dict[str, Any] = {}
    async with (
        open_system(mongodb_url, delivering=True) as system,
        console_of(system.call) as consoles,
        visiting(stage.browser, consoles.base, **context) as visitor,
    ):
        await visitor.sign_in(await make_operator(system.deps, Permission.ADMIN))
        for path in page_paths({}, [route for route in PAGES if "{" not in route]):
            await visitor.open(path)
            if faults := await _faults(visitor):
                failed[path] = faults
            if path in {"/apis", "/clients", "/grants", "/policies", "/users", "/webhooks"}:
                assert await visitor.page.locator(".empty").count() == 1, path
            await visitor.photograph(f"empty-{name}-{_name(path, {})}")
    assert failed == {}


@pytest.mark.parametrize(("name", "context"), CONTEXTS)
async def test_forms_errors_and_secrets_are_as_good_as_pages(stage: Stage, name: str, context: dict[str, Any]) -> None:
    """What a POST shows: the secret, a checked import, a refused form, a record that does not exist."""
    failed: dict[str, Any] = {}
    async with stage.visitor(**context) as visitor:
        visitor.refusals_expected = True
        page = visitor.page

        async def judge(what: str) -> None:
            if faults := await _faults(visitor):
                failed[what] = faults
            await visitor.photograph(f"{name}-after-{what}")

        await visitor.open(stage.client)
        await page.click("text=Show, with ready requests")
        await judge("secret")
        await visitor.open("/users/new")
        await page.fill("#f-username", "somebody")
        await page.fill("#f-password", "short")
        await page.click("button.primary")
        await judge("refused-user")
        await visitor.open("/apis/import")
        await page.fill("#f-text", '{"openapi": "3.0.3"')
        await page.click("button.primary")
        await judge("refused-import")
        await visitor.open("/grants/unknown", 404)
        await judge("unknown-grant")
        await visitor.open("/nothing", 404)
        await judge("unknown-page")
        await visitor.open(f"/clients/find?client_id={'x' * 100}", 404)
        await judge("unknown-client")
        await visitor.open("/grants?state=nonsense", 400)
        await judge("refused-filter")
        await page.goto(f"{stage.base}/console/")
        await page.click("text=Sign out")
        await judge("signed-out")
        await page.fill("#f-key", "tw_ok_wrong")
        await page.click("button.primary")
        await judge("wrong-key")
    assert failed == {}


async def test_every_page_works_without_scripts(stage: Stage) -> None:
    """Nothing that a script would have to show or hide: buttons that need one are not there."""
    async with stage.visitor(java_script_enabled=False) as visitor:
        for path in page_paths(stage.ids):
            await visitor.open(path)
            shown = visitor.page.locator("button[data-copy]:visible, #pause:visible, .row-filter:visible")
            assert await shown.count() == 0, path
        await visitor.open("/events")
        await visitor.photograph("without-scripts-events")
        main = await visitor.page.inner_text("main")
        assert "Live events need scripts" in main
        assert "code.issued" in main


async def test_no_page_jumps_when_its_script_runs(stage: Stage) -> None:
    """Also if it comes late: what it shows has its place before. Measured by the browser, page by page."""
    jumped: dict[str, float] = {}
    async with stage.visitor() as visitor:

        async def late(route: Route) -> None:
            await asyncio.sleep(0.25)
            await route.continue_()

        await visitor.page.route("**/*.js", late)
        for path in page_paths(stage.ids):
            await visitor.page.goto(f"{stage.base}/console{path}", wait_until="load")
            if shift := await visitor.page.evaluate(OBSERVE_SHIFTS):
                jumped[path] = shift
    assert jumped == {}
