"""compose.yaml against the code: commands, settings, health checks, secrets, and what keeps each container small."""

import base64
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from libs.sealing import Opener, Sealer
from libs.settings import PREFIX, load
from services.audit.configuration import AuditSettings
from tests.deployment import stack
from tests.deployment.wiring import SERVICES, settings_class, wired

COMMANDS = ("mongodb-init", "parking", "upkeep")
"""Containers that do something and end."""
CONTAINERS = (*SERVICES, *COMMANDS, "edge", "mongodb", "rabbitmq")


def setting(variable: str) -> str:
    """The name in the Settings of TOKENWIRE_X and TOKENWIRE_X_FILE."""
    return variable.removeprefix(PREFIX).removesuffix("_FILE").lower()


def has_compose() -> bool:
    """Whether Compose is installed here."""
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "compose", "version"], capture_output=True).returncode == 0


def test_compose_accepts_the_file() -> None:
    """Compose's own reader finds nothing wrong; where it is not installed, the file is at least YAML with its parts."""
    assert set(stack.compose()) >= {"services", "networks", "volumes", "secrets"}
    if has_compose():
        command = ["docker", "compose", "--file", str(stack.ROOT / "compose.yaml"), "config", "--quiet"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_the_stack_is_complete() -> None:
    """Six services, the edge, MongoDB with its preparation, RabbitMQ with the command for what is parked, and the
    commands that look after all; what is not known here is not hardened below.
    """
    assert set(stack.containers()) == set(CONTAINERS)


def test_what_is_parked_has_a_command_that_nothing_starts_by_itself(made: Path) -> None:
    """It is not part of `up`, runs what `python -m services` knows, and is the broker's user for that alone."""
    container = stack.containers()["parking"]
    assert container["profiles"] == ["tools"]
    assert all("profiles" not in stack.containers()[name] for name in CONTAINERS if name not in {"parking", "upkeep"})
    assert container["entrypoint"] == ["python", "-m", "services"]
    done = subprocess.run(
        [sys.executable, "-m", "services", *container["command"], "--help"], cwd=stack.ROOT, capture_output=True
    )
    assert done.returncode == 0
    assert stack.environment("parking") == {"TOKENWIRE_AMQP_URL_FILE": "/run/secrets/amqp_url"}
    url = (made / stack.secrets("parking")["/run/secrets/amqp_url"].name).read_text()
    assert urlsplit(url).username == "parking"


@pytest.mark.parametrize("command", ["audit", "reseal"])
def test_the_stack_is_looked_after_by_commands_that_nothing_starts_by_themselves(command: str) -> None:
    """They see MongoDB and the key ring, know what the services are told that can be weak, and hold nothing else."""
    container = stack.containers()["upkeep"]
    assert (container["profiles"], container["entrypoint"]) == (["tools"], ["python", "-m", "services"])
    done = subprocess.run([sys.executable, "-m", "services", command, "--help"], cwd=stack.ROOT, capture_output=True)
    assert done.returncode == 0
    named = {setting(name) for name in container["environment"]}
    assert named <= AuditSettings.model_fields.keys()
    told = {service: stack.containers()[service]["environment"] for service in SERVICES}
    for name, value in container["environment"].items():
        assert {environment[name] for environment in told.values() if name in environment} == {value}, name


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_runs_its_own_module(service: str) -> None:
    """One image, one command a service, and the module is there."""
    container = stack.containers()[service]
    assert container["image"] == stack.containers()["token"]["image"]
    assert container["command"] == ["python", "-m", f"services.{service}"]
    assert importlib.util.find_spec(f"services.{service}.__main__") is not None


@pytest.mark.parametrize("service", SERVICES)
def test_every_setting_of_a_service_is_set_and_no_other(service: str) -> None:
    """A variable that the code does not know would be a mistake nobody notices, and a setting that cannot be reached
    would be one, too.
    """
    named = stack.containers()[service]["environment"]
    assert all(name.startswith(PREFIX) for name in named)
    assert sorted(setting(name) for name in named) == sorted(settings_class(service).model_fields)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_accepts_its_settings(service: str, made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the stack's environment and freshly made secrets the settings load, and say what the stack needs."""
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    mounted = stack.secrets(service)
    for name, value in stack.environment(service).items():
        monkeypatch.setenv(name, str(made / mounted[value].name) if name.endswith("_FILE") else value)
    settings = load(settings_class(service))
    assert (settings.host, settings.port) == ("0.0.0.0", 8080)  # noqa: S104 - inside a container of its own
    assert not settings.declare_topology
    assert urlsplit(settings.amqp_url.get_secret_value()).username == service
    mongodb = urlsplit(settings.mongodb_url.get_secret_value())
    assert (mongodb.username, mongodb.hostname) == ("tokenwire", "mongodb")


def test_the_token_service_seals_to_the_key_that_the_notifier_opens(made: Path) -> None:
    """The two halves that are handed out belong together."""

    def key(name: str) -> bytes:
        return base64.b64decode((made / name).read_text())

    box = Sealer(key("notifier_public_key")).seal(b"a token")
    assert Opener([key("notifier_private_keys")]).open(box) == b"a token"


@pytest.mark.parametrize("service", SERVICES)
def test_the_health_check_exists_in_the_code(service: str) -> None:
    """The program is a module, the path a route of the service, the port the one it listens on."""
    python, dash, module, url = stack.containers()[service]["healthcheck"]["test"][1:]
    assert (python, dash) == ("python", "-m")
    assert importlib.util.find_spec(module) is not None
    paths = {route.resource.canonical for route in wired(service).app.router.routes() if route.resource is not None}
    assert urlsplit(url).path in paths
    assert urlsplit(url).port == int(stack.environment(service)["TOKENWIRE_PORT"])


@pytest.mark.parametrize("name", CONTAINERS)
def test_a_container_can_do_little(name: str) -> None:
    """Not root, nothing to write to but memory and its own volume, no capabilities, no way to gain any; bounded in
    memory, processes and logs.
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
    """One door; and unless somebody says otherwise, on this machine only."""
    assert {name for name, container in stack.containers().items() if "ports" in container} == {"edge"}
    assert stack.containers()["edge"]["ports"] == ["127.0.0.1:8080:8080"]


def test_who_can_talk_to_whom() -> None:
    """MongoDB and RabbitMQ are seen by the services alone; out get only those who have to."""
    members = {
        network: {name for name, container in stack.containers().items() if network in container.get("networks", [])}
        for network in stack.compose()["networks"]
    }
    assert members == {
        "outside": {"edge", "notifier", "gateway"},
        "services": {"edge", *SERVICES},
        "data": {"mongodb", "rabbitmq", "parking", "upkeep", *SERVICES},
    }
    assert {name for name, network in stack.compose()["networks"].items() if network.get("internal")} == {
        "services",
        "data",
    }
    assert stack.containers()["mongodb-init"]["network_mode"] == "service:mongodb"


def test_a_start_waits_for_what_it_needs() -> None:
    """MongoDB answers before it is prepared, is prepared before a service starts, and the edge opens last."""
    conditions = {
        name: {other: wanted["condition"] for other, wanted in container.get("depends_on", {}).items()}
        for name, container in stack.containers().items()
    }
    assert conditions["mongodb-init"] == {"mongodb": "service_healthy"}
    for service in SERVICES:
        assert conditions[service] == {
            "mongodb-init": "service_completed_successfully",
            "rabbitmq": "service_healthy",
        }
    assert conditions["edge"] == dict.fromkeys(SERVICES, "service_healthy")
    assert all("healthcheck" in stack.containers()[name] for name in CONTAINERS if name not in COMMANDS)


def test_a_stop_has_time_to_end_well() -> None:
    """Longer than the eight seconds that a service gives its requests, and restarted unless it was stopped."""
    for name in (*SERVICES, "edge", "mongodb", "rabbitmq"):
        assert int(stack.containers()[name]["stop_grace_period"].removesuffix("s")) >= 15
        assert stack.containers()[name]["restart"] == "unless-stopped"
    assert {stack.containers()[name]["restart"] for name in COMMANDS} == {"no"}


def test_secrets_are_the_files_that_are_made(made: Path) -> None:
    """Each is one that `make secrets` makes; only the key for a downstream system is made for nobody here."""
    files = {Path(secret["file"]) for secret in stack.compose()["secrets"].values()}
    assert {file.parent for file in files} == {Path(".secrets")}
    assert {path.name for path in made.iterdir()} - {file.name for file in files} == {"amqp_url_subscriber"}
    assert {file.name for file in files} <= {path.name for path in made.iterdir()}


def test_a_secret_goes_to_those_who_need_it_alone() -> None:
    """Whoever can open notifications is the notifier; each service knows its own way to the broker and no other."""
    holders: dict[str, set[str]] = {}
    for name in CONTAINERS:
        for file in stack.secrets(name).values():
            holders.setdefault(file.name, set()).add(name)
    own_urls = {f"amqp_url_{name}": {name} for name in (*SERVICES, "parking")}
    assert holders == own_urls | {
        "keys": {*SERVICES, "upkeep"},
        "mongodb_url": {*SERVICES, "upkeep"},
        "notifier_public_key": {"token"},
        "notifier_private_keys": {"notifier"},
        "bootstrap_operator_key": {"management"},
        "mongodb_keyfile": {"mongodb"},
        "mongodb_root_password": {"mongodb-init"},
        "mongodb_password": {"mongodb-init"},
        "rabbitmq_definitions.json": {"rabbitmq"},
    }
    for service in SERVICES:
        used = {value for name, value in stack.environment(service).items() if name.endswith("_FILE")}
        assert used == set(stack.secrets(service))


def test_the_edge_is_new_enough_for_its_configuration() -> None:
    """`resolve` in an upstream came with nginx 1.27.3."""
    image, _, tag = stack.containers()["edge"]["image"].partition(":")
    assert image == "nginx"
    assert tuple(int(part) for part in tag.split("-")[0].split(".")) >= (1, 28)


def example() -> dict[str, str]:
    """The lines of .env.example, those that are commented out included."""
    lines = re.findall(r"^#?([A-Z][A-Z_]+)=(.*)$", (stack.ROOT / ".env.example").read_text(), re.MULTILINE)
    assert len(lines) == len(dict(lines))
    return {name: value.strip('"') for name, value in lines}


def test_the_example_lists_every_setting_and_every_variable() -> None:
    """.env.example names what there is, and nothing that is not."""
    settings = {f"{PREFIX}{name.upper()}" for service in SERVICES for name in settings_class(service).model_fields}
    assert set(example()) == settings | set(stack.variables())


def test_the_example_says_the_defaults() -> None:
    """A value in .env.example that is not an example is what holds without it, in the code and in the stack."""
    told = example()
    assert {name: told[name] for name in stack.variables()} == stack.variables()
    for fields in (settings_class(service).model_fields for service in SERVICES):
        for name, field in fields.items():
            if not field.is_required() and field.default is not None:
                text = str(field.default).lower() if isinstance(field.default, bool) else f"{field.default:}"
                assert told[f"{PREFIX}{name.upper()}"] in {text, text.removesuffix(".0")}


def test_the_image_has_what_it_runs() -> None:
    """What the Dockerfile copies exists and reaches the builder; the image is not root's and has no compiler."""
    text = (stack.ROOT / "Dockerfile").read_text()
    sources = [line.split()[1] for line in text.splitlines() if line.startswith("COPY ") and "--from" not in line]
    allowed = {line[1:] for line in (stack.ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert set(sources) == allowed
    assert all((stack.ROOT / source).exists() for source in sources)
    final = text.rsplit("\nFROM ", 1)[1]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    assert not re.search(r"apt-get|gcc|build-essential|pip install", final)
    assert "--require-hashes" in text
    assert stack.containers()["token"]["user"] == "10001:10001"
