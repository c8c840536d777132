"""What `tokenwire doctor` and `python -m services doctor` report."""

import enum

from contracts.base import Contract


class CheckState(enum.StrEnum):
    """How a check ended."""

    OK = "ok"
    WRONG = "wrong"
    SKIPPED = "skipped"
    """It could not be made here; that alone is nothing wrong."""


class Check(Contract):
    """One thing that was checked."""

    name: str
    state: CheckState
    says: str
    """What was found, in one sentence."""
    remedy: str = ""
    """How to mend it; empty unless it is wrong."""


class Diagnosis(Contract):
    """All checks of one run."""

    ok: bool
    """Whether nothing is wrong."""
    checks: tuple[Check, ...]


def passed(name: str, says: str) -> Check:
    """A check that found nothing wrong."""
    return Check(name=name, state=CheckState.OK, says=says)


def failed(name: str, says: str, remedy: str) -> Check:
    """A check that found something wrong, and how to mend it."""
    return Check(name=name, state=CheckState.WRONG, says=says, remedy=remedy)


def skipped(name: str, says: str) -> Check:
    """A check that could not be made here, and why."""
    return Check(name=name, state=CheckState.SKIPPED, says=says)


def diagnosis(*checks: Check) -> Diagnosis:
    """The report of these checks."""
    return Diagnosis(ok=all(check.state is not CheckState.WRONG for check in checks), checks=checks)
