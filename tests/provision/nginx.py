"""nginx for the tests of the edge: this machine's, installed if permitted, run with a configuration of the test."""

import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from libs.processes import end, tied_to_us
from tests.provision import CannotProvide, debian

INSTEAD = "put an nginx (1.18 or later, with auth_request) on PATH"
SETTLE_WITHIN = 10.0
"""Seconds for a start or a reload."""
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

# What a package's configuration says for the whole server, said for a server that belongs to whoever runs the tests.
_MAIN = """\
daemon off;
worker_processes 1;
pid {home}/nginx.pid;
error_log stderr notice;
{user}
events {{ worker_connections 512; }}
http {{
{temporary}
    access_log off;
    include {home}/http.conf;
}}
"""


def nginx() -> Path:
    """The program. Raises CannotProvide with what to do."""
    found = debian.program("nginx")
    if found is None:
        debian.install("nginx", INSTEAD)
        found = debian.program("nginx")
    if found is None:
        raise CannotProvide(f"nginx is installed but not to be found: {INSTEAD}")
    return found


class NginxEdge:
    """An nginx whose `http { … }` is the given text; which addresses it listens on is for the text to say."""

    def __init__(self, conf_text: str) -> None:
        self._home = Path(tempfile.mkdtemp(prefix="tokenwire-nginx-"))
        self._program = nginx()
        self._process: subprocess.Popen[bytes] | None = None
        self._write(conf_text)

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def log(self) -> str:
        """What nginx has reported since the start."""
        path = self._home / "error.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def start(self) -> None:
        """It accepts connections. Raises AssertionError with nginx's own words when it refuses the configuration."""
        with (self._home / "error.log").open("wb") as log:
            # SIGKILL would leave the workers behind.
            self._process = subprocess.Popen(
                tied_to_us(self._command(), ending=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for("start worker process ")

    def reload(self, conf_text: str) -> None:
        """New connections are served by the new text; the old text stays when nginx refuses it, and this raises."""
        running = self._running()
        previous = (self._home / "http.conf").read_text()
        self._write(conf_text)
        tested = subprocess.run([*self._command(), "-t"], capture_output=True, text=True, check=False)
        if tested.returncode != 0:
            self._write(previous)
            raise AssertionError(tested.stderr)
        gone = self.log.count("gracefully shutting down")
        running.send_signal(signal.SIGHUP)
        self._wait_for("gracefully shutting down", more_than=gone)

    def stop(self) -> None:
        """Nothing listens any more."""
        end(self._running(), within=10)

    def close(self) -> None:
        """Nothing of it is left, neither processes nor files."""
        if self._process is not None:
            self.stop()
        shutil.rmtree(self._home, ignore_errors=True)

    def _write(self, conf_text: str) -> None:
        home = self._home
        temporary = "\n".join(f"    {kind}_temp_path {home}/{kind};" for kind in _TEMPORARY)
        # Workers of a master that is root change to nobody, who may not enter our directory.
        user = "user root;" if home.owner() == "root" else ""
        (home / "nginx.conf").write_text(_MAIN.format(home=home, temporary=temporary, user=user))
        (home / "http.conf").write_text(conf_text)

    def _command(self) -> list[str]:
        return [str(self._program), "-e", "stderr", "-p", str(self._home), "-c", str(self._home / "nginx.conf")]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise AssertionError("nginx was never started")
        return self._process

    def _wait_for(self, words: str, more_than: int = 0) -> None:
        deadline = time.monotonic() + SETTLE_WITHIN
        while self.log.count(words) <= more_than:
            if self._running().poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"nginx did not get going:\n{self.log}")
            time.sleep(0.02)
