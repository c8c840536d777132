"""Settings of the notifier."""

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.encryption import KEY_BYTES
from libs.outbound.ssrf import DEFAULT_DENY
from libs.settings import DENYLIST_DESCRIPTION, Denylist, Settings


def private_keys(text: SecretStr) -> list[bytes]:
    """Parse `<base64>[,<base64>]` into X25519 private keys. Raises ValueError."""
    keys = []
    for part in text.get_secret_value().split(","):
        try:
            key = base64.b64decode(part.strip(), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if len(key) != KEY_BYTES:
            raise ValueError("each key is base64 of the 32 bytes of an X25519 private key")
        keys.append(key)
    return keys


def _valid_keys(text: SecretStr) -> SecretStr:
    private_keys(text)
    return text


class NotifierSettings(Settings):
    """The notifier's own settings, in addition to the common ones."""

    notifier_private_keys: Annotated[SecretStr, AfterValidator(_valid_keys)] = Field(
        ..., description="X25519 private keys that decrypt webhook bodies: <base64>[,<base64>], the newest first."
    )
    allow_private_destinations: bool = Field(
        False,
        description="true: webhooks may be sent to private and loopback addresses (turns off part of the SSRF guard).",
    )
    upstream_deny: Denylist = Field(DEFAULT_DENY, description=DENYLIST_DESCRIPTION)
    webhook_timeout: float = Field(
        10, gt=0, le=60, description="Seconds that one attempt may take, connecting included."
    )
    per_endpoint_concurrency: int = Field(
        256, ge=1, le=4096, description="Attempts in flight at once to one URL, per process."
    )
    total_concurrency: int = Field(
        1024,
        ge=2,
        le=16384,
        description="Attempts in flight at once, per process; at most half of the files it may open.",
    )
