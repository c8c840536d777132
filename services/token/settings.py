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
        ..., description="The notifier's X25519 public key in base64; webhooks are sealed to it."
    )
    issuance_limit: LimitText = Field(
        "100000/60",
        description="Tokens/seconds: how many tokens a client app may be issued in a window of this length.",
    )
    oauth_error_status: OAuthErrorStatus = Field(
        None, description="403: every OAuth error has this status, as in Tyk; unset: as RFC 6749 says."
    )
