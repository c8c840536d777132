"""JSON Schemas of contract models: as they are read, and as they are written."""

import ast
import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core import core_schema

Schema = dict[str, Any]
Mode = Literal["validation", "serialization"]
"""As something is read, or as it is written."""

COMPONENT = "#/components/schemas/{model}"


@cache
def _texts_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """What stands below each field of each class of the module, which is no docstring to Python."""
    parsed = ast.parse(inspect.getsource(sys.modules[module]))
    return {part.name: dict(_texts(part)) for part in parsed.body if isinstance(part, ast.ClassDef)}


def _texts(parsed: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for statement, following in pairwise(parsed.body):
        match statement, following:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                yield name, inspect.cleandoc(text)


def _field_texts(model: type[BaseModel]) -> dict[str, str]:
    """Every field of the model that says what it is, inherited ones included."""
    texts: dict[str, str] = {}
    for part in reversed(model.__mro__):
        if part.__module__.startswith("contracts."):
            texts |= _texts_in(part.__module__).get(part.__name__, {})
    return {name: text for name, text in texts.items() if name in model.model_fields}


def _is_nullable(schema: core_schema.CoreSchema) -> bool:
    inner = schema.get("schema")
    return schema["type"] == "nullable" or (schema["type"] == "default" and inner is not None and _is_nullable(inner))


class ContractSchema(GenerateJsonSchema):
    """As pydantic makes them, but: no titles, durations in seconds, the texts below fields, and what is written is
    always there unless it may be null, or its field says when it is left out: then it may also be absent.
    """

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def field_is_required(self, field: Any, total: bool) -> bool:
        if self.mode == "serialization":
            return "serialization_exclude_if" not in field and not _is_nullable(field["schema"])
        return super().field_is_required(field, total)

    def timedelta_schema(self, schema: core_schema.TimedeltaSchema) -> JsonSchemaValue:
        bounds = {"minimum": schema.get("ge"), "maximum": schema.get("le")}
        seconds = {name: int(bound.total_seconds()) for name, bound in bounds.items() if isinstance(bound, timedelta)}
        return {"type": "integer", "description": "Seconds.", **seconds}

    def encode_default(self, dft: Any) -> Any:
        return int(dft.total_seconds()) if isinstance(dft, timedelta) else super().encode_default(dft)

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        described.pop("title", None)
        for name, text in _field_texts(schema["cls"]).items():
            described["properties"][self._written_name(schema["cls"].model_fields[name]) or name]["description"] = text
        return described

    def _written_name(self, field: FieldInfo) -> str | None:
        return field.serialization_alias if self.mode == "serialization" else field.alias


class FactSchema(ContractSchema):
    """For what is written without its None fields."""

    def nullable_schema(self, schema: core_schema.NullableSchema) -> JsonSchemaValue:
        return self.generate_inner(schema["schema"])

    def default_schema(self, schema: core_schema.WithDefaultSchema) -> JsonSchemaValue:
        described = super().default_schema(schema)
        return {key: value for key, value in described.items() if (key, value) != ("default", None)}

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        # OpenAPI's object of this name is not AsyncAPI's, and says no more than the constants in the alternatives.
        described = super().tagged_union_schema(schema)
        described.pop("discriminator", None)
        return described


def of_model(model: type[BaseModel], mode: Mode, made_by: type[GenerateJsonSchema] = ContractSchema) -> Schema:
    """The schema of one model, whole in itself."""
    return model.model_json_schema(by_alias=True, mode=mode, schema_generator=made_by)


def of_type(annotation: Any) -> Schema:
    """The schema of an annotated type."""
    return TypeAdapter(annotation).json_schema(schema_generator=ContractSchema)


class Components:
    """Schemas that refer to each other as components of one document."""

    def __init__(
        self, models: Iterable[tuple[type[BaseModel], Mode]], made_by: type[GenerateJsonSchema] = ContractSchema
    ) -> None:
        wanted = list(dict.fromkeys(models))
        self._references, definitions = models_json_schema(
            wanted, by_alias=True, ref_template=COMPONENT, schema_generator=made_by
        )
        self.definitions: dict[str, Schema] = dict(sorted(definitions.get("$defs", {}).items()))

    def reference(self, model: type[BaseModel], mode: Mode) -> Schema:
        """How the document refers to the model."""
        return dict(self._references[model, mode])
