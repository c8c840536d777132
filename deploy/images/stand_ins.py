"""Stand-in images for compose.yaml: the same names, users, ids, paths and entry points, made from Debian's packages."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.images.debian import BUNDLE, NEXT_RELEASE, Added, RootFs

BASE = ("base-files", "bash", "coreutils", "dash", "libc-bin", "grep", "sed", "mawk", "hostname", "findutils")
_WITHOUT = (
    "dpkg",
    "debconf",
    "perl",
    "init-system-helpers",
    "openssl-provider-legacy",
    "adduser",
    "procps",
    "logrotate",
)


@dataclass(frozen=True)
class StandIn:
    """What an image consists of, and how its containers start."""

    root: RootFs
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] | None = None
    volumes: Sequence[str] = ()

    def changes(self) -> list[str]:
        """The image's configuration in the words of a Dockerfile."""
        lines = [f"ENV {name}={value}" for name, value in (self.environment or {}).items()]
        lines += [f"VOLUME {volume}" for volume in self.volumes]
        if self.entrypoint:
            lines.append(f"ENTRYPOINT {_array(self.entrypoint)}")
        if self.command:
            lines.append(f"CMD {_array(self.command)}")
        return lines


def stand_ins(mongod: Path) -> dict[str, StandIn]:
    """The stand-ins by the name of the image before its colon."""
    return {
        "python": _python(),
        "mongo": _mongo(mongod),
        "rabbitmq": _rabbitmq(),
        "nginx": _nginx(),
        "prom/prometheus": _prometheus(),
    }


def _python() -> StandIn:
    links = {"python": "python3", "sh": "dash", "awk": "mawk"}
    return StandIn(
        RootFs(
            [*BASE, "python3", "python3-pip", "ca-certificates", "passwd", "tzdata", "libstdc++6"],
            without=(*_WITHOUT, "openssl_", "python3-wheel", "python3-packaging", "media-types", "netbase", "libdb5"),
            added=[*_system(), *_links(links)],
        ),
        command=["python3"],
        environment={"SSL_CERT_FILE": f"/{BUNDLE}", "LANG": "C.UTF-8"},
    )


def _mongo(mongod: Path) -> StandIn:
    start = '#!/bin/bash\nset -e\nif [ "${1:0:1}" = - ]; then set -- mongod "$@"; fi\nexec "$@"\n'
    return StandIn(
        RootFs(
            [*BASE, "libcurl4t64", "libssl3t64", "liblzma5", "ca-certificates"],
            without=(*_WITHOUT, "openssl_"),
            added=[
                *_system({"mongodb": (999, "/data/db")}),
                *_links({"sh": "dash", "awk": "mawk"}),
                Added("usr/bin/mongod", mongod, 0o755),
                Added("usr/local/bin/docker-entrypoint.sh", start, 0o755),
                Added("data", mode=0o755),
                Added("data/db", mode=0o755, owner=999),
                Added("data/configdb", mode=0o755, owner=999),
            ],
        ),
        entrypoint=["docker-entrypoint.sh"],
        command=["mongod"],
        volumes=["/data/db", "/data/configdb"],
    )


def _rabbitmq() -> StandIn:
    start = '#!/bin/bash\nset -e\nexec "$@"\n'
    defaults = "loopback_users.guest = false\nlog.console = true\n"
    return StandIn(
        RootFs(
            [*BASE, "rabbitmq-server", "ca-certificates"],
            without=(
                *_WITHOUT,
                "python3",
                "libpython3",
                "media-types",
                "netbase",
                "tzdata",
                "wget",
                "libpam",
                "passwd",
            ),
            added=[
                *_system({"rabbitmq": (999, "/var/lib/rabbitmq")}),
                *_links({"sh": "dash", "awk": "mawk"}),
                Added("usr/local/bin/docker-entrypoint.sh", start, 0o755),
                Added("etc/rabbitmq", mode=0o755, owner=999),
                Added("etc/rabbitmq/conf.d", mode=0o755, owner=999),
                Added("etc/rabbitmq/conf.d/10-defaults.conf", defaults, owner=999),
                Added("etc/rabbitmq/enabled_plugins", "[rabbitmq_management,rabbitmq_prometheus].\n", owner=999),
                Added("var/lib/rabbitmq", mode=0o777, owner=999),
                Added("var/lib/rabbitmq/mnesia", mode=0o755, owner=999),
                Added("var/log/rabbitmq", mode=0o777, owner=999),
            ],
        ),
        entrypoint=["docker-entrypoint.sh"],
        command=["rabbitmq-server"],
        # The package's own scripts in /usr/sbin start only as root or by the name of its user.
        environment={"PATH": f"/usr/lib/rabbitmq/bin:{_PATH}", "LANG": "C.UTF-8", "HOME": "/var/lib/rabbitmq"},
        volumes=["/var/lib/rabbitmq"],
    )


def _nginx() -> StandIn:
    logs = [
        Added(f"var/log/nginx/{kind}.log", link=f"/dev/std{to}")
        for kind, to in {"access": "out", "error": "err"}.items()
    ]
    return StandIn(
        RootFs(
            [*BASE, "nginx", "busybox"],
            release=NEXT_RELEASE,
            without=_WITHOUT,
            added=[
                *_system({"nginx": (101, "/var/cache/nginx")}),
                *_links({"sh": "dash", "awk": "mawk", "wget": "busybox"}),
                Added("var/log/nginx", mode=0o755),
                *logs,
            ],
        ),
        command=["nginx", "-g", "daemon off;"],
    )


def _prometheus() -> StandIn:
    """Without the web interface's scripts: Grafana shows the alerts."""
    return StandIn(
        RootFs(
            [*BASE, "prometheus", "busybox"],
            without=(*_WITHOUT, "promtool", "libjs-", "fonts-", "libpam", "passwd"),
            added=[
                *_system(),
                *_links({"sh": "dash", "awk": "mawk", "wget": "busybox"}),
                Added("prometheus", mode=0o755, owner=65534),
            ],
        ),
        entrypoint=["prometheus"],
        volumes=["/prometheus"],
    )


_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _system(users: Mapping[str, tuple[int, str]] | None = None) -> list[Added]:
    """The users root, nobody and these (name to id and home), and what every root file system has."""
    named = {"root": (0, "/root"), **(users or {}), "nobody": (65534, "/nonexistent")}
    shells = {"root": "/bin/bash"}
    lines = [
        f"{name}:x:{uid}:{uid}::{home}:{shells.get(name, '/usr/sbin/nologin')}" for name, (uid, home) in named.items()
    ]
    return [
        Added("etc/passwd", "\n".join(lines) + "\n"),
        Added("etc/group", "".join(f"{name}:x:{uid}:\n" for name, (uid, _) in named.items())),
        Added("etc/shadow", "".join(f"{name}:*:20000:0:99999:7:::\n" for name in named), 0o640),
        Added("etc/gshadow", "".join(f"{name}:*::\n" for name in named), 0o640),
        Added("etc/nsswitch.conf", "passwd: files\ngroup: files\nshadow: files\nhosts: files dns\n"),
        Added("tmp", mode=0o1777),
    ]


def _links(links: Mapping[str, str]) -> list[Added]:
    return [Added(f"usr/bin/{name}", link=to) for name, to in links.items()]


def _array(words: Sequence[str]) -> str:
    return "[" + ", ".join(f'"{word}"' for word in words) + "]"
