"""The edge as the containers run it, but for where it listens and where the services are; and services that echo."""

import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from libs.processes import end, tied_to_us
from tests.ports import free_ports
from tests.provision.nginx import nginx

EDGE = Path(__file__).parents[2] / "edge"
START_WITHIN = 10.0
_PLACE = re.compile(r"server (\w+):8080 resolve (.*);")


class Edge:
    """nginx with the files of `edge/`, in front of services on these ports of 127.0.0.1."""

    def __init__(self, ports: Mapping[str, Sequence[int]]) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="tokenwire-edge-"))
        self.port, inside = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        files = shutil.copytree(EDGE, self._home / "edge")
        (files / "listen.conf").write_text(f"listen 127.0.0.1:{self.port};\n")
        (files / "upstreams.conf").write_text(placed((EDGE / "upstreams.conf").read_text(), ports))
        main = (files / "nginx.conf").read_text().replace("127.0.0.1:8081", f"127.0.0.1:{inside}")
        (files / "nginx.conf").write_text(main)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def output(self) -> str:
        """Access lines and complaints; access lines come with a second's delay."""
        return (self._home / "output").read_text(errors="replace")

    def __enter__(self) -> Self:
        # Workers of a master that is root change to nobody, who may not enter our directory.
        user = ["-g", "user root;"] if self._home.owner() == "root" else []
        with (self._home / "output").open("wb") as output:
            self._process = subprocess.Popen(
                tied_to_us(
                    [str(nginx()), "-e", "stderr", "-p", str(self._home), "-c", f"{self._home}/edge/nginx.conf", *user],
                    ending=signal.SIGTERM,  # SIGKILL would leave the workers behind
                ),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._wait_until_it_listens(self._process)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            end(self._process, within=15)
        shutil.rmtree(self._home, ignore_errors=True)

    def _wait_until_it_listens(self, process: "subprocess.Popen[bytes]") -> None:
        deadline = time.monotonic() + START_WITHIN
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise AssertionError(f"nginx did not get going:\n{self.output}") from None
                time.sleep(0.02)


def placed(upstreams: str, ports: Mapping[str, Sequence[int]]) -> str:
    """The stack's upstreams with local ports for its names; everything else about them stays."""
    lines = [line for line in upstreams.splitlines() if not line.startswith("resolver")]
    local = _PLACE.sub(
        lambda found: " ".join(f"server 127.0.0.1:{port} {found[2]};" for port in ports[found[1]]), "\n".join(lines)
    )
    assert "resolve" not in local.split("upstream ", 1)[1]
    return local
