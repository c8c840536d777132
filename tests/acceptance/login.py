"""One browser in front of the example identity server, and the identity server in front of a real Tokenwire."""

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
    """What the browser got."""

    status: int
    headers: Mapping[str, str]
    text: str

    def proof(self, action: str) -> dict[str, str]:
        """The hidden fields of the form that posts there."""
        form = Form(self.text, action)
        assert form.found, self.text
        return form.hidden


class Registered(Protocol):
    """A client app of an API."""

    @property
    def api_id(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def client_id(self) -> str: ...


R = TypeVar("R", bound=Registered)


@dataclass(frozen=True)
class Login(Generic[R]):
    """The identity server of a tenant's API, and one browser in front of it."""

    browser: Client
    tenant: R

    def request(self, **changes: str) -> dict[str, str]:
        """An authorization request of the tenant's client; what is changed to nothing is left out."""
        asked = {
            "response_type": "code",
            "client_id": self.tenant.client_id,
            "redirect_uri": CALLBACK,
            "state": "a state & more",
        }
        return {name: value for name, value in (asked | changes).items() if value}

    async def get(self, path: str, **parameters: str) -> Page:
        """What a link leads to."""
        async with self.browser.get(path, params=parameters, allow_redirects=False) as answer:
            return Page(answer.status, answer.headers, await answer.text())

    async def post(self, path: str, **form: str) -> Page:
        """What a form leads to."""
        async with self.browser.post(path, data=form, allow_redirects=False) as answer:
            return Page(answer.status, answer.headers, await answer.text())

    async def signed_in(self, **changes: str) -> Page:
        """The consent page."""
        page = await self.get("/login", **self.request(**changes))
        entered = await self.post("/session", username="alice", password="wonderland", **page.proof("/session"))
        assert entered.status == 303
        return await self.get("/login", **self.request(**changes))


@asynccontextmanager
async def login_for(tenant: R, stack: Stack, key: str) -> AsyncIterator[Login[R]]:
    """With the key of an operator who may do nothing but authorize."""
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
    """The key of a new operator who may ask for codes and do nothing else."""
    registration = {"name": "identity server", "permissions": ["authorize"]}
    answer = await stack.operator("POST", "/api/operators", json=registration)
    assert answer.status == 200, answer.raw
    return str(answer.body["key"])
