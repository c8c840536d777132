"""/api/portal/policies[/{id}]: what tokens may do, in Tyk's words."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from contracts.operators import Permission
from contracts.policies import Partitions, Policy, PolicyDocument, PolicyList, PolicyView
from libs.access import Access
from libs.events import Origin
from libs.http.errors import BadRequest, NotFound, Taken
from libs.policies import first_unusable
from libs.runtime import both_slashes
from libs.store.apis import Apis
from libs.store.mongo import Conflict
from libs.store.policies import Policies
from services.management.answers import document, enveloped, page_number
from services.management.documents import read_object
from services.management.races import settled
from services.management.references import require_apis


@dataclass(frozen=True, slots=True)
class PolicyEndpoints:
    """Policies; a change applies to tokens already issued."""

    access: Access
    policies: Policies
    apis: Apis
    origin: Callable[[], Origin]

    def add_to(self, app: web.Application) -> None:
        """Routes, with and without trailing slash."""
        both_slashes(app, "POST", "/api/portal/policies", self.add)
        both_slashes(app, "GET", "/api/portal/policies", self.list)
        both_slashes(app, "GET", "/api/portal/policies/{policy_id}", self.get)
        both_slashes(app, "PUT", "/api/portal/policies/{policy_id}", self.replace)
        both_slashes(app, "DELETE", "/api/portal/policies/{policy_id}", self.delete)

    async def add(self, request: web.Request) -> web.Response:
        """POST /api/portal/policies."""
        await self.access.require(request, Permission.WRITE)
        said = read_policy(await read_object(request))
        at = self.origin()
        policy = _policy(said, said.id or secrets.token_hex(12), at)
        await require_apis(self.apis, policy.access_rights)
        try:
            await self.policies.add(policy, at)
        except Conflict:
            raise Taken(f"the policy id '{policy.policy_id}' is taken") from None
        # Tyk's Dashboard gives the id as the message.
        return enveloped(policy.policy_id, record_id=policy.policy_id)

    async def list(self, request: web.Request) -> web.Response:
        """GET /api/portal/policies."""
        await self.access.require(request, Permission.READ)
        page = await self.policies.page(page_number(request))
        return document(PolicyList(Data=[_view(policy) for policy in page.records], Pages=page.pages))

    async def get(self, request: web.Request) -> web.Response:
        """GET /api/portal/policies/{policy_id}."""
        await self.access.require(request, Permission.READ)
        return document(_view(await self._named(request)))

    async def replace(self, request: web.Request) -> web.Response:
        """PUT /api/portal/policies/{policy_id}: the whole policy; what it leaves out has its default again."""
        await self.access.require(request, Permission.WRITE)
        policy_id = (await self._named(request)).policy_id
        said = read_policy(await read_object(request))
        if said.id not in {None, policy_id}:
            raise BadRequest(f"id: the path says '{policy_id}'")
        await require_apis(self.apis, said.access_rights)

        async def attempt() -> Policy | None:
            before, at = await self._named(request), self.origin()
            return await self.policies.replace(before, _policy(said, policy_id, at), at)

        await settled(attempt)
        return enveloped("Data updated", record_id=policy_id)

    async def delete(self, request: web.Request) -> web.Response:
        """DELETE /api/portal/policies/{policy_id}: it grants nothing any more."""
        await self.access.require(request, Permission.WRITE)

        async def attempt() -> bool:
            return await self.policies.delete(await self._named(request), self.origin())

        await settled(attempt)
        return enveloped("Data deleted")

    async def _named(self, request: web.Request) -> Policy:
        policy = await self.policies.get(request.match_info["policy_id"])
        if policy is None:
            raise NotFound("policy not found")
        return policy


def read_policy(said: dict[str, Any]) -> PolicyDocument:
    """The policy in Tyk's words: null is absent, `_id` will do for `id`, an access right is about the API that it is
    filed under. Raises ValidationError, BadRequest.
    """
    said = _without_nulls(said)
    policy_id = said.get("id") or said.get("_id")
    said = {**said, "id": policy_id} if policy_id else {key: value for key, value in said.items() if key != "id"}
    rights = said.get("access_rights")
    if isinstance(rights, dict):
        said["access_rights"] = {api_id: _filed(api_id, right) for api_id, right in rights.items()}
    policy = PolicyDocument.model_validate(said)
    for api_id, right in policy.access_rights.items():
        if right.api_id != api_id:
            raise BadRequest(f"access_rights.{api_id}.api_id: another API than the one it is filed under")
    if fault := first_unusable(policy.access_rights.values()):
        raise BadRequest(fault)
    _require_compatible(policy.partitions)
    return policy


def _require_compatible(partitions: Partitions) -> None:
    if partitions.per_api and (partitions.quota or partitions.rate_limit or partitions.acl or partitions.complexity):
        raise BadRequest("partitions: per_api goes with none of the others")


def _filed(api_id: str, right: Any) -> Any:
    if not isinstance(right, dict):
        return right
    right = {"api_id": api_id, **_without_nulls(right)}
    if isinstance(right.get("allowed_urls"), list):
        right["allowed_urls"] = [_without_nulls(url) if isinstance(url, dict) else url for url in right["allowed_urls"]]
    return right


def _without_nulls(said: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in said.items() if value is not None}


def _policy(said: PolicyDocument, policy_id: str, at: Origin) -> Policy:
    fields = {name: getattr(said, name) for name in PolicyDocument.model_fields if name != "id"}
    return Policy(policy_id=policy_id, created_at=at.now, updated_at=at.now, **fields)


def _view(policy: Policy) -> PolicyView:
    fields = {name: getattr(policy, name) for name in PolicyView.model_fields if name not in {"id", "stored_id"}}
    return PolicyView(id=policy.policy_id, stored_id=policy.policy_id, **fields)
