"""How a webhook proves where it comes from: Tyk's header, and Standard Webhooks v1."""

import base64
import binascii
import hmac
from datetime import datetime
from functools import lru_cache

_PREFIX = "whsec_"


@lru_cache(maxsize=1024)
def signing_key(shared_secret: str) -> bytes:
    """What `whsec_` is followed by, decoded from base64; the UTF-8 of any other secret."""
    if shared_secret.startswith(_PREFIX):
        try:
            return base64.b64decode(shared_secret.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            return shared_secret.encode()
    return shared_secret.encode()


def signature(shared_secret: str, webhook_id: str, timestamp: int, body: bytes) -> str:
    """`v1,` and the base64 HMAC-SHA256 of `{id}.{timestamp}.{body}` (Standard Webhooks 1.0.0)."""
    tag = hmac.digest(signing_key(shared_secret), b"%b.%d.%b" % (webhook_id.encode(), timestamp, body), "sha256")
    return f"v1,{base64.b64encode(tag).decode()}"


def proof(shared_secret: str, webhook_id: str, body: bytes, now: datetime) -> dict[str, str]:
    """The headers of one attempt; `webhook-timestamp` is the attempt's, in whole seconds.

    Without a shared secret nothing is signed, because anybody could have: `X-Tyk-Shared-Secret` is empty, as Tyk's is,
    and there is no `webhook-signature`.
    """
    timestamp = int(now.timestamp())
    headers = {
        "X-Tyk-Shared-Secret": shared_secret,
        "webhook-id": webhook_id,
        "webhook-timestamp": str(timestamp),
    }
    if signing_key(shared_secret):
        headers["webhook-signature"] = signature(shared_secret, webhook_id, timestamp, body)
    return headers
