"""A stateless HTTP client: no cookies, no redirects followed."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import aiohttp
import orjson
from yarl import URL

from tests.acceptance.discretion import Secrets
from tests.builders import Response


@dataclass(frozen=True)
class Caller:
    """Calls the server at `url`. Secrets in requests and responses are remembered, to scan the logs for them."""

    http: aiohttp.ClientSession
    url: str
    secrets: Secrets = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)

    async def __call__(self, method: str, path: str, **request: Any) -> Response:
        """The response, whatever its status."""
        headers = {**self.headers, **request.pop("headers", {})}
        self.secrets.overhear(request.get("json") or request.get("data"))
        url = URL(self.url + path, encoded=True)
        async with self.http.request(method, url, headers=headers, allow_redirects=False, **request) as response:
            received = Response(response.status, response.headers, await response.read())
        self._overhear(received)
        return received

    def with_key(self, key: str) -> "Caller":
        """The same client with this operator's key."""
        return replace(self, headers={**self.headers, "Authorization": key})

    def with_header(self, name: str, value: str) -> "Caller":
        """The same client with this additional header."""
        return replace(self, headers={**self.headers, name: value})

    def at(self, url: str) -> "Caller":
        """The same client for another URL."""
        return replace(self, url=url)

    def _overhear(self, response: Response) -> None:
        self.secrets.overhear(response.headers.get("Location", ""))
        try:
            self.secrets.overhear(orjson.loads(response.raw))
        except orjson.JSONDecodeError:
            self.secrets.overhear(response.raw)
