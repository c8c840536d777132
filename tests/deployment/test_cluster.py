"""compose.cluster.yaml matches the secrets and the configuration of the RabbitMQ nodes."""

import re
from typing import Any

import yaml

from deploy import make_secrets
from tests.deployment import stack

ADDED = {"rabbitmq2": "rabbitmq", "rabbitmq3": "rabbitmq", "mongodb2": "mongodb", "mongodb3": "mongodb"}
"""New containers, and the ones that they are copies of."""


def cluster() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((stack.ROOT / "compose.cluster.yaml").read_text())
    return document


def test_clients_know_every_node() -> None:
    """Every secret with a URL names all nodes; they are the ones that exist."""
    alone, together = stack.compose()["secrets"], cluster()["secrets"]
    urls = {name for name in alone if re.match(r"amqp_url|mongodb_url", name)}
    assert {name: source["file"] for name, source in together.items() if name in urls} == {
        name: f".secrets/{make_secrets.CLUSTER}{name}" for name in urls
    }
    hosts = {address.partition(":")[0] for address in (*make_secrets.MONGODB_MEMBERS, *make_secrets.RABBITMQ_NODES)}
    assert hosts == set(ADDED) | set(ADDED.values())


def test_the_members_of_the_replica_set_are_the_ones_that_clients_know() -> None:
    """The first is the server whose network mongodb-init shares."""
    command = cluster()["services"]["mongodb-init"]["command"]
    members = [word.removeprefix("--member=") for word in command if word.startswith("--member=")]
    assert members == list(make_secrets.MONGODB_MEMBERS)
    own = [word for word in command if not word.startswith("--member=")]
    alone = stack.containers()["mongodb-init"]["command"]
    kept = [word for word in alone if word not in {"--member", make_secrets.MONGODB}]
    assert " ".join(own).replace("=", " ") == " ".join(kept)


def test_the_nodes_of_the_broker_find_each_other() -> None:
    """The configuration lists the containers under the names of their nodes."""
    text = (stack.ROOT / "deploy" / "rabbitmq" / "cluster.conf").read_text()
    nodes = re.findall(r"^cluster_formation\.classic_config\.nodes\.\d+ = rabbit@(\S+)$", text, re.MULTILINE)
    assert [f"{node}:5672" for node in nodes] == list(make_secrets.RABBITMQ_NODES)
