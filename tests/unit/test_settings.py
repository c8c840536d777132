"""Settings from the environment or files; each wrong or missing one is named in one line."""

import base64
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.runtime import new_deps
from libs.settings import OF_SINGLE_SERVICES, PREFIX, Settings, WrongSetting, load, misspelled
from tests.deployment.wiring import EVERY_SERVICE, settings_class

KEY = base64.b64encode(bytes(range(32))).decode()
NEEDED = {
    "MONGODB_URL": "mongodb://127.0.0.1/?replicaSet=rs0",
    "AMQP_URL": "amqp://127.0.0.1/",
    "KEYS": f"1:{KEY}",
    "NOTIFIER_PUBLIC_KEY": KEY,
    "NOTIFIER_PRIVATE_KEYS": KEY,
    "CONSOLE_KEYS": f"1:{KEY}",
}
WRONG = {
    "ENVIRONMENT": ["testing", "Production"],
    "PORT": ["-1", "65536", "http", "8080.5"],
    "WORKERS": ["", "0", "-1", "129", "1.5", "many", "Auto"],
    "PUBLIC_URL": ["", "https://", "ftp://host/", "host:8080", "/path", "https://host/?a=b", "https://host/#a"],
    "MONGODB_DATABASE": ["", "a b", "a/b", "a.b", "$a", "a" * 39],
    "DECLARE_TOPOLOGY": ["perhaps", "2"],
    "KEYS": ["", KEY, "1:", "1:c2hvcnQ=", f"256:{KEY}", f"-1:{KEY}", f"1:{KEY},1:{KEY}", f"1:{KEY},", "1:not base64!"],
    "CACHE_TTL": ["-1", "301", "soon"],
    "TRUSTED_PROXIES": ["proxy.example.test", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/8 10.1.0.0/16", "*"],
    "THROTTLE_CLIENT": ["", "20", "0/60", "20/0", "-1/60", "20/60/1", "20/minute", "1000000000/60"],
    "THROTTLE_USER": ["", "10/"],
    "THROTTLE_USER_ANYWHERE": ["", "/3600"],
    "THROTTLE_ADDRESS": ["", "1.5/60"],
    "LINGER": ["-1", "31", "long"],
    "MAX_CONNECTIONS": ["15", "100001", "many"],
    "MAX_UNFINISHED_HEADS": ["15", "100001", "many"],
    "LOG_LEVEL": ["loud", "INFO", "infos"],
    "LOG_FORMAT": ["xml"],
    "ACCESS_LOG_SAMPLE": ["-0.1", "1.1", "all"],
    "ISSUANCE_LIMIT": ["", "20", "0/60", "20/0", "off", "20/minute"],
    "OAUTH_ERROR_STATUS": ["", "200", "400", "401", "404", "499", "500", "403.0", "forbidden"],
    "NOTIFIER_PUBLIC_KEY": ["", "c2hvcnQ=", "not base64!", f"{KEY}{KEY}"],
    "NOTIFIER_PRIVATE_KEYS": ["", "c2hvcnQ=", f"{KEY},", f"{KEY},c2hvcnQ="],
    "ALLOW_PRIVATE_DESTINATIONS": ["perhaps"],
    "WEBHOOK_TIMEOUT": ["0", "61", "soon"],
    "PER_ENDPOINT_CONCURRENCY": ["0", "4097", "many"],
    "TOTAL_CONCURRENCY": ["1", "16385", "many"],
    "UPSTREAM_CONNECT_TIMEOUT": ["0", "61", "soon"],
    "UPSTREAM_DENY": ["everything", "10.0.0.0/33", "link-local metadata"],
    "UPSTREAM_TIMEOUT": ["0", "3601", "soon"],
    "CLIENT_SECRETS": ["sometimes"],
    "TYK_GATEWAY_API": ["perhaps"],
    "EDGE_FORWARDS": ["perhaps", "2"],
    "MIN_CLIENT_SECRET_LENGTH": ["0", "129", "short"],
    "REDIRECT_URI_SEPARATOR": ["", "/", "and", ",,,,,"],
    "LIMITS_ON_FAILURE": ["perhaps", "Allow"],
    "CONSOLE_KEYS": ["", KEY, "1:", "1:c2hvcnQ="],
    "SERVICES_URL": ["", "management:8080", "http://{service}/path", "ftp://{service}", "http://{service}/?a=b"],
    "SESSION_IDLE": ["59", "86401", "long"],
    "SESSION_LIFETIME": ["59", "604801", "long"],
    "BOOTSTRAP_OPERATOR_KEY": ["short", "a key with spaces and 24 characters", "x" * 513],
}
ANY_TEXT = {"HOST", "MONGODB_URL", "AMQP_URL"}
"""Their errors are found on use (tests/acceptance/test_operations.py)."""


def fields(service: str) -> dict[str, bool]:
    """The service's settings, and whether each is required."""
    return {name.upper(): field.is_required() for name, field in settings_class(service).model_fields.items()}


@pytest.fixture(autouse=True)
def needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the required settings, ignoring the tests' environment."""
    for variable in [variable for variable in os.environ if variable.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    for name, value in NEEDED.items():
        monkeypatch.setenv(f"TOKENWIRE_{name}", value)


def refusal(service: str) -> str:
    """The error line."""
    with pytest.raises(WrongSetting) as refused:
        load(settings_class(service))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_required_settings_are_enough(service: str) -> None:
    """The required settings suffice to start."""
    loaded = load(settings_class(service))
    assert (loaded.host, loaded.port) == ("127.0.0.1", 8080)
    assert {name for name, required in fields(service).items() if required} <= NEEDED.keys()


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_every_setting_is_in_the_table(service: str) -> None:
    """Every setting is in the table of wrong values."""
    assert fields(service).keys() <= WRONG.keys() | ANY_TEXT


@pytest.mark.parametrize(
    ("service", "name"),
    [(service, name) for service in EVERY_SERVICE for name, required in fields(service).items() if required],
)
def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch, service: str, name: str) -> None:
    """A missing setting is named."""
    monkeypatch.delenv(f"TOKENWIRE_{name}")
    assert refusal(service).startswith(f"TOKENWIRE_{name}: Field required")


@pytest.mark.parametrize(
    ("name", "value"), [pytest.param(name, value, id=f"{name}={value[:20]}") for name in WRONG for value in WRONG[name]]
)
def test_a_wrong_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """A wrong value is refused by every service with the setting, by name and without the value."""
    monkeypatch.setenv(f"TOKENWIRE_{name}", value)
    having = [service for service in EVERY_SERVICE if name in fields(service)]
    assert having
    for service in having:
        line = refusal(service)
        assert line.startswith(f"TOKENWIRE_{name}: ")
        assert len(value) < len("a value") or value not in line


def test_a_value_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A value may be in a file, without its final line break; the variable itself takes precedence."""
    (tmp_path / "url").write_text("amqp://from-a-file/\n")
    monkeypatch.setenv("TOKENWIRE_AMQP_URL_FILE", str(tmp_path / "url"))
    assert load(Settings).amqp_url == SecretStr(NEEDED["AMQP_URL"])
    monkeypatch.delenv("TOKENWIRE_AMQP_URL")
    assert load(Settings).amqp_url == SecretStr("amqp://from-a-file/")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        pytest.param(None, "No such file or directory", id="nowhere"),
        pytest.param(b"\xff\xfe", "UTF-8 text is expected", id="no-text"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """An unreadable file is named with variable and path."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.delenv("TOKENWIRE_KEYS")
    monkeypatch.setenv("TOKENWIRE_KEYS_FILE", str(file))
    assert refusal("token") == f"TOKENWIRE_KEYS_FILE: {file}: {reason}"


def test_secrets_are_not_in_the_text_of_settings() -> None:
    """Secrets are hidden when settings are printed or logged."""
    assert KEY not in f"{load(settings_class('notifier'))!r}"


def test_b10_all_that_is_wrong_is_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """All errors are reported at once, one line each: missing, wrong, unreadable, and likely misspellings."""
    (tmp_path / "directory").mkdir()
    for name in ("AMQP_URL", "KEYS", "MONGODB_URL"):
        monkeypatch.delenv(f"TOKENWIRE_{name}")
    monkeypatch.setenv("TOKENWIRE_KEYS_FILE", str(tmp_path / "directory"))
    monkeypatch.setenv("TOKENWIRE_PORT", "http")
    monkeypatch.setenv("TOKENWIRE_MONGO_URL", "mongodb://user:secret@127.0.0.1/")
    with pytest.raises(WrongSetting) as refused:
        load(Settings)
    lines = str(refused.value).splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "TOKENWIRE_KEYS_FILE",
        "TOKENWIRE_PORT",
        "TOKENWIRE_MONGODB_URL",
        "TOKENWIRE_AMQP_URL",
        "TOKENWIRE_MONGO_URL",
    ]
    assert "Is a directory" in lines[0]
    assert lines[-1] == "TOKENWIRE_MONGO_URL: is not a setting; TOKENWIRE_MONGODB_URL was probably meant"
    assert "secret" not in str(refused.value)


def test_b10_both_urls_that_are_none_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """This includes malformed MongoDB and RabbitMQ URLs."""
    monkeypatch.setenv("TOKENWIRE_MONGODB_URL", "localhost:27017")
    monkeypatch.setenv("TOKENWIRE_AMQP_URL", "localhost")
    with pytest.raises(WrongSetting) as refused:
        new_deps(load(Settings), "token")
    assert [line.partition(":")[0] for line in str(refused.value).splitlines()] == [
        "TOKENWIRE_MONGODB_URL",
        "TOKENWIRE_AMQP_URL",
    ]


@pytest.mark.parametrize(
    ("variable", "meant"),
    [
        ("TOKENWIRE_MONGO_URL", "TOKENWIRE_MONGODB_URL"),
        ("TOKENWIRE_MONGODB_URI_FILE", "TOKENWIRE_MONGODB_URL_FILE"),
        ("TOKENWIRE_KEY", "TOKENWIRE_KEYS"),
        ("TOKENWIRE_LOGLEVEL", "TOKENWIRE_LOG_LEVEL"),
        ("tokenwire_LogLevel", "TOKENWIRE_LOG_LEVEL"),
        ("TOKENWIRE_LOG-LEVEL", "TOKENWIRE_LOG_LEVEL"),
        ("TOKENWIRE_C_A_C_H_E_T_T_L", "TOKENWIRE_CACHE_TTL"),
        ("TOKENWIRE_OAUTHERRORSTATUS", "TOKENWIRE_OAUTH_ERROR_STATUS"),
        ("TOKENWIRE_PUBLICURL_FILE", "TOKENWIRE_PUBLIC_URL_FILE"),
        ("TOKENWIRE_AMQPURLFILE", "TOKENWIRE_AMQP_URL_FILE"),
        ("TOKENWIREPORT", "TOKENWIRE_PORT"),
        ("TOKEN_WIRE_PORT", "TOKENWIRE_PORT"),
        ("TokenWire_Log_Level", None),
        ("TOKENWIRE_UPSTREAM_TIMEOUTS", "TOKENWIRE_UPSTREAM_TIMEOUT"),
        ("tokenwire_ports", "TOKENWIRE_PORT"),
        ("TOKENWIRES_PORT", "TOKENWIRE_PORT"),
        ("TOKENWIRE_PORT", None),
        ("tokenwire_port", None),
        ("TOKENWIRE_WEBHOOK_TIMEOUT", None),
        ("TOKENWIRE_NOTIFIER_PRIVATE_KEYS_FILE", None),
        ("TOKENWIRE_TEST_MONGODB_URL", None),
        ("TOKENWIRE_OPERATOR_KEY", None),
        ("TOKENWIRE_VERSION", None),
        ("TOKENWIRE_SERVICE_HOST", None),
        ("TOKENWIRE_PORT_8080_TCP_ADDR", None),
        ("TOKEN", None),
        ("MONGO_URL", None),
    ],
)
def test_b10_a_misspelled_setting_is_noticed(variable: str, meant: str | None) -> None:
    """A misspelled setting is reported; other services', the tests' and schedulers' variables are not."""
    assert list(misspelled(Settings, [variable])) == ([(variable, meant)] if meant else [])


def test_b10_the_settings_of_single_services_are_known_to_all() -> None:
    """All-in-one knows the settings of every service."""
    own = {name for service in EVERY_SERVICE for name in settings_class(service).model_fields} - set(
        Settings.model_fields
    )
    assert own <= OF_SINGLE_SERVICES


@pytest.mark.parametrize("service", ["authorization", "token", "revocation"])
def test_b10_only_the_status_that_is_offered_is_accepted(monkeypatch: pytest.MonkeyPatch, service: str) -> None:
    """oauth_error_status accepts only the offered value, which the error names."""
    monkeypatch.setenv("TOKENWIRE_OAUTH_ERROR_STATUS", "401")
    assert refusal(service).startswith("TOKENWIRE_OAUTH_ERROR_STATUS: 403 is the only supported value; leave it unset")
    monkeypatch.setenv("TOKENWIRE_OAUTH_ERROR_STATUS", "403")
    assert load(settings_class(service)).model_dump()["oauth_error_status"] == 403
