"""The command `config-lint`: runs all checks and prints the findings."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from contracts.config_lint import Severity
from libs import logging
from libs.config_lint.check_records import RecordsReport, check_records
from libs.config_lint.findings import Finding, sorted_findings
from libs.runtime import utc_now
from libs.settings import load
from services.command_store import stored
from services.config_lint.setting_checks import LintSettings, check_settings

FOUND = 1
"""Exit status if there are findings of the requested severity."""
NOT_CHECKED = {
    "records": "records were not checked: TOKENWIRE_MONGODB_URL or TOKENWIRE_KEYS is not set",
    "rabbitmq": "the connection to RabbitMQ was not checked: TOKENWIRE_AMQP_URL is not set",
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to `python -m services`."""
    parser = commands.add_parser(
        "config-lint",
        help="find insecure settings and records",
        description="Check the settings of the services and the records in MongoDB; print each finding with its "
        "consequence and remedy.",
        epilog="Exit status: 0 no findings, 1 findings, 2 the check could not run.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    levels = [str(severity) for severity in Severity]
    parser.add_argument("--level", choices=levels, default="low", help="lowest severity to report (default: low)")


def run(arguments: argparse.Namespace) -> int:
    """Run the checks and print the findings. Returns the exit status. Raises StoreUnreadable, and WrongSetting."""
    settings = load(LintSettings)
    logging.configure("critical", False, "tokenwire")
    findings = list(check_settings(settings))
    counts: Mapping[str, int] = {}
    skipped = [] if settings.amqp_url.get_secret_value() else ["rabbitmq"]
    if settings.mongodb_url.get_secret_value() and settings.keys.get_secret_value():
        report = asyncio.run(_registered(settings))
        findings += report.findings
        counts = report.records
    else:
        skipped.insert(0, "records")
    level = Severity(arguments.level)
    wanted = sorted_findings([finding for finding in findings if finding.severity.rank <= level.rank])
    (_print_json if arguments.json else _print_lines)(wanted, counts, [NOT_CHECKED[part] for part in skipped])
    return FOUND if wanted else 0


async def _registered(settings: LintSettings) -> RecordsReport:
    async with stored(settings) as (store, keys):
        return await check_records(store, keys, utc_now(), production=settings.is_production)


def _print_lines(findings: Sequence[Finding], counts: Mapping[str, int], skipped: Sequence[str]) -> None:
    for finding in findings:
        sys.stdout.write(f"{finding.line}\n")
    severities = Counter(finding.severity for finding in findings)
    found = ", ".join(f"{severities[severity]} {severity}" for severity in Severity if severities[severity])
    checked = ", ".join(["the settings", *(f"{count} {noun}" for noun, count in counts.items())])
    sys.stdout.write(f"{found or 'no findings'} in {checked}\n")
    for sentence in skipped:
        sys.stdout.write(f"{sentence}\n")


def _print_json(findings: Sequence[Finding], counts: Mapping[str, int], skipped: Sequence[str]) -> None:
    document = {
        "findings": [dict(finding.fields) for finding in findings],
        "counts": {str(severity): sum(finding.severity is severity for finding in findings) for severity in Severity},
        "records": dict(counts),
        "not_checked": list(skipped),
    }
    sys.stdout.write(f"{json.dumps(document, indent=2, ensure_ascii=False)}\n")
