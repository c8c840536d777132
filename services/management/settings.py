"""Settings of the management service."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.client_secrets import ENOUGH_CHARACTERS
from libs.settings import Settings, TykGatewayApi

_SEPARATOR = re.compile("[,;| ]{1,4}")
_KEY = re.compile(r"[\x21-\x7e]{24,512}")


class ClientSecrets(StrEnum):
    """Whether client secrets can be read again."""

    STORED = "stored"
    """Stored encrypted besides the digest; operators with `write` can read them."""
    SHOW_ONCE = "show_once"
    """Only the digest is stored; the secret is in the response that created it."""


def require_operator_key(text: str) -> None:
    """Raises ValueError if the text does not have the form of an operator key."""
    if not _KEY.fullmatch(text):
        raise ValueError("24 to 512 printable ASCII characters without spaces are required")


def _operator_key(key: SecretStr | None) -> SecretStr | None:
    text = key.get_secret_value() if key else ""
    if not text:
        return None
    require_operator_key(text)
    return key


def _separator(text: str) -> str:
    if not _SEPARATOR.fullmatch(text):
        raise ValueError("1 to 4 of the characters , ; | and the space are required")
    return text


class ManagementSettings(Settings):
    """The settings of the management service besides the common ones."""

    client_secrets: ClientSecrets = Field(
        ClientSecrets.STORED,
        description="stored: secrets are kept encrypted and can be read again; show_once: only a digest is kept.",
    )
    bootstrap_operator_key: Annotated[SecretStr | None, AfterValidator(_operator_key)] = Field(
        None, description="Key of the operator 'bootstrap', who has permission admin; at least 24 characters."
    )
    tyk_gateway_api: TykGatewayApi = False
    min_client_secret_length: int = Field(
        ENOUGH_CHARACTERS, ge=1, le=128, description="Fewest characters of a client secret that an operator chooses."
    )
    redirect_uri_separator: Annotated[str, AfterValidator(_separator)] = Field(
        ";", description="What separates several URIs in `redirect_uri` of a client."
    )
