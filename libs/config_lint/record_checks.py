"""What can be weak in what is registered: APIs, client apps, policies, operators, and the keys that encrypt them."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from contracts.apis import Api, DefinitionFormat, GrantType, OAuthSettings
from contracts.clients import Client
from contracts.config_lint import Severity
from contracts.operators import BOOTSTRAP_OPERATOR_ID, Operator, Permission
from contracts.policies import Policy
from libs import client_secrets
from libs.config_lint.findings import Finding, is_unencrypted_remote
from libs.demo_credentials import CLIENT_ID, CLIENT_SECRET
from libs.encryption import KeyRing
from libs.tyk.classic import read_classic
from libs.tyk.invalid_definition import InvalidDefinition
from libs.tyk.oas import read_oas

LONG_ACCESS = timedelta(days=1)
LONG_REFRESH = timedelta(days=90)
LONG_GRANT = timedelta(days=365)
LONG_CODE = timedelta(minutes=2)
SHORT_SECRET = 16
"""Minimum length of a shared secret. A shorter one can be brute-forced offline with one signed webhook."""
EXAMPLE_SECRETS = frozenset({"oauth-shared-secret", "shared-secret", "test-secret"})
"""Shared secrets that appear in examples."""
MOST_ADMINS = 3
UNUSED_FOR = timedelta(days=90)
_EVERYTHING = re.compile(r"\^?/?(\(?\.[*+]\)?/?)*\$?")
"""A pattern that matches every path."""
_CHANGING = frozenset({Permission.WRITE, Permission.REVOKE, Permission.ADMIN})


def check_api(api: Api) -> Iterator[Finding]:
    """Findings about an active API."""
    if not api.active:
        return
    place = f"API {api.api_id}"
    for field in api.unsupported:
        yield Finding(
            Severity.HIGH,
            "accepted-unsupported",
            f"{place} {field.path}",
            f"its definition requires a protection that Tokenwire does not enforce: {field.reason}",
            "calls are admitted that Tyk would refuse",
            "Protect the API in another way, and remove this part from its definition.",
        )
    if api.oauth is not None:
        yield from _check_oauth(place, api.oauth)
        yield from _check_notifications(place, api, api.oauth)
    elif not api.auth_token:
        yield Finding(
            Severity.MEDIUM,
            "open-api",
            place,
            "it needs no token",
            "anyone who can reach the gateway can call it",
            "Enable OAuth or Auth Token in its definition, unless the API is public.",
        )
    if (api.oauth is not None or api.auth_token) and api.token_location.query:
        yield Finding(
            Severity.MEDIUM,
            "token-in-query",
            place,
            f"it accepts tokens in the query parameter `{api.token_location.query}`",
            "tokens end up in logs, browser histories and Referer headers (RFC 9700 §4.3.2)",
            "Have clients use the header, and remove the parameter from the definition.",
        )
    if any(map(is_unencrypted_remote, (api.upstream_url, *api.further_upstream_urls))):
        yield Finding(
            Severity.LOW,
            "upstream-http",
            place,
            "its upstream is called over http",
            "calls, including tokens unless they are stripped, can be read and modified in transit",
            "Use https, unless the network is private to one machine.",
        )


def check_guards(api: Api) -> Iterator[Finding]:
    """A finding if the API was imported by a version that enforced less of its definition than this one."""
    read = read_oas if api.format is DefinitionFormat.OAS else read_classic
    document = json.loads(api.definition.get_secret_value())
    try:
        now = read(document, api_id=api.api_id, now=api.updated_at, accept_unsupported=True)
    except InvalidDefinition as refused:
        weakness = f"its definition would be refused today: {refused}"
    else:
        if now.guards == api.guards and now.unsupported == api.unsupported:
            return
        weakness = "its definition has requirements that the version which imported it did not enforce"
    yield Finding(
        Severity.HIGH,
        "guards-not-read",
        f"API {api.api_id}",
        weakness,
        "calls are admitted that the definition refuses",
        "Import the definition again (PUT /api/apis/{api_id}).",
    )


def _check_oauth(place: str, oauth: OAuthSettings) -> Iterator[Finding]:
    if GrantType.PASSWORD in oauth.grant_types:
        yield Finding(
            Severity.MEDIUM,
            "password-grant",
            place,
            "the password grant is enabled",
            "client apps see their users' passwords, and a second factor is impossible (RFC 9700 §2.4)",
            "Use authorization_code, and remove `password` from the definition.",
        )
    if GrantType.AUTHORIZATION_CODE in oauth.grant_types and not oauth.pkce_required:
        yield Finding(
            Severity.MEDIUM,
            "pkce-not-required",
            place,
            "PKCE is not required for clients with a secret",
            "code injection is not detected (RFC 9700 §2.1.1)",
            "Set pkceRequired in x-tokenwire when every client sends a code_challenge.",
        )
    if oauth.login_url and is_unencrypted_remote(oauth.login_url):
        yield Finding(
            Severity.HIGH,
            "login-http",
            place,
            "users log in over http",
            "passwords and the authorization request can be read and modified in transit",
            "Use an https URL for the login page.",
        )
    if not oauth.scopes:
        yield Finding(
            Severity.LOW,
            "api-without-scopes",
            place,
            "its definition declares no scopes",
            "its tokens have no scopes, and requests for scopes are refused with invalid_scope",
            "Declare them in the scopes of its OAuth flows (Tyk Classic: in tokenwire.scopes).",
        )
    for name, lifetime, longest, severity in (
        ("accessTokenLifetime", oauth.access_token_lifetime, LONG_ACCESS, Severity.MEDIUM),
        ("refreshTokenLifetime", oauth.refresh_token_lifetime, LONG_REFRESH, Severity.MEDIUM),
        ("grantLifetime", oauth.grant_lifetime, LONG_GRANT, Severity.LOW),
        ("codeLifetime", oauth.code_lifetime, LONG_CODE, Severity.MEDIUM),
    ):
        if lifetime > longest:
            yield Finding(
                severity,
                "long-lifetime",
                f"{place} {name}",
                f"it is {int(lifetime.total_seconds())} seconds",
                "a stolen credential stays usable for as long",
                f"Set it to {int(longest.total_seconds())} or less in x-tokenwire.",
            )


def _check_notifications(place: str, api: Api, oauth: OAuthSettings) -> Iterator[Finding]:
    wanted = oauth.notifications
    if wanted is None or not wanted.on_key_change_url:
        return
    if is_unencrypted_remote(wanted.on_key_change_url):
        yield Finding(
            Severity.HIGH,
            "webhook-http",
            place,
            "its webhooks are sent over http",
            "they contain tokens, which can be read in transit",
            "Use an https URL for the receiver.",
        )
    secret = wanted.shared_secret.get_secret_value()
    if api.signing_secrets and (not secret or not wanted.shared_secret_header):
        return  # the receiver verifies the API's own signature
    if not secret:
        yield Finding(
            Severity.MEDIUM,
            "webhook-without-secret",
            place,
            "its webhooks have no shared secret",
            "the receiver cannot verify the sender and may accept forged tokens",
            "Set sharedSecret in the definition, and verify the signature in the receiver.",
        )
    elif secret in EXAMPLE_SECRETS or len(secret) < SHORT_SECRET:
        yield Finding(
            Severity.MEDIUM,
            "weak-shared-secret",
            place,
            f"its shared secret is from an example or shorter than {SHORT_SECRET} characters",
            "it can be guessed, and then webhooks can be forged",
            "Set a random one: `openssl rand -base64 32`.",
        )


def check_client(client: Client, keys: KeyRing, now: datetime, *, production: bool) -> Iterator[Finding]:
    """Findings about one registration of a client app; those about its secret are the same for all of them."""
    place = _place(client)
    if plain := [uri for uri in client.redirect_uris if is_unencrypted_remote(uri)]:
        yield Finding(
            Severity.HIGH,
            "redirect-http",
            place,
            f"codes are sent to {_without_query(plain[0])} over http",
            "they can be read in transit, and the page that receives them can be replaced",
            "Register an https redirect URI.",
        )
    if any("*" in uri for uri in client.redirect_uris):
        yield Finding(
            Severity.LOW,
            "redirect-wildcard",
            place,
            "a redirect URI has a `*`",
            "`*` is not a wildcard here, so the URI that the app uses is probably not registered",
            "Register each redirect URI literally.",
        )
    if not client.policy_ids:
        yield Finding(
            Severity.LOW,
            "client-without-policy",
            place,
            "it has no policy",
            "its tokens give access to the whole API, without rate limit or quota",
            "Assign a policy with the access rights that the app needs.",
        )
    if client.client_id == CLIENT_ID or client_secrets.is_valid(keys, client, CLIENT_SECRET, now):
        yield Finding(
            Severity.HIGH if production else Severity.LOW,
            "demo-client",
            f"client {client.client_id}",
            "it is the demo client or has its secret",
            "anyone who has read the documentation can get its tokens",
            "Delete it and the API `demo-api`.",
        )
    current = [secret for secret in client.secrets if client_secrets.is_current(secret, now)]
    if any(secret.short for secret in current):
        yield Finding(
            Severity.MEDIUM,
            "short-client-secret",
            f"client {client.client_id}",
            f"its secret has fewer than {client_secrets.ENOUGH_CHARACTERS} characters",
            "it can be guessed",
            "Rotate it (PUT …/rotate) to a generated one.",
        )
    if any(not keys.has_made(secret.digest) for secret in current):
        yield Finding(
            Severity.MEDIUM,
            "key-not-in-ring",
            f"client {client.client_id}",
            "its secret was stored with a key that is not in the key ring",
            "it cannot authenticate",
            "Add the key to TOKENWIRE_KEYS again, or rotate the secret.",
        )


def check_scope(client: Client, declared: Collection[str]) -> Iterator[Finding]:
    """Findings about the scope of a client, given the scopes that its API declares."""
    place = _place(client)
    if client.scope is None:
        if declared:
            yield Finding(
                Severity.LOW,
                "client-without-scope",
                place,
                "it has no scope of its own",
                "it may request every scope that the API declares, including future ones",
                "Set its scope to what the app needs.",
            )
    elif unknown := [scope for scope in client.scope.split(" ") if scope not in declared]:
        yield Finding(
            Severity.LOW,
            "undeclared-scope",
            place,
            f"it is registered for the scope `{unknown[0]}`, which its API does not declare",
            "the scope is never granted, but would be as soon as the API declares it",
            "Remove it from the client's scope, or declare it in the API's definition.",
        )


def _place(client: Client) -> str:
    return f"client {client.client_id} on API {client.api_id}" if client.others else f"client {client.client_id}"


def undecryptable_api(api_id: str, reason: str) -> Finding:
    """The finding for an API that cannot be decrypted."""
    return Finding(
        Severity.MEDIUM,
        "key-not-in-ring",
        f"API {api_id}",
        f"it cannot be decrypted: {reason}",
        "it issues no tokens, and was not checked further",
        "Add the key to TOKENWIRE_KEYS again, or replace the definition.",
    )


def _without_query(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def check_policy(policy: Policy) -> Iterator[Finding]:
    """Findings about an active policy."""
    if not policy.active or policy.is_inactive:
        return
    place = f"policy {policy.policy_id}"
    if not policy.access_rights:
        yield Finding(
            Severity.LOW,
            "policy-without-rights",
            place,
            "it grants nothing",
            "tokens with only this policy have no access; removing it from a client would give full access",
            "Give it access_rights, or delete it.",
        )
    if (policy.rate <= 0 or policy.per <= 0) and policy.quota_max <= 0:
        yield Finding(
            Severity.LOW,
            "policy-without-limits",
            place,
            "it has neither rate limit nor quota",
            "a single stolen token can overload the API",
            "Set rate and per, or quota_max and quota_renewal_rate.",
        )
    patterns = [allowed.url for right in policy.access_rights.values() for allowed in right.allowed_urls]
    if any(map(_EVERYTHING.fullmatch, patterns)):
        yield Finding(
            Severity.LOW,
            "policy-wildcard",
            place,
            "one of its allowed_urls matches every path",
            "the other allowed_urls have no effect",
            "List the paths that are needed, or omit allowed_urls.",
        )
    if policy.rate > 0 < policy.per:
        yield from _check_exempt_endpoints(place, policy)


def _check_exempt_endpoints(place: str, policy: Policy) -> Iterator[Finding]:
    for api_id, right in policy.access_rights.items():
        for endpoint in right.endpoints:
            for method in endpoint.methods:
                if method.limit.rate <= 0:
                    yield Finding(
                        Severity.LOW,
                        "policy-endpoint-unlimited",
                        f"{place} access_rights.{api_id}.endpoints",
                        f"its rate does not count for {method.name} {endpoint.path}",
                        "such calls have no rate limit, although the policy has one",
                        "Give the endpoint a rate and per, or remove its entry.",
                    )


def check_operators(operators: Sequence[tuple[Operator, datetime | None]], now: datetime) -> Iterator[Finding]:
    """Findings about the operators, given with the time of each one's last entry in the audit log."""
    admins = [operator for operator, _ in operators if Permission.ADMIN in operator.permissions]
    if len(admins) > MOST_ADMINS:
        yield Finding(
            Severity.MEDIUM,
            "many-admins",
            "operators",
            f"{len(admins)} operators have `admin`",
            "each of these keys has all permissions, and one leak is enough",
            f"Keep `admin` for {MOST_ADMINS} or fewer, and give the others the permissions that they need.",
        )
    for operator, last in operators:
        yield from _check_operator(operator, last, now)


def _check_operator(operator: Operator, last: datetime | None, now: datetime) -> Iterator[Finding]:
    place = f"operator {operator.operator_id} ({operator.name})"
    if operator.operator_id == BOOTSTRAP_OPERATOR_ID:
        yield Finding(
            Severity.MEDIUM,
            "bootstrap-operator",
            place,
            "the bootstrap operator still exists",
            "its key has all permissions, belongs to no person, and is stored with the settings",
            "Create operators, unset TOKENWIRE_BOOTSTRAP_OPERATOR_KEY, and delete it.",
        )
    others = [permission for permission in operator.permissions if permission is not Permission.AUTHORIZE]
    if Permission.AUTHORIZE in operator.permissions and others:
        yield Finding(
            Severity.MEDIUM,
            "more-than-authorize",
            place,
            f"it has `authorize` and {', '.join(f'`{permission}`' for permission in others)}",
            "an attacker who takes over the login page, which holds the key, gets these permissions, too",
            "Give the identity server a key with only `authorize`.",
        )
    changing = _CHANGING & set(operator.permissions)
    idle_since = max(operator.updated_at, last or operator.updated_at)
    if changing and now - idle_since > UNUSED_FOR:
        yield Finding(
            Severity.LOW,
            "unused-operator",
            place,
            f"it has changed nothing for {(now - idle_since).days} days",
            "theft of an unused key goes unnoticed",
            "Delete it, or reduce it to `read`.",
        )


def check_key_ring(keys: KeyRing, under_other_keys: int) -> Iterator[Finding]:
    """A finding if the key ring has more than one key."""
    if keys.older:
        first = f"Run `python -m services reencrypt` ({under_other_keys} records are encrypted with them), and remove"
        yield Finding(
            Severity.LOW,
            "old-keys",
            "TOKENWIRE_KEYS",
            f"the key ring has older keys: {', '.join(map(str, keys.older))}",
            "anyone with a copy of one can forge the tags of its tokens, and decrypt what it has encrypted",
            f"{first if under_other_keys else 'Remove'} them when the tokens that they made have expired.",
        )
