"""Checks of the settings. Each finding names the setting."""

import base64
import binascii
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Annotated
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from pydantic import AfterValidator, SecretStr

from contracts.config_lint import Severity
from libs.bus.rabbit import split_amqp_urls
from libs.client_secrets import ENOUGH_CHARACTERS
from libs.config_lint.findings import Finding, is_container, is_this_machine, is_unencrypted_remote
from libs.encryption import KeyRing
from libs.settings import PREFIX, Environment, OAuthErrorStatus, Settings

FEWEST_BYTES = 16
"""Minimum number of distinct bytes in a 32-byte key; a random key practically never has fewer."""
FEWEST_CHARACTERS = 10
"""Minimum number of distinct characters in an operator key."""
_WORDS = re.compile(r"change|example|secret|password|passwd|demo|test|default|operator|tokenwire|admin", re.IGNORECASE)


def _ring(text: SecretStr) -> SecretStr:
    if text.get_secret_value():
        KeyRing.parse(text.get_secret_value())
    return text


class LintSettings(Settings):
    """All settings that the checks read. Settings that are not set are not checked."""

    mongodb_url: SecretStr = SecretStr("")
    amqp_url: SecretStr = SecretStr("")
    keys: Annotated[SecretStr, AfterValidator(_ring)] = SecretStr("")
    notifier_private_keys: SecretStr = SecretStr("")
    bootstrap_operator_key: SecretStr = SecretStr("")
    allow_private_destinations: bool = False
    client_secrets: str = "stored"
    oauth_error_status: OAuthErrorStatus = None
    limits_on_failure: str = "allow"
    min_client_secret_length: int = ENOUGH_CHARACTERS

    @property
    def is_production(self) -> bool:
        """Whether this is a production environment, where settings meant for a developer's machine are findings."""
        return self.environment is Environment.PRODUCTION


def check_settings(settings: LintSettings) -> Iterator[Finding]:
    """Findings about the settings."""
    for check in _CHECKS:
        yield from check(settings)


def _finding(severity: Severity, rule: str, setting: str, weakness: str, consequence: str, remedy: str) -> Finding:
    return Finding(severity, rule, PREFIX + setting.upper(), weakness, consequence, remedy)


def _environment(settings: LintSettings) -> Iterator[Finding]:
    if settings.environment is Environment.DEVELOPMENT:
        yield _finding(
            Severity.MEDIUM,
            "development",
            "environment",
            "it is `development`",
            "defaults for a developer's machine apply; for example, webhooks may go to private addresses",
            "Set it to `production`.",
        )


def _public_url(settings: LintSettings) -> Iterator[Finding]:
    if is_unencrypted_remote(settings.public_url):
        yield _finding(
            Severity.HIGH,
            "public-url-http",
            "public_url",
            "clients reach the edge over http",
            "tokens, codes and client secrets can be read in transit (RFC 6749 §3.1, §3.2)",
            "Terminate TLS at the edge or in front of it, and set the https URL.",
        )


def _error_status(settings: LintSettings) -> Iterator[Finding]:
    if settings.oauth_error_status is not None:
        yield _finding(
            Severity.LOW,
            "oauth-error-status",
            "oauth_error_status",
            f"every OAuth error has the status {settings.oauth_error_status}",
            "clients cannot distinguish an invalid grant from failed client authentication (RFC 6749 §5.2)",
            "Unset it when no client depends on Tyk's status codes any more.",
        )


def _private_destinations(settings: LintSettings) -> Iterator[Finding]:
    if settings.allow_private_destinations:
        yield _finding(
            Severity.HIGH if settings.is_production else Severity.LOW,
            "private-destinations",
            "allow_private_destinations",
            "webhooks may go to private, loopback and link-local addresses",
            "operators who can edit API definitions can reach internal services, including cloud metadata (SSRF)",
            "Set it to `false` and give webhook receivers public addresses.",
        )


def _client_secrets(settings: LintSettings) -> Iterator[Finding]:
    if settings.client_secrets == "stored":
        yield _finding(
            Severity.LOW,
            "client-secrets-stored",
            "client_secrets",
            "client secrets can be read again",
            "every operator with `write`, and anyone with both the database and the key ring, can read all of them",
            "Set it to `show_once` unless secrets have to be read again.",
        )


def _short_secrets(settings: LintSettings) -> Iterator[Finding]:
    if settings.min_client_secret_length < ENOUGH_CHARACTERS:
        yield _finding(
            Severity.MEDIUM,
            "short-client-secrets",
            "min_client_secret_length",
            f"client secrets with {settings.min_client_secret_length} characters are accepted",
            "a short secret can be guessed, and computed from its digest by anyone with the database and the key ring",
            f"Set it to {ENOUGH_CHARACTERS} when no client needs a shorter secret any more.",
        )


def _limits(settings: LintSettings) -> Iterator[Finding]:
    if settings.limits_on_failure == "allow":
        yield _finding(
            Severity.LOW,
            "limits-on-failure",
            "limits_on_failure",
            "calls are admitted while limits cannot be counted",
            "an attacker who slows down the database is not limited",
            "Set it to `deny` if limits protect the upstream, and not only billing.",
        )


def _bootstrap(settings: LintSettings) -> Iterator[Finding]:
    key = settings.bootstrap_operator_key.get_secret_value()
    if not key:
        return
    yield _finding(
        Severity.MEDIUM,
        "bootstrap-key",
        "bootstrap_operator_key",
        "the first operator's key is still set",
        "a key with all permissions is stored in a file or an environment variable and never expires",
        "Create operators, unset it, and delete the operator `bootstrap`.",
    )
    if len(set(key)) < FEWEST_CHARACTERS or (_WORDS.search(key) and not _looks_random(key)):
        yield _finding(
            Severity.HIGH,
            "guessable-key",
            "bootstrap_operator_key",
            "the key does not look random",
            "it may be guessed, and has all permissions",
            "Set a random one: `openssl rand -base64 32`.",
        )


def _looks_random(key: str) -> bool:
    return any(map(str.isupper, key)) and any(map(str.islower, key)) and any(map(str.isdecimal, key))


def _ring_keys(settings: LintSettings) -> Iterator[Finding]:
    text = settings.keys.get_secret_value()
    if text and any(map(_is_guessable, _raw_keys(part.partition(":")[2] for part in text.split(",")))):
        yield _finding(
            Severity.HIGH,
            "guessable-key",
            "keys",
            "a key of the key ring does not look random",
            "anyone who guesses it can decrypt stored secrets and forge token tags",
            "Rotate it (docs/operations.md); generate one with `openssl rand -base64 32`.",
        )


def _notifier_keys(settings: LintSettings) -> Iterator[Finding]:
    parts = [part for part in settings.notifier_private_keys.get_secret_value().split(",") if part]
    if any(map(_is_guessable, _raw_keys(parts))):
        yield _finding(
            Severity.HIGH,
            "guessable-key",
            "notifier_private_keys",
            "a key of the notifier does not look random",
            "anyone who guesses it can decrypt all pending webhooks, including tokens",
            "Replace it (docs/operations.md); `make secrets` generates one.",
        )
    if len(parts) > 1:
        yield _finding(
            Severity.LOW,
            "old-notifier-key",
            "notifier_private_keys",
            f"{len(parts) - 1} older key{'s' * (len(parts) > 2)} can still decrypt webhooks",
            "a leaked copy decrypts webhooks that were encrypted for it",
            "Remove keys that no service has encrypted with for 19 days (docs/operations.md).",
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


def _rabbitmq(settings: LintSettings) -> Iterator[Finding]:
    for url in split_amqp_urls(settings.amqp_url.get_secret_value()):
        yield from _rabbitmq_node(urlsplit(url))


def _rabbitmq_node(parts: SplitResult) -> Iterator[Finding]:
    if parts.scheme not in {"amqp", "amqps"}:
        return
    host = parts.hostname or ""
    if unquote(parts.username or "guest") == "guest":
        yield _finding(
            Severity.MEDIUM if is_this_machine(host) else Severity.HIGH,
            "rabbitmq-guest",
            "amqp_url",
            f"the RabbitMQ user on {host} is `guest`",
            "its default password is public, and it can read, forge and delete every event",
            "Create one user per service with its permissions (deploy/rabbitmq/definitions.json).",
        )
    if parts.scheme == "amqp" and not is_this_machine(host):
        yield _finding(
            Severity.LOW if is_container(host) else Severity.MEDIUM,
            "rabbitmq-without-tls",
            "amqp_url",
            f"the connection to RabbitMQ on {host} is not encrypted",
            "the password and all events can be read on the network",
            "Use amqps://, unless the network is private to one machine.",
        )


def _mongodb(settings: LintSettings) -> Iterator[Finding]:
    url = settings.mongodb_url.get_secret_value()
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    user, _, names = place.partition("/")[0].rpartition("@")
    hosts = [_host(name) for name in names.split(",")]
    remote = [host for host in hosts if not is_this_machine(host)]
    if not url or not remote:
        return
    options = {name.lower(): values[-1].lower() for name, values in parse_qs(query).items()}
    encrypted = scheme == "mongodb+srv" if not {"tls", "ssl"} & options.keys() else "true" in _tls(options)
    if not user and options.get("authmechanism") != "mongodb-x509":
        yield _finding(
            Severity.HIGH,
            "mongodb-without-user",
            "mongodb_url",
            f"MongoDB on {remote[0]} is used without a user",
            "anyone who can reach it can create an operator, revoke all grants, and read what is not encrypted",
            "Enable authentication, with a user that has `readWrite` on this database only.",
        )
    if not encrypted:
        yield _finding(
            Severity.LOW if all(map(is_container, remote)) else Severity.MEDIUM,
            "mongodb-without-tls",
            "mongodb_url",
            f"the connection to MongoDB on {remote[0]} is not encrypted",
            "stored data can be read and modified on the network",
            "Use tls=true, unless the network is private to one machine.",
        )


def _tls(options: dict[str, str]) -> set[str]:
    return {options.get("tls", ""), options.get("ssl", "")}


def _host(name: str) -> str:
    name = unquote(name)
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]


_CHECKS: tuple[Callable[[LintSettings], Iterator[Finding]], ...] = (
    _environment,
    _public_url,
    _error_status,
    _private_destinations,
    _client_secrets,
    _short_secrets,
    _limits,
    _bootstrap,
    _ring_keys,
    _notifier_keys,
    _rabbitmq,
    _mongodb,
)
