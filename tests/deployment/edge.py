"""nginx for tests: the edge as in the containers, and the forward-auth example, with local addresses."""

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

from libs.processes import end, ending_with_this_process
from tests.ports import free_port
from tests.provision.nginx import nginx

EDGE = Path(__file__).parents[2] / "edge"
START_WITHIN = 60.0
NOWHERE = (9,)
"""The port of a service that a test does not run: nothing listens there."""
UPSTREAM_TIMEOUTS = (5.0, 60.0)
"""As in edge/routes.conf: seconds to connect to an upstream, and to wait for it."""
_PLACE = re.compile(r"server (\w+):8080 resolve (.*);")


class Nginx:
    """nginx with a configuration directory of its own. Subclasses say where it listens and write the files."""

    def __init__(self, name: str) -> None:
        self._home = Path(tempfile.mkdtemp(prefix=f"tokenwire-{name}-"))
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def configuration(self) -> Path:
        """The main configuration file."""
        return self._home / "nginx.conf"

    @property
    def pid(self) -> int:
        """The process id of the master, whose children are the workers."""
        assert self._process is not None
        return self._process.pid

    @property
    def output(self) -> str:
        """Access log and error log; access lines may be up to a second late."""
        return (self._home / "output").read_text(errors="replace")

    def __enter__(self) -> Self:
        # Started as root, nginx switches its workers to another user, who may not enter our directory.
        user = ["-g", "user root;"] if self._home.owner() == "root" else []
        with (self._home / "output").open("wb") as output:
            self._process = subprocess.Popen(
                ending_with_this_process(
                    [str(nginx()), "-e", "stderr", "-p", str(self._home), "-c", str(self.configuration), *user],
                    ending=signal.SIGTERM,  # SIGKILL would leave the workers running
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


class Edge(Nginx):
    """The files of `edge/`, with services on these ports of 127.0.0.1, itself on a free one unless one is given.

    `upstream_timeouts`: seconds to connect to an upstream, and to wait for it. `kept`: the address and port of an
    upstream to which connections are kept. `forwards`: whether it forwards calls to upstreams itself.
    """

    def __init__(
        self,
        ports: Mapping[str, Sequence[int]],
        port: int | None = None,
        upstream_timeouts: tuple[float, float] = UPSTREAM_TIMEOUTS,
        kept: str = "",
        workers: int = 4,
        forwards: bool = True,
    ) -> None:
        super().__init__("edge")
        self.services = ports
        self.port, inside = port or free_port(), free_port()
        files = shutil.copytree(EDGE, self._home / "edge")
        (files / "listen.conf").write_text(f"listen 127.0.0.1:{self.port};\n")
        upstreams = kept_to(placed((EDGE / "upstreams.conf").read_text(), ports), kept)
        assert upstreams.count("default yes;") == 1
        (files / "upstreams.conf").write_text(upstreams if forwards else upstreams.replace("yes;", '"";'))
        if upstream_timeouts != UPSTREAM_TIMEOUTS:
            routes = (files / "routes.conf").read_text()
            (files / "routes.conf").write_text(with_timeouts(routes, *upstream_timeouts))
        main = (files / "nginx.conf").read_text().replace("127.0.0.1:8081", f"127.0.0.1:{inside}")
        main = main.replace("worker_processes 4;", f"worker_processes {workers};")
        self.configuration.write_text(main)

    @property
    def configuration(self) -> Path:
        return self._home / "edge/nginx.conf"


class ForwardAuth(Nginx):
    """`edge/examples/nginx.conf` in front of a protected API, with these gateways."""

    def __init__(self, gateways: Sequence[int], api: int) -> None:
        super().__init__("forward-auth")
        self.port = free_port()
        text = (EDGE / "examples/nginx.conf").read_text()
        asked = "".join(f"server 127.0.0.1:{port};" for port in gateways)
        for old, new in {
            "listen 80;": f"listen 127.0.0.1:{self.port};",
            "server gateway-1:8080;": asked,
            "server gateway-2:8080;": "",
            "server orders:9001;": f"server 127.0.0.1:{api};",
            "http {": f"http {{ {_TEMPORARY}",
        }.items():
            assert text.count(old) == 1, old
            text = text.replace(old, new)
        self.configuration.write_text(f"daemon off;\n{text}")


_TEMPORARY = " ".join(f"{kind}_temp_path {kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))


def placed(upstreams: str, ports: Mapping[str, Sequence[int]]) -> str:
    """The stack's upstreams with local ports in place of its host names; nothing else changes."""
    lines = [line for line in upstreams.splitlines() if not line.startswith("resolver")]
    local = _PLACE.sub(
        lambda found: " ".join(f"server 127.0.0.1:{port} {found[2]};" for port in ports.get(found[1], NOWHERE)),
        "\n".join(lines),
    )
    assert "resolve" not in local.split("upstream ", 1)[1]
    return local


def with_timeouts(routes: str, connect: float, wait: float) -> str:
    """The routes with these time-outs for upstreams."""
    for old, new, times in (
        ("proxy_connect_timeout 5s;", f"proxy_connect_timeout {connect * 1000:.0f}ms;", 2),
        ("proxy_send_timeout 60s;", f"proxy_send_timeout {wait * 1000:.0f}ms;", 1),
        ("proxy_read_timeout 60s;", f"proxy_read_timeout {wait * 1000:.0f}ms;", 1),
        ('X-Edge-Timeouts "5 60";', f'X-Edge-Timeouts "{connect:g} {wait:g}";', 1),
    ):
        assert routes.count(old) == times, old
        routes = routes.replace(old, new)
    return routes


def kept_to(upstreams: str, address: str) -> str:
    """The upstreams with a name for the one at this address and port, as the comment there shows it; none if empty."""
    if not address:
        return upstreams
    example = "# 10.0.0.5:9001 orders;"
    assert upstreams.count(example) == 1
    block = f"upstream orders {{ server {address}; keepalive 128; keepalive_timeout 2s; }}"
    return f"{upstreams.replace(example, f'{address} orders;')}\n{block}\n"
