"""RabbitMQ for tests: an external broker, a node from this machine's rabbitmq-server, or a container."""

import base64
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Protocol

from libs.processes import end, ending_with_this_process
from tests.ports import free_ports
from tests.provision import CannotProvide, containers, debian

INSTEAD = "set TOKENWIRE_TEST_AMQP_URL to a RabbitMQ (3.10 or later, management plugin on) the tests may use"
OLDEST = (3, 10)
START_WITHIN = 180.0
"""A node takes about three seconds on two idle cores; the bound is for a busy machine."""


class Broker(Protocol):
    """A RabbitMQ for tests, which they may break unless it is external."""

    @property
    def url(self) -> str:
        """amqp://… of the default vhost."""

    def new_vhost(self) -> str:
        """Create an empty vhost; return its URL."""

    def ctl(self, *args: str) -> str:
        """The output of `rabbitmqctl` with these arguments, without headings."""

    def settle(self) -> None:
        """Wait until declarations are on disk. RabbitMQ takes about a second before they survive SIGKILL."""

    def kill(self) -> None:
        """SIGKILL; only messages confirmed by settled queues survive."""

    def stop(self) -> None:
        """Shut it down gracefully."""

    def start(self) -> None:
        """Start it on the same port and data; wait until it accepts clients. Blocks."""

    def freeze(self) -> None:
        """Stop it with SIGSTOP: connections stay open, nothing responds."""

    def thaw(self) -> None:
        """Continue after `freeze`."""

    def wipe(self) -> None:
        """Stop it and delete its data; the next `start` finds an empty broker."""

    def close(self) -> None:
        """Stop it and delete its files."""


def provide(*, as_deployed: bool = False) -> Broker:
    """The first available: TOKENWIRE_TEST_AMQP_URL; this machine's rabbitmq-server, installed if permitted; a
    container.
    """
    if url := os.environ.get("TOKENWIRE_TEST_AMQP_URL"):
        broker = ExternalBroker(url)
        broker.refuse_if_unusable()
        return broker
    return own(as_deployed=as_deployed)


def own(*, as_deployed: bool = False) -> Broker:
    """A RabbitMQ for the caller alone: from this machine's rabbitmq-server, installed if permitted, else a container.

    With `as_deployed` it has RabbitMQ's defaults rather than the tests' settings.
    """
    try:
        node = RabbitNode(rabbitmq_server(), as_deployed=as_deployed)
    except CannotProvide:
        if not containers.engine_responds():
            raise
        return RabbitContainer()
    try:
        node.start()
    except BaseException:
        node.close()
        raise
    return node


def rabbitmq_server() -> Path:
    """The server's start script. Debian's wrapper in sbin requires its own user, so the script behind it is used."""
    places = ("/usr/lib/rabbitmq/bin/rabbitmq-server",)
    found = debian.program("rabbitmq-server", *places)
    if found is None:
        debian.install("rabbitmq-server", INSTEAD)
        found = debian.program("rabbitmq-server", *places)
    if found is None:
        raise CannotProvide(f"rabbitmq-server is installed but not to be found: {INSTEAD}")
    return found


class RabbitNode:
    """A node with its own name, ports, data and cookie, without epmd, tied to this process.

    All methods block. `start` may run in a thread if clients should continue meanwhile.
    """

    def __init__(self, server: Path, *, as_deployed: bool = False) -> None:
        self._server = server
        self._as_deployed = as_deployed
        self._home = Path(tempfile.mkdtemp(prefix="tokenwire-rabbitmq-"))
        self._port, self._distribution_port, self.mapper_port = free_ports(3)
        self._name = f"tokenwire-{secrets.token_hex(4)}@localhost"
        self._process: subprocess.Popen[bytes] | None = None
        self._write_configuration()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}/"

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def log(self) -> Path:
        """The node's output."""
        return self._home / "output"

    def start(self) -> None:
        if self._process is not None and self._process.poll() is None:
            return
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                ending_with_this_process([str(self._server)]),
                env=self._environment(),
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait_until_ready()
        self._refuse_if_too_old()

    def stop(self) -> None:
        if self._process is not None:
            self.thaw()
            end(self._process, within=30)

    def settle(self) -> None:
        # A new quorum queue is registered in a buffered table (3.10). If the node is killed before that is flushed, the
        # queue comes back empty under another identity, even if it confirmed messages.
        self._evaluate("lists:foreach(fun dets:sync/1, dets:all()).")

    def kill(self) -> None:
        self._running().kill()
        self._running().wait()

    def freeze(self) -> None:
        self._running().send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._running().send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        self.stop()
        shutil.rmtree(self._home / "data", ignore_errors=True)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.kill()
        shutil.rmtree(self._home, ignore_errors=True)

    def new_vhost(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self._evaluate(
            f'ok = rabbit_vhost:add(<<"{name}">>, <<"tests">>),'
            f'ok = rabbit_auth_backend_internal:set_permissions(<<"guest">>, <<"{name}">>,'
            '<<".*">>, <<".*">>, <<".*">>, <<"tests">>).'
        )
        return self.url + name

    def ctl(self, *args: str) -> str:
        return self._output([str(self._server.with_name("rabbitmqctl")), "--silent", *args])

    def _write_configuration(self) -> None:
        cookie = self._home / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(16))
        cookie.chmod(0o400)
        (self._home / "enabled_plugins").write_text("[].\n")
        (self._home / "rabbitmq.conf").write_text(
            f"listeners.tcp.1 = 127.0.0.1:{self._port}\n"
            "disk_free_limit.absolute = 50MB\n"
            + ("" if self._as_deployed else "raft.wal_max_size_bytes = 33554432\n")  # half a gigabyte by default
        )

    def _environment(self) -> dict[str, str]:
        home = self._home
        # With a fixed port no epmd is needed, so none is started and left behind.
        epmd_less = f"-start_epmd false -erl_epmd_port {self._distribution_port}"
        return {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(home),
            "LC_ALL": "C.UTF-8",
            "ERL_CRASH_DUMP_SECONDS": "0",
            # Every minute a node checks whether epmd runs, and starts it if not.
            "ERL_AFLAGS": "-start_epmd false",
            "ERL_EPMD_PORT": str(self.mapper_port),
            "RUNNING_UNDER_SYSTEMD": "true",  # makes the script exec the node, so that the pid is the node's
            "RABBITMQ_NODENAME": self._name,
            "RABBITMQ_CONF_ENV_FILE": str(home / "rabbitmq-env.conf"),
            "RABBITMQ_CONFIG_FILE": str(home / "rabbitmq.conf"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(home / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(home / "enabled_plugins"),
            "RABBITMQ_GENERATED_CONFIG_DIR": str(home / "generated"),
            "RABBITMQ_PLUGINS_EXPAND_DIR": str(home / "data" / "plugins"),
            "RABBITMQ_MNESIA_BASE": str(home / "data"),
            "RABBITMQ_LOG_BASE": str(home / "log"),
            "RABBITMQ_PID_FILE": str(home / "pid"),
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": (
                f"-sname {self._name} {epmd_less} -kernel inet_dist_use_interface {{127,0,0,1}}"
                # RabbitMQ lets its schedulers sleep at once; a little busy waiting halves the start time.
                + ("" if self._as_deployed else " +sbwt short +sbwtdio short")
            ),
            "RABBITMQ_CTL_ERL_ARGS": f"{epmd_less} -dist_listen false",
        }

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError("the RabbitMQ node was never started")
        return self._process

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_WITHIN
        while not _speaks_amqp(self._port):
            if self._running().poll() is not None or time.monotonic() > deadline:
                last = (self.log.read_text(errors="replace").strip() or "no output").splitlines()[-1]
                raise CannotProvide(f"the RabbitMQ node did not start ({last}): {INSTEAD}")
            time.sleep(0.05)

    def _refuse_if_too_old(self) -> None:
        _refuse_if_too_old(self._evaluate("rabbit_misc:version().").strip('"'), f"of this machine: {INSTEAD}")

    def _evaluate(self, expression: str) -> str:
        """The result of an Erlang expression on the node; fast if Erlang's C client is installed."""
        erl_call = shutil.which("erl_call")
        if erl_call is None:
            return self.ctl("eval", expression).strip()
        address = f"127.0.0.1:{self._distribution_port}"
        response = self._output([erl_call, "-address", address, "-r", "-e"], given=f"{expression}\n").strip()
        if not (response.startswith("{ok, ") and response.endswith("}")):
            raise RuntimeError(f"{expression}: {response}")
        return response.removeprefix("{ok, ").removesuffix("}")

    def _output(self, command: list[str], given: str = "") -> str:
        done = subprocess.run(
            command, env=self._environment(), input=given, capture_output=True, text=True, timeout=240, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def _speaks_amqp(port: int) -> bool:
    """Whether the node responds to a protocol header, which means that it accepts clients."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"AMQP\x00\x00\x09\x01")
            return connection.recv(1) != b""
    except OSError:
        return False


def _refuse_if_too_old(version: str, where: str) -> None:
    if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
        raise CannotProvide(f"RabbitMQ 3.10 or later is needed, not the {version} {where}")


class ExternalBroker:
    """An external RabbitMQ: tests create vhosts through its management plugin, and never disturb it."""

    def __init__(self, url: str) -> None:
        self._parts = urllib.parse.urlsplit(url)
        management = os.environ.get("TOKENWIRE_TEST_RABBITMQ_MANAGEMENT_URL")
        self._management = management or f"http://{self._parts.hostname}:15672"
        self._vhosts: list[str] = []

    @property
    def url(self) -> str:
        return urllib.parse.urlunsplit(self._parts)

    def refuse_if_unusable(self) -> None:
        """Raises CannotProvide if it cannot create vhosts, or is too old."""
        overview = json.loads(self._request("GET", "overview"))
        _refuse_if_too_old(overview["rabbitmq_version"], "of TOKENWIRE_TEST_AMQP_URL")

    def new_vhost(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self._request("PUT", f"vhosts/{name}", {})
        self._vhosts.append(name)
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        self._request("PUT", f"permissions/{name}/{urllib.parse.quote(self._user, safe='')}", everything)
        return urllib.parse.urlunsplit(self._parts._replace(path=f"/{name}"))

    def ctl(self, *args: str) -> str:
        raise self._refusal(f"run `rabbitmqctl {' '.join(args)}` on")

    def settle(self) -> None:
        raise self._refusal("settle")

    def kill(self) -> None:
        raise self._refusal("kill")

    def stop(self) -> None:
        raise self._refusal("stop")

    def start(self) -> None:
        raise self._refusal("start")

    def freeze(self) -> None:
        raise self._refusal("freeze")

    def thaw(self) -> None:
        raise self._refusal("thaw")

    def wipe(self) -> None:
        raise self._refusal("wipe")

    def close(self) -> None:
        for name in self._vhosts:
            self._request("DELETE", f"vhosts/{name}")

    @property
    def _user(self) -> str:
        return urllib.parse.unquote(self._parts.username or "guest")

    def _request(self, method: str, path: str, body: dict[str, str] | None = None) -> bytes:
        password = urllib.parse.unquote(self._parts.password or "guest")
        credentials = base64.b64encode(f"{self._user}:{password}".encode()).decode()
        request = urllib.request.Request(
            f"{self._management}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Basic {credentials}", "Content-Type": "application/json"},
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as response:
                content: bytes = response.read()
                return content
        except OSError as fault:
            raise CannotProvide(
                f"the RabbitMQ of TOKENWIRE_TEST_AMQP_URL cannot make vhosts for the tests ({fault}): its management "
                f"plugin is expected at {self._management}; TOKENWIRE_TEST_RABBITMQ_MANAGEMENT_URL names another place"
            ) from fault

    def _refusal(self, deed: str) -> AssertionError:
        return AssertionError(
            f"this test has to {deed} RabbitMQ, and TOKENWIRE_TEST_AMQP_URL names one that is not ours to disturb: "
            "unset it for the tests that break things"
        )


class RabbitContainer:
    """`rabbitmq:4` in a container, on a fixed port so that it restarts at the same address."""

    def __init__(self) -> None:
        self._port = free_ports(1)[0]
        self._container = containers.run("rabbitmq:4", published={5672: self._port})
        self._wait_until_ready()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self._port}/"

    def new_vhost(self) -> str:
        name = f"test-{secrets.token_hex(6)}"
        self.ctl("add_vhost", name)
        self.ctl("set_permissions", "-p", name, "guest", ".*", ".*", ".*")
        return self.url + name

    def ctl(self, *args: str) -> str:
        return containers.execute(self._container, "rabbitmqctl", "--silent", *args)

    def settle(self) -> None:
        self.ctl("eval", "lists:foreach(fun dets:sync/1, dets:all()).")

    def kill(self) -> None:
        self._container.kill()
        self._container.wait()

    def stop(self) -> None:
        self._container.stop(timeout=30)

    def start(self) -> None:
        self._container.start()
        self._wait_until_ready()

    def freeze(self) -> None:
        self._container.pause()

    def thaw(self) -> None:
        self._container.unpause()

    def wipe(self) -> None:
        self.ctl("stop_app")
        self.ctl("force_reset")
        self.stop()

    def close(self) -> None:
        self._container.remove(force=True, v=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_WITHIN
        while not _speaks_amqp(self._port):
            if time.monotonic() > deadline:
                raise CannotProvide(f"the RabbitMQ container did not start: {INSTEAD}")
            time.sleep(0.1)
