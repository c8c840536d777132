"""Settings of the token service."""

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field

from libs.settings import Settings


def _public_key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        raise ValueError("base64 of the 32 bytes of an X25519 public key")
    return text


class TokenSettings(Settings):
    """What the token service needs beside the common settings."""

    notifier_public_key: Annotated[str, AfterValidator(_public_key)] = Field(
        ..., description="The notifier's X25519 public key in base64; webhooks are sealed to it."
    )
    oauth_error_status: int | None = Field(
        None, ge=400, le=499, description="One status for every OAuth error (403: as Tyk); unset: as RFC 6749 says."
    )
