"""A console in front of the services of a test, and a browser without scripts that uses it."""

import html
import re
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import aiohttp
from yarl import URL

from libs.runtime import application_without_records, utc_now
from libs.settings import load
from services.console.app import PAGES, install
from services.console.settings import ConsoleSettings
from tests.builders import KEYS, Caller, Served

_HIDDEN = re.compile(r'<input type="hidden" name="csrf" value="([^"]+)">')


@dataclass(frozen=True)
class Seen:
    """A page as the browser got it."""

    status: int
    headers: Any
    text: str
    url: URL

    @property
    def csrf(self) -> str:
        """The CSRF token of the page's forms."""
        found = _HIDDEN.search(self.text)
        assert found is not None, self.text
        return found[1]

    @property
    def plain(self) -> str:
        """The text without tags, and with characters in place of their entities."""
        return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", self.text)))


class Browser:
    """Keeps cookies and follows redirects, as a browser does; runs no scripts."""

    def __init__(self, http: aiohttp.ClientSession, base: str) -> None:
        self.http = http
        self.base = base
        self.page: Seen | None = None

    async def get(self, path: str, *, follow: bool = True) -> Seen:
        """Open a page."""
        return await self._request("GET", path, follow=follow)

    async def post(
        self,
        path: str,
        fields: Mapping[str, str] | None = None,
        *,
        csrf: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Seen:
        """Send a form of the page that was opened last, with its CSRF token unless another is given."""
        if csrf is None:
            assert self.page is not None
            csrf = self.page.csrf
        data = {"csrf": csrf, **(fields or {})}
        return await self._request("POST", path, follow=True, headers=headers, data=data)

    async def sign_in(self, key: str, target: str = "/console/") -> Seen:
        """Fill in the sign-in form."""
        await self.get(f"/console/sign-in?next={target}")
        return await self.post("/console/sign-in", {"key": key, "next": target})

    async def _request(self, method: str, path: str, *, follow: bool, **options: Any) -> Seen:
        async with self.http.request(
            method, URL(f"{self.base}{path}", encoded=True), allow_redirects=follow, **options
        ) as response:
            self.page = Seen(response.status, response.headers, await response.text(), response.url)
            return self.page


@dataclass(frozen=True)
class Consoles:
    """A running console."""

    base: str

    @asynccontextmanager
    async def browser(self) -> AsyncIterator[Browser]:
        """A browser of its own."""
        async with aiohttp.ClientSession(cookie_jar=aiohttp.CookieJar(unsafe=True)) as http:
            yield Browser(http, self.base)


DOCUMENTED = {"service": "management", "operation": "listApis", "event": "CodeIssued"}
"""Parts of the paths of pages about our own documents."""
NO_PAGE = ("/stream", "/export")
"""How paths end that lead to something other than a page."""


def page_paths(ids: Mapping[str, str], routes: Iterable[str] = PAGES) -> Sequence[str]:
    """The path of each page in the table, below /console, with these ids in it. Raises KeyError for a part without."""
    pages = [route.partition(" ")[2] for route in routes if route.startswith("GET ")]
    return [path.format_map({**DOCUMENTED, **ids}) for path in pages if not path.endswith((*NO_PAGE, "/find"))]


@asynccontextmanager
async def console_of(services: Caller, now: Callable[[], datetime] = utc_now, **own: Any) -> AsyncIterator[Consoles]:
    """The console as a process of its own would run it, with these services behind."""
    url = str(services.http.make_url("")).rstrip("/")
    settings = load(ConsoleSettings, console_keys=KEYS, services_url=url, access_log_sample=0, **own)
    app, health = application_without_records(settings, "console")
    install(app, settings, health, now)
    async with Served(app) as server:
        yield Consoles(str(server.make_url("")).rstrip("/"))
