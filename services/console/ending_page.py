"""What is left of a deleted API: its grants end with its client apps, at once or, with many of them, after a while."""

import asyncio
from collections.abc import Mapping

from aiohttp import web

from contracts.grant_views import GrantList
from contracts.grants import GrantState
from services.console.service_calls import CallRefused, segment
from services.console.visits import Page, Visit

SHOWN = 100
"""Grants that are counted."""


async def ending(visit: Visit) -> web.StreamResponse:
    """GET /apis/{api_id}/ending: the progress of a deletion."""
    api_id = visit.named("api_id")
    grants, exists = await asyncio.gather(
        visit.api.get(GrantList, "/api/grants", {"api_id": api_id, "state": GrantState.ACTIVE, "limit": str(SHOWN)}),
        _exists(visit, api_id),
    )
    return visit.page("api_ending.html", api_id=api_id, grants=grants, exists=exists)


async def _exists(visit: Visit, api_id: str) -> bool:
    try:
        await visit.api.send("GET", f"/api/apis/{segment(api_id)}")
    except CallRefused as refused:
        if refused.status != 404:
            raise
        return False
    return True


PAGES: Mapping[str, Page] = {"GET /apis/{api_id}/ending": ending}
