"""Prints each request as it is made, and compares responses with the expected ones."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import ClientError, ClientSession


class Mismatch(Exception):
    """A response was not as expected."""

    def __init__(self, what: str, *, expected: object, actual: object) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.actual = actual


def expect(what: str, actual: object, expected: object) -> None:
    """Raises Mismatch if the two differ."""
    if actual != expected:
        raise Mismatch(what, expected=expected, actual=actual)


class Transcript:
    """Prints the steps as they happen. Secrets are shortened: enough is printed to tell one from another."""

    def __init__(self) -> None:
        self.steps = 0
        self._quiet = False
        self._secrets: set[str] = set()
        self._printed: set[str] = set()

    def secret(self, value: str) -> str:
        """Return the value; from now on it is printed shortened."""
        self._secrets.add(value)
        return value

    def step(self, title: str) -> None:
        self.steps += 1
        print(f"\n{self.steps:2}. {title}", flush=True)

    def say(self, text: str) -> None:
        if not self._quiet:
            print(f"    {self.shortened(text)}", flush=True)

    @contextmanager
    def quietly(self) -> Iterator[None]:
        """Print nothing within the block, for calls that repeat."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def show_mismatch(self, mismatch: Mismatch) -> None:
        print(
            f"\ndemo failed in step {self.steps}: {self.shortened(mismatch.what)}\n"
            f"    expected: {self.shortened(str(mismatch.expected))}\n"
            f"    actual:     {self.shortened(str(mismatch.actual))}",
            flush=True,
        )

    def brief_url(self, url: str) -> str:
        """The URL; a long query that was printed before is left out."""
        address, _, query = url.partition("?")
        if len(query) < 60 or unquote(query) not in self._printed:
            self._printed.add(unquote(query))
            return url
        return f"{address}?…"

    def shortened(self, text: str) -> str:
        """The text with shortened secrets, cut at 600 characters."""
        for value in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(value, _shortened(value))
        text = re.sub(r"\btw_[a-z]{2}_[\w-]{8,}", lambda found: _shortened(found[0]), text)
        return text if len(text) <= 600 else f"{text[:600]}…"


@dataclass(frozen=True)
class Response:
    """The response to one request."""

    request: str
    status: int
    headers: Mapping[str, str]
    """Names are in lower case."""
    text: str

    @property
    def location(self) -> str:
        return self.headers.get("location", "")

    def has(self, status: int) -> "Response":
        """Returns self. Raises Mismatch if the status differs."""
        if self.status != status:
            actual = f"{self.status} {self.location} {self.text}"
            raise Mismatch(f"the status of {self.request}", expected=status, actual=actual)
        return self

    def json(self) -> dict[str, Any]:
        """The body as JSON. Raises Mismatch if it is not a JSON object."""
        try:
            body = json.loads(self.text)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Mismatch(f"the body of {self.request}", expected="a JSON object", actual=self.text)
        return body

    def member(self, name: str) -> str:
        """A string member of the JSON body. Raises Mismatch if it is missing or empty."""
        value = self.json().get(name)
        if not isinstance(value, str) or not value:
            raise Mismatch(f"`{name}` in the body of {self.request}", expected="a non-empty string", actual=self.text)
        return value


@dataclass(frozen=True)
class Caller:
    """Makes requests and prints them; follows no redirects."""

    http: ClientSession
    transcript: Transcript

    async def __call__(self, method: str, url: str, **request: Any) -> Response:
        """The response, whatever its status. Raises Mismatch if there is none."""
        try:
            async with self.http.request(method, url, allow_redirects=False, **request) as response:
                line = f"{method} {response.url}"
                headers = {name.lower(): value for name, value in response.headers.items()}
                received = Response(line, response.status, headers, await response.text())
        except (ClientError, TimeoutError) as error:
            raise Mismatch(f"the response to {method} {url}", expected="a response", actual=repr(error)) from None
        self._print(received, request.get("headers") or {}, request.get("data") or {})
        return received

    def _print(self, response: Response, headers: Mapping[str, str], form: Mapping[str, str]) -> None:
        self.transcript.say(self.transcript.brief_url(response.request))
        for name, value in headers.items():
            self.transcript.say(f"  {name}: {value}")
        if form:
            self.transcript.say(" ".join(f" {name}={_brief(self.transcript.shortened(form[name]))}" for name in form))
        said = response.text if response.status >= 400 else self.transcript.brief_url(response.location)
        self.transcript.say(f"→ {response.status} {said}".rstrip())


def _shortened(secret: str) -> str:
    return f"{secret[:9]}…{secret[-4:]}" if len(secret) >= 32 else f"{secret[:2]}…"


def _brief(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:20]}…"
