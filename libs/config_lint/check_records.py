"""Runs the checks of records over what is registered: all of it, or a bounded part."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Generic, NamedTuple, TypeVar

from contracts.base import Record
from contracts.clients import Client
from contracts.config_lint import Severity
from libs.config_lint.findings import Finding
from libs.config_lint.record_checks import (
    check_api,
    check_client,
    check_guards,
    check_key_ring,
    check_operators,
    check_policy,
    check_scope,
    undecryptable_api,
)
from libs.demo_credentials import PASSWORD, USERNAME
from libs.encryption import CannotDecrypt, KeyRing
from libs.oauth.registrations import registrations_of
from libs.passwords import PasswordHasher
from libs.store.records import Records
from libs.store.store import Store

_AT_ONCE = 100
"""Client apps that are checked before other requests of the process have their turn."""

M = TypeVar("M", bound=Record)
T = TypeVar("T")


class Bounds(NamedTuple):
    """How many records of each kind are checked at most."""

    apis: int
    clients: int
    policies: int
    operators: int


@dataclass(frozen=True, slots=True)
class RecordsReport:
    """What was found."""

    findings: Sequence[Finding]
    records: Mapping[str, int]
    """How many were checked, by kind."""
    complete: bool
    """Whether all were."""


async def check_records(
    store: Store, keys: KeyRing, now: datetime, *, production: bool, bounds: Bounds | None = None
) -> RecordsReport:
    """Findings about the records of the store; without bounds, about all of them. Raises TemporarilyUnavailable."""
    apis, scopes, findings = await _check_apis(store, bounds and bounds.apis)
    clients = await _first(store.clients, bounds and bounds.clients)
    policies = await _first(store.policies, bounds and bounds.policies)
    operators = await _first(store.operators, bounds and bounds.operators)
    for place, client in enumerate(clients.records):
        if place % _AT_ONCE == 0:
            await asyncio.sleep(0)
        for registration in registrations_of(client).values():
            findings += check_client(registration, keys, now, production=production)
            if registration.api_id in scopes:
                findings += check_scope(registration, scopes[registration.api_id])
    for policy in policies.records:
        findings += check_policy(policy)
    used = [(operator, await store.audit_log.latest_of(operator.operator_id)) for operator in operators.records]
    findings += check_operators(used, now)
    under_other_keys = _count_under_other_keys(clients.records, keys) + await store.apis.count_under_other_keys()
    findings += check_key_ring(keys, under_other_keys)
    findings += await _demo_user(store, production=production)
    counts = {
        "APIs": len(apis.records),
        "clients": len(clients.records),
        "policies": len(policies.records),
        "operators": len(operators.records),
    }
    complete = apis.all and clients.all and policies.all and operators.all
    return RecordsReport(list(dict.fromkeys(findings)), counts, complete)


@dataclass(frozen=True, slots=True)
class _Part(Generic[T]):
    """What is checked of one kind, and whether that is all of it."""

    records: Sequence[T]
    all: bool


async def _first(collection: Records[M], most: int | None) -> _Part[M]:
    if most is None:
        return _Part(await collection.all(), True)
    found = await collection.first(most + 1)
    return _Part(found[:most], len(found) <= most)


async def _check_apis(store: Store, most: int | None) -> tuple[_Part[str], Mapping[str, Sequence[str]], list[Finding]]:
    """The ids of the APIs that were checked, the declared scopes of each API with OAuth, and the findings.

    An API that cannot be decrypted is a finding of its own; the others are still checked.
    """
    findings: list[Finding] = []
    scopes: dict[str, Sequence[str]] = {}
    keys = await store.apis.keys()
    checked = keys if most is None else keys[:most]
    for api_id in checked:
        try:
            api = await store.apis.get(api_id)
        except CannotDecrypt as closed:
            findings.append(undecryptable_api(api_id, str(closed)))
            continue
        if api is not None:
            findings += [*check_api(api), *check_guards(api)]
            if api.oauth is not None:
                scopes[api.api_id] = api.oauth.scopes
    return _Part(checked, len(checked) == len(keys)), scopes, findings


def _count_under_other_keys(clients: Sequence[Client], keys: KeyRing) -> int:
    return sum(
        any(
            not keys.is_current(made) for secret in client.secrets for made in (secret.digest, secret.encrypted) if made
        )
        for client in clients
    )


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
