"""Reads imported API definitions, and returns them with secrets masked for operators without `write`."""

import json
from datetime import datetime
from typing import Any, NamedTuple

from contracts.apis import Api, DefinitionFormat, ImportReport
from libs.http.error_responses import BadRequest
from libs.masking import first_masked, masked, masked_url
from libs.tyk.classic import read_classic
from libs.tyk.definition_text import format_of, json_text, parse
from libs.tyk.import_notes import ImportNotes, UnsupportedDefinition
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas

_RESERVED_IDS = frozenset({"oas", "oauth", "keys"})
"""Not allowed as API ids, because they are paths below /api/apis/."""
_READERS = {DefinitionFormat.OAS: read_oas, DefinitionFormat.CLASSIC: read_classic}


class Imported(NamedTuple):
    """An API read from its definition."""

    api: Api
    warnings: list[str]
    """Parts of the definition that have no effect: the path and a sentence each."""
    report: ImportReport


def read_api(
    body: bytes,
    content_type: str | None,
    *,
    api_id: str,
    now: datetime,
    oas_only: bool,
    accept_unsupported: bool = False,
) -> Imported:
    """Read the definition in the body. `api_id` is the API's id unless the definition has its own.

    Raises BadRequest; also if the definition has protections that are not supported, unless `accept_unsupported`.
    """
    notes = ImportNotes()
    try:
        document = parse(body, content_type)
        form = format_of(document)
        if oas_only and form is not DefinitionFormat.OAS:
            raise BadRequest("this path accepts Tyk OAS definitions; import Tyk Classic at /api/apis")
        _require_real_secrets(document)
        api = _READERS[form](document, api_id=api_id, now=now, accept_unsupported=accept_unsupported, notes=notes)
    except UnsupportedDefinition as error:
        raise BadRequest(str(error), _refused(notes.report, error)) from error
    except InvalidDefinition as error:
        raise BadRequest(str(error)) from error
    if api.api_id in _RESERVED_IDS:
        raise BadRequest(f"the API id '{api.api_id}' is reserved")
    _note_not_enforced(api, notes)
    return Imported(api, notes.warnings, notes.report)


def _refused(report: ImportReport, error: UnsupportedDefinition) -> dict[str, object]:
    """The report, where `refused` has only what the operator has not accepted."""
    missing = [field.model_dump() for field in error.fields]
    return {**report.model_dump(mode="json"), "refused": missing}


def stored_report(api: Api) -> tuple[list[str], ImportReport]:
    """The warnings and the report of an import of the API's stored definition, as it is read today."""
    notes = ImportNotes()
    document = json.loads(api.definition.get_secret_value())
    try:
        _READERS[api.format](document, api_id=api.api_id, now=api.updated_at, accept_unsupported=True, notes=notes)
    except InvalidDefinition as error:
        # Written by an earlier version, which accepted it.
        return [f"{error}; an import of this definition would be refused today"], notes.report
    _note_not_enforced(api, notes)
    return notes.warnings, notes.report


def _note_not_enforced(api: Api, notes: ImportNotes) -> None:
    for field in api.unsupported:
        notes.warn(field.path, f"NOT ENFORCED (accepted by accept_unsupported): {field.reason}")


def own_id(body: bytes, content_type: str | None) -> str:
    """The id that the definition in the body gives its API; empty if it gives none."""
    document = parse(body, content_type)
    if format_of(document) is DefinitionFormat.OAS:
        return str(document["x-tyk-api-gateway"].get("info", {}).get("id") or "")
    return str(document.get("api_definition", document).get("api_id") or "")


def definition_text(api: Api, *, with_secrets: bool) -> bytes:
    """The imported definition including its id, as JSON text."""
    text = api.definition.get_secret_value()
    return (text if with_secrets else json_text(masked(json.loads(text)))).encode()


def definition_of(api: Api, *, with_secrets: bool) -> dict[str, Any]:
    """The imported definition including its id."""
    document: dict[str, Any] = json.loads(api.definition.get_secret_value())
    return document if with_secrets else masked(document)


def dashboard_entry(api: Api, *, with_secrets: bool) -> dict[str, Any]:
    """An entry of the Dashboard's list: a Classic definition in full, or a summary of an OAS definition."""
    if api.format is DefinitionFormat.OAS:
        return {"api_definition": _outline(api, with_secrets=with_secrets)}
    document = definition_of(api, with_secrets=with_secrets)
    return document if "api_definition" in document else {"api_definition": document}


def _outline(api: Api, *, with_secrets: bool) -> dict[str, Any]:
    return {
        "api_id": api.api_id,
        "name": api.name,
        "org_id": api.org_id,
        "active": api.active,
        "is_oas": True,
        "use_oauth2": api.oauth is not None,
        "use_standard_auth": api.auth_token,
        "use_keyless": api.oauth is None and not api.auth_token,
        "proxy": {
            "listen_path": api.listen_path,
            "target_url": api.upstream_url if with_secrets else masked_url(api.upstream_url),
            "strip_listen_path": api.strip_listen_path,
        },
        **({"accepted_unsupported": [field.path for field in api.unsupported]} if api.unsupported else {}),
    }


def _require_real_secrets(document: dict[str, Any]) -> None:
    """Raises BadRequest for a masked copy: importing it would replace the secrets by the mask."""
    if path := first_masked(document):
        raise BadRequest(f"{path}: this is the mask that is shown instead of a secret; send the secret itself")
