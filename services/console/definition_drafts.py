"""A definition that is being edited. It is kept in the form itself, encrypted, since it may contain secrets."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import ValidationError

from contracts.base import Contract
from libs.encryption import CannotDecrypt, KeyRing
from libs.tyk.definition_text import parse
from services.console.definition_fields import FORGET_SECRET, SECRET, WrongField, normal, values_of, written
from services.console.definition_secrets import restored

_LABEL = "console draft"


class Draft(Contract):
    """A definition, and the version of the stored one that it began with; without a version, the API is new."""

    definition: str
    version: str = ""

    @property
    def document(self) -> dict[str, Any]:
        """The definition."""
        document: dict[str, Any] = orjson.loads(self.definition)
        return document


def draft_of(document: object, version: str = "") -> Draft:
    """A draft of this definition."""
    return Draft(definition=orjson.dumps(document).decode(), version=version)


@dataclass(frozen=True, slots=True)
class Drafts:
    """Writes drafts into forms, and reads them back; only the session that got one can use it."""

    keys: KeyRing

    def sealed(self, draft: Draft, session_id: str) -> str:
        """The draft as a value of a form."""
        return self.keys.encrypt(_LABEL, zlib.compress(draft.model_dump_json().encode()), session_id)

    def opened(self, value: str, session_id: str) -> Draft:
        """The draft in a form. Raises WrongField if it is of another session."""
        try:
            return Draft.model_validate_json(zlib.decompress(self.keys.decrypt(_LABEL, value, session_id)))
        except (CannotDecrypt, ValidationError, ValueError, zlib.error):
            raise WrongField("This form belongs to another session. Open the designer again.") from None


def edited(draft: Draft, form: Mapping[str, str]) -> Draft:
    """The draft with what was changed in the text and in the form; where both say something, the form counts.

    Raises InvalidDefinition, WrongField.
    """
    before = draft.document
    document = restored(parse(form["text"].encode(), None), before) if "text" in form else before
    if "form" not in form:
        return draft_of(document, draft.version)
    shown, now = values_of(before), values_of(document)
    changes = {name: form.get(name, "") for name, value in shown.items() if normal(form.get(name, "")) != normal(value)}
    secret = {name: form[name] for name in (SECRET, FORGET_SECRET) if form.get(name)}
    return draft_of(written(document, now | changes | secret), draft.version)
