"""The command `config-lint`: runs all checks and prints the findings."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from libs import logging
from libs.encryption import CannotDecrypt, KeyRing
from libs.oauth.registrations import registrations_of
from libs.passwords import PasswordHasher
from libs.runtime import utc_now
from libs.settings import load
from libs.store.store import Store
from services.command_store import stored
from services.config_lint.findings import Finding, Severity, sorted_findings
from services.config_lint.record_checks import (
    check_api,
    check_client,
    check_guards,
    check_key_ring,
    check_operators,
    check_policy,
    check_scope,
    undecryptable_api,
)
from services.config_lint.setting_checks import LintSettings, check_settings
from services.demo_data import PASSWORD, USERNAME

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
        more, counts = asyncio.run(_registered(settings))
        findings += more
    else:
        skipped.insert(0, "records")
    level = Severity(arguments.level)
    wanted = sorted_findings([finding for finding in findings if finding.severity.rank <= level.rank])
    (_print_json if arguments.json else _print_lines)(wanted, counts, [NOT_CHECKED[part] for part in skipped])
    return FOUND if wanted else 0


async def _registered(settings: LintSettings) -> tuple[list[Finding], Mapping[str, int]]:
    async with stored(settings) as (store, keys):
        apis, scopes, findings = await _check_apis(store)
        clients, policies = await store.clients.all(), await store.policies.all()
        operators, now = await store.operators.all(), utc_now()
        for registration in (each for client in clients for each in registrations_of(client).values()):
            findings += check_client(registration, keys, now, production=settings.is_production)
            if registration.api_id in scopes:
                findings += check_scope(registration, scopes[registration.api_id])
        for policy in policies:
            findings += check_policy(policy)
        used = [(operator, await store.audit_log.latest_of(operator.operator_id)) for operator in operators]
        findings += check_operators(used, now)
        findings += check_key_ring(keys, await _count_under_other_keys(store, keys))
        findings += await _demo_user(store, production=settings.is_production)
    counts = {"APIs": apis, "clients": len(clients), "policies": len(policies), "operators": len(operators)}
    return list(dict.fromkeys(findings)), counts


async def _check_apis(store: Store) -> tuple[int, Mapping[str, Sequence[str]], list[Finding]]:
    """The number of APIs, the declared scopes of each API with OAuth, and the findings.

    An API that cannot be decrypted is a finding of its own; the others are still checked.
    """
    findings: list[Finding] = []
    scopes: dict[str, Sequence[str]] = {}
    keys = await store.apis.keys()
    for api_id in keys:
        try:
            api = await store.apis.get(api_id)
        except CannotDecrypt as closed:
            findings.append(undecryptable_api(api_id, str(closed)))
            continue
        if api is not None:
            findings += [*check_api(api), *check_guards(api)]
            if api.oauth is not None:
                scopes[api.api_id] = api.oauth.scopes
    return len(keys), scopes, findings


async def _count_under_other_keys(store: Store, keys: KeyRing) -> int:
    clients = sum(
        any(
            not keys.is_current(made) for secret in client.secrets for made in (secret.digest, secret.encrypted) if made
        )
        for client in await store.clients.all()
    )
    return clients + await store.apis.count_under_other_keys()


async def _demo_user(store: Store, *, production: bool) -> Sequence[Finding]:
    owner = await store.resource_owners.get(USERNAME)
    if owner is None:
        return ()
    hasher = PasswordHasher(threads=1)
    try:
        if not await hasher.verify(owner.password_hash, PASSWORD):
            return ()
    finally:
        hasher.close()
    return (
        Finding(
            Severity.HIGH if production else Severity.LOW,
            "demo-user",
            f"resource owner {USERNAME}",
            "it is the demo user with the demo password",
            "anyone who has read the documentation can log in as this user",
            "Delete it (DELETE /api/apis/keys/basic/{username}).",
        ),
    )


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
