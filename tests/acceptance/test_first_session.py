"""The README's first session, pasted block by block into a shell."""

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.curl import curl
from tests.acceptance.programs import END_WITHIN, ROOT, environment
from tests.acceptance.test_make_run import Own, own_tokenwire
from tests.eventually import eventually
from tests.ports import free_ports


def blocks(own: Own, receiver: int, upstream: int) -> Sequence[str]:
    """The commands of the section, with this test's ports and data directory."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    section = text.partition("\n## A first session\n")[2].partition("\n## ")[0]
    found = re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    moved = {
        "127.0.0.1:8080": f"127.0.0.1:{own.port}",
        "127.0.0.1:9002": f"127.0.0.1:{receiver}",
        "127.0.0.1:9003": f"127.0.0.1:{upstream}",
        "examples.upstream &": f"examples.upstream --port {upstream} &",
        "examples.webhook_receiver &": f"examples.webhook_receiver --port {receiver} &",
        ".venv/bin/python": sys.executable,
        ".data/": f"{own.data}/",
    }
    for old, new in moved.items():
        assert any(old in block for block in found), old
        found = [block.replace(old, new) for block in found]
    return found


@dataclass
class Shell:
    """An interactive shell."""

    process: asyncio.subprocess.Process
    output: Path

    async def paste(self, block: str) -> str:
        """Paste a block; return its output."""
        assert self.process.stdin is not None
        before, done = len(self.said), f"done-{len(self.said)}"
        self.process.stdin.write(f"{block}\necho {done}\n".encode())
        await eventually(lambda: f"{done}\n" in self.said, within=60)
        return self.said[before:].replace(f"{done}\n", "")

    @property
    def said(self) -> str:
        """All output so far."""
        return self.output.read_text(errors="replace")


@asynccontextmanager
async def shell(home: Path) -> AsyncIterator[Shell]:
    """A bash in the project's directory. It and its background processes end with the block."""
    output = home / "said"
    path = f"{curl().parent}:{Path(sys.executable).parent}:/usr/bin:/bin"
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


async def test_the_first_session_works_by_copy_and_paste(tmp_path: Path) -> None:
    """Every command prints what the text around it says."""
    receiver, upstream = free_ports(2)
    async with own_tokenwire(tmp_path, tmp_path / "data") as own, shell(tmp_path) as terminal:
        await own.start()
        first, register, code, tokens, ending = blocks(own, receiver, upstream)

        assert '"access_token":"tw_at_' in await terminal.paste(first)

        await terminal.paste(register)
        await eventually(lambda: "onKeyChangeUrl: " in terminal.said and "upstream may now be " in terminal.said)

        said = await terminal.paste(code)
        client_id = re.search(r"^[Ll]ocation: http://identityserver\.com/\S*client_id=(\w+)", said, re.MULTILINE)
        assert client_id, said

        said = await terminal.paste(tokens)
        responses = [json.loads(line) for line in re.findall(r"\{.*\}", said)]
        assert [response.get("error") or response.get("message") or set(response) for response in responses] == [
            {"orders", "client", "user"},
            "Key not authorised",
            {"orders", "client", "user"},
            "token revoked successfully",
            "Key not authorised",
        ]
        await eventually(lambda: re.findall(r"^webhook \S+: (\w+)$", terminal.said, re.MULTILINE) == ["new", "refresh"])

        said = await terminal.paste(ending)
        (listed,) = [json.loads(line) for line in re.findall(r'^\{"deliveries".*\}', said, re.MULTILINE)]
        assert [delivery["event_type"] for delivery in listed["deliveries"]] == ["token.refresh", "token.new"]
        assert {delivery["client_id"] for delivery in listed["deliveries"]} == {client_id[1]}
        await terminal.paste("wait")
        assert await own.program.stop() == 0
