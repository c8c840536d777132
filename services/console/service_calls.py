"""Requests to the other services, with the operator's key: the console reads and changes nothing in any other way."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from contracts.health import Readiness
from contracts.operations import Service
from libs.http.context import REQUEST_ID_HEADER, current

WITHIN = 25.0
"""Seconds that a service has to respond."""
_CONNECTIONS = 100
M = TypeVar("M", bound=BaseModel)


class CallRefused(Exception):
    """A service did not do what was asked; `message` is its own text, for the operator."""

    def __init__(self, status: int, message: str, meta: Any = None, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.meta = meta
        self.retry_after = retry_after


class ServicesAway(CallRefused):
    """A service cannot be reached, or did not respond in time."""

    def __init__(self, service: Service) -> None:
        super().__init__(503, f"The {service} service does not respond. Nothing is known to have changed; try again.")


class ServiceCalls:
    """One pool of connections to the other services, for the whole process."""

    def __init__(self, services_url: str) -> None:
        self._url = services_url
        self._http: aiohttp.ClientSession | None = None

    def add_to(self, app: web.Application) -> None:
        """Open the connections with the application, and close them with it."""
        app.cleanup_ctx.append(self._opened)

    async def _opened(self, _: web.Application) -> AsyncIterator[None]:
        self._http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=_CONNECTIONS), cookie_jar=aiohttp.DummyCookieJar()
        )
        yield
        await self._http.close()

    def with_key(self, key: str) -> "Api":
        """Calls as the operator with this key, on behalf of the current request's client."""
        return Api(self, key)

    async def ping(self) -> None:
        """Return if the management service responds; else raise ServicesAway."""
        async with self.request("GET", Service.MANAGEMENT, "/healthz", {}, 2.0):
            pass

    @property
    def is_one_process(self) -> bool:
        """Whether all services have one address."""
        return "{service}" not in self._url

    async def readiness(self, service: Service, within: float) -> Readiness | None:
        """What the service says about itself at /readyz; None without a response that can be understood in time."""
        try:
            async with self.request("GET", service, "/readyz", {}, within) as response:
                return Readiness.model_validate_json(await response.read())
        except (ServicesAway, ValidationError):
            return None

    @asynccontextmanager
    async def request(
        self, method: str, service: Service, path: str, headers: Mapping[str, str], within: float | None, **options: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response, whose body is not read yet. Raises ServicesAway."""
        if self._http is None:
            raise ServicesAway(service)
        url = self._url.replace("{service}", service) + path
        timeout = aiohttp.ClientTimeout(total=within, sock_connect=5)
        try:
            async with self._http.request(
                method, url, headers=headers, timeout=timeout, allow_redirects=False, **options
            ) as response:
                yield response
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ServicesAway(service) from error


@dataclass(frozen=True, slots=True)
class Received:
    """A response as it came, whatever its status."""

    status: int
    reason: str
    headers: Mapping[str, str]
    body: bytes
    whole: bool
    """Whether `body` is all of it."""


@dataclass(frozen=True, slots=True)
class Api:
    """The services as one operator sees them. Every method raises CallRefused."""

    calls: ServiceCalls
    key: str

    async def get(
        self, model: type[M], path: str, query: Mapping[str, str] | None = None, service: Service = Service.MANAGEMENT
    ) -> M:
        """The response to a GET, as this model."""
        return model.model_validate_json(await self.send("GET", path, query=query, service=service))

    async def read(
        self, path: str, query: Mapping[str, str] | None = None, service: Service = Service.MANAGEMENT
    ) -> Any:
        """The response to a GET, as JSON."""
        return orjson.loads(await self.send("GET", path, query=query, service=service))

    async def read_version(self, path: str) -> tuple[bytes, str]:
        """The body of the response to a GET, and the version of the record, for `send` with `version`."""
        async with self.calls.request("GET", Service.MANAGEMENT, path, self._headers(), WITHIN) as response:
            text = await response.read()
            if response.status >= 400:
                raise _refused(response, text)
            return text, response.headers.get("ETag", "")

    async def change(
        self, method: str, path: str, document: object = None, service: Service = Service.MANAGEMENT
    ) -> Any:
        """The response to a request that changes something, as JSON."""
        body = None if document is None else orjson.dumps(document)
        return orjson.loads(await self.send(method, path, body=body, service=service))

    async def send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: bytes | None = None,
        media_type: str = "application/json",
        service: Service = Service.MANAGEMENT,
        version: str = "",
    ) -> bytes:
        """The body of the response. With `version`, the record is changed only if it still has this version."""
        headers = self._headers() | ({"Content-Type": media_type} if body is not None else {})
        headers |= {"If-Match": version} if version else {}
        wanted = {name: value for name, value in (query or {}).items() if value}
        async with self.calls.request(method, service, path, headers, WITHIN, params=wanted, data=body) as response:
            text = await response.read()
            if response.status >= 400:
                raise _refused(response, text)
            return text

    async def exchange(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        body: bytes | None,
        media_type: str,
        service: Service,
        most: int,
    ) -> Received:
        """The response as it is, errors too, with the first `most` bytes of its body. Raises ServicesAway."""
        headers = self._headers() | ({"Content-Type": media_type} if body is not None else {})
        async with self.calls.request(method, service, path, headers, WITHIN, params=query, data=body) as response:
            text = bytearray()
            async for part in response.content.iter_chunked(16 * 1024):
                text += part
                if len(text) > most:
                    break
            shown = dict(response.headers)
            return Received(response.status, response.reason or "", shown, bytes(text[:most]), len(text) <= most)

    @asynccontextmanager
    async def stream(
        self, path: str, query: Mapping[str, str], last_event_id: str, service: Service = Service.MANAGEMENT
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """The response to a GET that goes on for as long as both sides want, continued after this event."""
        wanted = {name: value for name, value in query.items() if value}
        headers = self._headers() | ({"Last-Event-ID": last_event_id} if last_event_id else {})
        async with self.calls.request("GET", service, path, headers, None, params=wanted) as response:
            if response.status >= 400:
                raise _refused(response, await response.read())
            yield response

    def _headers(self) -> dict[str, str]:
        """The key, and whom the request is for: its address is the one that is throttled, and in the audit log."""
        context = current()
        headers = {"Authorization": f"Bearer {self.key}", REQUEST_ID_HEADER: context.request_id or ""}
        if context.address:
            headers["X-Forwarded-For"] = context.address
        if context.traceparent:
            headers["traceparent"] = context.traceparent
        return headers


def segment(text: str) -> str:
    """The text as one segment of a path."""
    return quote(text, safe="")


def _refused(response: aiohttp.ClientResponse, text: bytes) -> CallRefused:
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = {}
    body = body if isinstance(body, dict) else {}
    message = body.get("Message") or body.get("error_description") or f"the service responded with {response.status}"
    after = response.headers.get("Retry-After", "")
    return CallRefused(response.status, str(message), body.get("Meta"), int(after) if after.isdecimal() else None)
