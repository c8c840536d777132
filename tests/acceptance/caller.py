"""Requests over HTTP, as somebody without a memory makes them: no cookies, no redirects followed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import orjson
from yarl import URL

from tests.acceptance.discretion import Secrets
from tests.builders import Answer


@dataclass(frozen=True)
class Caller:
    """Calls what is at `url`; whatever is secret in what is said and answered is remembered."""

    http: aiohttp.ClientSession
    url: str
    secrets: Secrets = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, method: str, path: str, **request: Any) -> Answer:
        """The answer, whatever its status."""
        headers = {**self.headers, **request.pop("headers", {})}
        self.secrets.overhear(request.get("json") or request.get("data"))
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **request) as response:
            answer = Answer(response.status, response.headers, await response.read())
        self._overhear(answer)
        return answer

    def with_key(self, key: str) -> "Caller":
        """The same, as the operator with this key."""
        return replace(self, headers={**self.headers, "Authorization": key})

    def with_header(self, name: str, value: str) -> "Caller":
        """The same, saying this, too."""
        return replace(self, headers={**self.headers, name: value})

    def at(self, url: str) -> "Caller":
        """The same, elsewhere."""
        return replace(self, url=url)

    def _overhear(self, answer: Answer) -> None:
        self.secrets.overhear(answer.headers.get("Location", ""))
        try:
            self.secrets.overhear(orjson.loads(answer.raw))
        except orjson.JSONDecodeError:
            self.secrets.overhear(answer.raw)
