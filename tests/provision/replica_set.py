"""A replica set of three local mongods, whose primary can step down, be killed and restarted."""

import asyncio
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Self

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError

from libs.processes import end, ending_with_this_process
from services.embedded import mongod_binary
from tests.ports import free_ports

NAME = "three"
MEMBERS = 3
PRIMARY_WITHIN = 60.0
STEPPED_DOWN_FOR = 10
"""Seconds during which a primary that stepped down is not a candidate."""

Client = AsyncIOMotorClient[dict[str, Any]]


class ReplicaSet:
    """Three voting, journaling members on 127.0.0.1, which end with this process. `async with` starts them."""

    def __init__(self) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="tokenwire-replica-set-"))
        self._ports = free_ports(MEMBERS)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._client: Client | None = None

    @property
    def url(self) -> str:
        """mongodb://… of all three, without a database name."""
        members = ",".join(f"127.0.0.1:{port}" for port in self._ports)
        return f"mongodb://{members}/?replicaSet={NAME}"

    async def __aenter__(self) -> Self:
        try:
            for port in self._ports:
                self._launch(port)
            await self._initiate()
            self._client = AsyncIOMotorClient(self.url, serverSelectionTimeoutMS=1000)
            await self.primary()
        except BaseException:
            self._close()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._close()

    async def primary(self, other_than: int | None = None) -> int:
        """Wait for a primary (another one than `other_than`, if given); return its port."""
        deadline = time.monotonic() + PRIMARY_WITHIN
        while time.monotonic() < deadline:
            try:
                hello = await self._connected().admin.command("hello")
            except PyMongoError:
                hello = {}
            address = hello.get("primary") or ""
            port = int(address.rpartition(":")[2] or 0)
            if hello.get("isWritablePrimary") and port != other_than:
                return port
            await asyncio.sleep(0.05)
        raise AssertionError(f"no primary within {PRIMARY_WITHIN} s")

    async def step_down(self) -> int:
        """Make the primary step down; return the port of the new one."""
        before = await self.primary()
        try:
            await self._connected().admin.command(
                "replSetStepDown", STEPPED_DOWN_FOR, secondaryCatchUpPeriodSecs=5, force=True
            )
        except (AutoReconnect, OperationFailure) as fault:
            if isinstance(fault, OperationFailure) and not fault.has_error_label("RetryableWriteError"):
                raise
        return await self.primary(other_than=before)

    def kill(self, port: int) -> None:
        """Send SIGKILL, and wait until the member is gone."""
        self._processes[port].kill()
        self._processes[port].wait()

    def kill_all(self) -> None:
        """Send SIGKILL to every member."""
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def restart_all(self) -> None:
        """Start every member again on its data."""
        for port in self._ports:
            self.restart(port)

    def restart(self, port: int) -> None:
        """Start the member again on its data; it rejoins by itself."""
        if self._processes[port].poll() is None:
            end(self._processes[port], within=10)
        self._launch(port)

    def _connected(self) -> Client:
        if self._client is None:
            raise AssertionError("the replica set was never started")
        return self._client

    def _launch(self, port: int) -> None:
        data = self._home / str(port)
        data.mkdir(exist_ok=True)
        command = [
            str(mongod_binary()),
            *("--dbpath", str(data), "--logpath", str(self._home / f"{port}.log"), "--logappend"),
            *("--bind_ip", "127.0.0.1", "--port", str(port), "--nounixsocket"),
            *("--replSet", NAME, "--oplogSize", "64", "--wiredTigerCacheSizeGB", "0.25"),
            *("--wiredTigerEngineConfigString", "log=(file_max=16MB)"),
            *("--setParameter", "diagnosticDataCollectionEnabled=false", "--quiet"),
        ]
        with (self._home / f"{port}.out").open("ab") as output:
            self._processes[port] = subprocess.Popen(
                ending_with_this_process(command),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    async def _initiate(self) -> None:
        members = [{"_id": number, "host": f"127.0.0.1:{port}"} for number, port in enumerate(self._ports)]
        # Elections within seconds instead of ten: tests need one to happen, not its usual duration.
        settings = {"electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500}
        client: Client = AsyncIOMotorClient(
            "127.0.0.1", self._ports[0], directConnection=True, serverSelectionTimeoutMS=30_000
        )
        try:
            for port in self._ports[1:]:
                await self._responses(port)
            await client.admin.command("replSetInitiate", {"_id": NAME, "members": members, "settings": settings})
        finally:
            client.close()

    async def _responses(self, port: int) -> None:
        client: Client = AsyncIOMotorClient("127.0.0.1", port, directConnection=True, serverSelectionTimeoutMS=30_000)
        try:
            await client.admin.command("ping")
        finally:
            client.close()

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
                process.wait()
        shutil.rmtree(self._home, ignore_errors=True)
