"""/tyk/oauth/clients of the Tyk gateway's own API, translated (libs/http/tyk_gateway_api.py)."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from contracts.operations import Parameters, RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.tyk_gateway import (
    GatewayAction,
    GatewayClient,
    GatewayClientRequest,
    GatewayIds,
    GatewayList,
    GatewayListQuery,
)
from libs.http.error_responses import BadRequest, NotFound, Taken
from libs.http.operations import operation
from libs.http.responses import json_bytes
from libs.http.tyk_gateway_api import action, all_of, answer, body_of, gateway_operation, translated
from libs.oauth.registrations import registrations_of
from services.management.clients import ClientEndpoints
from services.management.request_bodies import read_object

_CREATE = "/tyk/oauth/clients/create"
_OF_API = "/tyk/oauth/clients/{api_id}"
_CLIENT = "/tyk/oauth/clients/{api_id}/{client_id}"
_APIS_OF_CLIENT = "/tyk/oauth/clients/apis/{client_id}"
_BODY = RequestBody(model=GatewayClientRequest)
_SHOWN = ResponseSpec(description="The client.", models=(GatewayClient,))
_FIELDS = tuple(GatewayClientRequest.model_fields)
_EDITABLE = ("redirect_uri", "policy_id", "meta_data", "description")


@dataclass(frozen=True, slots=True)
class TykClientEndpoints:
    """Client apps. Their secrets are shown as our operations show them."""

    clients: ClientEndpoints

    @operation(
        gateway_operation(
            "POST",
            _CREATE,
            "tykCreateClient",
            Permission.WRITE,
            summary="Create a client",
            description="A client of the API that already has the id is overwritten. Without `api_id`, the client is "
            "registered on every OAuth API of its policy.",
            body=_BODY,
            response=_SHOWN,
            errors=(404, 409),
        )
    )
    async def create(self, request: web.Request) -> web.Response:
        """POST /tyk/oauth/clients/create."""
        said = _given(await read_object(request))
        api_id = said.pop("api_id", None)
        client: dict[str, Any] = {}
        for each in [api_id] if api_id else await self._apis_of_policy(said.get("policy_id")):
            client = await self._stored(request, str(each), said)
            said |= {name: client[name] for name in ("client_id", "secret") if name in client}
        return answer(_shown(client))

    @operation(
        gateway_operation(
            "GET",
            _APIS_OF_CLIENT,
            "tykListApisOfClient",
            Permission.READ,
            summary="List the APIs of a client",
            response=ResponseSpec(description="The ids of the APIs; none for an unknown client.", models=(GatewayIds,)),
        )
    )
    async def apis(self, request: web.Request) -> web.Response:
        """GET /tyk/oauth/clients/apis/{client_id}: the ids of the APIs on which the client is registered."""
        client = await self.clients.store.clients.get(request.match_info["client_id"])
        return answer(list(registrations_of(client)) if client else [])

    @operation(
        gateway_operation(
            "GET",
            _OF_API,
            "tykListClients",
            Permission.READ,
            summary="List an API's clients",
            parameters=Parameters(model=GatewayListQuery),
            response=ResponseSpec(description="The clients.", models=(GatewayList,)),
            errors=(404,),
        )
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /tyk/oauth/clients/{api_id}; for an unknown API `null`, as the gateway does."""
        try:
            clients, headers = await all_of(self.clients.list, request, "apps")
        except NotFound:
            return json_bytes(b"null", 404)
        return answer([_shown(client) for client in clients], headers)

    @operation(
        gateway_operation(
            "GET", _CLIENT, "tykGetClient", Permission.READ, summary="Get a client", response=_SHOWN, errors=(404,)
        )
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /tyk/oauth/clients/{api_id}/{client_id}."""
        return answer(_shown(await self._current(request)))

    @operation(
        gateway_operation(
            "PUT",
            _CLIENT,
            "tykUpdateClient",
            Permission.WRITE,
            summary="Update a client",
            description="Sets redirect URIs, policy, metadata and description; what the body omits is cleared.",
            body=_BODY,
            response=_SHOWN,
            errors=(404, 409),
        )
    )
    async def update(self, request: web.Request) -> web.Response:
        """PUT /tyk/oauth/clients/{api_id}/{client_id}."""
        said = _given(await read_object(request))
        if await self.clients.store.apis.get(request.match_info["api_id"]) is None:
            raise NotFound("API doesn't exist")
        current = await self._current(request)
        return answer(_shown(await self._edited(request, current, said)))

    @operation(
        gateway_operation(
            "PUT",
            f"{_CLIENT}/rotate",
            "tykRotateClientSecret",
            Permission.WRITE,
            summary="Rotate a client's secret",
            description="The old secret stops working at once.",
            response=_SHOWN,
            errors=(400, 404, 409),
        )
    )
    async def rotate(self, request: web.Request) -> web.Response:
        """PUT /tyk/oauth/clients/{api_id}/{client_id}/rotate; the body is ignored."""
        if await self.clients.store.apis.get(request.match_info["api_id"]) is None:
            raise NotFound("API doesn't exist")
        await self._current(request)
        return answer(_shown(body_of(await self.clients.rotate(translated(request, {})))))

    @operation(
        gateway_operation(
            "DELETE",
            _CLIENT,
            "tykDeleteClient",
            Permission.WRITE,
            summary="Delete a client",
            description="Its tokens stop working at once. Also 200 if there is no such client.",
            response=GatewayAction,
            errors=(404, 409),
        )
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /tyk/oauth/clients/{api_id}/{client_id}."""
        if await self.clients.store.apis.get(request.match_info["api_id"]) is None:
            raise NotFound("OAuth Client ID not found")
        with suppress(NotFound):  # the gateway says the same about a client that never existed
            await self.clients.delete(request)
        return action(request.match_info["client_id"], "deleted")

    async def _current(self, request: web.Request) -> dict[str, Any]:
        try:
            found: dict[str, Any] = body_of(await self.clients.get(request))
        except NotFound:
            raise NotFound("OAuth Client ID not found") from None
        return found

    async def _stored(self, request: web.Request, api_id: str, said: Mapping[str, Any]) -> dict[str, Any]:
        """The client, registered on the API, or overwritten if the API has one with this id."""
        if await self.clients.store.apis.get(api_id) is None:
            raise BadRequest("API doesn't exist")
        try:
            stored: dict[str, Any] = body_of(await self.clients.register(translated(request, said, api_id=api_id)))
            return stored
        except Taken:
            here = translated(request, api_id=api_id, client_id=str(said.get("client_id")))
            try:
                current = body_of(await self.clients.get(here))
            except NotFound:
                current = None
            if current is None:
                raise
        edited = await self._edited(request, current, said)
        secret = said.get("secret")
        if secret is None or edited.get("secret") == secret:
            return edited
        rotated: dict[str, Any] = body_of(await self.clients.rotate(translated(request, {"secret": secret})))
        return rotated

    async def _edited(
        self, request: web.Request, current: Mapping[str, Any], said: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The client with what the gateway's update sets: everything that is not said is cleared."""
        edit = {name: said.get(name) for name in _EDITABLE}
        # The gateway's format has room for one policy: writing back what was read must not drop the others.
        if edit["policy_id"] == (current["policy_id"] or None):
            del edit["policy_id"]
        else:
            await self._require_policy_of(request.match_info["api_id"], edit["policy_id"])
        edited: dict[str, Any] = body_of(await self.clients.edit(translated(request, edit)))
        return edited

    async def _require_policy_of(self, api_id: str, policy_id: object) -> None:
        """Raises the gateway's errors if there is no such policy, or if it does not grant the client's API."""
        if policy_id is None:
            return
        policy = await self.clients.store.policies.get(str(policy_id))
        if policy is None:
            raise NotFound("Policy doesn't exist")
        if api_id not in policy.access_rights:
            raise BadRequest("Policy access rights doesn't contain API this OAuth client belongs to")

    async def _apis_of_policy(self, policy_id: object) -> Sequence[str]:
        """The OAuth APIs that the policy grants. Raises BadRequest if there is none."""
        policy = await self.clients.store.policies.get(str(policy_id)) if policy_id else None
        if policy is None:
            raise BadRequest("Policy doesn't exist")
        apis = [await self.clients.store.apis.get(api_id) for api_id in policy.access_rights]
        issuing = [api.api_id for api in apis if api is not None and api.oauth is not None]
        if not issuing:
            raise BadRequest("api_id: required, because the policy grants no API with OAuth")
        return issuing


def _given(said: Mapping[str, Any]) -> dict[str, Any]:
    """What the body says: the gateway ignores unknown fields, and an empty text is the same as none."""
    return {name: said[name] for name in _FIELDS if said.get(name) not in (None, "")}


def _shown(client: Mapping[str, Any]) -> dict[str, Any]:
    shown = GatewayClient(
        client_id=client["client_id"],
        secret=client.get("secret"),
        redirect_uri=client["redirect_uri"],
        policy_id=client["policy_id"] or None,
        meta_data=client["meta_data"],
        description=client["description"],
    )
    return shown.model_dump(exclude_none=True)
