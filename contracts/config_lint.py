"""The config lint's report about the records."""

import enum
from typing import Annotated

from pydantic import Field

from contracts.base import AdminRequest, Moment, Response


class Severity(enum.StrEnum):
    """Severity of a finding."""

    HIGH = "high"
    """Allows unauthorized access, or exposes credentials."""
    MEDIUM = "medium"
    """Allows unauthorized access together with one other mistake or leak."""
    LOW = "low"
    """Grants more access, or for longer, than is needed."""

    @property
    def rank(self) -> int:
        """0 for the most severe."""
        return list(Severity).index(self)


class LintFinding(Response):
    """A weakness."""

    severity: Severity
    rule: str
    """Identifies the kind of weakness."""
    place: str
    """The record."""
    weakness: str
    consequence: str
    remedy: str


class LintQuery(AdminRequest):
    """The parameters of GET /api/config-lint."""

    limit: Annotated[int, Field(ge=1, le=500)] = 100
    """Findings in the response."""
    max_age: Annotated[int, Field(ge=60, le=86_400)] = 60
    """Seconds that a report which was made before may be old; if there is none, one is made."""


class LintReport(Response):
    """GET /api/config-lint."""

    as_of: Moment
    """When the records were checked."""
    findings: list[LintFinding]
    """The most severe first, as many as the request wants."""
    counts: dict[Severity, int]
    """Of all findings, how many have each severity; severities without any are left out."""
    records: dict[str, int]
    """How many records were checked: `APIs`, `clients`, `policies` and `operators`."""
    complete: bool
    """False: there are more records of some kind than are checked for this report. `python -m services config-lint`
    checks all of them."""
