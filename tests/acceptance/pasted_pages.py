"""The commands of a page, pasted into a shell as a reader would."""

import asyncio
import re
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.curl import curl
from tests.acceptance.programs import END_WITHIN, ROOT, environment
from tests.acceptance.test_make_run import Own
from tests.eventually import eventually
from tests.ports import free_ports

PASTED_WITHIN = 300.0
"""Seconds until everything pasted has run; on two idle cores it takes a few."""


def sections(page: Path) -> dict[str, Sequence[str]]:
    """The shell blocks of a page by the heading of their section (`##`), sections without blocks left out."""
    title, *rest = re.split(r"^## (.*)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    texts = {"": title, **dict(zip(rest[::2], rest[1::2], strict=True))}
    found = {name: re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) for name, text in texts.items()}
    return {name: blocks for name, blocks in found.items() if blocks}


@dataclass(frozen=True)
class Ports:
    """Where the servers of a page listen in this test, in place of their default ports."""

    identity_server: int
    receiver: int
    upstream: int

    @classmethod
    def free(cls) -> "Ports":
        return cls(*free_ports(3))


def moved(block: str, own: Own, ports: Ports, also: Mapping[str, str] | None = None) -> str:
    """The block with this test's ports and data directory."""
    replaced = {
        "127.0.0.1:8080": f"127.0.0.1:{own.port}",
        "127.0.0.1:9001": f"127.0.0.1:{ports.identity_server}",
        "127.0.0.1:9002": f"127.0.0.1:{ports.receiver}",
        "127.0.0.1:9003": f"127.0.0.1:{ports.upstream}",
        '"127.0.0.1", 9002': f'"127.0.0.1", {ports.receiver}',
        "examples.identity_server ": f"examples.identity_server --port {ports.identity_server} ",
        "examples.webhook_receiver ": f"examples.webhook_receiver --port {ports.receiver} ",
        "examples.upstream ": f"examples.upstream --port {ports.upstream} ",
        ".venv/bin/python": sys.executable,
        ".data/": f"{own.data}/",
        **(also or {}),
    }
    for old, new in replaced.items():
        block = block.replace(old, new)
    return block


@dataclass
class Shell:
    """A shell that reads what is pasted, line by line."""

    process: asyncio.subprocess.Process
    output: Path

    async def paste(self, text: str) -> str:
        """Paste the text; return its output."""
        assert self.process.stdin is not None
        before, done = len(self.said), f"done-{len(self.said)}"
        self.process.stdin.write(f"{text}\necho; echo {done}\n".encode())
        await eventually(lambda: self._has_said(f"\n{done}\n"), within=PASTED_WITHIN)
        return self.said[before:].replace(f"\n{done}\n", "")

    def _has_said(self, text: str) -> bool:
        if self.process.returncode is not None:
            raise RuntimeError(f"the shell ended:\n{self.said}")
        return text in self.said

    @property
    def said(self) -> str:
        """All output so far."""
        return self.output.read_text(errors="replace")


@asynccontextmanager
async def shell(home: Path) -> AsyncIterator[Shell]:
    """A bash in the project's directory. It and its background processes end with the block."""
    output = home / "said"
    path = f"{curl().parent}:{Path(sys.executable).parent}:/usr/sbin:/usr/bin:/sbin:/bin"
    with output.open("wb") as said:
        process = await asyncio.create_subprocess_exec(
            "bash",
            cwd=ROOT,
            env=environment({"PATH": path, "no_proxy": "*"}),
            stdin=asyncio.subprocess.PIPE,
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        yield Shell(process, output)
    finally:
        assert process.stdin is not None
        process.stdin.write(b"kill $(jobs -p) 2>/dev/null; wait; exit\n")
        process.stdin.close()
        await asyncio.wait_for(process.wait(), END_WITHIN)
