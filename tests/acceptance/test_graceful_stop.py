"""A process that is stopped without a proxy in front answers every request it has received."""

import asyncio
import random
import signal
import sys
from collections import Counter

import pytest

from tests.eventually import eventually
from tests.ports import free_port

CLIENTS = 250
REQUEST = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"


async def client(port: int, outcomes: Counter[str]) -> None:
    """Send requests on one connection until the response or the server closes it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        while True:
            # A connection closed before the request was sent loses nothing.
            if reader.at_eof():
                outcomes["closed while idle"] += 1
                return
            writer.write(REQUEST)
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            await reader.readexactly(2)
            outcomes["answered"] += 1
            if "connection: close" in head:
                outcomes["last answers"] += 1
                return
            await asyncio.sleep(random.uniform(0, 1))
    except (asyncio.IncompleteReadError, ConnectionError):
        outcomes["lost"] += 1
    finally:
        writer.close()


@pytest.mark.parametrize("linger", [0.0, 0.5], ids=["at-once", "lingering"])
async def test_b9_no_request_on_a_kept_connection_is_lost_when_a_process_stops(linger: float) -> None:
    """With hundreds of keep-alive connections, no request is lost while the process stops."""
    port, outcomes = free_port(), Counter[str]()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.acceptance.served", str(port), str(linger)
    )
    try:
        await eventually(lambda: listens(port), within=120)
        clients = [asyncio.create_task(client(port, outcomes)) for _ in range(CLIENTS)]
        await eventually(lambda: outcomes["answered"] >= 2 * CLIENTS, within=120)
        process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(180):
            await asyncio.gather(*clients)
            assert await process.wait() == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert outcomes["lost"] == 0, outcomes
    assert outcomes["last answers"] > 0
    assert outcomes["last answers"] + outcomes["closed while idle"] == CLIENTS


async def listens(port: int) -> bool:
    """Whether the port accepts connections."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except ConnectionError:
        return False
    writer.close()
    return True
