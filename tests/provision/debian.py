"""Programs from the distribution's packages, installed when that is missing and permitted."""

import os
import shutil
import subprocess
from pathlib import Path

from tests.provision import CannotProvide

# The package's own service must not start beside the tests' server. Without a policy the packages start it at once.
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
    """The package is installed when this returns. Raises CannotProvide, which names the package and `instead`."""
    remedy = f"{package} is missing: run `apt-get install {package}` as root, or {instead}"
    if shutil.which("apt-get") is None:
        raise CannotProvide(remedy)
    done = subprocess.run(
        [*_as_root(remedy), "sh", "-c", _INSTALL, "install", package],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
        raise CannotProvide(f"{remedy} (apt-get said: {reason})")


def program(name: str, *places: str) -> Path | None:
    """Where the program is: the first of `places` that exists, else what PATH (and sbin) has."""
    for place in places:
        if os.access(place, os.X_OK):
            return Path(place)
    found = shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")
    return Path(found) if found else None


def _as_root(remedy: str) -> list[str]:
    if os.geteuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo and subprocess.run([sudo, "-n", "true"], capture_output=True, check=False).returncode == 0:
        return [sudo, "-n"]
    raise CannotProvide(remedy)
