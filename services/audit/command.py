"""The command: looks, and prints what it found."""

import argparse
import asyncio
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from libs import logging
from libs.passwords import PasswordHasher
from libs.runtime import utc_now
from libs.sealing import CannotOpen, KeyRing
from libs.settings import load
from libs.store.store import Store
from services.audit.configuration import AuditSettings, weak_settings
from services.audit.findings import Finding, Severity, in_order
from services.audit.records import closed_api, old_keys, weak_api, weak_client, weak_operators, weak_policy
from services.demo_data import PASSWORD, USERNAME
from services.records import stored

FOUND = 1
"""The exit status where something of the wanted severity was found."""
NOT_LOOKED_AT = {
    "records": "what is registered was not looked at: TOKENWIRE_MONGODB_URL or TOKENWIRE_KEYS is not set",
    "rabbitmq": "the way to RabbitMQ was not looked at: TOKENWIRE_AMQP_URL is not set",
}


def add_to(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """The command, as what may follow `python -m services`."""
    audit = commands.add_parser(
        "audit",
        help="name what is weak in the settings and in what is registered",
        description="Read the settings, as the services have them, and what is registered, and name each weak "
        "point with what follows from it and the remedy.",
        epilog="Exit status: 0 nothing found, 1 something found, 2 it could not be looked at.",
    )
    audit.add_argument("--json", action="store_true", help="for a program: one JSON object")
    levels = [str(severity) for severity in Severity]
    audit.add_argument("--level", choices=levels, default="low", help="only findings as bad as this or worse (low)")


def run(arguments: argparse.Namespace) -> int:
    """Look, and print what was found; the exit status. Raises CannotLook, and WrongSetting."""
    settings = load(AuditSettings)
    logging.configure("critical", False, "tokenwire")
    findings = list(weak_settings(settings))
    counts: Mapping[str, int] = {}
    left_out = [] if settings.amqp_url.get_secret_value() else ["rabbitmq"]
    if settings.mongodb_url.get_secret_value() and settings.keys.get_secret_value():
        more, counts = asyncio.run(_registered(settings))
        findings += more
    else:
        left_out.insert(0, "records")
    level = Severity(arguments.level)
    wanted = in_order([finding for finding in findings if finding.severity.rank <= level.rank])
    (_print_json if arguments.json else _print_lines)(wanted, counts, [NOT_LOOKED_AT[part] for part in left_out])
    return FOUND if wanted else 0


async def _registered(settings: AuditSettings) -> tuple[list[Finding], Mapping[str, int]]:
    async with stored(settings) as (store, keys):
        apis, findings = await _weak_apis(store)
        clients, policies = await store.clients.all(), await store.policies.all()
        operators, now = await store.operators.all(), utc_now()
        for client in clients:
            findings += weak_client(client, keys, now, production=settings.is_production)
        for policy in policies:
            findings += weak_policy(policy)
        used = [(operator, await store.trail.latest_of(operator.operator_id)) for operator in operators]
        findings += weak_operators(used, now)
        findings += old_keys(keys, await _sealed_by_others(store, keys))
        findings += await _demo_user(store, production=settings.is_production)
    counts = {"APIs": apis, "clients": len(clients), "policies": len(policies), "operators": len(operators)}
    return findings, counts


async def _weak_apis(store: Store) -> tuple[int, list[Finding]]:
    """How many there are, and what is weak in them; one that cannot be opened keeps nobody from the others."""
    findings: list[Finding] = []
    keys = await store.apis.keys()
    for api_id in keys:
        try:
            api = await store.apis.get(api_id)
        except CannotOpen as closed:
            findings.append(closed_api(api_id, str(closed)))
            continue
        findings += weak_api(api) if api else ()
    return len(keys), findings


async def _sealed_by_others(store: Store, keys: KeyRing) -> int:
    clients = sum(
        any(not keys.is_current(made) for secret in client.secrets for made in (secret.digest, secret.sealed) if made)
        for client in await store.clients.all()
    )
    return clients + await store.apis.count_sealed_by_others()


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
            "it is the demo's user, with the demo's password",
            "everybody who read the manual can log in as it",
            "Delete it (DELETE /api/apis/keys/basic/{username}).",
        ),
    )


def _print_lines(findings: Sequence[Finding], counts: Mapping[str, int], left_out: Sequence[str]) -> None:
    for finding in findings:
        sys.stdout.write(f"{finding.line}\n")
    severities = Counter(finding.severity for finding in findings)
    found = ", ".join(f"{severities[severity]} {severity}" for severity in Severity if severities[severity])
    looked_at = ", ".join(["the settings", *(f"{count} {noun}" for noun, count in counts.items())])
    sys.stdout.write(f"{found or 'nothing weak'} in {looked_at}\n")
    for sentence in left_out:
        sys.stdout.write(f"{sentence}\n")


def _print_json(findings: Sequence[Finding], counts: Mapping[str, int], left_out: Sequence[str]) -> None:
    document = {
        "findings": [dict(finding.fields) for finding in findings],
        "counts": {str(severity): sum(finding.severity is severity for finding in findings) for severity in Severity},
        "records": dict(counts),
        "not_looked_at": list(left_out),
    }
    sys.stdout.write(f"{json.dumps(document, indent=2, ensure_ascii=False)}\n")
