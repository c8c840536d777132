"""The generated files: their names, their bytes, and whether they are what they should be."""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from contracts.events import EVENTS, NotificationCommand
from contracts.generate.asyncapi import asyncapi_document
from contracts.generate.openapi import WEBHOOK, openapi_document, tyk_gateway_api_document
from contracts.generate.schemas import FactSchema, Mode, Schema, of_model
from contracts.operations import Service
from libs.tyk.authentication import TokenwireSettings
from services.operation_catalog import OPERATIONS, TYK_GATEWAY_OPERATIONS

DIRECTORY = Path(__file__).parents[1] / "generated"
_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_NAME = "urn:tokenwire:schema:"


class _Plain(yaml.SafeDumper):
    """Without anchors: what is said twice is written twice."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


@cache
def rendered() -> dict[str, bytes]:
    """Every file by its name below the directory."""
    files = {f"openapi/{service}.yaml": _as_yaml(openapi_document(service)) for service in Service}
    files["openapi/tyk-gateway-api.yaml"] = _as_yaml(tyk_gateway_api_document())
    files["asyncapi.yaml"] = _as_yaml(asyncapi_document())
    files["schemas/definition-extension.json"] = _as_json(_definition_extension())
    for name, schema in _schemas():
        files[f"schemas/{name}.json"] = _as_json({"$schema": _DIALECT, "$id": f"{_NAME}{name}", **schema})
    return files


def write(directory: Path = DIRECTORY) -> None:
    """The directory holds these files and no others."""
    files = rendered()
    for name in _present(directory) - files.keys():
        (directory / name).unlink()
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def drifted(directory: Path = DIRECTORY) -> str | None:
    """The first file that is missing, too many, or not what the contracts say; None if there is none."""
    files = rendered()
    for name in sorted(files.keys() | _present(directory)):
        path = directory / name
        if name not in files or not path.is_file() or path.read_bytes() != files[name]:
            return name
    return None


def _present(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


def _definition_extension() -> Schema:
    """A schema of whole definitions that knows only our extension, so that editors can complete and check it."""
    extension = of_model(TokenwireSettings, "validation")
    reference = {"$ref": "#/$defs/TokenwireSettings"}
    return {
        "$schema": _DIALECT,
        "$id": f"{_NAME}definition-extension",
        "description": "A Tyk OAS or Tyk Classic definition; only Tokenwire's extension is described.",
        "type": "object",
        "properties": {
            "x-tokenwire": {**reference, "description": "Settings that Tyk OAS does not have."},
            "tokenwire": {**reference, "description": "Settings that Tyk Classic does not have."},
        },
        "$defs": {**extension.pop("$defs", {}), "TokenwireSettings": extension},
    }


def _schemas() -> Iterator[tuple[str, Schema]]:
    """One schema an event, by its type without the vendor prefix, and one a public body."""
    for event in EVENTS:
        yield event.stem, of_model(event, "serialization", FactSchema)
    yield kebab(NotificationCommand), of_model(NotificationCommand, "serialization", FactSchema)
    for model, mode in sorted(_bodies(), key=lambda body: body[0].__name__):
        yield kebab(model), of_model(model, mode)


def _bodies() -> set[tuple[type[BaseModel], Mode]]:
    every = (*OPERATIONS, *TYK_GATEWAY_OPERATIONS)
    read = {operation.body.model for operation in every if operation.body and operation.body.model}
    written = {model for operation in every for response in operation.responses.values() for model in response.models}
    return {(model, "validation") for model in read} | {
        (model, "serialization") for model in written | ({WEBHOOK.model} if WEBHOOK.model else set())
    }


def kebab(model: type[BaseModel]) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", model.__name__.replace("OAuth", "Oauth")).lower()


def _as_yaml(document: dict[str, Any]) -> bytes:
    text: str = yaml.dump(document, Dumper=_Plain, sort_keys=False, allow_unicode=True, width=120)
    return text.encode()


def _as_json(schema: Schema) -> bytes:
    return (json.dumps(schema, indent=2, ensure_ascii=False) + "\n").encode()
