"""Settings of the console."""

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from libs.encryption import KeyRing
from libs.settings import ServerSettings


def _key_ring(text: SecretStr) -> SecretStr:
    KeyRing.parse(text.get_secret_value())
    return text


def _services_url(text: str) -> str:
    parts = urlsplit(text.replace("{service}", "service"))
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.path.strip("/") or "?" in text:
        raise ValueError("an http or https URL without path and query; {service} in it is the service's name")
    return text.rstrip("/")


class ConsoleSettings(ServerSettings):
    """What every service needs, and the settings of the console."""

    console_keys: Annotated[SecretStr, AfterValidator(_key_ring)] = Field(
        ..., description="Key ring of the sessions: <id>:<base64 of 32 bytes>[,…]; the first is current."
    )
    services_url: Annotated[str, AfterValidator(_services_url)] = Field(
        "http://{service}:8080", description="Where the other services are; {service} is replaced by the name of each."
    )
    session_idle: int = Field(1800, ge=60, le=86_400, description="Seconds without a request that end a session.")
    session_lifetime: int = Field(43_200, ge=60, le=604_800, description="Seconds after which every session ends.")
