"""Node and the packages pinned in tests/clients/node: this machine's Node, or Debian's, installed if permitted."""

import asyncio
import hashlib
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from libs.processes import ending_with_this_process
from tests.provision import CannotProvide, debian

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "tests" / "clients" / "node"
CACHE = ROOT / ".cache" / "clients"
INSTEAD = "put a Node.js (18 or later) with npm on PATH, or set TOKENWIRE_TEST_WITHOUT=node-clients"
LACKING = (
    "the client libraries for Node cannot be installed: let npm reach its registry, fill its cache, "
    "or run without them (TOKENWIRE_TEST_WITHOUT=node-clients)"
)
OLDEST = 18
INSTALL_WITHIN = 90.0
PINNED = ("package.json", "package-lock.json", ".npmrc")


@dataclass(frozen=True)
class Node:
    """Node, and a directory with the modules of `tests/clients/node` and their packages."""

    program: Path
    home: Path

    async def run(self, *arguments: str, given: str, within: float) -> tuple[int, str, str]:
        """Run a module; return status, output and errors. It is killed if it takes too long."""
        process = await asyncio.create_subprocess_exec(
            *ending_with_this_process([str(self.program), *arguments]),
            cwd=self.home,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            async with asyncio.timeout(within):
                out, complaints = await process.communicate(given.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return process.returncode or 0, out.decode(errors="replace"), complaints.decode(errors="replace")


def provide() -> Node:
    """Node with the pinned packages, checked against their hashes. Raises CannotProvide."""
    node, npm = _program("node", "nodejs"), _program("npm", "npm")
    _refuse_if_too_old(node)
    pinned = b"".join((SOURCE / name).read_bytes() for name in PINNED)
    home = CACHE / hashlib.sha256(pinned).hexdigest()[:16]
    if not home.exists():
        _install(npm, home)
    for module in SOURCE.glob("*.mjs"):
        shutil.copy(module, home)
    return Node(node, home)


def _program(name: str, package: str) -> Path:
    found = debian.program(name)
    if found is None:
        debian.install(package, INSTEAD)
        found = debian.program(name)
    if found is None:
        raise CannotProvide(f"{package} is installed but {name} is not to be found: {INSTEAD}")
    return found


def _refuse_if_too_old(node: Path) -> None:
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout.strip()
    if not version.startswith("v") or int(version[1:].split(".")[0]) < OLDEST:
        raise CannotProvide(f"{node} is {version or 'broken'}: {INSTEAD}")


def _install(npm: Path, home: Path) -> None:
    """Install atomically, so that an aborted installation is not used."""
    CACHE.mkdir(parents=True, exist_ok=True)
    new = Path(tempfile.mkdtemp(dir=CACHE))
    try:
        for name in PINNED:
            shutil.copy(SOURCE / name, new)
        command = [str(npm), "ci", "--ignore-scripts", "--no-progress"]
        try:
            done = subprocess.run(
                ending_with_this_process(command),
                cwd=new,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=INSTALL_WITHIN,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise CannotProvide(f"{LACKING} (npm ci took longer than {INSTALL_WITHIN:g} s)") from None
        if done.returncode != 0:
            reason = next((line for line in done.stderr.splitlines() if line.strip()), "no output")
            raise CannotProvide(f"{LACKING} (npm ci said: {reason})")
        new.chmod(0o755)
        new.rename(home)
    finally:
        shutil.rmtree(new, ignore_errors=True)
