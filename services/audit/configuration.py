"""What can be weak in the settings; each finding names the setting."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated
from urllib.parse import parse_qs, unquote, urlsplit

from pydantic import AfterValidator, SecretStr

from libs.sealing import KeyRing
from libs.settings import PREFIX, Environment, Settings
from services.audit.findings import Finding, Severity, is_container, is_plain_abroad, is_this_machine

FEWEST_BYTES = 16
"""Different ones in a random key of 32; one with fewer was not drawn at random."""
FEWEST_CHARACTERS = 10
"""Different ones in an operator key."""
_WORDS = re.compile(r"change|example|secret|password|passwd|demo|test|default|operator|tokenwire|admin", re.IGNORECASE)


def _ring(text: SecretStr) -> SecretStr:
    if text.get_secret_value():
        KeyRing.parse(text.get_secret_value())
    return text


class AuditSettings(Settings):
    """Every setting of every service that can be weak; what is not set here is not looked at."""

    mongodb_url: SecretStr = SecretStr("")
    amqp_url: SecretStr = SecretStr("")
    keys: Annotated[SecretStr, AfterValidator(_ring)] = SecretStr("")
    notifier_private_keys: SecretStr = SecretStr("")
    bootstrap_operator_key: SecretStr = SecretStr("")
    allow_private_destinations: bool = False
    client_secrets: str = "stored"
    oauth_error_status: int | None = None
    limits_on_failure: str = "allow"

    @property
    def is_production(self) -> bool:
        """Whether what only makes sense on one's own machine is wrong here."""
        return self.environment is Environment.PRODUCTION


def weak_settings(settings: AuditSettings) -> Iterator[Finding]:
    """What is weak in the settings alone."""
    for check in _CHECKS:
        yield from check(settings)


def _finding(severity: Severity, rule: str, setting: str, weakness: str, consequence: str, remedy: str) -> Finding:
    return Finding(severity, rule, PREFIX + setting.upper(), weakness, consequence, remedy)


def _environment(settings: AuditSettings) -> Iterator[Finding]:
    if settings.environment is Environment.DEVELOPMENT:
        yield _finding(
            Severity.MEDIUM,
            "development",
            "environment",
            "it is `development`",
            "what only makes sense on one's own machine is allowed, such as webhooks into the own network",
            "Set it to `production`.",
        )


def _public_url(settings: AuditSettings) -> Iterator[Finding]:
    if is_plain_abroad(settings.public_url):
        yield _finding(
            Severity.HIGH,
            "public-url-http",
            "public_url",
            "clients reach the edge over http",
            "tokens, codes and client secrets can be read on the way (RFC 6749 §3.1, §3.2)",
            "Put TLS at the edge or in front of it, and set the https URL.",
        )


def _error_status(settings: AuditSettings) -> Iterator[Finding]:
    if settings.oauth_error_status is not None:
        yield _finding(
            Severity.LOW,
            "oauth-error-status",
            "oauth_error_status",
            f"every OAuth error is answered with {settings.oauth_error_status}",
            "nobody can tell a refused grant from a client that failed to authenticate (RFC 6749 §5.2)",
            "Unset it once no client depends on Tyk's status.",
        )


def _private_destinations(settings: AuditSettings) -> Iterator[Finding]:
    if settings.allow_private_destinations:
        yield _finding(
            Severity.HIGH if settings.is_production else Severity.LOW,
            "private-destinations",
            "allow_private_destinations",
            "webhooks may go to private, loopback and link-local addresses",
            "whoever may write API definitions can reach what is behind the firewall, cloud metadata included",
            "Set it to `false`, and give receivers a public address.",
        )


def _client_secrets(settings: AuditSettings) -> Iterator[Finding]:
    if settings.client_secrets == "stored":
        yield _finding(
            Severity.LOW,
            "client-secrets-stored",
            "client_secrets",
            "client secrets can be read again",
            "every operator with `write`, and whoever has both the database and the key ring, has all of them",
            "Set it to `show_once` where nobody needs to read them.",
        )


def _limits(settings: AuditSettings) -> Iterator[Finding]:
    if settings.limits_on_failure == "allow":
        yield _finding(
            Severity.LOW,
            "limits-on-failure",
            "limits_on_failure",
            "calls pass while limits cannot be counted",
            "whoever can slow the database down has no quota and no rate limit",
            "Set it to `deny` where a limit protects more than a bill.",
        )


def _bootstrap(settings: AuditSettings) -> Iterator[Finding]:
    key = settings.bootstrap_operator_key.get_secret_value()
    if not key:
        return
    yield _finding(
        Severity.MEDIUM,
        "bootstrap-key",
        "bootstrap_operator_key",
        "the first operator's key is still set",
        "a key that may do everything lies in a file or an environment, and stays the same until it is changed there",
        "Make operators of your own, unset it, and delete the operator `bootstrap`.",
    )
    if len(set(key)) < FEWEST_CHARACTERS or (_WORDS.search(key) and not _looks_random(key)):
        yield _finding(
            Severity.HIGH,
            "guessable-key",
            "bootstrap_operator_key",
            "the key looks made up by a person",
            "it can be guessed, and may do everything",
            "Set a random one: `openssl rand -base64 32`.",
        )


def _looks_random(key: str) -> bool:
    return any(map(str.isupper, key)) and any(map(str.islower, key)) and any(map(str.isdecimal, key))


def _ring_keys(settings: AuditSettings) -> Iterator[Finding]:
    text = settings.keys.get_secret_value()
    if text and any(map(_is_guessable, _raw_keys(part.partition(":")[2] for part in text.split(",")))):
        yield _finding(
            Severity.HIGH,
            "guessable-key",
            "keys",
            "a key of the ring was not drawn at random",
            "who knows it can forge the tag of tokens and open every stored secret",
            "Rotate it (docs/operations.md); a new one is `openssl rand -base64 32`.",
        )


def _notifier_keys(settings: AuditSettings) -> Iterator[Finding]:
    parts = [part for part in settings.notifier_private_keys.get_secret_value().split(",") if part]
    if any(map(_is_guessable, _raw_keys(parts))):
        yield _finding(
            Severity.HIGH,
            "guessable-key",
            "notifier_private_keys",
            "a key of the notifier was not drawn at random",
            "who knows it can open every webhook that waits, tokens included",
            "Change it (docs/operations.md); `make secrets` makes one.",
        )
    if len(parts) > 1:
        yield _finding(
            Severity.LOW,
            "old-notifier-key",
            "notifier_private_keys",
            f"{len(parts) - 1} older key{'s' * (len(parts) > 2)} can still open webhooks",
            "a copy of one opens what is still sealed to it",
            "Take out what has not been sealed to for 19 days (docs/operations.md).",
        )


def _raw_keys(texts: Iterator[str] | Sequence[str]) -> Iterator[bytes]:
    for text in texts:
        try:
            yield base64.b64decode(text.strip(), validate=True)
        except (binascii.Error, ValueError):
            continue  # the service that has it says so at its start


def _is_guessable(key: bytes) -> bool:
    steps = {(later - earlier) % 256 for earlier, later in pairwise(key)}
    return len(set(key)) < FEWEST_BYTES or len(steps) == 1


def _rabbitmq(settings: AuditSettings) -> Iterator[Finding]:
    parts = urlsplit(settings.amqp_url.get_secret_value())
    if parts.scheme not in {"amqp", "amqps"}:
        return
    host = parts.hostname or ""
    if unquote(parts.username or "guest") == "guest":
        yield _finding(
            Severity.MEDIUM if is_this_machine(host) else Severity.HIGH,
            "rabbitmq-guest",
            "amqp_url",
            "RabbitMQ's user is `guest`",
            "everybody knows its password, and it may read, forge and delete every event",
            "Make a user for each service, with its rights (deploy/rabbitmq/definitions.json).",
        )
    if parts.scheme == "amqp" and not is_this_machine(host):
        yield _finding(
            Severity.LOW if is_container(host) else Severity.MEDIUM,
            "rabbitmq-without-tls",
            "amqp_url",
            f"the way to RabbitMQ on {host} is not encrypted",
            "its password and every event can be read on that network",
            "Use amqps://, unless the network is one machine's own.",
        )


def _mongodb(settings: AuditSettings) -> Iterator[Finding]:
    url = settings.mongodb_url.get_secret_value()
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    user, _, names = place.partition("/")[0].rpartition("@")
    hosts = [_host(name) for name in names.split(",")]
    abroad = [host for host in hosts if not is_this_machine(host)]
    if not url or not abroad:
        return
    options = {name.lower(): values[-1].lower() for name, values in parse_qs(query).items()}
    encrypted = scheme == "mongodb+srv" if not {"tls", "ssl"} & options.keys() else "true" in _tls(options)
    if not user and options.get("authmechanism") != "mongodb-x509":
        yield _finding(
            Severity.HIGH,
            "mongodb-without-user",
            "mongodb_url",
            f"MongoDB on {abroad[0]} is used without a user",
            "whoever reaches it can make an operator, end every grant, and read all that is not sealed",
            "Turn authentication on, with a user who may read and write this one database.",
        )
    if not encrypted:
        yield _finding(
            Severity.LOW if all(map(is_container, abroad)) else Severity.MEDIUM,
            "mongodb-without-tls",
            "mongodb_url",
            f"the way to MongoDB on {abroad[0]} is not encrypted",
            "what is stored can be read and changed on that network",
            "Use tls=true, unless the network is one machine's own.",
        )


def _tls(options: dict[str, str]) -> set[str]:
    return {options.get("tls", ""), options.get("ssl", "")}


def _host(name: str) -> str:
    name = unquote(name)
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


_CHECKS: tuple[Callable[[AuditSettings], Iterator[Finding]], ...] = (
    _environment,
    _public_url,
    _error_status,
    _private_destinations,
    _client_secrets,
    _limits,
    _bootstrap,
    _ring_keys,
    _notifier_keys,
    _rabbitmq,
    _mongodb,
)
