"""Settings of the token service."""

import base64
import binascii
from typing import Annotated

from pydantic import AfterValidator, Field

from libs.settings import LimitText, OAuthErrorStatus, Settings


def _public_key(text: str) -> str:
    try:
        raw = base64.b64decode(text, validate=True)
    except binascii.Error:
        raw = b""
    if len(raw) != 32:
        raise ValueError("base64 of the 32 bytes of an X25519 public key")
    return text


class TokenSettings(Settings):
    """The token service's own settings, in addition to the common ones."""

    notifier_public_key: Annotated[str, AfterValidator(_public_key)] = Field(
        ..., description="The notifier's X25519 public key in base64; webhooks are encrypted to it until they are sent."
    )
    issuance_limit: LimitText = Field(
        "100000/60",
        description="Tokens/seconds for each client app, over all instances; beyond that 429 with Retry-After.",
    )
    oauth_error_status: OAuthErrorStatus = Field(
        None, description="403: every OAuth error has this status, as in Tyk; unset: as RFC 6749 says."
    )
