"""Root file systems from Debian's packages, without root: apt resolves and fetches, and this writes one tar file.

No package script runs. The description of a root file system adds what those scripts would have made: users, links,
configuration. Manuals, translations and the like are left out.
"""

import io
import os
import re
import shutil
import subprocess
import tarfile
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from deploy.images import CannotProvide

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR = "DEBIAN_MIRROR"
"""The environment variable that names a mirror, for a machine whose own packages are not Debian's."""
RELEASE, NEXT_RELEASE = "trixie", "forky"
MERGED = ("bin", "sbin", "lib", "lib64")
"""Directories that are links into /usr (Debian's merged /usr)."""
CERTIFICATES = "usr/share/ca-certificates/"
BUNDLE = "etc/ssl/certs/ca-certificates.crt"
_LEFT_OUT = re.compile(
    r"usr/share/(doc|doc-base|man|info|locale|lintian|bash-completion|bug|menu|pixmaps|applications|perl5|debconf)/."
    r"|usr/lib/systemd/|etc/init\.d/|etc/systemd/|usr/lib/[^/]+/gconv/.|usr/lib/[^/]+/perl"
)
_NAME = re.compile(r"^(?P<name>[^_]+)_(?P<version>[^_]+)_(?P<architecture>[^_]+)\.deb$")


@dataclass(frozen=True)
class Added:
    """A file, directory or link that no package contains."""

    path: str
    content: str | Path | None = None
    """The text or the file to copy; None makes a directory."""
    mode: int = 0o644
    owner: int = 0
    link: str = ""


@dataclass(frozen=True)
class RootFs:
    """What one root file system consists of."""

    packages: Sequence[str]
    release: str = RELEASE
    without: Sequence[str] = ()
    """Beginnings of the names of packages that others depend on and that are not needed here."""
    added: Sequence[Added] = field(default_factory=tuple)


class Packages:
    """Debian's packages of two releases, in a cache directory of their own; this machine's packages stay untouched."""

    def __init__(self, cache: Path) -> None:
        self._cache = cache.absolute()
        self.known: dict[tuple[str, ...], list[str]] = {}
        """The package files for a release and names of packages, as apt has resolved them."""

    def prepare(self) -> None:
        """Fetch the lists of packages. Raises CannotProvide."""
        missing = [tool for tool in ("apt-get", "dpkg-deb") if shutil.which(tool) is None]
        if missing or not KEYRING.exists():
            what = missing[0] if missing else f"{KEYRING} (package debian-archive-keyring)"
            raise CannotProvide(
                f"{what} is missing, without which no stand-in image can be built: use Debian or Ubuntu"
            )
        for directory in ("lists/partial", "archives/partial", "debs"):
            (self._cache / directory).mkdir(parents=True, exist_ok=True)
        mirror = os.environ.get(MIRROR) or _mirror()
        (self._cache / "status").touch()
        (self._cache / "sources.list").write_text(
            "".join(f"deb [signed-by={KEYRING}] {mirror} {release} main\n" for release in (RELEASE, NEXT_RELEASE))
        )
        self._apt("update")

    def fetch(self, root_file_systems: Iterable[RootFs]) -> None:
        """Fetch every package that these need and the cache lacks. Raises CannotProvide."""
        files = {file for each in root_file_systems for file in self._needed(each)}
        if lacking := sorted(file for file in files if not (self._debs / file).exists()):
            self._apt("download", *map(_as_asked, lacking), cwd=self._debs)

    def fetch_one(self, name: str) -> Path:
        """One package, without those that it depends on."""
        file = next(file for file in self._needed(RootFs([name])) if file.startswith(f"{name}_"))
        if not (self._debs / file).exists():
            self._apt("download", _as_asked(file), cwd=self._debs)
        return self._debs / file

    def write(self, described: RootFs, target: Path) -> None:
        """Write the tar file. The packages must have been fetched."""
        with tarfile.open(target, "w", format=tarfile.GNU_FORMAT) as tar:
            writer = _Writer(tar)
            for name in MERGED:
                writer.link(name, f"usr/{name}")
            for added in described.added:
                writer.add(added)
            for file in self._needed(described):
                writer.package(self._debs / file)
            writer.certificates()

    def version(self, described: RootFs, name: str) -> str:
        """The version of one of its packages, without epoch and Debian's revision."""
        file = next(file for file in self._needed(described) if file.startswith(f"{name}_"))
        return urllib.parse.unquote(file.split("_")[1]).rpartition(":")[2].partition("-")[0].partition("+")[0]

    @property
    def _debs(self) -> Path:
        return self._cache / "debs"

    def _needed(self, described: RootFs) -> list[str]:
        """The names of the package files: these packages and all that they depend on."""
        asked = (described.release, *described.packages)
        if asked not in self.known:
            options = ["-qq", "--yes", "--print-uris", "--target-release", described.release]
            lines = self._apt("install", *options, *described.packages).splitlines()
            self.known[asked] = [line.split()[1] for line in lines]  # the address, the file, its size and its hash
        return [file for file in self.known[asked] if not file.startswith(tuple(described.without))]

    def _apt(self, *arguments: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::SourceList": self._cache / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": self._cache / "lists",
            "Dir::State::Status": self._cache / "status",
            "Dir::Cache": self._cache,
            "Dir::Cache::pkgcache": "packages.bin",
            "Dir::Cache::srcpkgcache": "sources.bin",
            "APT::Sandbox::User": "root",
            "APT::Install-Recommends": "false",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
            "Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled": "false",
        }
        command = ["apt-get", *(f"--option={name}={value}" for name, value in options.items()), *arguments]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode != 0:
            last = (done.stderr.strip() or done.stdout.strip() or "no output").splitlines()[-1]
            raise CannotProvide(
                f"Debian's packages for the stand-in images cannot be had ({last}): name a mirror in {MIRROR}"
            )
        return done.stdout


class _Writer:
    """Writes entries. The first of each path counts, so what is added takes precedence over the packages."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self._written: set[str] = set()
        self._certificates: list[bytes] = []

    def package(self, file: Path) -> None:
        command = ["dpkg-deb", "--fsys-tarfile", str(file)]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE) as unpacking,  # noqa: S603
            tarfile.open(fileobj=unpacking.stdout, mode="r|") as packed,
        ):
            for entry in packed:
                self._copy(packed, entry)
        if unpacking.returncode != 0:
            raise CannotProvide(f"{file} is damaged: delete it, and run this again")

    def link(self, path: str, to: str) -> None:
        entry = tarfile.TarInfo(path)
        entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, to, 0o777
        self._write(entry)

    def add(self, added: Added) -> None:
        if added.link:
            self.link(added.path, added.link)
            return
        entry = tarfile.TarInfo(added.path)
        entry.mode, entry.uid, entry.gid = added.mode, added.owner, added.owner
        if added.content is None:
            entry.type = tarfile.DIRTYPE
            self._write(entry)
        elif isinstance(added.content, Path):
            entry.size = added.content.stat().st_size
            with added.content.open("rb") as content:
                self._write(entry, content)
        else:
            data = added.content.encode()
            entry.size = len(data)
            self._write(entry, io.BytesIO(data))

    def certificates(self) -> None:
        """The bundle of all certificate authorities, if there are any."""
        if self._certificates:
            self.add(Added(BUNDLE, b"".join(self._certificates).decode()))

    def _copy(self, packed: tarfile.TarFile, entry: tarfile.TarInfo) -> None:
        entry.name = _merged(entry.name)
        if not entry.name or _LEFT_OUT.match(entry.name):
            return
        content = packed.extractfile(entry) if entry.isreg() else None
        if entry.islnk():
            entry.linkname = _merged(entry.linkname)
        if content is not None and entry.name.startswith(CERTIFICATES):
            self._certificates.append(content.read())
            return
        self._write(entry, content)

    def _write(self, entry: tarfile.TarInfo, content: IO[bytes] | None = None) -> None:
        if entry.name in self._written:
            return
        self._written.add(entry.name)
        self._tar.addfile(entry, content)


def _merged(path: str) -> str:
    """The path relative to the root, with /bin and the like resolved."""
    relative = path.removeprefix("./").strip("/")
    first, slash, _ = relative.partition("/")
    return f"usr/{relative}" if slash and first in MERGED else relative


def _as_asked(file: str) -> str:
    """`name:architecture=version`, as apt takes it."""
    found = _NAME.match(file)
    if found is None:
        raise CannotProvide(f"apt names a package file {file}, which is not understood")
    architecture = "" if found["architecture"] == "all" else f":{found['architecture']}"
    return f"{found['name']}{architecture}={urllib.parse.unquote(found['version'])}"


def _mirror() -> str:
    """The mirror from which this machine gets Debian's packages."""
    command = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    mirrors: Iterator[str] = iter(done.stdout.split())
    found = next(mirrors, None)
    if found is None:
        raise CannotProvide(f"this machine's packages are not Debian's: name a Debian mirror in {MIRROR}")
    return found
