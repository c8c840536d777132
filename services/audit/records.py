"""What can be weak in what is registered: APIs, client apps, policies, operators, and the keys that seal them."""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from contracts.apis import Api, GrantType, OAuthSettings
from contracts.clients import Client
from contracts.operators import Operator, Permission
from contracts.policies import Policy
from libs import client_secrets
from libs.sealing import KeyRing
from services.audit.findings import Finding, Severity, is_plain_abroad
from services.demo_data import CLIENT_ID, CLIENT_SECRET
from services.management.bootstrap import OPERATOR_ID

LONG_ACCESS = timedelta(days=1)
LONG_REFRESH = timedelta(days=90)
LONG_GRANT = timedelta(days=365)
LONG_CODE = timedelta(minutes=2)
SHORT_SECRET = 16
"""Characters of a shared secret; fewer can be found by trying, given one signed webhook."""
EXAMPLE_SECRETS = frozenset({"oauth-shared-secret", "shared-secret", "test-secret"})
"""Shared secrets out of examples."""
MOST_ADMINS = 3
UNUSED_FOR = timedelta(days=90)
_EVERYTHING = re.compile(r"\^?/?(\(?\.[*+]\)?/?)*\$?")
"""A path pattern that takes in every path."""
_CHANGING = frozenset({Permission.WRITE, Permission.REVOKE, Permission.ADMIN})


def weak_api(api: Api) -> Iterator[Finding]:
    """What is weak in an API that answers."""
    if not api.active:
        return
    place = f"API {api.api_id}"
    if api.oauth is not None:
        yield from _weak_oauth(place, api.oauth)
        yield from _weak_notifications(place, api.oauth)
    elif not api.auth_token:
        yield Finding(
            Severity.MEDIUM,
            "open-api",
            place,
            "it asks for no token",
            "everybody who reaches the gateway may call it",
            "Enable OAuth or Auth Token in its definition, unless it is meant for everybody.",
        )
    if (api.oauth is not None or api.auth_token) and api.token_location.query:
        yield Finding(
            Severity.MEDIUM,
            "token-in-query",
            place,
            f"it takes the token from the query parameter `{api.token_location.query}`",
            "tokens end up in logs, histories and referrers (RFC 9700 §4.3.2)",
            "Let clients send the header, and take the parameter out of the definition.",
        )
    if is_plain_abroad(api.upstream_url):
        yield Finding(
            Severity.LOW,
            "upstream-http",
            place,
            "its upstream is reached over http",
            "calls can be read and changed between the gateway and it, tokens included unless they are stripped",
            "Use https, unless the network is one machine's own.",
        )


def _weak_oauth(place: str, oauth: OAuthSettings) -> Iterator[Finding]:
    if GrantType.PASSWORD in oauth.grant_types:
        yield Finding(
            Severity.MEDIUM,
            "password-grant",
            place,
            "the password grant is on",
            "every client app sees its users' passwords, and none can ask for a second factor (RFC 9700 §2.4)",
            "Use authorization_code, and take `password` out of the definition.",
        )
    if GrantType.AUTHORIZATION_CODE in oauth.grant_types and not oauth.pkce_required:
        yield Finding(
            Severity.MEDIUM,
            "pkce-not-required",
            place,
            "clients with a secret may leave PKCE out",
            "a code that is stolen or put into another session on its way is not noticed (RFC 9700 §2.1.1)",
            "Set pkceRequired in x-tokenwire once every client sends a code_challenge.",
        )
    if oauth.login_url and is_plain_abroad(oauth.login_url):
        yield Finding(
            Severity.HIGH,
            "login-http",
            place,
            "users log in over http",
            "their passwords and the request that they approve can be read and changed on the way",
            "Give the login page an https address.",
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
                "what is stolen is good for as long",
                f"Set it to {int(longest.total_seconds())} or less in x-tokenwire.",
            )


def _weak_notifications(place: str, oauth: OAuthSettings) -> Iterator[Finding]:
    wanted = oauth.notifications
    if wanted is None or not wanted.on_key_change_url:
        return
    if is_plain_abroad(wanted.on_key_change_url):
        yield Finding(
            Severity.HIGH,
            "webhook-http",
            place,
            "its webhooks go out over http",
            "they carry tokens, which can be read on the way",
            "Give the receiver an https address.",
        )
    secret = wanted.shared_secret.get_secret_value()
    if not secret:
        yield Finding(
            Severity.MEDIUM,
            "webhook-without-secret",
            place,
            "its webhooks have no shared secret",
            "the receiver cannot tell them from anybody's, and takes whatever tokens it is told",
            "Set sharedSecret in the definition, and check the signature.",
        )
    elif secret in EXAMPLE_SECRETS or len(secret) < SHORT_SECRET:
        yield Finding(
            Severity.MEDIUM,
            "weak-shared-secret",
            place,
            f"its shared secret is out of an example, or shorter than {SHORT_SECRET} characters",
            "it can be guessed, and webhooks forged",
            "Set a random one: `openssl rand -base64 32`.",
        )


def weak_client(client: Client, keys: KeyRing, now: datetime, *, production: bool) -> Iterator[Finding]:
    """What is weak in a client app."""
    place = f"client {client.client_id}"
    if plain := [uri for uri in client.redirect_uris if is_plain_abroad(uri)]:
        yield Finding(
            Severity.HIGH,
            "redirect-http",
            place,
            f"codes go to {_without_query(plain[0])} over http",
            "they can be read on the way, and the page that takes them can be replaced",
            "Register an https redirect URI.",
        )
    if any("*" in uri for uri in client.redirect_uris):
        yield Finding(
            Severity.LOW,
            "redirect-wildcard",
            place,
            "a redirect URI has a `*`",
            "it stands for itself, and whoever meant a pattern has not registered what the app uses",
            "Register each redirect URI as it is.",
        )
    if not client.policy_ids:
        yield Finding(
            Severity.LOW,
            "client-without-policy",
            place,
            "it has no policy",
            "its tokens open the whole API, without rate limit or quota",
            "Give it a policy that says what it may do.",
        )
    if client.client_id == CLIENT_ID or client_secrets.is_valid(keys, client, CLIENT_SECRET, now):
        yield Finding(
            Severity.HIGH if production else Severity.LOW,
            "demo-client",
            place,
            "it is the demo's, or has its secret",
            "everybody who read the manual can get its tokens",
            "Delete it, and the API `demo-api` with it.",
        )
    current = [secret for secret in client.secrets if client_secrets.is_current(secret, now)]
    if any(not keys.has_made(secret.digest) for secret in current):
        yield Finding(
            Severity.MEDIUM,
            "key-not-in-ring",
            place,
            "its secret was stored under a key that is not in the ring",
            "it cannot authenticate",
            "Put the key back into TOKENWIRE_KEYS, or rotate the secret.",
        )


def closed_api(api_id: str, reason: str) -> Finding:
    """An API that cannot be read."""
    return Finding(
        Severity.MEDIUM,
        "key-not-in-ring",
        f"API {api_id}",
        f"it cannot be opened: {reason}",
        "it issues no tokens, and nothing else about it could be looked at",
        "Put the key back into TOKENWIRE_KEYS, or replace the definition.",
    )


def _without_query(uri: str) -> str:
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc}{parts.path}"


def weak_policy(policy: Policy) -> Iterator[Finding]:
    """What is weak in a policy that applies."""
    if not policy.active or policy.is_inactive:
        return
    place = f"policy {policy.policy_id}"
    if not policy.access_rights:
        yield Finding(
            Severity.LOW,
            "policy-without-rights",
            place,
            "it grants nothing",
            "tokens under it alone open nothing, and somebody may be tempted to take it away from a client",
            "Give it access_rights, or delete it.",
        )
    if (policy.rate <= 0 or policy.per <= 0) and policy.quota_max <= 0:
        yield Finding(
            Severity.LOW,
            "policy-without-limits",
            place,
            "it has neither rate limit nor quota",
            "one stolen token can ask as much as the API can answer",
            "Set rate and per, or quota_max and quota_renewal_rate.",
        )
    patterns = [allowed.url for right in policy.access_rights.values() for allowed in right.allowed_urls]
    if any(map(_EVERYTHING.fullmatch, patterns)):
        yield Finding(
            Severity.LOW,
            "policy-wildcard",
            place,
            "one of its allowed_urls takes in every path",
            "the others beside it limit nothing",
            "Name the paths that are needed, or leave allowed_urls out.",
        )


def weak_operators(operators: Sequence[tuple[Operator, datetime | None]], now: datetime) -> Iterator[Finding]:
    """What is weak in the operators, each with the moment of its last change in the trail."""
    admins = [operator for operator, _ in operators if Permission.ADMIN in operator.permissions]
    if len(admins) > MOST_ADMINS:
        yield Finding(
            Severity.MEDIUM,
            "many-admins",
            "operators",
            f"{len(admins)} of them have `admin`",
            "each of these keys may do everything, and one that leaks is enough",
            f"Leave it to {MOST_ADMINS} or fewer, and give the others what they need.",
        )
    for operator, last in operators:
        yield from _weak_operator(operator, last, now)


def _weak_operator(operator: Operator, last: datetime | None, now: datetime) -> Iterator[Finding]:
    place = f"operator {operator.operator_id} ({operator.name})"
    if operator.operator_id == OPERATOR_ID:
        yield Finding(
            Severity.MEDIUM,
            "bootstrap-operator",
            place,
            "the first operator is still there",
            "its key may do everything, is nobody's in particular, and lies where the settings are",
            "Make operators of your own, unset TOKENWIRE_BOOTSTRAP_OPERATOR_KEY, and delete it.",
        )
    others = [permission for permission in operator.permissions if permission is not Permission.AUTHORIZE]
    if Permission.AUTHORIZE in operator.permissions and others:
        yield Finding(
            Severity.MEDIUM,
            "more-than-authorize",
            place,
            f"it has `authorize` and {', '.join(f'`{permission}`' for permission in others)}",
            "whoever takes over the login page that holds the key can do that, too",
            "Give the identity server a key with `authorize` alone.",
        )
    changing = _CHANGING & set(operator.permissions)
    idle_since = max(operator.updated_at, last or operator.updated_at)
    if changing and now - idle_since > UNUSED_FOR:
        yield Finding(
            Severity.LOW,
            "unused-operator",
            place,
            f"it has changed nothing for {(now - idle_since).days} days",
            "a key that nobody misses is one whose theft nobody notices",
            "Delete it, or leave it `read`.",
        )


def old_keys(keys: KeyRing, sealed_by_others: int) -> Iterator[Finding]:
    """What is to be said of a ring with more than one key."""
    if keys.older:
        first = f"Give `python -m services reseal` ({sealed_by_others} records are under them), and take"
        yield Finding(
            Severity.LOW,
            "old-keys",
            "TOKENWIRE_KEYS",
            f"the ring has older keys: {', '.join(map(str, keys.older))}",
            "a copy of one still forges the tag of tokens, and opens what it sealed",
            f"{first if sealed_by_others else 'Take'} them out when the tokens that they made have ended.",
        )
