"""MongoDB and RabbitMQ as in the stack: only the users that the deployment creates have access."""

import json
import signal
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pymongo import MongoClient

from deploy import make_secrets
from libs.processes import end, ending_with_this_process
from services.embedded import EmbeddedMongoMissing, mongod_binary
from tests.deployment.stack import ROOT
from tests.ports import free_port
from tests.provision import CannotProvide
from tests.provision.rabbitmq import RabbitNode, rabbitmq_server

Document = dict[str, Any]
UNAUTHORIZED = '"codeName":"Unauthorized"'
CONFIGURATION = ROOT / "deploy" / "rabbitmq" / "rabbitmq.conf"


class GuardedRabbit(RabbitNode):
    """A node that loads the definitions with the passwords in `secrets`, through the stack's configuration."""

    def __init__(self, secrets: Path) -> None:
        self._secrets = secrets
        super().__init__(rabbitmq_server())

    @property
    def address(self) -> str:
        """Host and port."""
        return urlsplit(self.url).netloc.rpartition("@")[2]

    def url_of(self, user: str) -> str:
        """The URL in this user's secret, with the local address."""
        secret = (self._secrets / f"amqp_url_{user}").read_text().strip()
        return secret.replace(make_secrets.RABBITMQ, self.address)

    def _write_configuration(self) -> None:
        super()._write_configuration()
        (loading,) = [line for line in CONFIGURATION.read_text().splitlines() if line.startswith("load_definitions")]
        assert loading == "load_definitions = /run/secrets/rabbitmq_definitions"
        with (self._home / "rabbitmq.conf").open("a") as configuration:
            configuration.write(f"load_definitions = {self._secrets / make_secrets.DEFINITIONS}\n")


class GuardedMongo:
    """An empty mongod with the stack's options."""

    def __init__(self, home: Path, key: str = "a2V5ZmlsZS1vZi10aGUtdGVzdHM=") -> None:
        try:
            binary = mongod_binary()
        except EmbeddedMongoMissing as missing:
            raise CannotProvide(str(missing)) from missing
        self.address = f"127.0.0.1:{free_port()}"
        self._log = home / "mongod.log"
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
        """Start it; do not wait until it is ready."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                ending_with_this_process(self._command, ending=signal.SIGKILL),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def client(self, user: str | None = None, password: str = "", database: str = "admin") -> MongoClient[Document]:
        """A client that logs in as this user of this database; without a user, an anonymous one."""
        credentials = {} if user is None else {"username": user, "password": password, "authSource": database}
        return MongoClient(f"mongodb://{self.address}/?replicaSet=rs0", serverSelectionTimeoutMS=20_000, **credentials)  # type: ignore[arg-type]

    def refusals(self) -> list[str]:
        """What the server has refused because the user lacked the privilege, from its log."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if UNAUTHORIZED in line]
        return [line["attr"]["error"]["errmsg"] for line in lines]

    def stop(self) -> None:
        """Stop it cleanly."""
        if self._process is not None:
            end(self._process, within=10)
