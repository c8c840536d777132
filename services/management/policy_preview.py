"""/api/portal/policies/preview and …/{policy_id}/usage: what policies come to, and who has one."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from contracts.clients import Client
from contracts.guards import RateRule
from contracts.operations import RequestBody, ResponseSpec
from contracts.operators import Permission
from contracts.policies import Policy
from contracts.policy_preview import (
    PolicyHolder,
    PolicyPreview,
    PolicyPreviewRequest,
    PolicyUsage,
    PreviewedApi,
    PreviewedEndpoint,
    PreviewOutcome,
)
from contracts.resource_owners import ResourceOwner
from libs.http.error_responses import NotFound
from libs.http.operations import operator_operation
from libs.oauth.registrations import registered_on, registrations_of
from libs.policies import ApiAccess, Refusal, decide
from libs.store.store import Store
from services.management.reference_checks import require_policies
from services.management.request_bodies import read_document
from services.management.success_responses import document

MOST_APIS = 100
MOST_NAMED = 20
MOST_COUNTED = 1001


@dataclass(frozen=True, slots=True)
class PolicyPreviews:
    """Reads only. The rights are decided by `libs.policies.decide`, as the gateway decides them for every call."""

    store: Store

    @operator_operation(
        "POST",
        "/api/portal/policies/preview",
        "previewPolicies",
        Permission.READ,
        tag="Policies",
        summary="Preview what policies allow",
        description="What the tokens of a client app may do on each API, with the policies that it has or with "
        "others, and together with those of a user. Decided as for a call, without `key_rules`; nothing is changed.",
        body=RequestBody(model=PolicyPreviewRequest),
        response=ResponseSpec(description="What the tokens may do.", models=(PolicyPreview,)),
        errors=(404,),
    )
    async def preview(self, request: web.Request) -> web.Response:
        """POST /api/portal/policies/preview."""
        said = await read_document(request, PolicyPreviewRequest)
        client, owner = await self._client(said), await self._owner(said.username)
        if said.policy_ids is not None:
            await require_policies(self.store.policies, said.policy_ids)
        policy_ids = said.policy_ids if said.policy_ids is not None else client.policy_ids if client else ()
        user_policy_ids = owner.policy_ids if owner else ()
        of_client = await self._policies(policy_ids)
        of_user = await self._policies(user_policy_ids)
        api_ids = _named(said.api_id, (*of_client, *of_user))
        meta_data = client.meta_data if client else {}
        apis = [
            await self._on_api(api_id, said.api_id, (of_client, of_user), meta_data) for api_id in api_ids[:MOST_APIS]
        ]
        return document(
            PolicyPreview(
                policy_ids=list(policy_ids),
                user_policy_ids=list(user_policy_ids),
                apis=apis,
                more=len(api_ids) > MOST_APIS,
            )
        )

    @operator_operation(
        "GET",
        "/api/portal/policies/{policy_id}/usage",
        "getPolicyUsage",
        Permission.READ,
        tag="Policies",
        summary="See who has a policy",
        description="How many client apps and users have the policy, counted to 1001 at most, and the first 20 each.",
        response=ResponseSpec(description="Who has it.", models=(PolicyUsage,)),
        errors=(404,),
    )
    async def usage(self, request: web.Request) -> web.Response:
        """GET /api/portal/policies/{policy_id}/usage."""
        policy_id = request.match_info["policy_id"]
        if await self.store.policies.get(policy_id) is None:
            raise NotFound("policy not found")
        clients = await self.store.clients.ids_with_policy(policy_id, MOST_COUNTED)
        users = await self.store.resource_owners.ids_with("policy_ids", policy_id, MOST_COUNTED)
        holders = [await self._holders(client_id, policy_id) for client_id in clients[:MOST_NAMED]]
        return document(
            PolicyUsage(
                clients=[holder for each in holders for holder in each],
                client_count=len(clients),
                users=list(users[:MOST_NAMED]),
                user_count=len(users),
            )
        )

    async def _client(self, said: PolicyPreviewRequest) -> Client | None:
        if await self.store.apis.get(said.api_id) is None:
            raise NotFound("API not found")
        if said.client_id is None:
            return None
        client = registered_on(await self.store.clients.get(said.client_id), said.api_id)
        if client is None:
            raise NotFound("the client app is not registered on this API")
        return client

    async def _owner(self, username: str | None) -> ResourceOwner | None:
        if username is None:
            return None
        owner = await self.store.resource_owners.get(username)
        if owner is None:
            raise NotFound("resource owner not found")
        return owner

    async def _policies(self, policy_ids: Sequence[str]) -> Sequence[Policy | None]:
        return [await self.store.policies.get(policy_id) for policy_id in policy_ids]

    async def _on_api(
        self, api_id: str, issued_by: str, holders: Sequence[Sequence[Policy | None]], meta_data: dict[str, object]
    ) -> PreviewedApi:
        api = await self.store.apis.get(api_id)
        if api is None:
            return PreviewedApi(api_id=api_id, outcome=PreviewOutcome.NO_SUCH_API)
        access = decide(api, issued_by, holders, None, meta_data)
        if isinstance(access, Refusal):
            return PreviewedApi(api_id=api_id, outcome=PreviewOutcome(access.value))
        return _shown(api_id, access)

    async def _holders(self, client_id: str, policy_id: str) -> Sequence[PolicyHolder]:
        client = await self.store.clients.get(client_id)
        return [
            PolicyHolder(client_id=client_id, api_id=api_id, client_name=registered.name)
            for api_id, registered in (registrations_of(client) if client else {}).items()
            if policy_id in registered.policy_ids
        ]


def _named(issued_by: str, policies: Sequence[Policy | None]) -> Sequence[str]:
    """The issuing API, and then the others that the policies name, by id."""
    named = {api_id for policy in policies if policy for api_id in policy.access_rights}
    return [issued_by, *sorted(named - {issued_by})]


def _shown(api_id: str, access: ApiAccess) -> PreviewedApi:
    return PreviewedApi(
        api_id=api_id,
        outcome=PreviewOutcome.GRANTED,
        urls=[list(rules.listed) for rules in access.urls if rules.rules],
        versions=[sorted(versions) for versions in access.versions],
        limits=access.limits,
        endpoints=[
            PreviewedEndpoint(pattern=rule.pattern, methods=list(rule.methods), limits=access.endpoint_limits[name])
            for name, rule in sorted(_rules(access).items())
        ],
        own_counter=access.own_limits,
        meta_data=access.meta_data,
    )


def _rules(access: ApiAccess) -> dict[str, RateRule]:
    return {rule.name: rule for holder in access.endpoints for rules in holder.lists for rule in rules}
