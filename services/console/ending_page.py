"""What is left of a deleted API: it ends with its client apps, at once or, with many of them, after a while."""

from collections.abc import Mapping

from aiohttp import web

from contracts.apis import ApiDeletion
from services.console.service_calls import segment
from services.console.visits import Page, Visit


async def ending(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/ending: the progress of a deletion."""
    api_id = visit.named("api_id")
    left = await visit.api.get(ApiDeletion, f"/api/apis/{segment(api_id)}/deletion")
    return visit.page("api_ending.html", left=left, done=not (left.client_apps or left.grants or left.deliveries))


PAGES: Mapping[str, Page] = {"GET /apis/{api_id}/ending": ending}
