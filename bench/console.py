"""The console on a large database: the time of each page, what the first view transfers, and whether pages jump.

`--size` (a million) is the number of grants, all of one client app; there are a tenth as many client apps, deliveries,
changes, and client apps with usage. All services run in one process, as with `make run`, so a page's time includes that
of its requests to the management API. Pages are requested one after the other.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from playwright.async_api import CDPSession, Page, async_playwright

from bench.growth import Seeded, seeded_system
from bench.report import MeasurementFailed, Report, Target, required
from bench.testbed import Program, System, Testbed
from libs.demo_credentials import CLIENT_ID
from services.demo_data import API_ID, POLICY_ID
from tests.browser.stage import OBSERVE_SHIFTS
from tests.builders import make_resource_owner
from tests.provision.chromium import chromium
from tests.services.console_browser import Browser, Consoles, page_paths

WITHIN_MS = 100.0
FIRST_VIEW_KB = 60.0
MOST_SHIFT = 0.001
"""Of all pages together: what browsers count for fractions of a pixel."""
ASKED = 40
"""Requests for each page, after two warm-up requests."""


@dataclass(frozen=True)
class Figures:
    """What one page takes."""

    p50: float
    p95: float
    """Milliseconds."""
    size: int
    """Bytes of its HTML."""


def measure(testbed: Testbed) -> Report:
    """Insert the records, then time each page, and look at each in Chromium. Raises MeasurementFailed."""
    system = asyncio.run(testbed.new_system())
    began = time.monotonic()
    seeded = asyncio.run(seeded_system(testbed, system, testbed.size // 10, testbed.size))
    ids = asyncio.run(_ids(system))
    testbed.print_progress(f"  seeded in {time.monotonic() - began:.0f} s")
    with testbed.serving(_all_services(system, testbed.home / "data")) as running:
        return asyncio.run(_measured(f"http://127.0.0.1:{running.port}", seeded, ids))


def _all_services(system: System, data: Path) -> Program:
    program = system.program("all", log_level="error")
    return Program("console", ["services", "--data", str(data)], program.environment)


async def _ids(system: System) -> Mapping[str, str]:
    """For each part of a path, a record that there is; the client app is the one with all grants."""
    async with system.opened() as deps:
        user = await make_resource_owner(deps, "correct horse battery staple")
        mongo = deps.store.mongo
        grant, delivery = required(await mongo["grants"].find_one()), required(await mongo["deliveries"].find_one())
        operator = required(await mongo["operators"].find_one())
    return {
        "api_id": API_ID,
        "client_id": CLIENT_ID,
        "policy_id": POLICY_ID,
        "username": user.username,
        "subject": "somebody",
        "operator_id": str(operator["_id"]),
        "grant_id": str(grant["_id"]),
        "delivery_id": str(delivery["_id"]),
    }


async def _measured(base: str, seeded: Seeded, ids: Mapping[str, str]) -> Report:
    report = Report(
        f"The console with {seeded.grants} grants and {seeded.size} client apps: {ASKED} requests for each page"
    )
    report.lines += ["", f"  {'':<44}{'p50 ms':>8}{'p95 ms':>8}{'KB':>8}{'shift':>8}"]
    paths = _paths(ids)
    async with Consoles(base).browser() as browser:
        signed_in = await browser.sign_in(seeded.key)
        if signed_in.status != 200:
            raise MeasurementFailed(f"the sign-in returned {signed_in.status}")
        figures = {path: await _timed(browser, path) for path in paths}
    shifts, first_view = await _looked_at(base, seeded.key, paths)
    for path, of_page in figures.items():
        name = _name(path, ids)
        size = of_page.size / 1000
        report.lines.append(f"  {name:<44}{of_page.p50:>8.1f}{of_page.p95:>8.1f}{size:>8.1f}{shifts[path]:>8.3f}")
        report.targets.append(Target(f"{name}, p95 ms", of_page.p95, WITHIN_MS, at_most=True))
    report.targets.append(Target("first view, KB transferred", first_view / 1000, FIRST_VIEW_KB, at_most=True))
    report.targets.append(Target("layout shift of all pages together", sum(shifts.values()), MOST_SHIFT, at_most=True))
    return report


def _paths(ids: Mapping[str, str]) -> Sequence[str]:
    """Every page, and the lists with their filters."""
    client, api = f"client_id={ids['client_id']}", f"api_id={ids['api_id']}"
    filtered = [
        *(
            "/?span=30d",
            f"/clients?{api}",
            f"/clients/find?{client}",
            f"/grants?{client}",
            f"/grants?{api}&state=active",
        ),
        *("/grants?subject=somebody", f"/webhooks?{api}&state=exhausted", f"/webhooks?{client}"),
        *("/audit?action=client.*", "/audit?operator=busy&subject=busy"),
    ]
    return [*page_paths(ids), *filtered]


def _name(path: str, ids: Mapping[str, str]) -> str:
    for part, value in ids.items():
        path = path.replace(value, f"{{{part}}}")
    return path


async def _timed(browser: Browser, path: str) -> Figures:
    taken = []
    for _ in range(2 + ASKED):
        began = time.perf_counter()
        page = await browser.get(f"/console{path}")
        taken.append((time.perf_counter() - began) * 1000)
        if page.status != 200:
            raise MeasurementFailed(f"{path} returned {page.status}: {page.plain[:200]}")
    ordered = sorted(taken[2:])
    return Figures(ordered[ASKED // 2], ordered[int(ASKED * 0.95)], len(page.text.encode()))


async def _looked_at(base: str, key: str, paths: Sequence[str]) -> tuple[Mapping[str, float], float]:
    """The layout shift of each page, and the bytes that the overview transfers to a browser that has kept nothing."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        try:
            context = await browser.new_context(viewport={"width": 1280, "height": 800})
            page = await context.new_page()
            await page.goto(f"{base}/console/sign-in")
            await page.fill("#f-key", key)
            await page.click("button.primary")
            await page.wait_for_selector("header.side")
            first_view = await _transferred(await context.new_cdp_session(page), page, f"{base}/console/")
            return {path: await _shift(page, f"{base}/console{path}") for path in paths}, first_view
        finally:
            await browser.close()


async def _transferred(devtools: CDPSession, page: Page, url: str) -> float:
    sizes: list[float] = []
    devtools.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    await devtools.send("Network.enable")
    await devtools.send("Network.clearBrowserCache")
    await page.goto(url, wait_until="networkidle")
    return sum(sizes)


async def _shift(page: Page, url: str) -> float:
    await page.goto(url, wait_until="load")
    return float(await page.evaluate(OBSERVE_SHIFTS))
