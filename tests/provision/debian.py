"""Programs from Debian packages, installed if missing and permitted."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from tests.provision import CannotProvide

# The package's own service must not start next to the tests' server, as it would without this policy.
_INSTALL = """\
set -e
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\\nexit 101\\n' > "$policy"
    chmod 755 "$policy"
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -q -y update
apt-get -q -y install --no-install-recommends "$1"
"""


def install(package: str, instead: str) -> None:
    """The package is installed when this returns. Raises CannotProvide, which names the package and `instead`.

    Of several runs and workers one installs while the others wait: apt-get refuses to run twice.
    """
    remedy = f"{package} is missing: run `apt-get install {package}` as root, or {instead}"
    if shutil.which("apt-get") is None:
        raise CannotProvide(remedy)
    command = [*_as_root(remedy), "sh", "-c", _INSTALL, "install", package]
    with (Path(tempfile.gettempdir()) / f"tokenwire-apt-{os.geteuid()}").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise CannotProvide(f"{remedy} (apt-get said: {reason})")


def program(name: str, *places: str) -> Path | None:
    """The path of the program: the first of `places` that exists, else from PATH and sbin."""
    for place in places:
        if os.access(place, os.X_OK):
            return Path(place)
    found = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


def provided(name: str, package: str, instead: str, *places: str) -> Path:
    """The path of the program, from `package` if it was missing. Raises CannotProvide, which says what to do."""
    found = program(name, *places)
    if found is None:
        install(package, instead)
        found = program(name, *places)
    if found is None:
        raise CannotProvide(f"{package} is installed but {name} is not to be found: {instead}")
    return found


def _as_root(remedy: str) -> list[str]:
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    raise CannotProvide(remedy)
