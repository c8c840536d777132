"""Signs webhooks, so that a receiver knows who sent them (Standard Webhooks 1.0.0), and adds Tyk's header."""

import base64
import binascii
import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from pydantic import SecretStr

from contracts.apis import SigningSecret

_SIGNING_KEY_PREFIX = "whsec_"
_SHARED_SECRET = "X-Tyk-Shared-Secret"  # noqa: S105 - the header's name
_SIGNATURE = "webhook-signature"


@dataclass(frozen=True, slots=True)
class WebhookSecrets:
    """The secrets with which one API's webhooks are sent."""

    shared: SecretStr | None
    """The secret of Tyk's header; None: the API does not send that header."""
    signing: Sequence[SigningSecret] = ()

    def keys(self, now: datetime) -> list[str]:
        """What signs a webhook now: the API's own signing secrets, the newest first, then the shared secret.

        The shared secret travels in the same request, so its signature proves nothing more than Tyk's header does. It
        is there for receivers that were built before an API had a signing secret.
        """
        own = [each for each in self.signing if each.expires_at is None or each.expires_at > now]
        shared = [self.shared] if self.shared is not None else []
        return [secret.get_secret_value() for secret in (*(each.secret for each in own), *shared)]


@lru_cache(maxsize=1024)
def signing_key(secret: str) -> bytes:
    """The bytes that `whsec_` is followed by in base64; the UTF-8 of any other secret (Standard Webhooks 1.0.0)."""
    if secret.startswith(_SIGNING_KEY_PREFIX):
        try:
            return base64.b64decode(secret.removeprefix(_SIGNING_KEY_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            return secret.encode()
    return secret.encode()


def signature(secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the base64 HMAC-SHA256 of `{id}.{timestamp}.{body}` (Standard Webhooks 1.0.0)."""
    tag = hmac.digest(signing_key(secret), b"%b.%d.%b" % (webhook_id.encode(), timestamp, body), "sha256")
    return f"v1,{base64.b64encode(tag).decode()}"


def signed_headers(secrets: WebhookSecrets, webhook_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The headers that prove the sender: Tyk's, and those of Standard Webhooks.

    `webhook-timestamp` is the time of this attempt in whole seconds. `webhook-signature` has one signature for each
    key, separated by spaces. With an empty key nothing is signed, because anybody could make that signature:
    `X-Tyk-Shared-Secret` is empty, as Tyk sends it.
    """
    timestamp = int(now.timestamp())
    headers = {"webhook-id": webhook_id, "webhook-timestamp": str(timestamp)}
    if secrets.shared is not None:
        headers[_SHARED_SECRET] = secrets.shared.get_secret_value()
    signatures = [signature(key, webhook_id, timestamp, body) for key in secrets.keys(now) if signing_key(key)]
    if signatures:
        headers[_SIGNATURE] = " ".join(signatures)
    return headers


def secrets_in(headers: Mapping[str, str]) -> list[str]:
    """The values of these headers that an endpoint must not show to others."""
    return [headers.get(_SHARED_SECRET, ""), *headers.get(_SIGNATURE, "").split(" ")]
