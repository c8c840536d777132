"""Parses the JSON or YAML text of a definition, and writes the JSON text that is stored."""

import json
from typing import Any, NoReturn

from contracts.apis import DefinitionFormat
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.json_values import MAX_DEPTH, object_of, real_number, require_sound, whole_number
from libs.tyk.yaml_text import read_yaml


def parse(text: bytes, content_type: str | None) -> dict[str, Any]:
    """Parse JSON or YAML: UTF-8, unique string keys, finite numbers, nesting up to MAX_DEPTH.

    If the content type names neither, text that is valid JSON is read as JSON, anything else as YAML.
    Raises InvalidDefinition. The caller must have limited the size.
    """
    document = _value(_unicode(text), _language(content_type))
    if not isinstance(document, dict):
        raise InvalidDefinition("the definition: an object is expected")
    require_sound(document)
    return document


def format_of(document: dict[str, Any]) -> DefinitionFormat:
    """The format of the definition: OAS if it has `openapi` or Tyk's extension, otherwise Classic."""
    if "openapi" in document or "x-tyk-api-gateway" in document:
        return DefinitionFormat.OAS
    return DefinitionFormat.CLASSIC


def json_text(document: Any) -> str:
    """The document as compact JSON."""
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"))


def _unicode(text: bytes) -> str:
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidDefinition(f"not UTF-8 (byte {error.start})") from None
    if "\0" in decoded:
        raise InvalidDefinition("NUL is not allowed")
    return decoded


def _language(content_type: str | None) -> str | None:
    media_type = (content_type or "").partition(";")[0].strip().lower()
    for language in ("json", "yaml"):
        if media_type.endswith((f"/{language}", f"/x-{language}", f"+{language}")):
            return language
    return None


def _value(text: str, language: str | None) -> Any:
    if language == "yaml":
        return read_yaml(text)
    try:
        return _read_json(text)
    except json.JSONDecodeError as error:
        not_json = InvalidDefinition(f"not JSON: {error.msg} (line {error.lineno}, column {error.colno})")
    if language == "json":
        raise not_json
    return _read_yaml_unless_meant_as_json(text, not_json)


def _read_yaml_unless_meant_as_json(text: str, not_json: InvalidDefinition) -> Any:
    try:
        return read_yaml(text)
    except InvalidDefinition as not_yaml:
        raise (not_json if text.lstrip().startswith("{") else not_yaml) from None


def _read_json(text: str) -> Any:
    try:
        return json.loads(
            text,
            object_pairs_hook=object_of,
            parse_int=whole_number,
            parse_float=real_number,
            parse_constant=_refuse_constant,
        )
    except RecursionError:
        raise InvalidDefinition(f"more than {MAX_DEPTH} objects and arrays within one another") from None


def _refuse_constant(name: str) -> NoReturn:
    raise InvalidDefinition(f"{name} is not a JSON value")
