"""What an API's definition means here, read with the same code that the management service imports it with."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from contracts.apis import Api, DefinitionFormat
from libs.tyk.classic import read_classic
from libs.tyk.definition_text import format_of, parse
from libs.tyk.import_notes import ImportNotes, UnsupportedDefinition
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas

_READERS = {DefinitionFormat.OAS: read_oas, DefinitionFormat.CLASSIC: read_classic}
_WHEN = datetime(2000, 1, 1, tzinfo=UTC)
"""Definitions have no time; the record's own is not shown."""
NO_ID = "generated"


@dataclass(frozen=True, slots=True)
class DefinitionView:
    """A definition that can be imported, and what of it has no effect."""

    api: Api
    document: dict[str, object]
    warnings: Sequence[str]
    unsupported: Sequence[str]
    """Protections that would not be enforced; they must be accepted before the import."""

    @property
    def has_id(self) -> bool:
        """Whether the definition names its API's id."""
        return self.api.api_id != NO_ID


def read_definition(text: str, api_id: str = NO_ID) -> DefinitionView:
    """Read a definition in JSON or YAML, Tyk OAS or Tyk Classic. Raises InvalidDefinition."""
    document = parse(text.encode(), None)
    notes, unsupported = ImportNotes(), []
    try:
        api = _read(document, api_id, notes, accept=False)
    except UnsupportedDefinition as error:
        unsupported = [f"{field.path}: {field.reason}" for field in error.fields]
        notes = ImportNotes()
        api = _read(document, api_id, notes, accept=True)
    return DefinitionView(api, document, notes.warnings, unsupported)


def _read(document: dict[str, object], api_id: str, notes: ImportNotes, *, accept: bool) -> Api:
    reader = _READERS[format_of(document)]
    return reader(document, api_id=api_id, now=_WHEN, accept_unsupported=accept, notes=notes)


__all__ = ["DefinitionView", "InvalidDefinition", "read_definition"]
