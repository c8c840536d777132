"""Settings: read from the environment or from files; what is wrong or missing is said in one line that names it."""

import base64
import os
from pathlib import Path

import pytest
from pydantic import SecretStr

from libs.settings import PREFIX, Settings, WrongSetting, load
from tests.deployment.wiring import SERVICES, settings_class

KEY = base64.b64encode(bytes(range(32))).decode()
NEEDED = {
    "MONGODB_URL": "mongodb://127.0.0.1/?replicaSet=rs0",
    "AMQP_URL": "amqp://127.0.0.1/",
    "KEYS": f"1:{KEY}",
    "NOTIFIER_PUBLIC_KEY": KEY,
    "NOTIFIER_PRIVATE_KEYS": KEY,
}
WRONG = {
    "ENVIRONMENT": ["testing", "Production"],
    "PORT": ["-1", "65536", "http", "8080.5"],
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
    "LOG_LEVEL": ["loud", "INFO", "infos"],
    "LOG_FORMAT": ["xml"],
    "ACCESS_LOG_SAMPLE": ["-0.1", "1.1", "all"],
    "OAUTH_ERROR_STATUS": ["200", "399", "500", "forbidden"],
    "NOTIFIER_PUBLIC_KEY": ["", "c2hvcnQ=", "not base64!", f"{KEY}{KEY}"],
    "NOTIFIER_PRIVATE_KEYS": ["", "c2hvcnQ=", f"{KEY},", f"{KEY},c2hvcnQ="],
    "ALLOW_PRIVATE_DESTINATIONS": ["perhaps"],
    "WEBHOOK_TIMEOUT": ["0", "61", "soon"],
    "PER_ENDPOINT_CONCURRENCY": ["0", "4097", "many"],
    "TOTAL_CONCURRENCY": ["1", "16385", "many"],
    "UPSTREAM_CONNECT_TIMEOUT": ["0", "61", "soon"],
    "UPSTREAM_TIMEOUT": ["0", "3601", "soon"],
    "CLIENT_SECRETS": ["sometimes"],
    "LIMITS_ON_FAILURE": ["perhaps", "Allow"],
    "BOOTSTRAP_OPERATOR_KEY": ["short", "a key with spaces and 24 characters", "x" * 513],
}
ANY_TEXT = {"HOST", "MONGODB_URL", "AMQP_URL"}
"""What is wrong with these is known where they are used (tests/acceptance/test_operations.py)."""


def fields(service: str) -> dict[str, bool]:
    """The names of a service's settings, and whether there is no default."""
    return {name.upper(): field.is_required() for name, field in settings_class(service).model_fields.items()}


@pytest.fixture(autouse=True)
def needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Just what has no default, whatever the environment of the tests has."""
    for variable in [variable for variable in os.environ if variable.startswith(PREFIX)]:
        monkeypatch.delenv(variable)
    for name, value in NEEDED.items():
        monkeypatch.setenv(f"TOKENWIRE_{name}", value)


def refusal(service: str) -> str:
    """The one line."""
    with pytest.raises(WrongSetting) as refused:
        load(settings_class(service))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("service", SERVICES)
def test_what_has_no_default_is_enough(service: str) -> None:
    """A first start needs no more than this."""
    loaded = load(settings_class(service))
    assert (loaded.host, loaded.port) == ("127.0.0.1", 8080)
    assert {name for name, required in fields(service).items() if required} <= NEEDED.keys()


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_is_in_the_table(service: str) -> None:
    """So that none can be added without a thought about what is wrong for it."""
    assert fields(service).keys() <= WRONG.keys() | ANY_TEXT


@pytest.mark.parametrize(
    ("service", "name"),
    [(service, name) for service in SERVICES for name, required in fields(service).items() if required],
)
def test_a_missing_setting_is_named(monkeypatch: pytest.MonkeyPatch, service: str, name: str) -> None:
    """Whoever reads the line knows what to set."""
    monkeypatch.delenv(f"TOKENWIRE_{name}")
    assert refusal(service).startswith(f"TOKENWIRE_{name}: Field required")


@pytest.mark.parametrize(
    ("name", "value"), [pytest.param(name, value, id=f"{name}={value[:20]}") for name in WRONG for value in WRONG[name]]
)
def test_a_wrong_value_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    """Every service that has the setting refuses it; a value may be a secret that was meant for another setting."""
    monkeypatch.setenv(f"TOKENWIRE_{name}", value)
    having = [service for service in SERVICES if name in fields(service)]
    assert having
    for service in having:
        line = refusal(service)
        assert line.startswith(f"TOKENWIRE_{name}: ")
        assert len(value) < len("a value") or value not in line


def test_a_value_may_be_in_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the line break that editors end it with; the variable itself wins."""
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
    """With its variable and its path."""
    file = tmp_path / "keys"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.delenv("TOKENWIRE_KEYS")
    monkeypatch.setenv("TOKENWIRE_KEYS_FILE", str(file))
    assert refusal("token") == f"TOKENWIRE_KEYS_FILE: {file}: {reason}"


def test_secrets_are_not_in_the_text_of_settings() -> None:
    """Neither when they are printed nor when they are logged."""
    assert KEY not in f"{load(settings_class('notifier'))!r}"
