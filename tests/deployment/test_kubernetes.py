"""The manifests of deploy/kubernetes are valid, restricted, and the same stack as compose.yaml."""

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy import check_manifests
from deploy.check_manifests import MANIFESTS, kustomizations
from deploy.kustomize import CLUSTER_WIDE, NotUnderstood, Object, containers, pod_template, render
from tests.deployment import observability, stack
from tests.deployment.wiring import CONSOLE, EVERY_SERVICE, wired

BASE, EXAMPLE = render(MANIFESTS / "base"), render(MANIFESTS / "example")
COMMANDS = {"dead-letters": "dead_letters", "upkeep": "upkeep", "prepare-mongodb": "mongodb-init"}
"""Commands, and their containers in compose.yaml."""
WORKLOADS = (*EVERY_SERVICE, "edge", *COMMANDS)
DNS_CACHE = 5
"""Seconds for which the cluster's DNS may return an instance that is not ready any more."""
OUTSIDE, DATA, MONITORING, INGRESS = "outside", "data", "monitoring", "ingress"
"""Parties to a connection that are no pods of ours."""


def named(kind: str, name: str, objects: list[Object] = BASE) -> Object:
    """The object of this kind and name."""
    (found,) = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def workload(name: str, objects: list[Object] = BASE) -> Object:
    return named("CronJob" if name in COMMANDS else "Deployment", name, objects)


def pod(name: str, objects: list[Object] = BASE) -> Object:
    """The spec of its pods."""
    template = pod_template(workload(name, objects))
    assert template is not None
    spec: Object = template["spec"]
    return spec


def labels(name: str) -> dict[str, str]:
    """The labels of its pods."""
    template = pod_template(workload(name))
    assert template is not None
    found: dict[str, str] = template["metadata"]["labels"]
    return found


def container(name: str, objects: list[Object] = BASE) -> Object:
    """Its only container."""
    (found,) = containers(workload(name, objects))
    return found


def environment(name: str, objects: list[Object] = BASE) -> dict[str, str]:
    found = {each["name"]: each["value"] for each in container(name, objects).get("env", ())}
    assert len(found) == len(container(name, objects).get("env", ()))
    return found


def secrets(name: str) -> dict[str, str]:
    """Its secrets: path inside to the key of the Secret."""
    (at,) = [each["mountPath"] for each in container(name)["volumeMounts"] if each["name"] == "secrets"]
    (volume,) = [each for each in pod(name)["volumes"] if each["name"] == "secrets"]
    items = [item for source in volume["projected"]["sources"] for item in source["secret"]["items"]]
    return {f"{at}/{item['path']}": item["key"] for item in items}


def as_bytes(quantity: str) -> int:
    """`512Mi` in Kubernetes, `512M` and `16m` in Compose."""
    number, unit = re.fullmatch(r"(\d+)([KMGkmg])i?", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"K": 10, "M": 20, "G": 30}[unit.upper()]


def seconds(period: str) -> int:
    return int(period.removesuffix("s"))


def test_the_manifests_are_valid() -> None:
    """`make check` accepts them, for the oldest and the newest version of Kubernetes."""
    assert {each.name for each in kustomizations()} >= {"base", "example"}
    assert [fault for each in check_manifests.objects() for fault in check_manifests.faults(each)] == []


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param({"kind": "Deploymint"}, id="kind"),
        pytest.param({"spec": {"replica": 3}}, id="misspelled"),
        pytest.param({"spec": {"replicas": "three"}}, id="type"),
    ],
)
def test_a_manifest_that_is_not_valid_is_found(wrong: Object) -> None:
    """An unknown kind, an unknown field and a wrong type are faults in each version."""
    deployment = workload("token")
    changed = {**deployment, **wrong, "spec": {**deployment["spec"], **wrong.get("spec", {})}}
    assert len(check_manifests.faults(changed)) == len(check_manifests.VERSIONS)


def _comparable(value: Any) -> Any:
    """Without the order of lists, and the hash in the name of a generated ConfigMap."""
    if isinstance(value, dict):
        return {key: _comparable(each) for key, each in value.items()}
    if isinstance(value, list):
        return sorted((_comparable(each) for each in value), key=lambda each: json.dumps(each, sort_keys=True))
    return re.sub(r"^edge-[0-9a-z]{10}$", "edge", value) if isinstance(value, str) else value


def test_kubectl_renders_the_same() -> None:
    """Our renderer agrees with `kubectl kustomize`, where that is installed.

    Nothing else needs kubectl, and no package of Debian 12 has one that can render; the other tests check our renderer.
    """
    kubectl = shutil.which("kubectl")
    if kubectl is None or not _has_kustomize(kubectl):
        pytest.skip("put a kubectl of version 1.21 or later on PATH to compare our renderer with it")
    for directory in kustomizations():
        done = subprocess.run([kubectl, "kustomize", str(directory)], capture_output=True, text=True, check=True)
        assert _comparable(list(yaml.safe_load_all(done.stdout))) == _comparable(render(directory))


def _has_kustomize(kubectl: str) -> bool:
    command = [kubectl, "version", "--client", "--output=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    version = json.loads(done.stdout or "{}").get("kustomizeVersion", "v0")
    return int(re.sub(r"^v(\d+).*", r"\1", version)) >= 4


@pytest.mark.parametrize(
    "kustomization",
    [
        pytest.param({"resources": ["a.yaml"], "replicas": []}, id="unknown-field"),
        pytest.param({"resources": ["a.yaml"], "patches": [{"path": "nobody.yaml"}]}, id="patch-for-nothing"),
        pytest.param({"resources": ["a.yaml"], "patches": [{"path": "delete.yaml"}]}, id="directive"),
    ],
)
def test_what_the_renderer_does_not_understand_is_refused(tmp_path: Path, kustomization: Object) -> None:
    """Rather than rendered in another way than kubectl would."""
    files = {
        "kustomization.yaml": kustomization,
        "a.yaml": {"kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"key": "value"}},
        "nobody.yaml": {"kind": "ConfigMap", "metadata": {"name": "b"}},
        "delete.yaml": {"kind": "ConfigMap", "metadata": {"name": "a"}, "$patch": "delete"},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(yaml.safe_dump(content))
    with pytest.raises(NotUnderstood):
        render(tmp_path)


def test_the_stack_is_complete() -> None:
    """Each container of compose.yaml is here, except MongoDB, RabbitMQ, backups, and what only looks at the stack."""
    workloads = [each for each in BASE if pod_template(each) is not None]
    assert {each["metadata"]["name"] for each in workloads} == set(WORKLOADS)
    elsewhere = {"mongodb", "rabbitmq", "backup", "restore", "prometheus", "grafana"}
    assert set(stack.containers()) - elsewhere == {COMMANDS.get(name, name) for name in WORKLOADS}


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_container_is_the_same_as_in_compose(name: str) -> None:
    """Image, command, settings, secrets, user, memory and /tmp are those of compose.yaml."""
    here, there = container(name), stack.containers()[COMMANDS.get(name, name)]
    assert here["image"] == there["image"]
    user = pod(name)["securityContext"]
    assert f"{user['runAsUser']}:{user['runAsGroup']}" == there["user"]
    assert as_bytes(here["resources"]["limits"]["memory"]) == as_bytes(there["deploy"]["resources"]["limits"]["memory"])
    (tmp,) = [each["emptyDir"] for each in pod(name)["volumes"] if each["name"] == "tmp"]
    assert tmp["medium"] == "Memory"
    assert f"/tmp:size={as_bytes(tmp['sizeLimit']) >> 20}m," in there["tmpfs"][0]
    assert {each["name"]: each["mountPath"] for each in here["volumeMounts"]}["tmp"] == "/tmp"
    if name == "prepare-mongodb":
        return  # of a MongoDB that exists
    entrypoint = there["command"] if name in EVERY_SERVICE else there["entrypoint"]
    assert (here["command"], here.get("args")) == (entrypoint, there["command"] if name in COMMANDS else None)
    if name == "edge":
        return
    settings = stack.environment(COMMANDS.get(name, name))
    # Compose passes on the text; read as YAML, `false` is a value.
    assert environment(name) == {
        key: {"False": "false", "True": "true"}.get(value, value) for key, value in settings.items()
    }
    assert secrets(name) == {path: file.name for path, file in stack.secrets(COMMANDS.get(name, name)).items()}


def test_mongodb_is_prepared_with_the_passwords_of_the_services() -> None:
    """As by mongodb-init, but with a URL in place of the root password, in a Secret of its own."""
    own, (there, needed) = secrets("prepare-mongodb"), (stack.containers(), stack.secrets("mongodb-init"))
    command = container("prepare-mongodb")["command"]
    database = there["mongodb-init"]["command"][-2:]
    assert command == ["python", "-m", "deploy.prepare_mongodb", "--existing", *database]
    assert own.pop("/run/secrets/mongodb_admin_url") == "mongodb_admin_url"
    assert needed.pop("/run/secrets/mongodb_root_password")
    assert own == {path: file.name for path, file in needed.items()}


def test_secrets_are_the_files_that_are_made(made: Path) -> None:
    """A Secret made of the directory that `make secrets` fills has every key that is mounted."""
    keys = {key for name in WORKLOADS if name != "edge" for key in secrets(name).values()}
    assert keys - {"mongodb_admin_url"} <= {path.name for path in made.iterdir()}


@pytest.mark.parametrize("name", WORKLOADS)
@pytest.mark.parametrize("objects", [pytest.param(BASE, id="base"), pytest.param(EXAMPLE, id="example")])
def test_a_container_can_do_little(name: str, objects: list[Object]) -> None:
    """No root, no capabilities, a read-only file system, no access to the cluster, and bounded memory."""
    spec, inside = pod(name, objects), container(name, objects)
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert inside["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["automountServiceAccountToken"] is False
    assert named("ServiceAccount", spec["serviceAccountName"], objects)["automountServiceAccountToken"] is False
    assert spec["enableServiceLinks"] is False
    assert spec.keys().isdisjoint({"hostNetwork", "hostPID", "hostIPC", "hostAliases"})
    assert inside["resources"]["limits"].keys() == {"memory"}
    assert inside["resources"]["requests"].keys() == {"cpu", "memory"}
    for volume in spec["volumes"]:
        assert volume.keys() - {"name"} <= {"emptyDir", "projected", "configMap"}
        assert volume.get("projected", {}).get("defaultMode", 0o440) == 0o440


@pytest.mark.parametrize("service", EVERY_SERVICE)
def test_a_service_is_asked_what_it_answers(service: str) -> None:
    """Readiness is what compose.yaml checks, as often; liveness and start ask for nothing but a response."""
    inside, check = container(service), stack.containers()[service]["healthcheck"]
    paths = {route.resource.canonical for route in wired(service).app.router.routes() if route.resource is not None}
    (port,) = inside["ports"]
    assert str(port["containerPort"]) == environment(service)["TOKENWIRE_PORT"]
    for probe, path in (("startupProbe", "/healthz"), ("readinessProbe", "/readyz"), ("livenessProbe", "/healthz")):
        assert inside[probe]["httpGet"] == {"path": path, "port": port["name"]}
        assert path in paths
    assert check["test"][-1].endswith(f":{port['containerPort']}/readyz")
    ready = inside["readinessProbe"]
    assert [ready["periodSeconds"], ready["timeoutSeconds"], ready["failureThreshold"]] == [
        seconds(check["interval"]),
        seconds(check["timeout"]),
        check["retries"],
    ]
    start = inside["startupProbe"]
    assert start["periodSeconds"] * start["failureThreshold"] >= seconds(check["start_period"])


def test_the_edge_is_asked_as_in_compose() -> None:
    """By the same command."""
    inside, check = container("edge"), stack.containers()["edge"]["healthcheck"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert inside[probe]["exec"]["command"] == check["test"][1:]


@pytest.mark.parametrize("name", [*EVERY_SERVICE, "edge"])
def test_an_update_or_a_drain_loses_no_request(name: str) -> None:
    """A new instance is ready before an old one stops; that serves until DNS has forgotten it, and has time to end."""
    deployment = workload(name)
    assert "replicas" not in deployment["spec"]
    assert deployment["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 0, "maxSurge": 1}
    wait = container(name)["lifecycle"]["preStop"]["sleep"]["seconds"]
    valid = re.search(r"valid=(\d+)s", (MANIFESTS / "base" / "upstreams.conf").read_text())
    assert valid is not None
    assert wait > DNS_CACHE + int(valid[1])
    stop = seconds(stack.containers()[name]["stop_grace_period"])
    assert pod(name)["terminationGracePeriodSeconds"] == wait + stop
    selector = {"matchLabels": {"app.kubernetes.io/name": name}}
    assert deployment["spec"]["selector"] == selector
    assert selector["matchLabels"].items() <= labels(name).items()
    budget = named("PodDisruptionBudget", name)["spec"]
    assert (budget["selector"], budget["maxUnavailable"]) == (selector, 1)
    scaler = named("HorizontalPodAutoscaler", name)["spec"]
    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
    assert scaler["minReplicas"] >= 2
    assert scaler["metrics"][0]["resource"]["name"] == "cpu"
    service = named("Service", name)["spec"]
    assert service["selector"] == selector["matchLabels"]
    assert (service.get("clusterIP") == "None") == (name != "edge")
    for spread in pod(name)["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels(name).items()
        assert spread["labelSelector"]["matchLabels"].keys() | set(spread["matchLabelKeys"]) >= {
            "app.kubernetes.io/name",
            "pod-template-hash",
        }


def _peers(rule: Object, side: str) -> Iterator[str]:
    """Who is meant by the `from` or `to` of a rule: workloads, or other parties."""
    for peer in rule.get(side, [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": INGRESS}}}]):
        if "ipBlock" in peer:
            yield OUTSIDE
        elif "namespaceSelector" in peer:
            yield peer["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]
        else:
            yield from (name for name in WORKLOADS if _selects(peer["podSelector"], name))


def _selects(selector: Object, name: str) -> bool:
    of_pod = labels(name)
    return selector.get("matchLabels", {}).items() <= of_pod.items() and all(
        of_pod.get(each["key"]) in each["values"] for each in selector.get("matchExpressions", ())
    )


def _allowed(direction: str, side: str) -> set[tuple[str, str, int]]:
    """Workload, other party and port of every connection that the policies allow in this direction."""
    allowed = set()
    for policy in (each["spec"] for each in BASE if each["kind"] == "NetworkPolicy"):
        assert direction.capitalize() in policy["policyTypes"] or direction not in policy
        for rule in policy.get(direction, ()):
            ports = [each["port"] for each in rule.get("ports", [{"port": 0}])]
            ours = [name for name in WORKLOADS if _selects(policy["podSelector"], name)]
            allowed |= {(name, peer, port) for name in ours for peer in _peers(rule, side) for port in ports}
    return allowed


def test_networks_are_separated_as_in_compose() -> None:
    """Policies deny everything, and allow what the networks of compose.yaml are for."""
    assert {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]} in [
        each["spec"] for each in BASE if each["kind"] == "NetworkPolicy"
    ]
    members = {
        network: {
            name for name in WORKLOADS if network in stack.containers()[COMMANDS.get(name, name)].get("networks", ())
        }
        for network in ("services", "data", "outside")
    }
    with_data = members["data"] | {"prepare-mongodb"}
    expected = {("edge", service, 8080) for service in members["services"] - {"edge"}}
    expected |= {(CONSOLE, service, 8080) for service in EVERY_SERVICE}
    expected |= {(name, DATA, port) for name in with_data for port in (27017, 5672)}
    expected |= {(name, OUTSIDE, 0) for name in members["outside"]}
    expected |= {(name, "kube-system", 53) for name in WORKLOADS}
    assert _allowed("egress", "to") == expected
    assert _allowed("ingress", "from") == {
        ("edge", INGRESS, 8080),
        *((service, other, 8080) for service in EVERY_SERVICE for other in ("edge", CONSOLE, MONITORING)),
    }


def test_the_edge_has_the_files_of_compose_and_other_addresses() -> None:
    """Its ConfigMap has every file; only the resolver and the names of the services differ."""
    files = named("ConfigMap", "edge")["data"]
    assert files.keys() == {path.name for path in (stack.ROOT / "edge").glob("*.conf")}
    there = {name: (stack.ROOT / "edge" / name).read_text() for name in files}
    assert {name for name in files if files[name] != there[name]} == {"upstreams.conf"}

    def directives(text: str) -> list[str]:
        lines = [line.strip() for line in text.splitlines()]
        return [line for line in lines if line and not line.startswith(("#", "resolver "))]

    namespace = named("Service", "token")["metadata"]["namespace"]
    short = files["upstreams.conf"].replace(f".{namespace}.svc.cluster.local", "")
    assert directives(short) == directives(there["upstreams.conf"])
    assert [each["mountPath"] for each in container("edge")["volumeMounts"] if each["name"] == "configuration"] == [
        there_mount.split(":")[1] for there_mount in stack.containers()["edge"]["volumes"]
    ]


def test_the_example_changes_what_it_says() -> None:
    """One image and public URL for all, the ingress leads to the edge, and the notifier scales on a real metric."""
    ours = {container(name, EXAMPLE)["image"] for name in WORKLOADS if name != "edge"}
    assert len(ours) == 1
    assert ours != {stack.containers()["token"]["image"]}
    settings = [environment(name, EXAMPLE) for name in WORKLOADS if name != "edge"]
    (url,) = {each["TOKENWIRE_PUBLIC_URL"] for each in settings if "TOKENWIRE_PUBLIC_URL" in each}
    ingress = named("Ingress", "edge", EXAMPLE)["spec"]
    assert [f"https://{rule['host']}" for rule in ingress["rules"]] == [url]
    assert ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] == "edge"
    _, external = named("HorizontalPodAutoscaler", "notifier", EXAMPLE)["spec"]["metrics"]
    metric = external["external"]["metric"]
    assert metric["selector"]["matchLabels"].keys() == observability.declared()[metric["name"]]
    assert metric["selector"]["matchLabels"]["pool"] in {each.name for each in wired("notifier").subscriptions}
    namespaces = {each["metadata"].get("namespace") for each in EXAMPLE if each["kind"] not in CLUSTER_WIDE}
    assert namespaces == {named("Namespace", "tokenwire", EXAMPLE)["metadata"]["name"]}
