"""MongoDB and RabbitMQ as the stack has them: closed to all but the users that the deployment makes."""

import signal
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

from deploy import make_secrets
from libs.processes import end, tied_to_us
from services.embedded import EmbeddedMongoMissing, mongod_binary
from tests.deployment.stack import ROOT
from tests.ports import free_port
from tests.provision import CannotProvide
from tests.provision.rabbitmq import RabbitNode, rabbitmq_server

CONFIGURATION = ROOT / "deploy" / "rabbitmq" / "rabbitmq.conf"


class GuardedRabbit(RabbitNode):
    """A node that loads the definitions with the passwords in `secrets`, as the stack's configuration says."""

    def __init__(self, secrets: Path) -> None:
        self._secrets = secrets
        super().__init__(rabbitmq_server())

    @property
    def address(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def url_of(self, user: str) -> str:
        """How the user's secret says to connect, but here."""
        secret = (self._secrets / f"amqp_url_{user}").read_text().strip()
        return secret.replace(make_secrets.RABBITMQ, self.address)

    def _write_configuration(self) -> None:
        super()._write_configuration()
        (loading,) = [line for line in CONFIGURATION.read_text().splitlines() if line.startswith("load_definitions")]
        assert loading == "load_definitions = /run/secrets/rabbitmq_definitions"
        with (self._home / "rabbitmq.conf").open("a") as configuration:
            configuration.write(f"load_definitions = {self._secrets / make_secrets.DEFINITIONS}\n")


class GuardedMongo:
    """An empty mongod with the options of the stack's."""

    def __init__(self, home: Path, key: str = "a2V5ZmlsZS1vZi10aGUtdGVzdHM=") -> None:
        try:
            binary = mongod_binary()
        except EmbeddedMongoMissing as missing:
            raise CannotProvide(str(missing)) from missing
        self.address = f"127.0.0.1:{free_port()}"
        keyfile = home / "keyfile"
        keyfile.write_text(f"{key}\n")
        keyfile.chmod(0o400)
        (home / "data").mkdir()
        self._command = [
            str(binary),
            *("--dbpath", str(home / "data"), "--bind_ip", "127.0.0.1", "--port", self.address.partition(":")[2]),
            *("--auth", "--keyFile", str(keyfile), "--replSet", "rs0", "--oplogSize", "64", "--nounixsocket"),
            *("--wiredTigerCacheSizeGB", "0.25", "--setParameter", "diagnosticDataCollectionEnabled=false", "--quiet"),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """It is starting; whoever needs it waits."""
        self._process = subprocess.Popen(
            tied_to_us(self._command, ending=signal.SIGKILL),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def stop(self) -> None:
        """Gone, and its data sound."""
        if self._process is not None:
            end(self._process, within=10)
