"""Settings of the notifier."""

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.sealing import KEY_BYTES
from libs.settings import Settings


def private_keys(text: SecretStr) -> list[bytes]:
    """The X25519 keys in `<base64>[,<base64>]`. Raises ValueError."""
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


def _readable(text: SecretStr) -> SecretStr:
    private_keys(text)
    return text


class NotifierSettings(Settings):
    """What the notifier needs beside the common settings."""

    notifier_private_keys: Annotated[SecretStr, AfterValidator(_readable)] = Field(
        ..., description="X25519 private keys that open webhooks' bodies: <base64>[,<base64>], the newest first."
    )
    allow_private_destinations: bool = Field(
        False, description="true: webhooks may go to private, loopback and link-local addresses, too."
    )
    webhook_timeout: float = Field(10, gt=0, le=60, description="Seconds that one attempt may take in all.")
    per_endpoint_concurrency: int = Field(
        256, ge=1, le=4096, description="Attempts under way at once to one URL, per process."
    )
    total_concurrency: int = Field(
        1024, ge=2, le=16384, description="Attempts under way at once, per process; half the open files at most."
    )
