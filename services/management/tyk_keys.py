"""/tyk/keys of the Tyk gateway's own API, as far as a key is a user of the password grant; translated.

Access tokens are keys, too: services/revocation/tyk_tokens.py has those.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from contracts.operations import Parameters, RequestBody
from contracts.operators import Permission
from contracts.tyk_gateway import GatewayKeys, GatewayListQuery, GatewaySession, GatewaySessionRequest
from libs.http.error_responses import BadRequest, NotFound, Taken
from libs.http.operations import operation
from libs.http.tyk_gateway_api import KEY_OF_TOKEN, action, all_of, answer, body_of, gateway_operation, translated
from services.management.request_bodies import read_object
from services.management.resource_owners import ResourceOwnerEndpoints

_KEYS, _KEY = "/tyk/keys", "/tyk/keys/{username}"
_PATTERN = {"username": f"(?!(?:create|preview|{KEY_OF_TOKEN})/?$)[^{{}}/]+"}
_BODY = RequestBody(model=GatewaySessionRequest, description="`basic_auth_data.password` is required for a new user.")
_RESTRICTING = ("access_rights", "rate", "per", "quota_max", "quota_renewal_rate", "throttle_retry_limit", "expires")
"""What restricts a session of Tyk's. A user here is restricted by policies, which also outweigh these at Tyk."""


@dataclass(frozen=True, slots=True)
class TykKeyEndpoints:
    """Users of the password grant."""

    users: ResourceOwnerEndpoints

    @operation(
        gateway_operation(
            "GET",
            _KEYS,
            "tykListKeys",
            Permission.READ,
            summary="List the names of users",
            parameters=Parameters(model=GatewayListQuery),
            response=GatewayKeys,
        )
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /tyk/keys: users; access tokens are listed for each client."""
        users, headers = await all_of(self.users.list, request, "users")
        return answer(GatewayKeys(keys=[user["username"] for user in users]), headers)

    @operation(
        gateway_operation(
            "POST",
            _KEY,
            "tykAddKey",
            Permission.WRITE,
            summary="Create a user",
            description="A user with the same name is overwritten.",
            body=_BODY,
            errors=(404, 409),
            patterns=_PATTERN,
        )
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /tyk/keys/{username}."""
        user = _user(await read_object(request))
        try:
            await self.users.add(translated(request, user))
        except Taken:
            await self.users.edit(translated(request, user))
        return action(request.match_info["username"], "added")

    @operation(
        gateway_operation(
            "PUT",
            _KEY,
            "tykUpdateKey",
            Permission.WRITE,
            summary="Update a user",
            body=_BODY,
            errors=(404, 409),
            patterns=_PATTERN,
        )
    )
    async def update(self, request: web.Request) -> web.Response:
        """PUT /tyk/keys/{username}; the password stays if the body has none."""
        user = _user(await read_object(request))
        try:
            await self.users.edit(translated(request, user))
        except NotFound:
            raise NotFound("Key is not found") from None
        return action(request.match_info["username"], "modified")

    @operation(
        gateway_operation(
            "GET",
            _KEY,
            "tykGetKey",
            Permission.READ,
            summary="Get a user",
            response=GatewaySession,
            errors=(400, 404),
            patterns=_PATTERN,
        )
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /tyk/keys/{username}."""
        try:
            user = body_of(await self.users.get(request))
        except NotFound:
            raise NotFound("Key not found") from None
        return answer(
            GatewaySession(
                apply_policies=user["policy_ids"], is_inactive=not user["active"], meta_data=user["meta_data"]
            )
        )

    @operation(
        gateway_operation(
            "DELETE",
            _KEY,
            "tykDeleteKey",
            Permission.WRITE,
            summary="Delete a user",
            errors=(400, 404, 409),
            patterns=_PATTERN,
        )
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /tyk/keys/{username}: the user's tokens stop working."""
        try:
            await self.users.delete(request)
        except NotFound:
            raise NotFound("There is no such key found") from None
        return action(request.match_info["username"], "deleted")


def _user(session: Mapping[str, Any]) -> dict[str, Any]:
    """The user in our format. Raises BadRequest if the session is restricted other than by policies."""
    said = GatewaySessionRequest.model_validate(session)
    policies = said.apply_policies or ([said.apply_policy_id] if said.apply_policy_id else [])
    restricting = [name for name in _RESTRICTING if _restricts(session.get(name))]
    if restricting and not policies:
        raise BadRequest(
            f"{restricting[0]}: a user is restricted by policies here, not by the key; put this into a policy and name "
            "it in apply_policies"
        )
    password = said.basic_auth_data.password if said.basic_auth_data else None
    user = {"policy_ids": policies, "active": not said.is_inactive, "meta_data": said.meta_data or {}}
    return user | ({"password": password} if password else {})


def _restricts(value: object) -> bool:
    return bool(value) and not (isinstance(value, int | float) and value < 0)
