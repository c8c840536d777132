"""A browser, the example identity server, and a real Tokenwire."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from aiohttp import CookieJar, web
from aiohttp.test_utils import TestClient, TestServer

from examples import identity_server
from examples.demo.browser import Form
from tests.acceptance.stack import Stack
from tests.acceptance.tenants import CALLBACK

Client = TestClient[web.Request, web.Application]


@dataclass(frozen=True)
class Page:
    """The response that the browser got."""

    status: int
    headers: Mapping[str, str]
    text: str

    def proof(self, action: str) -> dict[str, str]:
        """The hidden fields of the form that posts to this address."""
        form = Form(self.text, action)
        assert form.found, self.text
        return form.hidden


class Registered(Protocol):
    """A client of an API."""

    @property
    def api_id(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def client_id(self) -> str: ...


R = TypeVar("R", bound=Registered)


@dataclass(frozen=True)
class Login(Generic[R]):
    """The identity server of a tenant's API, and one browser."""

    browser: Client
    tenant: R

    def request(self, **changes: str) -> dict[str, str]:
        """The parameters of an authorization request; those changed to None are left out."""
        asked = {
            "response_type": "code",
            "client_id": self.tenant.client_id,
            "redirect_uri": CALLBACK,
            "state": "a state & more",
        }
        return {name: value for name, value in (asked | changes).items() if value}

    def another_browser(self) -> Client:
        """Another browser for the same identity server, with its own cookies."""
        server = self.browser.server
        assert isinstance(server, TestServer)
        return TestClient(server, cookie_jar=CookieJar(unsafe=True))

    async def get(self, path: str, **parameters: str) -> Page:
        """Follow a link."""
        async with self.browser.get(path, params=parameters, allow_redirects=False) as response:
            return Page(response.status, response.headers, await response.text())

    async def post(self, path: str, **form: str) -> Page:
        """Submit a form."""
        async with self.browser.post(path, data=form, allow_redirects=False) as response:
            return Page(response.status, response.headers, await response.text())

    async def signed_in(self, **changes: str) -> Page:
        """Log in; return the consent page."""
        page = await self.get("/login", **self.request(**changes))
        entered = await self.post("/session", username="alice", password="wonderland", **page.proof("/session"))
        assert entered.status == 303
        return await self.get("/login", **self.request(**changes))


@asynccontextmanager
async def login_for(tenant: R, stack: Stack, key: str) -> AsyncIterator[Login[R]]:
    """Start the identity server with an operator key that has only the permission `authorize`."""
    settings = identity_server.Settings(
        tokenwire=stack.url,
        api_id=tenant.api_id,
        listen_path=f"{tenant.path}/",
        operator_key=key,
        users={"alice": "wonderland", "<b>bob</b>": "builder"},
        client_names={tenant.client_id: "Order <Desk>"},
        scopes={"orders": "see your orders"},
    )
    server = TestServer(identity_server.create_app(settings))
    async with TestClient(server, cookie_jar=CookieJar(unsafe=True)) as browser:
        yield Login(browser, tenant)


async def authorize_key(stack: Stack) -> str:
    """Create an operator with only the permission `authorize`; return its key."""
    registration = {"name": "identity server", "permissions": ["authorize"]}
    response = await stack.operator("POST", "/api/operators", json=registration)
    assert response.status == 200, response.raw
    return str(response.body["key"])
