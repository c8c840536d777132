"""The stack of compose.yaml without containers: commands, settings, secrets, users, health checks, edge."""

import asyncio
import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import aiohttp
import pytest
from pymongo.database import Database

from deploy import make_secrets
from deploy.make_secrets import DATABASE
from deploy.mongodb_roles import EVERY, ROLES
from libs.processes import ending_with_this_process
from tests.acceptance.caller import Caller
from tests.acceptance.discretion import Secrets
from tests.acceptance.tenants import CALLBACK, new_tenant
from tests.builders import Response
from tests.deployment import observability, stack
from tests.deployment.edge import Edge
from tests.deployment.guarded import Document, GuardedMongo, GuardedRabbit
from tests.deployment.test_sharding import SHARDABLE
from tests.deployment.wiring import CONSOLE, EVERY_SERVICE, SERVICES
from tests.eventually import eventually
from tests.ports import free_port, free_ports

INSIDE = {"PATH": os.environ.get("PATH", os.defpath)}
"""The only variables passed on to the processes."""


def here(command: list[str]) -> list[str]:
    """A container's command, run with this interpreter."""
    assert command[0] == "python"
    return [sys.executable, *command[1:]]


@dataclass
class Stack:
    """The local addresses of the stack's parts."""

    home: Path
    secrets: Path
    mongod: GuardedMongo
    broker: GuardedRabbit
    ports: dict[str, int] = field(
        default_factory=lambda: dict(zip(EVERY_SERVICE, free_ports(len(EVERY_SERVICE)), strict=True))
    )
    edge: int = field(default_factory=free_port)
    """The port by which the console reaches the API; in containers it asks each service at its host name."""
    running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)

    def prepare_mongodb(self) -> None:
        """Run what the container `mongodb-init` runs; it must succeed."""
        command = [
            argument.replace(make_secrets.MONGODB, self.mongod.address)
            for argument in here(stack.containers()["mongodb-init"]["command"])
        ]
        moved = ["--address", self.mongod.address, "--secrets", str(self.secrets)]
        subprocess.run([*command, *moved], cwd=stack.ROOT, env=INSIDE, check=True, timeout=60)

    async def upkeep(self, command: str, **settings: str) -> str:
        """Run a command in place of the container `upkeep`; its output. Exit status 1 means that it has findings."""
        entrypoint = here(stack.containers()["upkeep"]["entrypoint"])
        running = await asyncio.create_subprocess_exec(
            *(*entrypoint, command),
            cwd=stack.ROOT,
            env={**INSIDE, **self._environment("upkeep"), **settings},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        said, _ = await running.communicate()
        assert running.returncode in {0, 1}, said.decode()
        return said.decode()

    def start(self, service: str) -> None:
        """Run the container's command with its environment and secrets."""
        with (self.home / f"{service}.log").open("ab") as log:
            self.running[service] = subprocess.Popen(
                ending_with_this_process(here(stack.containers()[service]["command"])),
                cwd=stack.ROOT,
                env={**INSIDE, **self._environment(service)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    async def is_well(self, service: str) -> bool:
        """The output of the container's health check."""
        check = here(stack.containers()[service]["healthcheck"]["test"][1:])
        *program, url = check
        url = url.replace(":8080", f":{self.ports[service]}")
        asked = await asyncio.create_subprocess_exec(*program, url, cwd=stack.ROOT, env=INSIDE, stderr=subprocess.PIPE)
        _, complaint = await asked.communicate()
        assert asked.returncode == 0, f"{complaint.decode()}\n{self.log(service)}"
        return True

    def metrics(self, service: str) -> str:
        """The answer of /metrics."""
        with urlopen(f"http://127.0.0.1:{self.ports[service]}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            return str(answer.read().decode())

    def log(self, service: str) -> str:
        """The output of the service."""
        return (self.home / f"{service}.log").read_text()

    def _environment(self, service: str) -> dict[str, str]:
        mounted = stack.secrets(service)
        values = {
            name: self._moved(mounted[value]) if name.endswith("_FILE") else value
            for name, value in stack.environment(service).items()
        }
        if service not in self.ports:
            return values
        if service == CONSOLE:
            values["TOKENWIRE_SERVICES_URL"] = f"http://127.0.0.1:{self.edge}"
        return {
            **values,
            "TOKENWIRE_HOST": "127.0.0.1",
            "TOKENWIRE_PORT": str(self.ports[service]),
            "TOKENWIRE_ALLOW_PRIVATE_DESTINATIONS": "true",
        }

    def _moved(self, secret: Path) -> str:
        """The secret's file with local addresses in place of the containers'."""
        text = (self.secrets / secret.name).read_text()
        text = text.replace(make_secrets.MONGODB, self.mongod.address)
        text = text.replace(make_secrets.RABBITMQ, self.broker.address)
        copy = self.home / secret.name
        copy.write_text(text)
        return str(copy)


@pytest.fixture
def parts(tmp_path: Path, made: Path, broker: GuardedRabbit) -> Iterator[Stack]:
    mongod = GuardedMongo(tmp_path, (made / "mongodb_keyfile").read_text().strip())
    mongod.start()
    placed = Stack(tmp_path, made, mongod, broker)
    yield placed
    for process in placed.running.values():
        process.kill()
        process.wait()
    mongod.stop()


UNUSED: dict[tuple[str, ...], str] = {
    ("authorization", "grants", "update"): "it only adopts events that a process which died has left",
    ("leases", "insert"): "a process takes a lease only to publish what one that died has left",
    ("leases", "update"): "the same",
    ("checkpoints", "remove"): "only that of a process which was gone for a day is removed",
    ("reconciliation", "find"): "the periodic comparison begins a minute after the start",
    ("reconciliation", "insert"): "the same",
    ("reconciliation", "update"): "the same",
    ("batches", "remove"): "only a batch of a process that died is removed",
    ("usage", "remove"): "only numbers of an earlier version are removed",
    ("users", "insert"): "only revoke_all of a user adds a record; tests/services/test_grants_api.py calls it",
    ("users", "update"): "the same",
    ("refused_calls", "find"): "only the timeline of a grant reads them",
    ("refused_calls", "insert"): "a gateway writes counts after a while, so the story may end before",
    ("refused_calls", "update"): "the same",
}
"""What roles, or the role of one user, allow on a collection and the story does not use, and why they allow it."""


async def test_the_walk_through_passes_against_the_stack(parts: Stack, made: Path) -> None:
    """Started in compose.yaml's order with its least-privilege users, the stack serves the whole flow and stops
    gracefully. No right at the broker or in the database is missing, and none in the database is superfluous. Every
    write of one record names its `_id`, so a cluster sharded on that would accept it.
    """
    heard = len(parts.broker.log.read_text())
    await asyncio.to_thread(parts.prepare_mongodb)
    with parts.mongod.client("root", (made / "mongodb_root_password").read_text().strip()) as root:
        profile = Profile(root[DATABASE])
        for service in EVERY_SERVICE:
            parts.start(service)
        for service in EVERY_SERVICE:
            await eventually(lambda service=service: parts.is_well(service), within=60, every=0.2)  # type: ignore[misc]
        operator_key = (made / "bootstrap_operator_key").read_text().strip()
        with Edge({service: [port] for service, port in parts.ports.items()}, parts.edge) as edge:
            await tell_the_demo(edge.url, operator_key)
            async with aiohttp.ClientSession() as http:
                await operate(Caller(http, edge.url, Secrets()), operator_key)
        assert "settings, 1 APIs" in await parts.upkeep("config-lint")
        assert "WRONG" not in (said := await parts.upkeep("doctor", TOKENWIRE_PORT=str(free_port()))), said
        newer = f"2:{base64.b64encode(os.urandom(32)).decode()},{(made / 'keys').read_text().strip()}"
        said = await parts.upkeep("reencrypt", TOKENWIRE_KEYS_FILE="", TOKENWIRE_KEYS=newer)
        assert "1 API reencrypted" in said, said
        assert "1 client reencrypted" in said, said
        exported = observability.exported({service: parts.metrics(service) for service in SERVICES})
        assert observability.not_exported(exported) == []
        await eventually(lambda: asyncio.to_thread(_nothing_is_superfluous, profile), within=60, every=1)
        written, refused = profile.written_where_sharded()
        assert {"attempts", "counters"} <= written  # grants, events and deliveries are written in batches
        assert refused == []
        for process in parts.running.values():
            process.send_signal(signal.SIGTERM)
        for service, process in parts.running.items():
            assert await asyncio.to_thread(process.wait, timeout=15) == 0, parts.log(service)
    assert "access_refused" not in parts.broker.log.read_text()[heard:].lower()
    assert parts.mongod.refusals() == []


def _nothing_is_superfluous(profile: "Profile") -> bool:
    used = profile.used()
    unused = [
        f"{user} {action} {collection}"
        for user, role in ROLES.items()
        if EVERY not in role
        for collection, actions in role.items()
        for action in actions.split()
        if (user, collection, action) not in used
        and not UNUSED.keys() & {(collection, action), (user, collection, action)}
    ]
    assert unused == []
    return True


async def tell_the_demo(url: str, operator_key: str) -> None:
    """Run the demo against the edge; every response must be as expected."""
    told = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "examples.demo"),
        cwd=stack.ROOT,
        env={**INSIDE, "TOKENWIRE_URL": url, "TOKENWIRE_OPERATOR_KEY": operator_key},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    async with asyncio.timeout(180):
        said, _ = await told.communicate()
    assert told.returncode == 0, said.decode()


async def operate(anybody: Caller, operator_key: str) -> None:
    """What the demo does not do: users, operators, changes, deletions, lists, analytics; wrong passwords and keys."""
    operator = anybody.with_key(operator_key)

    async def done(method: str, path: str, caller: Caller = operator, status: int = 200, **request: Any) -> Response:
        response = await caller(method, path, **request)
        assert response.status == status, (method, path, response.raw)
        return response

    tenant = await new_tenant(anybody, operator)
    client = f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}"
    revoke, codes = f"/api/apis/oauth/{tenant.client_id}/revoke", f"/api/apis/oauth/{tenant.api_id}/authorize-client"
    policy = {
        "name": "of the tests",
        "active": True,
        "state": "active",
        "rate": 1000,
        "per": 60,
        "access_rights": {tenant.api_id: {"api_id": tenant.api_id, "versions": ["Default"]}},
    }
    policy_id = (await done("POST", "/api/portal/policies", json=policy)).body["ID"]
    await done("PUT", f"/api/portal/policies/{policy_id}", json={**policy, "rate": 2000})
    await done("PUT", client, json={"policy_id": policy_id})
    await done("PUT", f"/api/apis/keys/basic/{tenant.username}", json={"password": tenant.password})
    # Every service counts failures of its own callers.
    await done("GET", "/api/audit", anybody.with_key("wrong"), 401)
    await done("POST", codes, anybody.with_key("wrong"), 401)
    await done("GET", f"{client}/tokens", anybody.with_key("wrong"), 401)
    await done("GET", "/api/notifications/deliveries", anybody.with_key("wrong"), 401)
    await done("POST", "/oauth/introspect", anybody.with_key("wrong"), 401, data={"token": "unknown"})
    assert (await tenant.client_credentials(secret="wrong")).status == 401
    login = await tenant.token(grant_type="password", username=tenant.username, password="wrong")
    assert login.status == 400

    first, second = await tenant.pair(), await tenant.pair()
    assert (await tenant.refreshed(second.refresh)).status == 200
    assert (await tenant.client_credentials()).status == 200
    form = {"response_type": "code", "client_id": tenant.client_id, "redirect_uri": CALLBACK, "subject": "alice"}
    rules = {"apply_policies": [policy_id]}
    code = (await done("POST", codes, data={**form, "key_rules": json.dumps(rules)})).body["code"]
    assert (await tenant.exchanged(code)).status == 200
    assert (await tenant.verified(first.access)).status == 200
    await done("POST", "/oauth/introspect", data={"token": first.access})
    await done("GET", f"{client}/tokens")
    await done("POST", revoke, data={"token": first.access})
    await done("POST", f"{revoke}_all")
    await done("PUT", f"{client}/rotate")

    monitor = await done("POST", "/api/operators", json={"name": "monitor", "permissions": ["read"]})
    for path in (
        "/api/apis",
        "/api/portal/policies",
        "/api/apis/keys/basic",
        "/api/audit",
        f"/api/analytics/clients?per=day&from={datetime.now(UTC) - timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}",
        "/api/events/audit",
        "/api/notifications/deliveries",
    ):
        await done("GET", path, anybody.with_key(monitor.body["key"]))
    for path in (
        f"/api/operators/{monitor.body['operator_id']}",
        f"/api/apis/keys/basic/{tenant.username}",
        f"/api/apis/{tenant.api_id}",
        f"/api/portal/policies/{policy_id}",
    ):
        await done("DELETE", path)
    await eventually(lambda: _is_gone(operator, client), within=60)
    await new_tenant(anybody, operator)  # for the commands of upkeep


async def _is_gone(operator: Caller, client: str) -> bool:
    return (await operator("GET", client)).status == 404


class Profile:
    """Which actions each user performs on which collection, as MongoDB's profiler records them."""

    def __init__(self, database: Database[Document]) -> None:
        self._database = database
        database.create_collection("system.profile", capped=True, size=64 * 1024 * 1024)
        database.command("profile", 2)

    def used(self) -> set[tuple[str, str, str]]:
        """User, collection and action."""
        return {
            (user.partition("@")[0], entry["ns"].partition(".")[2], action)
            for entry in self._database["system.profile"].find()
            for user in [entry.get("user", "")]
            for action in _actions(entry)
        }

    def written_where_sharded(self) -> tuple[set[str], list[Document]]:
        """The collections that docs/operations.md allows to be sharded on hashed `_id` and in which single records were
        changed or removed, and the commands that did so without the `_id`: a sharded collection refuses these.
        """
        written, refused = set[str](), list[Document]()
        for entry in self._database["system.profile"].find():
            collection, command = entry["ns"].partition(".")[2], entry["command"]
            one = _one_record(entry["op"], command)
            if collection not in SHARDABLE or one is None:
                continue
            written.add(collection)
            if "_id" not in one or (isinstance(one["_id"], dict) and any(key.startswith("$") for key in one["_id"])):
                refused.append({"collection": collection, "filter": one})
        return written, refused


def _one_record(operation: str, command: Document) -> Document | None:
    """The filter of an operation that changes or removes one record; None for any other."""
    if "findAndModify" in command or "findandmodify" in command:
        found: Document = command.get("query", {})
        return found
    if (operation == "update" and not command.get("multi")) or (operation == "remove" and command.get("limit")):
        changed: Document = command["q"]
        return changed
    return None


def _actions(entry: Document) -> set[str]:
    """The actions that this operation needs the privileges for."""
    command = entry["command"]
    upserts = {"insert"} if command.get("upsert") else set()
    match entry["op"]:
        case "query" | "getmore":
            return {"find"}
        case "insert" | "remove" as action:
            return {action}
        case "update":
            return {"update"} | upserts
    if command.keys() & {"aggregate", "count", "distinct"}:
        return {"find"}
    return {"find", "update"} | upserts if "findAndModify" in command or "findandmodify" in command else set()
