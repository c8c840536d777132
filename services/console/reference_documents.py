"""Reads our generated OpenAPI and AsyncAPI documents: each operation and each event, as the reference shows it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import yaml

from contracts.operations import FORM, Service
from services.console.rendering import pretty

DOCUMENTS = Path(__file__).parents[2] / "contracts" / "generated"
SAMPLES_FOR = "http://127.0.0.1:8080"
"""The address in the samples of the documents."""
_METHODS = ("get", "post", "put", "patch", "delete", "head", "options")
_STREAM = "text/event-stream"


@dataclass(frozen=True, slots=True)
class Parameter:
    """A parameter in the path, the query or a header."""

    name: str
    place: str
    required: bool
    description: str
    example: str


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a body; its name has dots where it is inside another one."""

    name: str
    type: str
    required: bool
    description: str


@dataclass(frozen=True, slots=True)
class Body:
    """What an operation takes or returns."""

    media_types: Sequence[str]
    fields: Sequence[Field]
    example: str


@dataclass(frozen=True, slots=True)
class OperationView:
    """One operation."""

    name: str
    method: str
    path: str
    tag: str
    summary: str
    description: str
    parameters: Sequence[Parameter]
    body: Body | None
    responses: Mapping[str, str]
    returned: Body | None
    """The body of the successful response."""
    samples: Sequence[tuple[str, str]]
    """Language and text."""
    permissions: Sequence[str] | None
    """What an operator needs; None: the operation does not take operator keys."""
    streams: bool

    def placed(self, place: str) -> Sequence[Parameter]:
        """The parameters in the path, the query or the headers."""
        return [parameter for parameter in self.parameters if parameter.place == place]

    @property
    def can_be_tried(self) -> bool:
        """Whether the console can send it: with an operator key, and with a response that ends."""
        return self.permissions is not None and not self.streams


@dataclass(frozen=True, slots=True)
class EventView:
    """One event."""

    name: str
    type: str
    channel: str
    summary: str
    fields: Sequence[Field]


@lru_cache(maxsize=len(Service))
def operations_of_document(service: Service) -> Sequence[OperationView]:
    """The operations in the document of this service, sorted by tag and path."""
    document = _read(DOCUMENTS / "openapi" / f"{service}.yaml")
    found = [
        _operation(document, method, path, item)
        for path, item in document["paths"].items()
        for method in _METHODS
        if method in item
    ]
    return sorted(found, key=lambda each: (each.tag, each.path, each.method))


@lru_cache(maxsize=1)
def events_of_document() -> tuple[str, Sequence[EventView]]:
    """The description of the AsyncAPI document, and its events in the document's order."""
    document = _read(DOCUMENTS / "asyncapi.yaml")
    channels = {
        name: channel["address"] for channel in document["channels"].values() for name in channel.get("messages", ())
    }
    events = [
        EventView(
            name=name,
            type=message.get("name", name),
            channel=channels.get(name, ""),
            summary=message.get("summary", ""),
            fields=list(_fields(document, message["payload"])),
        )
        for name, message in document["components"]["messages"].items()
    ]
    return document["info"]["description"], events


def _read(path: Path) -> Any:
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


def _operation(document: Mapping[str, Any], method: str, path: str, item: Mapping[str, Any]) -> OperationView:
    operation = item[method]
    responses = {str(status): _resolved(document, each) for status, each in operation["responses"].items()}
    success = next((each for status, each in responses.items() if status.startswith("2")), {})
    permissions = [
        roles
        for alternative in operation.get("security", ())
        for scheme, roles in alternative.items()
        if scheme == "operator"
    ]
    body = operation.get("requestBody")
    return OperationView(
        name=operation["operationId"],
        method=method.upper(),
        path=path,
        tag=operation.get("tags", ["Other"])[0],
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        parameters=[
            _parameter(_resolved(document, each))
            for each in (*item.get("parameters", ()), *operation.get("parameters", ()))
        ],
        body=_body(document, _resolved(document, body)) if body else None,
        responses={status: each.get("description", "") for status, each in responses.items()},
        returned=_body(document, success),
        samples=[(each["label"], each["source"]) for each in operation.get("x-codeSamples", ())],
        permissions=permissions[0] if permissions else None,
        streams=_STREAM in success.get("content", {}),
    )


def _parameter(parameter: Mapping[str, Any]) -> Parameter:
    return Parameter(
        name=parameter["name"],
        place=parameter["in"],
        required=parameter.get("required", False),
        description=parameter.get("description", "") or parameter.get("schema", {}).get("description", ""),
        example=str(parameter.get("example", "")),
    )


def _body(document: Mapping[str, Any], part: Mapping[str, Any]) -> Body | None:
    content = part.get("content", {})
    if not content:
        return None
    first = next(iter(content.values()))
    examples = [(media_type, each["example"]) for media_type, each in content.items() if "example" in each]
    return Body(
        media_types=list(content),
        fields=list(_fields(document, first.get("schema", {}))),
        example=_text(*examples[0]) if examples else "",
    )


def _text(media_type: str, example: Any) -> str:
    if isinstance(example, str):
        return example
    return urlencode(example) if media_type == FORM else pretty(example)


def _fields(
    document: Mapping[str, Any], schema: Mapping[str, Any], before: str = "", depth: int = 0
) -> Iterator[Field]:
    """The properties of an object, and those of the objects in it down to one level."""
    schema = _resolved(document, schema)
    required = schema.get("required", ())
    for name, given in schema.get("properties", {}).items():
        found = _resolved(document, given)
        description = given.get("description", "") or found.get("description", "")
        yield Field(f"{before}{name}", _type(document, given), name in required, description)
        if not before and found.get("properties"):
            yield from _fields(document, found, f"{name}.")


def _type(document: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    found = _resolved(document, schema)
    if "const" in found:
        return str(found["const"])
    if "enum" in found:
        return " | ".join(map(str, found["enum"]))
    if alternatives := found.get("anyOf") or found.get("oneOf"):
        return " or ".join(dict.fromkeys(_type(document, each) for each in alternatives))
    if found.get("type") == "array":
        return f"list of {_type(document, found.get('items', {}))}"
    return str(found.get("format") or found.get("type") or "any")


def _resolved(document: Mapping[str, Any], part: Mapping[str, Any]) -> Mapping[str, Any]:
    """The part, or what it refers to in the same document."""
    found: Any = part
    if "$ref" in part:
        found = document
        for name in part["$ref"].removeprefix("#/").split("/"):
            found = found[name]
    return dict(found)
