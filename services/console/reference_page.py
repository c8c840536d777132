"""The API reference: every operation of every service, from the generated OpenAPI documents."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from aiohttp import web

from contracts.operations import Service
from services.console.rendering import pretty
from services.console.visits import Page, Visit

DOCUMENTS = Path(__file__).parents[2] / "contracts" / "generated" / "openapi"
_METHODS = ("get", "post", "put", "patch", "delete", "head", "options")


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation, as the page shows it."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    parameters: Sequence[Mapping[str, Any]]
    example: str
    """An example of the request's body; empty if it has none."""
    responses: Mapping[str, str]


async def reference(visit: Visit) -> web.StreamResponse:
    """GET /reference?service=…"""
    wanted = visit.query.get("service", Service.MANAGEMENT)
    service = Service(wanted) if wanted in set(Service) else Service.MANAGEMENT
    operations = await asyncio.to_thread(operations_of_document, service)
    return visit.page("reference.html", service=service, services=list(Service), operations=operations)


@lru_cache(maxsize=len(Service))
def operations_of_document(service: Service) -> Sequence[OperationView]:
    """The operations in the document of this service, sorted by tag and path."""
    document = yaml.load((DOCUMENTS / f"{service}.yaml").read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    found = [
        _view(document, method, path, item[method])
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]
    return sorted(found, key=lambda each: (each.tag, each.path, each.method))


def _view(document: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> OperationView:
    content = operation.get("requestBody", {}).get("content", {})
    examples = [each["example"] for each in content.values() if "example" in each]
    return OperationView(
        name=operation["operationId"],
        method=method.upper(),
        path=path,
        tag=operation.get("tags", ["Other"])[0],
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=[_resolved(document, each) for each in operation.get("parameters", ())],
        example=pretty(examples[0]) if examples else "",
        responses={
            str(status): _resolved(document, response).get("description", "")
            for status, response in operation["responses"].items()
        },
    )


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part, or what it refers to in the same document."""
    found: Any = part
    if "$ref" in part:
        found = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return dict(found)


PAGES: Mapping[str, Page] = {"GET /reference": reference}
