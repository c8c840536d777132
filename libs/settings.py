"""Settings: the only reader of the environment. Each `TOKENWIRE_X` may also come from the file that `TOKENWIRE_X_FILE`
names; a wrong or missing value stops the start with one line.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from libs.addresses import TrustedProxies
from libs.oauth.attempts import Limit
from libs.sealing import KeyRing

PREFIX = "TOKENWIRE_"


class WrongSetting(Exception):
    """A setting is missing or wrong; the text is the one line to show."""


class Environment(StrEnum):
    """Development allows what only makes sense on one's own machine."""

    PRODUCTION = "production"
    DEVELOPMENT = "development"


class LogFormat(StrEnum):
    """How a log line looks."""

    JSON = "json"
    CONSOLE = "console"


class _Files(PydanticBaseSettingsSource):
    """Values from the files that `…_FILE` variables name (Docker secrets)."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        path = os.environ.get(f"{PREFIX}{field_name.upper()}_FILE")
        if not path:
            return None, field_name, False
        try:
            return Path(path).read_text(encoding="utf-8").strip(), field_name, False
        except OSError as error:
            raise WrongSetting(f"{PREFIX}{field_name.upper()}_FILE: {path}: {error.strerror}") from error
        except UnicodeDecodeError:
            raise WrongSetting(f"{PREFIX}{field_name.upper()}_FILE: {path}: UTF-8 text is expected") from None

    def __call__(self) -> dict[str, Any]:
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            value, _, _ = self.get_field_value(field, name)
            if value is not None:
                values[name] = value
        return values


class _Environment(EnvSettingsSource):
    """The environment, with tuples and other values as the plain text that their validators read."""

    def prepare_field_value(self, field_name: str, field: FieldInfo, value: Any, value_is_complex: bool) -> Any:
        return value


def _key_ring(text: SecretStr) -> SecretStr:
    KeyRing.parse(text.get_secret_value())
    return text


def _proxies(text: str) -> str:
    TrustedProxies.parse(text)
    return text


def _limit(text: str) -> str:
    Limit.parse(text)
    return text


LimitText = Annotated[str, AfterValidator(_limit)]


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "?" in text or "#" in text:
        raise ValueError("an absolute http or https URL without query")
    return text.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class Settings(BaseSettings):
    """What every service needs."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    environment: Environment = Environment.PRODUCTION
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    public_url: BaseUrl = Field(
        "http://127.0.0.1:8080", description="Where clients reach the edge; part of the issuer."
    )
    mongodb_url: SecretStr = Field(..., description="mongodb:// URL of a replica set.")
    mongodb_database: str = Field("tokenwire", pattern=r"^[A-Za-z0-9_-]{1,38}$", description="Database name.")
    amqp_url: SecretStr = Field(..., description="amqp:// or amqps:// URL of RabbitMQ.")
    declare_topology: bool = Field(True, description="Declare exchanges and queues; false where definitions made them.")
    keys: Annotated[SecretStr, AfterValidator(_key_ring)] = Field(
        ..., description="Key ring: <id>:<base64 of 32 bytes>[,…]; the first is current."
    )
    cache_ttl: float = Field(
        5.0, ge=0, le=300, description="Seconds for which what is kept in memory is trusted while the bus is away."
    )
    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = Field(
        "", description="Addresses and networks, separated by commas, whose X-Forwarded-For is believed; unset: none."
    )
    throttle_client: LimitText = Field(
        "20/60", description="Failures/seconds: wrong secrets of one client from one address."
    )
    throttle_user: LimitText = Field(
        "10/900", description="Failures/seconds: wrong passwords of one user from one address."
    )
    throttle_user_anywhere: LimitText = Field(
        "100/3600", description="Failures/seconds: wrong passwords of one user from addresses where it never logged in."
    )
    throttle_address: LimitText = Field(
        "60/60", description="Failures/seconds: from one address; client secrets, passwords, operator keys each."
    )
    linger: float = Field(
        2.5, ge=0, le=30, description="Seconds for which a stopping service still answers, so that the edge moves on."
    )
    log_level: str = Field(
        "info", pattern=r"^(debug|info|warning|error)$", description="debug, info, warning or error."
    )
    log_format: LogFormat = LogFormat.JSON
    access_log_sample: float = Field(1.0, ge=0, le=1, description="Share of successful requests that get a log line.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, _Environment(settings_cls), _Files(settings_cls)


S = TypeVar("S", bound=Settings)


def load(settings: type[S], **overrides: Any) -> S:
    """The settings from overrides, environment and files. Raises WrongSetting with one line for the first fault."""
    try:
        return settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        name = PREFIX + str(first["loc"][0]).upper() if first["loc"] else "settings"
        field = settings.model_fields.get(str(first["loc"][0])) if first["loc"] else None
        hint = f" ({field.description})" if field and field.description else ""
        raise WrongSetting(f"{name}: {first['msg'].removeprefix('Value error, ')}{hint}") from None


@contextmanager
def read_as(setting: str) -> Iterator[None]:
    """A ValueError is about this setting. Raises WrongSetting."""
    try:
        yield
    except ValueError as error:
        raise WrongSetting(f"{PREFIX}{setting.upper()}: {error}") from None
