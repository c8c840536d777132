"""Requests that are printed as they are made, and answers that have to be as expected."""

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from aiohttp import ClientError, ClientSession


class Difference(Exception):
    """Something came that was not expected."""

    def __init__(self, what: str, *, expected: object, came: object) -> None:
        super().__init__(what)
        self.what = what
        self.expected = expected
        self.came = came


def expect(what: str, came: object, expected: object) -> None:
    """The two are equal. Raises Difference."""
    if came != expected:
        raise Difference(what, expected=expected, came=came)


class Teller:
    """Prints steps as they happen. Of a secret that it was told of it shows as much as tells it from another."""

    def __init__(self) -> None:
        self.steps = 0
        self._quiet = False
        self._secrets: set[str] = set()
        self._told: set[str] = set()

    def secret(self, value: str) -> str:
        """The value, from now on shortened in print."""
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
        """Nothing is said meanwhile: the same again and again."""
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False

    def show_difference(self, difference: Difference) -> None:
        print(
            f"\ndemo failed in step {self.steps}: {self.shortened(difference.what)}\n"
            f"    expected: {self.shortened(str(difference.expected))}\n"
            f"    came:     {self.shortened(str(difference.came))}",
            flush=True,
        )

    def brief_url(self, url: str) -> str:
        """The URL; a long query that was told before is left out."""
        address, _, query = url.partition("?")
        if len(query) < 60 or unquote(query) not in self._told:
            self._told.add(unquote(query))
            return url
        return f"{address}?…"

    def shortened(self, text: str) -> str:
        """Without secrets, and no longer than a few lines."""
        for value in sorted(self._secrets, key=len, reverse=True):
            text = text.replace(value, _shortened(value))
        text = re.sub(r"\btw_[a-z]{2}_[\w-]{8,}", lambda found: _shortened(found[0]), text)
        return text if len(text) <= 600 else f"{text[:600]}…"


@dataclass(frozen=True)
class Answer:
    """What came back for one request."""

    request: str
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    text: str

    @property
    def location(self) -> str:
        return self.headers.get("location", "")

    def has(self, status: int) -> "Answer":
        """Itself, with this status. Raises Difference."""
        if self.status != status:
            came = f"{self.status} {self.location} {self.text}"
            raise Difference(f"the status of {self.request}", expected=status, came=came)
        return self

    def json(self) -> dict[str, Any]:
        """The body. Raises Difference where it is not a JSON object."""
        try:
            body = json.loads(self.text)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise Difference(f"the body of {self.request}", expected="a JSON object", came=self.text)
        return body

    def member(self, name: str) -> str:
        """A text in the body. Raises Difference where there is none."""
        value = self.json().get(name)
        if not isinstance(value, str) or not value:
            raise Difference(f"`{name}` in the body of {self.request}", expected="a text", came=self.text)
        return value


@dataclass(frozen=True)
class Caller:
    """Makes requests and tells of them; follows no redirect."""

    http: ClientSession
    teller: Teller

    async def __call__(self, method: str, url: str, **request: Any) -> Answer:
        """The answer, whatever its status. Raises Difference where there is none."""
        try:
            async with self.http.request(method, url, allow_redirects=False, **request) as response:
                line = f"{method} {response.url}"
                headers = {name.lower(): value for name, value in response.headers.items()}
                answer = Answer(line, response.status, headers, await response.text())
        except (ClientError, TimeoutError) as error:
            raise Difference(f"the answer to {method} {url}", expected="an answer", came=repr(error)) from None
        self._tell(answer, request.get("headers") or {}, request.get("data") or {})
        return answer

    def _tell(self, answer: Answer, headers: Mapping[str, str], form: Mapping[str, str]) -> None:
        self.teller.say(self.teller.brief_url(answer.request))
        for name, value in headers.items():
            self.teller.say(f"  {name}: {value}")
        if form:
            self.teller.say("  " + " ".join(f"{name}={_brief(self.teller.shortened(form[name]))}" for name in form))
        said = answer.text if answer.status >= 400 else self.teller.brief_url(answer.location)
        self.teller.say(f"→ {answer.status} {said}".rstrip())


def _shortened(secret: str) -> str:
    return f"{secret[:9]}…{secret[-4:]}" if len(secret) >= 32 else f"{secret[:2]}…"


def _brief(value: str) -> str:
    return value if len(value) <= 60 else f"{value[:20]}…"
