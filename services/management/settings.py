"""Settings of the management service."""

import re
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from libs.settings import Settings

_KEY = re.compile(r"[\x21-\x7e]{24,512}")


class ClientSecrets(StrEnum):
    """Whether a client's secret can be read again."""

    STORED = "stored"
    """Kept encrypted beside its digest, and shown to operators with `write`."""
    SHOW_ONCE = "show_once"
    """Only the digest is kept."""


def _operator_key(key: SecretStr | None) -> SecretStr | None:
    text = key.get_secret_value() if key else ""
    if not text:
        return None
    if not _KEY.fullmatch(text):
        raise ValueError("24 to 512 printable ASCII characters without spaces are expected")
    return key


class ManagementSettings(Settings):
    """What the management service needs beside the common settings."""

    client_secrets: ClientSecrets = Field(
        ClientSecrets.STORED,
        description="stored: secrets are kept encrypted and can be read again; show_once: only a digest is kept.",
    )
    bootstrap_operator_key: Annotated[SecretStr | None, AfterValidator(_operator_key)] = Field(
        None, description="Key of the operator 'bootstrap', who has permission admin; at least 24 characters."
    )
