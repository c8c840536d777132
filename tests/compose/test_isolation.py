"""What one container of the stack can see and do, tried from inside the containers."""

import json
import re
import subprocess
from collections.abc import Mapping
from functools import partial

import pytest

from deploy.mongodb_roles import EVERY, ROLES
from tests.acceptance.caller import Caller
from tests.acceptance.tenants import NewTenant
from tests.compose.containers import ComposeStack
from tests.deployment import stack as file
from tests.deployment.wiring import SERVICES
from tests.eventually import eventually

WITH_A_WAY_OUT = {"edge", "notifier", "gateway"}
RUNNING = (*SERVICES, "edge", "mongodb", "rabbitmq")
POOLS = {"revocation": {"revocation"}, "notifier": {"notifier"}, "management": {"management", "event_log"}}
"""The queues that a service may read."""

REACH_BY_PYTHON = """
import concurrent.futures, socket, sys

def reach(place):
    host, _, port = place.partition(":")
    try:
        socket.create_connection((host, int(port)), 20).close()
        return place
    except OSError:
        return ""

with concurrent.futures.ThreadPoolExecutor(len(sys.argv)) as pool:
    print(*pool.map(reach, sys.argv[1:]))
"""
REACH_BY_WGET = """
for place in "$@"; do
    (said=$(wget -q -T 20 -O /dev/null "http://$place/" 2>&1); case "$? $said" in 0*|*HTTP/1*) echo "$place"; esac) &
done
wait
"""
REACH_BY_BASH = """
for place in "$@"; do
    (timeout 20 bash -c ": < /dev/tcp/${place/:/\\/}" 2>/dev/null && echo "$place") &
done
wait
"""
ASK = """
import json, sys, urllib.error, urllib.request
try:
    response = urllib.request.urlopen("http://127.0.0.1:8080" + sys.argv[1], timeout=20)
except urllib.error.HTTPError as error:
    response = error
print(json.dumps([response.status, json.load(response)]))
"""
ATTACKS = ("slashes", "logins", "forwarded", "heads")
ATTACK = """
import asyncio, itertools, random, sys, time

service, attack = sys.argv[1:]

def request(line, headers="", body=""):
    length = f"Content-Length: {len(body)}\\r\\n" if body else ""
    return f"{line} HTTP/1.1\\r\\nHost: x\\r\\n{headers}{length}\\r\\n{body}".encode()

def login(number):
    form = f"grant_type=client_credentials&client_secret=s&client_id={number:x}"
    form = form.ljust(63_000 if number % 2 else 200, "x")
    kind = "Content-Type: application/x-www-form-urlencoded\\r\\n"
    return request("POST /an-api/oauth/token", f"X-Forwarded-For: 10.0.0.{number % 80}\\r\\n{kind}", form)

requests = {
    "slashes": lambda number: request("GET " + "/" * 16_000),
    "logins": login,
    "forwarded": lambda number: request("GET /an-api/", f"X-Forwarded-For: {number:x}{'1' * 7000}, 10.0.0.1\\r\\n"),
    "heads": lambda number: request("GET /")[:-2] + b"".join(b"X-%d: %s\\r\\n" % (n, b"x" * 7000) for n in range(8)),
}[attack]
numbers, sent = itertools.count(random.randrange(2**32)), itertools.count()

async def attacker():
    while True:
        try:
            reader, writer = await asyncio.open_connection(service, 8080)
            writer.write(requests(next(numbers)))
            await writer.drain()
            next(sent)
            await reader.read(1)
            writer.close()
        except OSError:
            await asyncio.sleep(0.01)

async def main():
    attackers = [asyncio.create_task(attacker()) for _ in range(400 if attack == "heads" else 16)]
    deadline = time.monotonic() + 180
    await asyncio.wait(attackers, timeout=5)
    while (done := next(sent)) < 200 and time.monotonic() < deadline:
        await asyncio.wait(attackers, timeout=1)
    print(done)
    for each in attackers:
        each.cancel()

asyncio.run(main())
"""
LOGGING = {"Type": "json-file", "Config": {"max-file": "5", "max-size": "10m"}}
LINES = 70_000
"""Of a thousand bytes each: more than five files of ten megabytes."""
READ_COLLECTIONS = """
import json, pathlib, sys
from pymongo import MongoClient
from pymongo.errors import OperationFailure

database = MongoClient(pathlib.Path("/run/secrets/mongodb_url").read_text().strip())["tokenwire"]
readable = []
for name in sys.argv[1:]:
    try:
        database[name].find_one({}, {"_id": 1})
        readable.append(name)
    except OperationFailure as refusal:
        assert refusal.code == 13, refusal
print(json.dumps(readable))
"""
READ_QUEUES = """
import asyncio, json, pathlib, sys
import aio_pika
from aiormq.exceptions import ChannelAccessRefused

async def main():
    readable = []
    connection = await aio_pika.connect(pathlib.Path("/run/secrets/amqp_url").read_text().strip())
    for name in sys.argv[1:]:
        channel = await connection.channel()
        try:
            await channel.set_qos(1)
            message = await (await channel.get_queue(f"tokenwire.{name}", ensure=False)).get(fail=False)
            if message:
                await message.nack()
            readable.append(name)
        except ChannelAccessRefused:
            pass
    await connection.close()
    print(json.dumps(readable))

asyncio.run(main())
"""


def said(stack: ComposeStack, service: str, *command: str) -> str:
    """The output of a command inside a container, which must succeed."""
    status, output = stack.exec(service, *command)
    assert status == 0, f"{service}: {output}"
    return output


def test_nothing_but_the_edge_is_published(stack: ComposeStack) -> None:
    """Docker forwards one port of this machine, to the edge, and only from loopback."""
    published = {
        container.service: bindings
        for container in stack.containers()
        if (bindings := stack.inspect(container.id)["HostConfig"]["PortBindings"])
    }
    assert published == {"edge": {"8080/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]}}


@pytest.mark.usefixtures("upstream")
@pytest.mark.parametrize("name", RUNNING)
def test_a_container_reaches_only_what_it_needs(stack: ComposeStack, name: str) -> None:
    """Services reach each other, MongoDB and RabbitMQ. The edge does not reach the data, and the data not the edge.

    Only the edge, the notifier and the gateway reach an address outside of the stack.
    """
    ports = dict.fromkeys((*SERVICES, "edge"), 8080) | {"mongodb": 27017, "rabbitmq": 5672, "upstream": 9003}
    places = {f"{address}:{port}": other for other, port in ports.items() for address in _addresses(stack, other)}
    wanted = {*SERVICES, "upstream"} if name == "edge" else {*SERVICES, "mongodb", "rabbitmq"}
    wanted |= {"upstream", "edge"} if name in WITH_A_WAY_OUT else set()
    wanted |= {"edge"} if name in SERVICES else set()
    program: tuple[str, ...] = ("bash", "-c", REACH_BY_BASH, "bash")
    if name in SERVICES:
        program = ("python", "-c", REACH_BY_PYTHON)
    elif name == "edge":
        program = ("sh", "-c", REACH_BY_WGET, "sh")
    assert {places[place] for place in said(stack, name, *program, *places).split()} == wanted


def _addresses(stack: ComposeStack, name: str) -> list[str]:
    """The addresses of a container in all its networks."""
    container = f"{stack.project}-{name}" if name == "upstream" else f"{stack.project}-{name}-1"
    return [network["IPAddress"] for network in stack.inspect(container)["NetworkSettings"]["Networks"].values()]


@pytest.mark.parametrize("name", RUNNING)
def test_a_container_can_change_nothing_but_its_data(stack: ComposeStack, name: str) -> None:
    """No process is root or has a capability, or can gain any; the root file system cannot be written to."""
    status = said(stack, name, "cat", "/proc/1/status")
    found = dict(re.findall(r"^(\w+):\s+(.*)$", status, re.MULTILINE))
    assert "0" not in found["Uid"].split()
    assert "0" not in found["Gid"].split()
    assert {found[kind].strip("0") for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {""}
    assert found["NoNewPrivs"] == "1"
    for place in ("/", "/etc", "/usr", "/run/secrets"):
        written, output = stack.exec(name, "sh", "-c", f"echo x > {place}/written-by-a-test")
        assert written != 0, output
    root = [line.split() for line in said(stack, name, "cat", "/proc/mounts").splitlines()]
    (options,) = [mount[3].split(",") for mount in root if mount[1] == "/"]
    assert "ro" in options
    limits = stack.inspect(f"{stack.project}-{name}-1")["HostConfig"]
    assert limits["Memory"] > 0
    assert limits["PidsLimit"] > 0
    assert limits["LogConfig"] == LOGGING


def test_logs_rotate(stack: ComposeStack) -> None:
    """A container that logs more than the limit keeps its latest lines, and no more than the limit."""
    name = f"{stack.project}-talkative"
    talk = f"for n in range({LINES}): print(n, 'x' * 990)"
    stack.compose("run", "--detach", "--no-deps", "--name", name, "--entrypoint", "python", "upkeep", "-c", talk)
    try:
        subprocess.run(["docker", "wait", name], stdout=subprocess.DEVNULL, check=True, timeout=300)
        assert stack.inspect(name)["HostConfig"]["LogConfig"] == LOGGING
        command = ["docker", "logs", name]
        kept = subprocess.run(command, stdout=subprocess.PIPE, check=True, timeout=300).stdout.splitlines()
    finally:
        subprocess.run(["docker", "rm", "--force", name], stdout=subprocess.DEVNULL, check=True)
    numbers = [int(line.split()[0]) for line in kept]
    assert numbers == list(range(numbers[0], LINES))
    assert 30_000_000 < sum(map(len, kept)) < 50_000_000


def test_a_secret_is_in_its_own_container_alone(stack: ComposeStack) -> None:
    """Each container has the secrets that compose.yaml gives it, as files, and no value in its environment."""
    values = {
        path.name: path.read_text().strip()
        for path in (stack.directory / ".secrets").iterdir()
        if path.suffix != ".json"
    }
    for container in stack.containers():
        known = stack.inspect(container.id)
        mounts = {mount["Destination"]: mount for mount in known["Mounts"] if "/.secrets/" in mount["Source"]}
        wanted = {place: path.name for place, path in file.secrets(container.service).items()}
        assert {place: mount["Source"].rpartition("/")[2] for place, mount in mounts.items()} == wanted
        assert not any(mount["RW"] for mount in mounts.values())
        environment = "\n".join(known["Config"]["Env"] or ())
        assert [name for name, value in values.items() if value in environment] == []
        if container.state == "running" and wanted:
            listed = said(stack, container.service, "ls", "/run/secrets").split()
            assert {f"/run/secrets/{name}" for name in listed} == set(wanted)


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_cannot_do_the_work_of_another(stack: ComposeStack, service: str) -> None:
    """With the URLs that a service has, it reads the collections in its role and the queues of its own pools only."""
    collections = sorted({name for role in ROLES.values() for name in role if name != EVERY})
    readable = json.loads(said(stack, service, "python", "-c", READ_COLLECTIONS, *collections))
    assert set(readable) == {name for name, actions in ROLES[service].items() if "find" in actions.split()}
    pools = sorted(set().union(*POOLS.values()))
    dead = [f"{pool}.dead" for pool in pools]
    queues = json.loads(said(stack, service, "python", "-c", READ_QUEUES, *pools, *dead))
    assert set(queues) == POOLS.get(service, set())


async def test_a_dependency_that_is_away_is_said_and_only_the_needed_one_is_red(stack: ComposeStack) -> None:
    """Without RabbitMQ a service is degraded and stays ready; without MongoDB it is alive and not ready (B5)."""
    for away, status, body in (("rabbitmq", 200, "degraded"), ("mongodb", 503, "unavailable")):
        stack.compose("pause", away)
        try:
            for service in SERVICES:
                await eventually(partial(_is_ready_with, stack, service, status, body), within=240, every=1)
            for service in SERVICES:
                assert json.loads(said(stack, service, "python", "-c", ASK, "/healthz"))[0] == 200
        finally:
            stack.compose("unpause", away)
        for service in SERVICES:
            await eventually(partial(_is_ready_with, stack, service, 200, "ok"), within=240, every=1)


def _is_ready_with(stack: ComposeStack, service: str, status: int, word: str) -> bool:
    found, body = json.loads(said(stack, service, "python", "-c", ASK, "/readyz"))
    assert (found, body["status"]) == (status, word), (service, found, body)
    return True


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_memory_limit_holds_under_attack(stack: ComposeStack, attack: str) -> None:
    """Requests of anonymous attackers, from inside the network: the service is neither killed nor unhealthy (A)."""
    attacked = "gateway" if attack == "slashes" else "token"
    name = f"{stack.project}-{attacked}-1"
    before = stack.inspect(name)["State"]
    assert int(said(stack, "revocation", "python", "-c", ATTACK, attacked, attack)) > 100
    after = stack.inspect(name)
    assert after["State"]["OOMKilled"] is False
    assert (after["State"]["StartedAt"], after["RestartCount"]) == (before["StartedAt"], 0)
    assert json.loads(said(stack, attacked, "python", "-c", ASK, "/readyz"))[0] == 200
    status = said(stack, attacked, "sh", "-c", "cat /proc/[0-9]*/status 2>/dev/null; true")
    peak = max(int(found) for found in re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE))
    assert peak * 1024 < after["HostConfig"]["Memory"] * 0.75


async def test_logs_are_json_without_secrets(stack: ComposeStack, anybody: Caller, tenant_of: NewTenant) -> None:
    """Every container logs JSON objects, also about refused requests. No log holds a secret, a code or a token."""
    tenant = await tenant_of()
    pair = await tenant.pair()
    assert (await tenant.exchanged(await tenant.code())).status == 200
    assert (await tenant.verified(pair.access)).status == 200
    assert (await tenant.refreshed(pair.refresh)).status == 200
    assert (await tenant.client_credentials(secret="a-wrong-secret-of-a-client")).status == 401
    for service in SERVICES:
        lines = stack.logs(service).splitlines()
        assert lines
        assert {type(json.loads(line)) for line in lines} == {dict}, service
    assert {type(json.loads(line)) for line in stack.logs("edge").splitlines()} == {dict}
    # The entry point of MongoDB's image and RabbitMQ's banner are the exceptions.
    for server in ("mongodb", "rabbitmq"):
        assert isinstance(json.loads(stack.logs(server).splitlines()[-1]), dict), server
    everything = stack.logs()
    assert anybody.secrets.found_in(everything) == set()
    assert [name for name, value in _passwords(stack).items() if value in everything] == []


def _passwords(stack: ComposeStack) -> Mapping[str, str]:
    """The values in .secrets/; of a URL, the password."""
    found = {}
    for path in (stack.directory / ".secrets").iterdir():
        text = path.read_text().strip()
        password = re.search(r"//[^:/]+:([^@]+)@", text)
        if path.suffix != ".json" and path.name != "notifier_public_key":
            found[path.name] = password[1] if password else text.rpartition(":")[2]
    return found
