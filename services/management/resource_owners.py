"""/api/apis/keys/basic[/{username}]: the users of the password grant."""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import TypeAdapter, ValidationError

from contracts.operators import Permission
from contracts.resource_owners import (
    ResourceOwner,
    ResourceOwnerDocument,
    ResourceOwnerList,
    ResourceOwnerView,
    Username,
)
from libs.access import Access
from libs.events import Origin
from libs.http.errors import BadRequest, NotFound, Taken
from libs.passwords import PasswordHasher
from libs.runtime import both_slashes
from libs.store.mongo import Conflict
from libs.store.policies import Policies
from libs.store.resource_owners import ResourceOwners
from services.management.answers import document, enveloped, page_number
from services.management.documents import read_document
from services.management.races import settled
from services.management.references import require_policies

_USERNAME: TypeAdapter[str] = TypeAdapter(Username)


@dataclass(frozen=True, slots=True)
class ResourceOwnerEndpoints:
    """Resource owners. Their passwords come in, and only hashes stay."""

    access: Access
    owners: ResourceOwners
    policies: Policies
    passwords: PasswordHasher
    origin: Callable[[], Origin]

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "GET", "/api/apis/keys/basic", self.list)
        both_slashes(app, "POST", "/api/apis/keys/basic/{username:[^/]+}", self.add)
        both_slashes(app, "GET", "/api/apis/keys/basic/{username:[^/]+}", self.get)
        both_slashes(app, "PUT", "/api/apis/keys/basic/{username:[^/]+}", self.edit)
        both_slashes(app, "DELETE", "/api/apis/keys/basic/{username:[^/]+}", self.delete)

    async def add(self, request: web.Request) -> web.Response:
        """POST /api/apis/keys/basic/{username}."""
        await self.access.require(request, Permission.WRITE)
        username = _username(request)
        said = await read_document(request, ResourceOwnerDocument)
        if said.password is None:
            raise BadRequest("password: required")
        await require_policies(self.policies, said.policy_ids)
        if await self.owners.get(username):
            raise _taken()
        password_hash = await self.passwords.hash(said.password.get_secret_value())
        at = self.origin()
        owner = ResourceOwner(
            username=username,
            password_hash=password_hash,
            password_since=at.now,
            active=said.active,
            policy_ids=said.policy_ids,
            meta_data=said.meta_data,
            created_at=at.now,
            updated_at=at.now,
        )
        try:
            return document(_view(await self.owners.add(owner, at)))
        except Conflict:
            raise _taken() from None

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/apis/keys/basic."""
        await self.access.require(request, Permission.READ)
        page = await self.owners.page(page_number(request))
        return document(ResourceOwnerList(users=[_view(owner) for owner in page.records], pages=page.pages))

    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/keys/basic/{username}."""
        await self.access.require(request, Permission.READ)
        return document(_view(await self._named(request)))

    async def edit(self, request: web.Request) -> web.Response:
        """PUT /api/apis/keys/basic/{username}: what the body leaves out stays."""
        await self.access.require(request, Permission.WRITE)
        await self._named(request)
        said = await read_document(request, ResourceOwnerDocument)
        named = said.model_fields_set - {"password"}
        if "policy_ids" in named:
            await require_policies(self.policies, said.policy_ids)
        changes = {name: getattr(said, name) for name in named}
        if said.password is not None:
            changes["password_hash"] = await self.passwords.hash(said.password.get_secret_value())
            changes["password_since"] = self.origin().now

        async def attempt() -> ResourceOwner | None:
            owner = await self._named(request)
            return await self.owners.edit(owner, changes, self.origin()) if changes else owner

        return document(_view(await settled(attempt)))

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/apis/keys/basic/{username}: no new token for this user."""
        await self.access.require(request, Permission.WRITE)

        async def attempt() -> bool:
            return await self.owners.delete(await self._named(request), self.origin())

        await settled(attempt)
        return enveloped("User deleted")

    async def _named(self, request: web.Request) -> ResourceOwner:
        owner = await self.owners.get(_username(request))
        if owner is None:
            raise NotFound("user not found")
        return owner


def _username(request: web.Request) -> str:
    try:
        return _USERNAME.validate_python(request.match_info["username"])
    except ValidationError as error:
        raise BadRequest("a user name has 1 to 256 characters, no slash and no control character") from error


def _taken() -> Taken:
    return Taken("this user exists")


def _view(owner: ResourceOwner) -> ResourceOwnerView:
    return ResourceOwnerView(**{name: getattr(owner, name) for name in ResourceOwnerView.model_fields})
