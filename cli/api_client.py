"""The one HTTP client of the command line, for our management API and for a Tyk gateway's API."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import orjson
from yarl import URL

from cli.failures import UNREACHABLE, Failure, Refused
from cli.profiles import Profile

WITHIN = 60.0
"""Seconds for one request."""
ATTEMPTS = 4
"""Attempts while the server says that it is unavailable for the moment (503, 429)."""
LONGEST_WAIT = 10.0
TOKENWIRE = "Tokenwire"


@dataclass(frozen=True, slots=True)
class Reply:
    """A response of any status."""

    status: int
    value: Any
    headers: Mapping[str, str]

    @property
    def wait(self) -> float:
        """Seconds after which the server wants to be asked again."""
        wait = self.headers.get("Retry-After", "1")
        return float(wait) if wait.isdecimal() else 1.0


class ApiClient:
    """Sends requests with a key; errors become one sentence that says what to do."""

    def __init__(self, http: aiohttp.ClientSession, url: str, server: str) -> None:
        self._http = http
        self._url = url.rstrip("/")
        self._server = server

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str, headers: Mapping[str, str], server: str) -> AsyncIterator[Self]:
        """A client of the server at this URL. Redirects are not followed, so that the key goes nowhere else."""
        timeout = aiohttp.ClientTimeout(total=WITHIN)
        async with aiohttp.ClientSession(headers=headers, timeout=timeout, trust_env=True) as http:
            yield cls(http, url, server)

    async def __call__(
        self,
        method: str,
        path: str,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        form: Any = None,
        raw: tuple[bytes, str] | None = None,
    ) -> Any:
        """The JSON value of the response. Raises Refused, or Failure if the server cannot be reached.

        The body is a JSON value, a form, or content with its media type.
        """
        sent: dict[str, Any] = {"data": form} if form is not None else {}
        if body is not None:
            raw = orjson.dumps(body), "application/json"
        if raw is not None:
            sent = {"data": raw[0], "headers": {"Content-Type": raw[1]}}
        for attempt in range(1, ATTEMPTS + 1):
            reply = await self.once(method, path, query, sent)
            if reply.status not in {429, 503} or attempt == ATTEMPTS:
                break
            await asyncio.sleep(min(reply.wait, LONGEST_WAIT))
        if reply.status < 300:
            return reply.value
        raise self._refused(reply.status, reply.value)

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The JSON value at this path; None if there is none (404)."""
        try:
            return await self("GET", path, query=query)
        except Refused as refused:
            if refused.http_status == 404:
                return None
            raise

    async def every(self, path: str, member: str, query: Mapping[str, str] | None = None) -> AsyncIterator[Any]:
        """All records of a list of ours, page after page."""
        query = dict(query or {})
        while True:
            page = await self("GET", path, query=query)
            for record in page[member]:
                yield record
            if not page.get("next"):
                return
            query["after"] = page["next"]

    async def lines(
        self, path: str, query: Mapping[str, str], headers: Mapping[str, str], quiet_for: float
    ) -> AsyncIterator[str]:
        """The lines of a response that does not end. Raises Failure when nothing came for so many seconds."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=WITHIN, sock_read=quiet_for)
        try:
            async with self._http.get(
                self._at(path, query), headers=headers, allow_redirects=False, timeout=timeout
            ) as response:
                if response.status != 200:
                    raise self._refused(response.status, _json(await response.read()))
                async for line in response.content:
                    yield line.decode(errors="replace").rstrip("\r\n")
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._unreachable(error) from None

    def _at(self, path: str, query: Mapping[str, str] | None) -> URL:
        return URL(self._url + path, encoded=True).update_query(query or {})

    def _refused(self, status: int, value: Any) -> Refused:
        meta = value.get("Meta") if isinstance(value, dict) else None
        server = "" if self._server == TOKENWIRE else f"{self._server}: "
        return Refused(f"{server}{_reason(status, value)}", status, meta)

    def _unreachable(self, error: Exception) -> Failure:
        reason = str(error) or "no response in time"
        return Failure(
            f"{self._server} at {self._url} cannot be reached: {reason}; is it running, and is the URL right?",
            UNREACHABLE,
        )

    async def once(
        self, method: str, path: str, query: Mapping[str, str] | None = None, sent: Mapping[str, Any] | None = None
    ) -> Reply:
        """The response to one attempt, whatever its status. Raises Failure if the server cannot be reached."""
        try:
            async with self._http.request(
                method, self._at(path, query), allow_redirects=False, **(sent or {})
            ) as response:
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise self._unreachable(error) from None
        return Reply(response.status, _json(raw), response.headers)


def tokenwire(profile: Profile) -> Any:
    """A client of our management API."""
    return ApiClient.open(profile.url, {"Authorization": profile.key}, TOKENWIRE)


def segment(text: str) -> str:
    """The text as one segment of a path."""
    return quote(text, safe="")


_HINTS = {
    401: "; the operator key is wrong or has expired: run `tokenwire login` again",
    403: "; `tokenwire operators show` says what the key may do",
}


def _json(raw: bytes) -> Any:
    try:
        return orjson.loads(raw) if raw else None
    except ValueError:
        return raw[:200].decode(errors="replace")


def _reason(status: int, value: Any) -> str:
    """The server's own message; for missing rights also what to do."""
    message = value
    if isinstance(value, dict):
        names = ("Message", "message", "error_description", "error")
        message = next((value[name] for name in names if value.get(name)), value)
    hint = _HINTS.get(status, "")
    return f"{message or 'no reason given'} (HTTP {status}){hint}"
