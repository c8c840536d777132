"""/api/portal/policies[/{id}]: policies, in Tyk's format."""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from contracts.error_bodies import Envelope
from contracts.operations import RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.policies import AccessRight, Partitions, Policy, PolicyDocument, PolicyList, PolicyView
from libs.event_encoding import EventContext
from libs.http.error_responses import BadRequest, ChangedByOthers, NotFound, Taken
from libs.http.operations import operator_operation
from libs.policies import first_unusable
from libs.store.apis import Apis
from libs.store.mongo import Conflict
from libs.store.optimistic import retry_on_conflict
from libs.store.policies import Policies
from libs.tyk.json_values import without_nulls
from libs.tyk.policy_notes import policy_notes
from services.management.reference_checks import unknown_apis
from services.management.request_bodies import read_object
from services.management.success_responses import PAGE, document, enveloped, list_of, listed

_POLICY = "/api/portal/policies/{policy_id}"


@dataclass(frozen=True, slots=True)
class PolicyEndpoints:
    """Policies. A change also applies to tokens that have already been issued."""

    policies: Policies
    apis: Apis
    event_context: Callable[[], EventContext]

    @operator_operation(
        "POST",
        "/api/portal/policies",
        "addPolicy",
        Permission.WRITE,
        tag="Policies",
        summary="Create a policy",
        description="The id is generated if the body does not set it; `Message` and `ID` of the response are the id. "
        "APIs in `access_rights` that do not exist are listed in `Meta.warnings`; until they do, they grant nothing. "
        "So are restrictions of Tyk's that have no effect, such as throttling.",
        body=RequestBody(model=PolicyDocument),
        response=ResponseSpec(description="Policy created.", models=(Envelope,)),
        errors=(409,),
    )
    async def add(self, request: web.Request) -> web.Response:
        """POST /api/portal/policies."""
        body = await read_object(request)
        said = await asyncio.to_thread(read_policy, body)
        ctx = self.event_context()
        policy = _policy(said, said.id or secrets.token_hex(12), ctx)
        warnings = [*await unknown_apis(self.apis, policy.access_rights), *_notes(body)]
        try:
            await self.policies.add(policy, ctx)
        except Conflict:
            raise Taken(f"the policy id '{policy.policy_id}' is taken") from None
        # As in Tyk's Dashboard, the message is the id.
        return enveloped(policy.policy_id, _meta(warnings), policy.policy_id)

    @operator_operation(
        "GET",
        "/api/portal/policies",
        "listPolicies",
        Permission.READ,
        tag="Policies",
        summary="List policies",
        parameters=PAGE,
        response=list_of(PolicyList),
        errors=(400,),
    )
    async def list(self, request: web.Request) -> web.Response:
        """GET /api/portal/policies."""
        page = await listed(request, self.policies.page)
        policies = [_view(policy) for policy in page.records]
        return document(PolicyList(Data=policies, Pages=page.pages, next=page.next), page.headers)

    @operator_operation(
        "GET",
        _POLICY,
        "getPolicy",
        Permission.READ,
        tag="Policies",
        summary="Get a policy",
        response=ResponseSpec(description="The policy.", models=(PolicyView,)),
        errors=(404,),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/portal/policies/{policy_id}."""
        return document(_view(await self._named(request)))

    @operator_operation(
        "PUT",
        _POLICY,
        "replacePolicy",
        Permission.WRITE,
        tag="Policies",
        summary="Replace a policy",
        description="Replaces the whole policy: omitted fields get their defaults. Applies at once, also to tokens "
        "that "
        "have already been issued.",
        body=RequestBody(model=PolicyDocument),
        response=ResponseSpec(description="Policy replaced.", models=(Envelope,)),
        errors=(404, 409),
    )
    async def replace(self, request: web.Request) -> web.Response:
        """PUT /api/portal/policies/{policy_id}: replaces the policy; omitted fields get their defaults."""
        policy_id = (await self._named(request)).policy_id
        body = await read_object(request)
        said = await asyncio.to_thread(read_policy, body)
        if said.id not in {None, policy_id}:
            raise BadRequest(f"id: differs from '{policy_id}' in the path")
        warnings = [*await unknown_apis(self.apis, said.access_rights), *_notes(body)]

        async def attempt() -> Policy | None:
            before, ctx = await self._named(request), self.event_context()
            return await self.policies.replace(before, _policy(said, policy_id, ctx), ctx)

        await retry_on_conflict(attempt, exhausted=ChangedByOthers)
        return enveloped("Data updated", _meta(warnings), policy_id)

    @operator_operation(
        "DELETE",
        _POLICY,
        "deletePolicy",
        Permission.WRITE,
        tag="Policies",
        summary="Delete a policy",
        description="From now on the policy grants nothing, also to tokens that have already been issued.",
        response=ResponseSpec(description="Policy deleted.", models=(Envelope,)),
        errors=(404, 409),
    )
    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/portal/policies/{policy_id}."""

        async def attempt() -> bool:
            return await self.policies.delete(await self._named(request), self.event_context())

        await retry_on_conflict(attempt, exhausted=ChangedByOthers)
        return enveloped("Data deleted")

    async def _named(self, request: web.Request) -> Policy:
        policy = await self.policies.get(request.match_info["policy_id"])
        if policy is None:
            raise NotFound("policy not found")
        return policy


def read_policy(said: dict[str, Any]) -> PolicyDocument:
    """Read a policy in Tyk's format. Null fields count as absent, `_id` is accepted for `id`, and an access right
    without `api_id` is for the API under whose key it stands. Raises ValidationError, BadRequest.
    """
    said = _without_nulls(said)
    policy_id = said.get("id") or said.get("_id")
    said = _with_rights(said)
    said = {**said, "id": policy_id} if policy_id else {key: value for key, value in said.items() if key != "id"}
    rights = said.get("access_rights")
    if isinstance(rights, dict):
        said["access_rights"] = {api_id: _with_api_id(api_id, right) for api_id, right in rights.items()}
    policy = PolicyDocument.model_validate(said)
    for api_id, right in policy.access_rights.items():
        if right.api_id != api_id:
            raise BadRequest(f"access_rights.{api_id}.api_id: differs from the key in access_rights")
    if fault := first_unusable(policy.access_rights.values()):
        raise BadRequest(fault)
    _require_compatible(policy.partitions)
    return policy


def _notes(said: dict[str, Any]) -> Sequence[str]:
    """What of the policy would restrict calls at Tyk and does not here. The policy must have been read before."""
    return policy_notes(_with_rights(_without_nulls(said)))


def _with_rights(said: dict[str, Any]) -> dict[str, Any]:
    """The policy with the access rights of Tyk's array form in their usual place. Raises BadRequest if both differ."""
    array = said.get("access_rights_array")
    if not array:
        return said
    if not isinstance(array, list) or not all(isinstance(r, dict) and isinstance(r.get("api_id"), str) for r in array):
        raise BadRequest("access_rights_array: a list of objects with api_id is expected")
    rights = {right["api_id"]: right for right in array}
    if len(rights) < len(array):
        raise BadRequest("access_rights_array: an API occurs more than once")
    mapping = said.get("access_rights")
    if isinstance(mapping, dict) and mapping and _read_rights(mapping) != _read_rights(rights):
        raise BadRequest("access_rights and access_rights_array differ; send one of them")
    return {**said, "access_rights": mapping or rights}


def _read_rights(rights: dict[str, Any]) -> dict[str, AccessRight]:
    return {api_id: AccessRight.model_validate(_with_api_id(api_id, right)) for api_id, right in rights.items()}


def _meta(warnings: Sequence[str]) -> dict[str, object] | None:
    return {"warnings": list(warnings)} if warnings else None


def _require_compatible(partitions: Partitions) -> None:
    if partitions.per_api and (partitions.quota or partitions.rate_limit or partitions.acl or partitions.complexity):
        raise BadRequest("partitions: per_api cannot be combined with the others")


def _with_api_id(api_id: str, right: Any) -> Any:
    if not isinstance(right, dict):
        return right
    return {"api_id": api_id, **without_nulls(right)}


def _without_nulls(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if value is not None}


def _policy(said: PolicyDocument, policy_id: str, ctx: EventContext) -> Policy:
    fields = {name: getattr(said, name) for name in PolicyDocument.model_fields if name != "id"}
    fields["name"] = said.name or policy_id  # shown in lists and error messages
    return Policy(policy_id=policy_id, created_at=ctx.now, updated_at=ctx.now, **fields)


def _view(policy: Policy) -> PolicyView:
    fields = {name: getattr(policy, name) for name in PolicyView.model_fields if name not in {"id", "stored_id"}}
    return PolicyView(id=policy.policy_id, stored_id=policy.policy_id, **fields)
