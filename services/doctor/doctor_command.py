"""`python -m services doctor`: runs the checks and prints what is wrong, each with how to mend it."""

import argparse
import asyncio
import sys
from pathlib import Path

from contracts.diagnosis import Check, CheckState, Diagnosis, diagnosis
from libs import logging
from services.doctor.checks import check_all

WRONG = 1
"""Exit status if something is wrong."""
_MARKS = {CheckState.OK: "ok     ", CheckState.WRONG: "WRONG  ", CheckState.SKIPPED: "skipped"}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to `python -m services`."""
    parser = commands.add_parser(
        "doctor",
        help="check MongoDB, RabbitMQ, keys, port and disk",
        description="Check settings, keys, MongoDB, RabbitMQ, port and disk, and say how to mend what is wrong.",
        epilog="Exit status: 0 nothing is wrong, 1 something is. `tokenwire doctor` also checks the management API.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--data", type=Path, default=argparse.SUPPRESS, help="the data directory of make run (.data)")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks and print the report. Returns the exit status."""
    logging.configure("critical", False, "tokenwire")
    report = diagnosis(*asyncio.run(check_all(arguments.data)))
    if arguments.json:
        sys.stdout.write(f"{report.model_dump_json(indent=2)}\n")
    else:
        _print(report)
    return 0 if report.ok else WRONG


def _print(report: Diagnosis) -> None:
    for check in report.checks:
        sys.stdout.write(_lines(check))


def _lines(check: Check) -> str:
    remedy = f"         mend it: {check.remedy}\n" if check.remedy else ""
    return f"{_MARKS[check.state]}  {check.name}: {check.says}\n{remedy}"
