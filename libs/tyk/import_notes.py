"""Collects what an import reports besides the API: parts that have no effect, and protections not supported."""

from collections.abc import Collection
from typing import NamedTuple

from contracts.apis import ImportReport, NamedPart
from contracts.guards import Unsupported
from libs.tyk.invalid_definition import InvalidDefinition

MOST = 200
"""Maximum number of warnings in a response."""
ACCEPT = "accept_unsupported=true"
"""The query parameter with which an operator imports a definition although parts of it are not enforced."""


class Warned(NamedTuple):
    """A part of a definition that has no effect, or another effect than in Tyk."""

    path: str
    sentence: str

    def __str__(self) -> str:
        return f"{self.path}: {self.sentence}"


class UnsupportedDefinition(InvalidDefinition):
    """The definition has protections that are not supported, and the operator has not accepted that."""

    def __init__(self, fields: Collection[Unsupported]) -> None:
        self.fields = tuple(fields)
        listed = "; ".join(f"{field.path}: {field.reason}" for field in self.fields)
        super().__init__(
            f"the definition asks for protection that is not supported: {listed}. Remove or disable these parts, or "
            f"import with ?{ACCEPT}: the API then works without them"
        )


class ImportNotes:
    """The notes about one definition, collected while it is read."""

    def __init__(self) -> None:
        self._unsupported: dict[str, Unsupported] = {}
        self._warned: dict[Warned, None] = {}
        self._unused: dict[str, str] = {}
        self._enforced: dict[str, None] = {}

    def warn(self, path: str, sentence: str) -> None:
        """Report a part that has no effect, or another effect than in Tyk."""
        self._warned[Warned(path, sentence)] = None

    def unused(self, path: str, sentence: str) -> None:
        """Warn of a part that has no effect, unless it is enforced in a way that is not its kind's."""
        if path not in self._enforced:
            self.warn(path, sentence)
            self._unused.setdefault(path, sentence)

    def enforce(self, path: str) -> None:
        """Report a part that protects the API, and is enforced."""
        self._enforced[path] = None

    def refuse(self, path: str, reason: str) -> None:
        """Report a part that protects the API in Tyk and is not enforced here."""
        self._unsupported.setdefault(path, Unsupported(path=path, reason=reason))

    @property
    def warnings(self) -> list[str]:
        """One sentence per warning, starting with the path; at most MOST, and one with the number of the others."""
        sentences = [str(warned) for warned in self._warned]
        left_out = len(sentences) - MOST
        return [*sentences[:MOST], f"and {left_out} more"] if left_out > 0 else sentences

    @property
    def report(self) -> ImportReport:
        """What the definition's parts come to."""
        return ImportReport(
            enforced=tuple(self._enforced),
            unused=tuple(NamedPart(path=path, reason=reason) for path, reason in self._unused.items()),
            refused=tuple(NamedPart(path=each.path, reason=each.reason) for each in self._unsupported.values()),
        )

    def accepted(self, *, everything: bool, paths: Collection[str]) -> tuple[Unsupported, ...]:
        """The reported protections that are not enforced, if the operator has accepted all of them.

        Raises UnsupportedDefinition with those that are not in `paths`, unless `everything` is accepted.
        """
        found = tuple(self._unsupported.values())
        refused = [] if everything else [field for field in found if field.path not in paths]
        if refused:
            raise UnsupportedDefinition(refused)
        return found
