"""/tyk/apis[/oas] and /tyk/policies of the Tyk gateway's own API, translated (libs/http/tyk_gateway_api.py)."""

import asyncio
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from contracts.operations import JSON, YAML, Parameters, RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.policies import PolicyDocument, PolicyView
from contracts.tyk_gateway import GatewayList, GatewayListQuery
from libs.access import permits
from libs.http.error_responses import NotFound, Taken
from libs.http.forms import replace_body
from libs.http.operations import operation, operator_of
from libs.http.tyk_gateway_api import Handler, action, all_of, answer, body_of, gateway_operation, translated
from services.management.apis import ApiEndpoints
from services.management.definitions import dashboard_entry, own_id
from services.management.policies import PolicyEndpoints
from services.management.request_bodies import read_object, read_text

_APIS, _API = "/tyk/apis", "/tyk/apis/{api_id}"
_OAS_APIS, _OAS_API = "/tyk/apis/oas", "/tyk/apis/oas/{api_id}"
_POLICIES, _POLICY = "/tyk/policies", "/tyk/policies/{policy_id}"
_LIST = Parameters(model=GatewayListQuery)
_DEFINITION = RequestBody(media_types=(JSON, YAML), description="A Tyk OAS or Tyk Classic definition.")
_OAS_DEFINITION = RequestBody(media_types=(JSON, YAML), description="A Tyk OAS definition.")
_POLICY_BODY = RequestBody(model=PolicyDocument)
_OVERWRITES = "A record with the same id is replaced."
_FOUND = ResponseSpec(description="The definition.")
_MANY = ResponseSpec(description="All of them.", models=(GatewayList,))


@dataclass(frozen=True, slots=True)
class TykApiEndpoints:
    """API definitions. Lists have no pages."""

    apis: ApiEndpoints

    @operation(
        gateway_operation(
            "GET", _APIS, "tykListApis", Permission.READ, summary="List APIs", parameters=_LIST, response=_MANY
        )
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /tyk/apis: Classic definitions in full, of OAS definitions a summary in the same format."""
        entries, headers = await all_of(self.apis.list, request, "apis")
        return answer([entry["api_definition"] for entry in entries], headers)

    @operation(
        gateway_operation(
            "GET",
            _OAS_APIS,
            "tykListOasApis",
            Permission.READ,
            summary="List OAS APIs",
            parameters=_LIST,
            response=_MANY,
        )
    )
    async def list_oas(self, request: web.Request) -> web.Response:
        """GET /tyk/apis/oas."""
        return answer(*await all_of(self.apis.list_oas, request, "apis"))

    @operation(
        gateway_operation(
            "POST",
            _APIS,
            "tykAddApi",
            Permission.WRITE,
            summary="Import an API",
            description=_OVERWRITES,
            body=_DEFINITION,
            errors=(409,),
        )
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /tyk/apis."""
        return await self._add(request, self.apis.add, self.apis.replace)

    @operation(
        gateway_operation(
            "POST",
            _OAS_APIS,
            "tykAddOasApi",
            Permission.WRITE,
            summary="Import an OAS API",
            description=_OVERWRITES,
            body=_OAS_DEFINITION,
            errors=(409,),
        )
    )
    async def add_oas(self, request: web.Request) -> web.Response:
        """POST /tyk/apis/oas."""
        return await self._add(request, self.apis.add_oas, self.apis.replace_oas)

    @operation(
        gateway_operation(
            "GET", _API, "tykGetApi", Permission.READ, summary="Get an API", response=_FOUND, errors=(404,)
        )
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /tyk/apis/{api_id}: a Classic definition, or of an OAS definition a summary in the same format."""
        api = await self.apis.apis.get(request.match_info["api_id"])
        if api is None:
            raise NotFound("API not found")
        with_secrets = permits(operator_of(request), Permission.WRITE)
        return answer(dashboard_entry(api, with_secrets=with_secrets)["api_definition"])

    @operation(
        gateway_operation(
            "GET",
            _OAS_API,
            "tykGetOasApi",
            Permission.READ,
            summary="Get an OAS API",
            response=_FOUND,
            errors=(400, 404),
        )
    )
    async def get_oas(self, request: web.Request) -> web.Response:
        """GET /tyk/apis/oas/{api_id}."""
        return await self.apis.get_oas(request)

    @operation(
        gateway_operation(
            "PUT",
            _API,
            "tykReplaceApi",
            Permission.WRITE,
            summary="Replace an API",
            body=_DEFINITION,
            errors=(404, 409),
        )
    )
    async def replace(self, request: web.Request) -> web.Response:
        """PUT /tyk/apis/{api_id}."""
        return _changed(await self.apis.replace(request), "modified")

    @operation(
        gateway_operation(
            "PUT",
            _OAS_API,
            "tykReplaceOasApi",
            Permission.WRITE,
            summary="Replace an OAS API",
            body=_OAS_DEFINITION,
            errors=(404, 409),
        )
    )
    async def replace_oas(self, request: web.Request) -> web.Response:
        """PUT /tyk/apis/oas/{api_id}."""
        return _changed(await self.apis.replace_oas(request), "modified")

    @operation(
        gateway_operation("DELETE", _API, "tykDeleteApi", Permission.WRITE, summary="Delete an API", errors=(404, 409))
    )
    @operation(
        gateway_operation(
            "DELETE", _OAS_API, "tykDeleteOasApi", Permission.WRITE, summary="Delete an OAS API", errors=(404, 409)
        )
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /tyk/apis[/oas]/{api_id}."""
        await self.apis.delete(request)
        return action(request.match_info["api_id"], "deleted")

    async def _add(self, request: web.Request, add: Handler, replace: Handler) -> web.Response:
        body = await read_text(request)
        replace_body(request, body)
        try:
            return _changed(await add(request), "added")
        except Taken:
            api_id = await asyncio.to_thread(own_id, body, request.headers.get("Content-Type"))
            if not api_id or await self.apis.apis.get(api_id) is None:
                raise  # another API has the listen path
            return _changed(await replace(translated(request, api_id=api_id)), "added")


@dataclass(frozen=True, slots=True)
class TykPolicyEndpoints:
    """Policies. Lists have no pages."""

    policies: PolicyEndpoints

    @operation(
        gateway_operation(
            "GET",
            _POLICIES,
            "tykListPolicies",
            Permission.READ,
            summary="List policies",
            parameters=_LIST,
            response=_MANY,
        )
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /tyk/policies."""
        return answer(*await all_of(self.policies.list, request, "Data"))

    @operation(
        gateway_operation(
            "GET",
            _POLICY,
            "tykGetPolicy",
            Permission.READ,
            summary="Get a policy",
            response=ResponseSpec(description="The policy.", models=(PolicyView,)),
            errors=(404,),
        )
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /tyk/policies/{policy_id}."""
        return await self.policies.get(request)

    @operation(
        gateway_operation(
            "POST",
            _POLICIES,
            "tykAddPolicy",
            Permission.WRITE,
            summary="Create a policy",
            description=_OVERWRITES,
            body=_POLICY_BODY,
            errors=(409,),
        )
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /tyk/policies."""
        said = await read_object(request)
        try:
            return _changed(await self.policies.add(translated(request, said)), "added")
        except Taken:
            policy_id = str(said.get("id") or said.get("_id"))
            return _changed(await self.policies.replace(translated(request, policy_id=policy_id)), "added")

    @operation(
        gateway_operation(
            "PUT",
            _POLICY,
            "tykReplacePolicy",
            Permission.WRITE,
            summary="Replace a policy",
            body=_POLICY_BODY,
            errors=(404, 409),
        )
    )
    async def replace(self, request: web.Request) -> web.Response:
        """PUT /tyk/policies/{policy_id}."""
        return _changed(await self.policies.replace(request), "modified")

    @operation(
        gateway_operation(
            "DELETE", _POLICY, "tykDeletePolicy", Permission.WRITE, summary="Delete a policy", errors=(404, 409)
        )
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /tyk/policies/{policy_id}."""
        await self.policies.delete(request)
        return action(request.match_info["policy_id"], "deleted")


def _changed(response: web.Response, done: Any) -> web.Response:
    """The gateway's format of the envelope with which an import or a change responds."""
    envelope = body_of(response)
    meta = envelope.get("Meta")
    about: dict[str, Any] = meta if isinstance(meta, dict) else {"api_id": meta}
    # A dry run creates nothing, so it has no ID.
    return action(envelope.get("ID") or str(about["api_id"]), done, about.get("warnings"))
