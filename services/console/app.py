"""Wires up the console: its pages under /console/."""

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta

from aiohttp import hdrs, web

from libs.encryption import KeyRing
from libs.http.health_endpoints import Health
from libs.http.routing import routed_application
from libs.runtime import application_without_records, utc_now
from services.console import (
    api_pages,
    audit_log_page,
    client_pages,
    designer_pages,
    ending_page,
    event_pages,
    grant_pages,
    operator_pages,
    overview,
    policy_pages,
    reference_page,
    user_pages,
    webhook_pages,
    webhook_secret_pages,
)
from services.console.definition_drafts import Drafts
from services.console.rendering import set_up
from services.console.service_calls import ServiceCalls
from services.console.session_cookies import PATH, SessionCookies
from services.console.settings import ConsoleSettings
from services.console.sign_in import SignIn
from services.console.static_files import PREFIX, StaticFiles
from services.console.visits import LARGEST_DEFINITION_FORM, LARGEST_FORM, Page, Visits

PAGES: Mapping[str, Page] = {
    **overview.PAGES,
    **designer_pages.PAGES,
    **api_pages.PAGES,
    **webhook_secret_pages.PAGES,
    **ending_page.PAGES,
    **client_pages.PAGES,
    **grant_pages.PAGES,
    **policy_pages.PAGES,
    **user_pages.PAGES,
    **webhook_pages.PAGES,
    **event_pages.PAGES,
    **audit_log_page.PAGES,
    **operator_pages.PAGES,
    **reference_page.PAGES,
}
"""Method and path of every page and action, below /console."""
_WITH_DEFINITIONS = {*designer_pages.PAGES, *api_pages.PAGES}
"""Pages whose forms have definitions in them."""
_PART = re.compile(r"\{(\w+)\}")
"""A part of a path. Unlike the router's own, it may have braces, as client ids and the names of users may."""


def install(
    app: web.Application, settings: ConsoleSettings, health: Health, now: Callable[[], datetime] = utc_now
) -> None:
    """Put the console on the application."""
    keys = KeyRing.parse(settings.console_keys.get_secret_value())
    idle, lifetime = timedelta(seconds=settings.session_idle), timedelta(seconds=settings.session_lifetime)
    cookies = SessionCookies(keys, idle, lifetime, settings.public_url.startswith("https://"), now, {})
    calls, static = ServiceCalls(settings.services_url), StaticFiles()
    visits, sign_in = Visits(cookies, calls), SignIn(cookies, calls)
    console = routed_application(middlewares=[visits.surround])
    console[designer_pages.DRAFTS] = Drafts(keys)
    set_up(console, static, {route.removeprefix("GET ") for route in PAGES})
    calls.add_to(app)
    health.register("management", calls.ping, needed=False)
    console.router.add_get(f"{PREFIX}/{{digest}}/{{name}}", static.serve)
    console.router.add_get("/sign-in", sign_in.form)
    console.router.add_post("/sign-in", sign_in.submit)
    console.router.add_post("/sign-out", visits.page(sign_in.sign_out))
    for route, page in PAGES.items():
        method, _, path = route.partition(" ")
        largest = LARGEST_DEFINITION_FORM if route in _WITH_DEFINITIONS else LARGEST_FORM
        console.router.add_route(method, _PART.sub(r"{\1:[^/]+}", path), visits.page(page, largest))
    app.router.add_get(PATH, _to_the_overview)
    app.add_subapp(PATH, console)


async def _to_the_overview(_: web.Request) -> web.StreamResponse:
    return web.Response(status=308, headers={hdrs.LOCATION: f"{PATH}/"})


def create_app(settings: ConsoleSettings) -> web.Application:
    """An application with the console only."""
    app, health = application_without_records(settings, "console")
    install(app, settings, health)
    return app
