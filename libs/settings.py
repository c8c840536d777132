"""Settings: the only reader of the environment. Each `TOKENWIRE_X` may also come from the file that `TOKENWIRE_X_FILE`
names; wrong or missing values stop the start with one line each.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from libs.client_address import TrustedProxies
from libs.encryption import KeyRing
from libs.oauth.login_limits import Limit
from libs.outbound.ssrf import parse_denylist
from libs.workers.number import MOST as MOST_WORKERS
from libs.workers.number import worker_count

PREFIX = "TOKENWIRE_"
FILE = "_FILE"
OF_SINGLE_SERVICES = frozenset(
    {
        "allow_private_destinations",
        "bootstrap_operator_key",
        "client_secrets",
        "console_keys",
        "edge_forwards",
        "issuance_limit",
        "limits_on_failure",
        "min_client_secret_length",
        "notifier_private_keys",
        "notifier_public_key",
        "oauth_error_status",
        "per_endpoint_concurrency",
        "redirect_uri_separator",
        "services_url",
        "session_idle",
        "session_lifetime",
        "total_concurrency",
        "tyk_gateway_api",
        "upstream_connect_timeout",
        "upstream_deny",
        "upstream_timeout",
        "webhook_timeout",
    }
)
"""Settings that not every service has, and that all may find in an environment that they share."""
_ALIKE, _PREFIX_ALIKE = 0.75, 0.9
"""From this similarity on a name, or a name with its prefix, is taken for a misspelling of another."""
_NO_SETTINGS = tuple(f"{PREFIX}{name}" for name in ("TEST_", "VERSION", "OPERATOR_KEY"))
"""Of the tests, of compose.yaml, of the demo."""


class WrongSetting(Exception):
    """Settings are missing or wrong; the text is one line for each."""


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
        path = os.environ.get(f"{PREFIX}{field_name.upper()}{FILE}")
        return (_text_of(path) if path else None), field_name, False

    def __call__(self) -> dict[str, Any]:
        values = {}
        for name, field in self.settings_cls.model_fields.items():
            try:
                value, _, _ = self.get_field_value(field, name)
            except _Unreadable:
                continue  # reported by `load`, with everything else that is wrong
            if value is not None:
                values[name] = value
        return values


class _Unreadable(Exception):
    """A file has no value for a setting; the text says why."""


def _text_of(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise _Unreadable(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError:
        raise _Unreadable(f"{path}: UTF-8 text is expected") from None


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


def _denylist(text: str) -> str:
    parse_denylist(text)
    return text


Denylist = Annotated[str, AfterValidator(_denylist)]
DENYLIST_DESCRIPTION = (
    "Denylist of the SSRF guard, for upstreams and webhooks: networks, or link-local, metadata, loopback, private, "
    "none; separated by commas."
)
LimitText = Annotated[str, AfterValidator(_limit)]


def _error_status(value: object) -> Literal[403] | None:
    if value is None:
        return None
    if value not in {403, "403"}:
        raise ValueError("403 is the only supported value; leave it unset for the statuses of RFC 6749")
    return 403


OAuthErrorStatus = Annotated[Literal[403] | None, BeforeValidator(_error_status)]
"""One status for every OAuth error, or None for those of RFC 6749 §5.2."""


TykGatewayApi = Annotated[
    bool, Field(description="true: also offer the open-source Tyk gateway's own API below /tyk/, for operators.")
]
"""Whether the service offers its part of the gateway's API."""


def _base_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "?" in text or "#" in text:
        raise ValueError("an absolute http or https URL without query")
    return text.rstrip("/")


BaseUrl = Annotated[str, AfterValidator(_base_url)]


class ServerSettings(BaseSettings):
    """What every service needs, also one without records and events."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    environment: Environment = Field(
        Environment.PRODUCTION, description="development allows what is only safe on your own machine."
    )
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on.")
    workers: Annotated[int, BeforeValidator(worker_count)] = Field(
        1,
        ge=1,
        le=MOST_WORKERS,
        description="Processes that share the port; auto: as many as there are cores available.",
    )
    public_url: BaseUrl = Field(
        "http://127.0.0.1:8080", description="URL at which clients reach the edge; part of the issuer."
    )
    trusted_proxies: Annotated[str, AfterValidator(_proxies)] = Field(
        "",
        description="Addresses and networks, separated by commas, whose X-Forwarded-… headers are believed and passed "
        "on to upstreams; unset: none.",
    )
    max_connections: int = Field(
        4096,
        ge=16,
        le=100_000,
        description="Open connections per process; beyond that the longest idle ones are closed.",
    )
    max_unfinished_heads: int = Field(
        1024,
        ge=16,
        le=100_000,
        description="Connections per process that have not sent complete headers; beyond that the oldest is closed.",
    )
    linger: float = Field(
        2.5, ge=0, le=30, description="Seconds for which a stopping service still responds, so that the edge moves on."
    )
    log_level: str = Field(
        "info",
        pattern=r"^(debug|info|warning|error)$",
        description="Lowest level that is logged: debug, info, warning or error.",
    )
    log_format: LogFormat = Field(LogFormat.JSON, description="json for machines, console for people.")
    access_log_sample: float = Field(1.0, ge=0, le=1, description="Share of successful requests that are logged.")

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


class Settings(ServerSettings):
    """What every service with records and events needs."""

    mongodb_url: SecretStr = Field(..., description="Connection string (mongodb://) of a replica set.")
    mongodb_database: str = Field("tokenwire", pattern=r"^[A-Za-z0-9_-]{1,38}$", description="Database name.")
    amqp_url: SecretStr = Field(
        ..., description="amqp:// or amqps:// URL of RabbitMQ, or several separated by commas, one for each node."
    )
    declare_topology: bool = Field(
        True, description="Declare exchanges and queues at start; false where definitions made them."
    )
    keys: Annotated[SecretStr, AfterValidator(_key_ring)] = Field(
        ..., description="Key ring: <id>:<base64 of 32 bytes>[,…]; the first is current."
    )
    cache_ttl: float = Field(
        5.0,
        ge=0,
        le=300,
        description="Maximum age of cached records in seconds; under one second while the bus is silent.",
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
        "60/60",
        description="Failures/seconds from one address, counted separately for secrets, passwords, operator keys.",
    )


S = TypeVar("S", bound=ServerSettings)


Checks = Mapping[str, Callable[[str], object]]
"""By the name of a setting: what raises ValueError with the reason where its text is wrong."""


def load(settings: type[S], checks: Checks | None = None, /, **overrides: Any) -> S:
    """The settings from overrides, environment and files. Raises WrongSetting with one line for each fault.

    `checks` are for texts of which only other parts of the program know what is wrong with them; an empty text is not
    checked.
    """
    unreadable = dict(_unreadable_files(settings, overrides))
    refused = list(_refused(checks or {}, overrides))
    try:
        loaded = settings(**overrides)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_context=False, include_input=False)
        lines = [_line(settings, fault) for fault in faults if not (fault["loc"] and fault["loc"][0] in unreadable)]
        hints = [
            f"{name}: is not a setting; {meant} was probably meant" for name, meant in misspelled(settings, os.environ)
        ]
        raise WrongSetting("\n".join([*unreadable.values(), *lines, *refused, *hints])) from None
    if unreadable or refused:
        raise WrongSetting("\n".join([*unreadable.values(), *refused]))
    return loaded


def _refused(checks: Checks, overrides: Mapping[str, object]) -> Iterator[str]:
    """A line for each setting whose text its check refuses."""
    for name, check in checks.items():
        text = _given(name, overrides)
        if text:
            try:
                check(text)
            except ValueError as reason:
                yield f"{PREFIX}{name.upper()}: {reason}"


def _given(name: str, overrides: Mapping[str, object]) -> str:
    """The text of a setting before it is validated; empty where there is none that can be read."""
    if name in overrides:
        value = overrides[name]
        return value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    variable = f"{PREFIX}{name.upper()}"
    for written, text in os.environ.items():
        if written.upper() == variable:
            return text
    try:
        path = os.environ.get(f"{variable}{FILE}")
        return _text_of(path) if path else ""
    except _Unreadable:
        return ""


def _unreadable_files(settings: type[ServerSettings], overrides: Mapping[str, object]) -> Iterator[tuple[str, str]]:
    """The settings whose file is named and cannot be read, each with the line that says so."""
    for name in settings.model_fields:
        variable = f"{PREFIX}{name.upper()}"
        path = os.environ.get(f"{variable}{FILE}")
        if path and name not in overrides and variable not in os.environ:
            try:
                _text_of(path)
            except _Unreadable as reason:
                yield name, f"{variable}{FILE}: {reason}"


def _line(settings: type[ServerSettings], fault: Mapping[str, Any]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    field = settings.model_fields.get(name)
    hint = f" ({field.description})" if field and field.description else ""
    return f"{PREFIX}{name.upper()}: {fault['msg'].removeprefix('Value error, ')}{hint}"


def misspelled(settings: type[ServerSettings], environment: Iterable[str]) -> Iterator[tuple[str, str]]:
    """The variables that look like a misspelled setting, each with the name that was probably meant."""
    names = {name.upper() for name in (*settings.model_fields, *OF_SINGLE_SERVICES)}
    known = {f"{name}{end}" for name in names for end in ("", FILE)}
    letters = {_letters(name): name for name in known}
    prefix = _letters(PREFIX)
    for variable in environment:
        name, spelled = variable.upper(), _letters(variable)
        if (name.startswith(PREFIX) and name.removeprefix(PREFIX) in known) or name.startswith(_NO_SETTINGS):
            continue
        if spelled.startswith(prefix):
            # Without the common prefix, which would make all of them similar.
            meant = get_close_matches(spelled.removeprefix(prefix), letters, 1, _ALIKE)
        elif spelled.startswith("TOKEN"):
            meant = get_close_matches(spelled, [f"{prefix}{each}" for each in letters], 1, _PREFIX_ALIKE)
        else:
            continue
        yield from ((variable, f"{PREFIX}{letters[each.removeprefix(prefix)]}") for each in meant)


def _letters(name: str) -> str:
    """In capitals and without what separates words, where most misspellings are."""
    return name.upper().replace("_", "").replace("-", "").replace(".", "")


@contextmanager
def read_as(setting: str) -> Iterator[None]:
    """A ValueError is about this setting. Raises WrongSetting."""
    try:
        yield
    except ValueError as error:
        raise WrongSetting(f"{PREFIX}{setting.upper()}: {error}") from None
