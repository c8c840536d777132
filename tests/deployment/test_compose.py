"""compose.yaml matches the code: commands, settings, health checks and secrets; every container is restricted."""

import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from libs.encryption import Opener, Sealer
from libs.settings import PREFIX, Settings, load
from libs.tracing.trace_settings import ENDPOINT, TRACES_ENDPOINT
from services import health
from services.config_lint.setting_checks import LintSettings
from services.doctor.checks import DoctorSettings
from tests.deployment import stack
from tests.deployment.wiring import CONSOLE, EVERY_SERVICE, SERVICES, settings_class, wired

COMMANDS = ("mongodb-init", "dead_letters", "upkeep", "backup", "restore")
"""Containers that run a command and exit."""
OBSERVABILITY = ("prometheus", "grafana")
CONTAINERS = (*EVERY_SERVICE, *COMMANDS, *OBSERVABILITY, "edge", "mongodb", "rabbitmq")


def setting(variable: str) -> str:
    """The setting for TOKENWIRE_X or TOKENWIRE_X_FILE."""
    return variable.removeprefix(PREFIX).removesuffix("_FILE").lower()


def has_compose() -> bool:
    """Whether Docker Compose is installed."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


def test_compose_accepts_the_file() -> None:
    """Compose accepts the file. Without Compose installed, only the YAML is checked."""
    assert set(stack.compose()) >= {"services", "networks", "volumes", "secrets"}
    if has_compose():
        command = ["docker", "compose", "--file", str(stack.ROOT / "compose.yaml"), "config", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_stack_is_complete() -> None:
    """The stack has exactly these containers. An unlisted one would escape the checks below."""
    assert set(stack.containers()) == set(CONTAINERS)


@pytest.mark.parametrize("name", ["dead_letters", "upkeep", "backup", "restore"])
def test_a_container_for_commands_runs_one_that_exists(name: str) -> None:
    """A container for commands runs an existing one, including its default (`docker compose run --rm upkeep`)."""
    container = stack.containers()[name]
    command = [sys.executable, "-m", "services", *container["command"], "--help"]
    assert container["entrypoint"] == ["python", "-m", "services"]
    assert subprocess.run(command, cwd=stack.ROOT, capture_output=True).returncode == 0


def test_the_dead_letter_command_is_not_started_by_up(made: Path) -> None:
    """The dead-letter command is not part of `up`, is a command of `python -m services`, and has its own
    broker user.
    """
    container = stack.containers()["dead_letters"]
    assert container["profiles"] == ["tools"]
    optional = {"dead_letters", "upkeep", "backup", "restore", *OBSERVABILITY}
    assert {name for name in CONTAINERS if "profiles" in stack.containers()[name]} == optional
    assert container["entrypoint"] == ["python", "-m", "services"]
    done = subprocess.run(
        [sys.executable, "-m", "services", *container["command"], "--help"], cwd=stack.ROOT, capture_output=True
    )
    assert done.returncode == 0
    assert stack.environment("dead_letters") == {"TOKENWIRE_AMQP_URL_FILE": "/run/secrets/amqp_url"}
    url = (made / stack.secrets("dead_letters")["/run/secrets/amqp_url"].name).read_text()
    assert urlsplit(url).username == "dead_letters"


@pytest.mark.parametrize("command", ["config-lint", "doctor", "reencrypt"])
def test_the_stack_is_looked_after_by_commands_that_nothing_starts_by_themselves(command: str) -> None:
    """The upkeep commands are not part of `up`. They get MongoDB, RabbitMQ, the encryption keys, and the settings that
    config lint checks; nothing else.
    """
    container = stack.containers()["upkeep"]
    assert (container["profiles"], container["entrypoint"]) == (["tools"], ["python", "-m", "services"])
    done = subprocess.run([sys.executable, "-m", "services", command, "--help"], cwd=stack.ROOT, capture_output=True)
    assert done.returncode == 0
    named = {setting(name) for name in container["environment"]}
    assert named <= LintSettings.model_fields.keys() | DoctorSettings.model_fields.keys()
    told = {service: stack.containers()[service]["environment"] for service in EVERY_SERVICE}
    for name, value in container["environment"].items():
        assert {environment[name] for environment in told.values() if name in environment} == {value}, name


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_a_service_runs_its_own_module(service: str) -> None:
    """Each service container runs its own module, from one image."""
    container = stack.containers()[service]
    assert container["image"] == stack.containers()["token"]["image"]
    assert container["command"] == ["python", "-m", f"services.{service}"]
    assert importlib.util.find_spec(f"services.{service}.__main__") is not None


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_every_setting_of_a_service_is_set_and_no_other(service: str) -> None:
    """Each service container sets exactly the settings that its service has: an unknown variable would have no
    effect.
    """
    named = stack.containers()[service]["environment"].keys() - stack.tracing()
    assert all(name.startswith(PREFIX) for name in named)
    assert sorted(setting(name) for name in named) == sorted(settings_class(service).model_fields)


def test_every_service_passes_the_settings_of_tracing_on() -> None:
    """Each service gets the same OTEL_ variables from ours, if they are set, but not one name for all services."""
    assert {ENDPOINT, TRACES_ENDPOINT} <= stack.tracing()
    assert "OTEL_SERVICE_NAME" not in stack.tracing()
    for service in EVERY_SERVICE:
        environment = stack.containers()[service]["environment"]
        assert {name: environment[name] for name in stack.tracing()} == dict.fromkeys(stack.tracing())


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_a_service_accepts_its_settings(service: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stack's environment and generated secrets are valid settings with the expected values."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    mounted = stack.secrets(service)
    for name, value in stack.environment(service).items():
        monkeypatch.setenv(name, str(made / mounted[value].name) if name.endswith("_FILE") else value)
    settings = load(settings_class(service))
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)  # noqa: S104 - inside a container of its own
    if not isinstance(settings, Settings):
        return
    assert not settings.declare_topology
    assert urlsplit(settings.amqp_url.get_secret_value()).username == service
    mongodb = urlsplit(settings.mongodb_url.get_secret_value())
    assert (mongodb.username, mongodb.hostname) == (service, "mongodb")
    assert parse_qs(mongodb.query)["authSource"] == [settings.mongodb_database]


def test_the_token_service_seals_to_the_key_that_the_notifier_opens(made: Path) -> None:
    """The token service's public key and the notifier's private key belong together."""

    def key(name: str) -> bytes:
        return base64.b64decode((made / name).read_text())

    box = Sealer(key("notifier_public_key")).seal(b"a token")
    assert Opener([key("notifier_private_keys")]).open(box) == b"a token"


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_the_health_check_exists_in_the_code(service: str) -> None:
    """The health check's module, path and port exist in the code."""
    python, dash, module, wait, url = stack.containers()[service]["healthcheck"]["test"][1:]
    assert (python, dash) == ("python", "-m")
    limit = float(stack.containers()[service]["healthcheck"]["timeout"].removesuffix("s"))
    assert float(wait.removeprefix(health.WAIT)) + health.WITHIN < limit
    assert importlib.util.find_spec(module) is not None
    paths = {route.resource.canonical for route in wired(service).app.router.routes() if route.resource is not None}
    assert urlsplit(url).path in paths
    assert urlsplit(url).port == int(stack.environment(service)["TOKENWIRE_PORT"])


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_can_do_little(name: str) -> None:
    """No container runs as root, has capabilities or can gain any; only its volume and memory are writable.

    Memory, processes and logs are limited.
    """
    container = stack.containers()[name]
    uid, gid = container["user"].split(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert container["read_only"] is True
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]
    assert container["logging"]["options"].keys() == {"max-size", "max-file"}
    assert container["deploy"]["resources"]["limits"].keys() == {"memory", "pids"}
    assert all("noexec" in mount or mount.startswith(("/data/", "/var/log/")) for mount in container["tmpfs"])
    assert container.keys().isdisjoint({"privileged", "cap_add", "devices", "container_name", "pid", "ipc", "env_file"})
    assert all(":ro" in mount for mount in container.get("volumes", []) if mount.startswith("."))


def test_only_the_edge_is_published() -> None:
    """Only the edge publishes a port, and Grafana if it is asked for; by default only on loopback."""
    published = {name: container["ports"] for name, container in stack.containers().items() if "ports" in container}
    assert published == {"edge": ["127.0.0.1:8080:8080"], "grafana": ["127.0.0.1:3000:3000"]}
    assert {name: stack.containers()[name]["profiles"] for name in OBSERVABILITY} == {
        name: ["observability"] for name in OBSERVABILITY
    }


def test_networks_are_separated() -> None:
    """Only services reach MongoDB and RabbitMQ, and only containers that need it reach the internet."""
    members = {
        network: {name for name, container in stack.containers().items() if network in container.get("networks", [])}
        for network in stack.compose()["networks"]
    }
    assert members == {
        "outside": {"edge", "notifier", "gateway"},
        "services": {"edge", "prometheus", *EVERY_SERVICE},
        "data": {"mongodb", "rabbitmq", "dead_letters", "upkeep", "backup", "restore", *SERVICES},
        "metrics": {"prometheus", "grafana"},
        "dashboard": {"grafana"},
    }
    assert {name for name, network in stack.compose()["networks"].items() if network.get("internal")} == {
        "services",
        "data",
        "metrics",
    }
    assert stack.containers()["mongodb-init"]["network_mode"] == "service:mongodb"


def test_a_start_waits_for_what_it_needs() -> None:
    """MongoDB is prepared and RabbitMQ has its definitions before the services start. `mongodb-init` waits for MongoDB
    by itself, and the edge finds the services when they listen, so these start beside them.
    """
    conditions = {
        name: wanted if isinstance(wanted, list) else {other: each["condition"] for other, each in wanted.items()}
        for name, container in stack.containers().items()
        for wanted in [container.get("depends_on", {})]
    }
    assert conditions["mongodb-init"] == ["mongodb"]
    for service in SERVICES:
        assert conditions[service] == {
            "mongodb-init": "service_completed_successfully",
            "rabbitmq": "service_healthy",
        }
    assert conditions[CONSOLE] == ["management"]
    assert sorted(conditions["edge"]) == sorted(EVERY_SERVICE)
    assert all("healthcheck" in stack.containers()[name] for name in CONTAINERS if name not in COMMANDS)


def test_a_stop_has_time_to_finish() -> None:
    """The stop time-out exceeds the eight seconds that services give their requests; containers restart unless
    stopped.
    """
    for name in (*EVERY_SERVICE, *OBSERVABILITY, "edge", "mongodb", "rabbitmq"):
        assert int(stack.containers()[name]["stop_grace_period"].removesuffix("s")) >= 15
        assert stack.containers()[name]["restart"] == "unless-stopped"
    assert {stack.containers()[name]["restart"] for name in COMMANDS} == {"no"}


def test_secrets_are_the_files_that_are_made(made: Path) -> None:
    """Every secret is created by `make secrets`. Only the key of downstream systems has no user in either stack."""
    cluster = yaml.safe_load((stack.ROOT / "compose.cluster.yaml").read_text())
    files = {Path(secret["file"]) for each in (stack.compose(), cluster) for secret in each["secrets"].values()}
    assert {file.parent for file in files} == {Path(".secrets")}
    assert {path.name for path in made.iterdir()} - {file.name for file in files} == {
        "amqp_url_subscriber",
        "cluster_amqp_url_subscriber",
    }
    assert {file.name for file in files} <= {path.name for path in made.iterdir()}


def test_a_secret_reaches_only_containers_that_need_it() -> None:
    """Each secret reaches only those that need it: the private key the notifier, the URL of a user its own service.

    `mongodb-init` has the MongoDB URLs, too, because it sets the passwords in them.
    """
    holders: dict[str, set[str]] = {}
    for name in CONTAINERS:
        for file in stack.secrets(name).values():
            holders.setdefault(file.name, set()).add(name)
    own_urls = {f"amqp_url_{name}": {name} for name in SERVICES}
    own_urls["amqp_url_dead_letters"] = {"dead_letters", "upkeep"}  # the doctor counts them
    own_urls |= {f"mongodb_url_{name}": {name, "mongodb-init"} for name in (*SERVICES, "upkeep", "backup", "restore")}
    assert holders == own_urls | {
        "keys": {*SERVICES, "upkeep"},
        "console_keys": {CONSOLE},
        "notifier_public_key": {"token"},
        "notifier_private_keys": {"notifier"},
        "bootstrap_operator_key": {"management"},
        "grafana_password": {"grafana"},
        "mongodb_keyfile": {"mongodb"},
        "mongodb_root_password": {"mongodb-init"},
        "rabbitmq_definitions.json": {"rabbitmq"},
    }
    for service in EVERY_SERVICE:
        used = {value for name, value in stack.environment(service).items() if name.endswith("_FILE")}
        assert used == set(stack.secrets(service))


def test_the_edge_is_new_enough_for_its_configuration() -> None:
    """`resolve` in an upstream needs nginx 1.27.3 or later."""
    image, _, tag = stack.containers()["edge"]["image"].partition(":")
    assert image == "nginx"
    assert tuple(int(part) for part in tag.split("-")[0].split(".")) >= (1, 28)


def example() -> dict[str, str]:
    """The settings in .env.example, including commented ones."""
    lines = re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", (stack.ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(lines) == len(dict(lines))
    return {name: value.strip('"') for name, value in lines}


def test_the_example_lists_every_setting_and_every_variable() -> None:
    """.env.example lists exactly the existing settings and variables."""
    settings = {f"{PREFIX}{name.upper()}" for service in EVERY_SERVICE for name in settings_class(service).model_fields}
    assert set(example()) == settings | set(stack.variables()) | stack.tracing()


def test_the_example_says_the_defaults() -> None:
    """Unless marked as an example, a value in .env.example is the default in code and stack."""
    told = example()
    assert {name: told[name] for name in stack.variables()} == stack.variables()
    for fields in (settings_class(service).model_fields for service in EVERY_SERVICE):
        for name, field in fields.items():
            if not field.is_required() and field.default is not None:
                text = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:}"
                assert told[f"{PREFIX}{name.upper()}"] in {text, text.removesuffix(".0")}


def test_the_image_has_what_it_runs() -> None:
    """What the Dockerfile copies exists and is not ignored; the image runs as non-root and has no compiler."""
    text = (stack.ROOT / "Dockerfile").read_text()
    sources = [line.split()[1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    allowed = {line[1:] for line in (stack.ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*sources, ".wheels"} == allowed, ".wheels is there only where no package index can be reached"
    assert all((stack.ROOT / source).exists() for source in sources)
    final = text.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert not re.search(r"apt-get|gcc|build-essential|pip install", final)
    assert "--require-hashes" in text
    assert stack.containers()["token"]["user"] == "10001:10001"
