"""Operators with fewer permissions: they see no action that they cannot do, and a clear page when they try."""

import re
from collections.abc import Mapping

import pytest
from playwright.async_api import expect

from services.console.app import PAGES
from tests.browser.stage import PATIENCE, Stage, Visitor
from tests.services.console_browser import NO_PAGE, Consoles, page_paths

LACKS = re.compile(r"Your key lacks the permission (\w+)\. Nothing was changed\.")
_PART = re.compile(r"\{\w+\}")


async def _needed(stage: Stage) -> Mapping[str, str]:
    """The permission that each page and action asks for besides `read`, found by trying with `read` alone. What is
    refused changes nothing; what is not refused has no record to change.
    """
    needed = {}
    async with Consoles(stage.base).browser() as browser:
        await browser.sign_in(await stage.new_operator("read"))
        for route in PAGES:
            method, _, path = route.partition(" ")
            if path.endswith(NO_PAGE):
                continue
            await browser.get("/console/apis")
            target = f"/console{_PART.sub('unknown', path)}"
            seen = await (browser.post(target) if method == "POST" else browser.get(target))
            if found := LACKS.search(seen.plain):
                assert seen.status == 403, route
                assert "Not permitted" in seen.plain, route
                needed[route] = found[1]
    return needed


def _route(method: str, path: str) -> str:
    """The route of the table that a path of the console has."""
    for route in PAGES:
        route_method, _, template = route.partition(" ")
        if route_method == method and re.fullmatch(_PART.sub("[^/]+", re.sub(r"[.]", r"\\.", template)), path):
            return route
    return ""


async def _offered(visitor: Visitor) -> list[tuple[str, str]]:
    """Method and path of every link and form of the page that leads to the console."""
    found = await visitor.page.evaluate(
        """() => [
            ...[...document.querySelectorAll("main a[href], header a[href]")].map(a => ["GET", a.pathname]),
            ...[...document.forms].map(form => [
                form.getAttribute("method").toUpperCase(),
                new URL(form.getAttribute("action") ?? location, location).pathname,
            ]),
        ]"""
    )
    return [(method, path.removeprefix("/console") or "/") for method, path in found if path.startswith("/console")]


@pytest.mark.parametrize("held", [("read",), ("read", "write"), ("read", "revoke")], ids="-".join)
async def test_nothing_is_offered_that_would_be_refused(stage: Stage, held: tuple[str, ...]) -> None:
    """No link and no form of any page leads to something that needs a permission that the operator has not; those that
    it has are offered somewhere.
    """
    needed, offered = await _needed(stage), set()
    assert set(needed.values()) == {"write", "revoke", "admin"}
    async with stage.visitor(await stage.new_operator(*held)) as visitor:
        for path in page_paths(stage.ids, [route for route in PAGES if needed.get(route, "read") in held]):
            await visitor.open(path)
            for method, target in await _offered(visitor):
                route = _route(method, target)
                offered.add(needed.get(route, "read"))
                assert needed.get(route, "read") in held, f"{path} offers {method} {target}"
    assert offered == set(held)


async def test_an_action_that_is_not_permitted_has_a_clear_page(stage: Stage) -> None:
    """It says which permission is missing and that nothing was changed, and leads back into the console."""
    async with stage.visitor(await stage.new_operator("read")) as visitor:
        visitor.refusals_expected = True
        page = visitor.page
        for path in (f"{stage.client}/delete", f"{stage.client}/revoke", "/operators", "/apis/import"):
            await visitor.open(path, 403)
            await expect(page.locator("h1")).to_have_text("Not permitted")
            await expect(page.locator("main")).to_contain_text(LACKS)
            await expect(page.get_by_role("navigation", name="Main")).to_be_visible()
        await visitor.photograph("not-permitted")
        await page.get_by_role("link", name="To the overview").click()
        await expect(page.locator("h1")).to_have_text("Overview", timeout=PATIENCE)
        await expect(page.get_by_role("navigation", name="Main")).not_to_contain_text("Operators")


async def test_a_key_that_may_not_read_is_told_so_at_the_sign_in(stage: Stage) -> None:
    """A program's key, for example that of an identity server, opens no session."""
    async with stage.visitor() as visitor:
        visitor.refusals_expected = True
        page = visitor.page
        await page.click("text=Sign out")
        await page.fill("#f-key", await stage.new_operator("authorize"))
        await page.click("button.primary")
        await expect(page.get_by_role("alert")).to_contain_text("lacks the permission read", timeout=PATIENCE)
