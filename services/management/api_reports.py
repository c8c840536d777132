"""/api/apis/{api_id}/report: what of the API's stored definition has no effect, and what is not enforced."""

import asyncio
from dataclasses import dataclass

from aiohttp import web

from contracts.apis import ApiReport
from contracts.operations import ResponseSpec
from contracts.operators import Permission
from libs.http.error_responses import NotFound
from libs.http.operations import operator_operation
from libs.store.apis import Apis
from services.management.definitions import stored_report
from services.management.success_responses import document


@dataclass(frozen=True, slots=True)
class ApiReports:
    """Says of stored definitions what their import said."""

    apis: Apis

    @operator_operation(
        "GET",
        "/api/apis/{api_id}/report",
        "getApiReport",
        Permission.READ,
        tag="APIs",
        summary="Get the report about an API's definition",
        description="Warnings, and the paths of parts of the definition that are `enforced`, `unused` and `refused` "
        "(accepted and not enforced), as an import of the stored definition would report them now.",
        response=ResponseSpec(description="The report.", models=(ApiReport,)),
        errors=(404,),
    )
    async def get(self, request: web.Request) -> web.Response:
        """GET /api/apis/{api_id}/report."""
        api = await self.apis.get(request.match_info["api_id"])
        if api is None:
            raise NotFound("API not found")
        warnings, parts = await asyncio.to_thread(stored_report, api)  # a large one would block the event loop
        return document(
            ApiReport(
                api_id=api.api_id,
                warnings=tuple(warnings),
                enforced=parts.enforced,
                unused=parts.unused,
                refused=parts.refused,
            )
        )
