"""GET /api/apis/{api_id}/deletion: the progress of a deletion, by the number of records that are left."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from contracts.apis import ApiDeletion
from contracts.operations import ResponseSpec
from contracts.operators import Permission
from libs.http.operations import operator_operation
from libs.store.store import Store
from services.management.success_responses import document

MOST = 10_001
"""Records of each kind that are counted; in an index, so it takes milliseconds."""


@dataclass(frozen=True, slots=True)
class ApiDeletionEndpoint:
    """Counts what ends with an API: client apps, then their grants, then what the notifier has to send."""

    store: Store

    @operator_operation(
        "GET",
        "/api/apis/{api_id}/deletion",
        "getApiDeletion",
        Permission.READ,
        tag="APIs",
        summary="Get the progress of an API's deletion",
        description="How many client apps, grants and pending webhook deliveries are left of a deleted API: they end "
        "one after the other, and all are zero when the deletion is done. Before it, how many it would end.",
        response=ResponseSpec(description="What is left.", models=(ApiDeletion,)),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/{api_id}/deletion."""
        api_id, store = request.match_info["api_id"], self.store
        api, deleted_at, client_apps, grants, deliveries = await asyncio.gather(
            store.apis.living([api_id]),
            store.apis.deleted_at(api_id),
            store.clients.count_of_api(api_id, MOST),
            store.grants.count_unended_of_api(api_id, MOST),
            store.deliveries.count_pending_of_api(api_id, MOST),
        )
        return document(
            ApiDeletion(
                api_id=api_id,
                exists=bool(api),
                deleted_at=deleted_at,
                client_apps=client_apps,
                grants=grants,
                deliveries=deliveries,
            )
        )
