"""The user's browser: it has no scripts, and submits the forms of the pages it loads."""

import html.parser
from dataclasses import dataclass
from urllib.parse import parse_qs, urljoin, urlsplit

from examples.demo.transcript import Caller, Mismatch, Response, expect


class Form(html.parser.HTMLParser):
    """The form of a page that posts to `action`, with its hidden fields."""

    def __init__(self, page: str, action: str) -> None:
        super().__init__()
        self.hidden: dict[str, str] = {}
        self.found = False
        self._action = action
        self._inside = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {name: value or "" for name, value in attrs}
        if tag == "form":
            self._inside = attributes.get("action") == self._action
            self.found = self.found or self._inside
        elif tag == "input" and self._inside and attributes.get("type") == "hidden":
            self.hidden[attributes["name"]] = attributes["value"]

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._inside = False


@dataclass(frozen=True)
class Browser:
    """One user in front of one browser."""

    call: Caller

    async def open(self, url: str) -> Response:
        return await self.call("GET", url)

    async def send(self, page: Response, page_url: str, action: str, filled_in: dict[str, str]) -> Response:
        """Submit the page's form; the redirect that answers it. Raises Mismatch if the page has no such form."""
        form = Form(page.has(200).text, action)
        if not form.found:
            raise Mismatch(f"a form that posts to {action}", expected="a form", actual=page.text)
        return (await self.call("POST", urljoin(page_url, action), data={**form.hidden, **filled_in})).has(303)


def query_of(url: str, *, at: str) -> dict[str, str]:
    """The query parameters of the URL. Raises Mismatch if it is not this address."""
    expect("where the browser is sent", url.partition("?")[0], at)
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
