"""/api/apis/keys/basic[/{username}]: the users of the password grant."""

from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web
from pydantic import SecretStr

from contracts.error_bodies import Envelope
from contracts.operations import RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.resource_owners import (
    FEWEST_CHARACTERS,
    ResourceOwner,
    ResourceOwnerDocument,
    ResourceOwnerList,
    ResourceOwnerView,
)
from libs.event_encoding import EventContext
from libs.http.error_responses import BadRequest, ChangedByOthers, NotFound, Taken
from libs.http.operations import operator_operation
from libs.passwords import PasswordHasher
from libs.precis import prepare_password, prepare_username
from libs.store.mongo import Conflict
from libs.store.optimistic import retry_on_conflict
from libs.store.policies import Policies
from libs.store.resource_owners import ResourceOwners
from services.management.reference_checks import require_policies
from services.management.request_bodies import read_document
from services.management.success_responses import PAGE, document, enveloped, list_of, listed

_USER = "/api/apis/keys/basic/{username}"
_USER_PATTERN = {"username": "[^/]+"}


@dataclass(frozen=True, slots=True)
class ResourceOwnerEndpoints:
    """Resource owners. Only hashes of their passwords are stored."""

    owners: ResourceOwners
    policies: Policies
    passwords: PasswordHasher
    event_context: Callable[[], EventContext]

    @operator_operation(
        "POST",
        _USER,
        "addResourceOwner",
        Permission.WRITE,
        tag="Resource owners",
        summary="Create a user",
        description="Creates a user for the password grant. The password is stored only as a hash.",
        body=RequestBody(model=ResourceOwnerDocument, fields=("password",)),
        response=ResponseSpec(description="User created.", models=(ResourceOwnerView,)),
        errors=(409,),
        patterns=_USER_PATTERN,
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /api/apis/keys/basic/{username}."""
        username = _username(request)
        said = await read_document(request, ResourceOwnerDocument)
        password = _password(said)
        if password is None:
            raise BadRequest("password: required")
        await require_policies(self.policies, said.policy_ids)
        if await self.owners.get(username):
            raise _taken()
        password_hash = await self.passwords.hash(_prepared(password))
        ctx = self.event_context()
        owner = ResourceOwner(
            username=username,
            password_hash=password_hash,
            password_since=ctx.now,
            active=said.active,
            policy_ids=said.policy_ids,
            meta_data=said.meta_data,
            created_at=ctx.now,
            updated_at=ctx.now,
        )
        try:
            return document(_view(await self.owners.add(owner, ctx)))
        except Conflict:
            raise _taken() from None

    @operator_operation(
        "GET",
        "/api/apis/keys/basic",
        "listResourceOwners",
        Permission.READ,
        tag="Resource owners",
        summary="List users",
        parameters=PAGE,
        response=list_of(ResourceOwnerList),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/apis/keys/basic."""
        page = await listed(request, self.owners.page)
        users = [_view(owner) for owner in page.records]
        return document(ResourceOwnerList(users=users, pages=page.pages, next=page.next), page.headers)

    @operator_operation(
        "GET",
        _USER,
        "getResourceOwner",
        Permission.READ,
        tag="Resource owners",
        summary="Get a user",
        response=ResponseSpec(description="The user.", models=(ResourceOwnerView,)),
        errors=(400, 404),
        patterns=_USER_PATTERN,
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/keys/basic/{username}."""
        return document(_view(await self._named(request)))

    @operator_operation(
        "PUT",
        _USER,
        "editResourceOwner",
        Permission.WRITE,
        tag="Resource owners",
        summary="Update a user",
        description="Changes the fields that the body names; omitted fields keep their values. With a new password, "
        "refresh tokens for the old one stop working; access tokens stay valid until they expire.",
        body=RequestBody(model=ResourceOwnerDocument),
        response=ResponseSpec(description="User updated.", models=(ResourceOwnerView,)),
        errors=(404, 409),
        patterns=_USER_PATTERN,
    )
    async def edit(self, request: web.Request) -> web.Response:
        """PUT /api/apis/keys/basic/{username}: omitted fields keep their values."""
        await self._named(request)
        said = await read_document(request, ResourceOwnerDocument)
        password, named = _password(said), said.model_fields_set - {"password", "basic_auth_data"}
        if "policy_ids" in named:
            await require_policies(self.policies, said.policy_ids)
        changes = {name: getattr(said, name) for name in named}
        if password is not None:
            changes["password_hash"] = await self.passwords.hash(_prepared(password))
            changes["password_since"] = self.event_context().now

        async def attempt() -> ResourceOwner | None:
            owner = await self._named(request)
            return await self.owners.edit(owner, changes, self.event_context()) if changes else owner

        return document(_view(await retry_on_conflict(attempt, exhausted=ChangedByOthers)))

    @operator_operation(
        "DELETE",
        _USER,
        "deleteResourceOwner",
        Permission.WRITE,
        tag="Resource owners",
        summary="Delete a user",
        description="The user can no longer log in, and all tokens of the user stop working with the next call.",
        response=ResponseSpec(description="User deleted.", models=(Envelope,)),
        errors=(400, 404, 409),
        patterns=_USER_PATTERN,
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/apis/keys/basic/{username}: the user's tokens stop working."""

        async def attempt() -> bool:
            return await self.owners.delete(await self._named(request), self.event_context())

        await retry_on_conflict(attempt, exhausted=ChangedByOthers)
        return enveloped("User deleted")

    async def _named(self, request: web.Request) -> ResourceOwner:
        owner = await self.owners.get(_username(request))
        if owner is None:
            raise NotFound("user not found")
        return owner


def _username(request: web.Request) -> str:
    name = prepare_username(request.match_info["username"])
    if name is None:
        raise BadRequest(
            "a user name has 1 to 256 characters, no slashes or control characters, and is not . or ..; "
            "non-ASCII characters must be letters or digits (RFC 8265, UsernameCasePreserved)"
        )
    return name


def _password(said: ResourceOwnerDocument) -> SecretStr | None:
    """The password, in our place for it or in Tyk's. Raises BadRequest if they differ."""
    of_tyk = said.basic_auth_data.password if said.basic_auth_data else None
    if said.password is not None and of_tyk is not None and said.password != of_tyk:
        raise BadRequest("password and basic_auth_data.password differ")
    return said.password or of_tyk


def _prepared(password: SecretStr) -> str:
    prepared = prepare_password(password.get_secret_value())
    if prepared is None:
        raise BadRequest(
            "password: control characters and unassigned code points are not allowed (RFC 8265, OpaqueString)"
        )
    if len(prepared) < FEWEST_CHARACTERS:
        raise BadRequest(
            f"password: at least {FEWEST_CHARACTERS} characters are required, counted after Unicode NFC normalization"
        )
    return prepared


def _taken() -> Taken:
    return Taken("this user already exists")


def _view(owner: ResourceOwner) -> ResourceOwnerView:
    return ResourceOwnerView(**{name: getattr(owner, name) for name in ResourceOwnerView.model_fields})
