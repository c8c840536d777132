"""Make a release in dist/: the image, its bill of materials, the release notes, and the checksums of all of them.

    python -m deploy.release [--platforms linux/amd64,linux/arm64] [--directory dist]

The version is that of libs/version.py. First it checks that the version is no development version, that CHANGELOG.md
has a dated section for it and nothing under Unreleased, and that nothing is uncommitted. With Docker Buildx and a
builder for several platforms, the image is an OCI archive for all of them (of those that are asked for); otherwise it
is a Docker archive for the platform of this machine's engine, and one line says so.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from libs.version import VERSION

ROOT = Path(__file__).parents[1]
PLATFORMS = ("linux/amd64", "linux/arm64")
SBOM_IN_IMAGE = "/opt/tokenwire/sbom.cdx.json"
CHECKSUMS = "SHA256SUMS"


class NotReady(Exception):
    """No release can be made; the text says what to do."""


def release_notes(changelog: str, version: str) -> str:
    """The text of the version's section. Raises NotReady if the changelog is not that of a release of this version."""
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", version):
        raise NotReady(f"{version} is not the version of a release: set the final one in libs/version.py")
    sections = re.split(r"^## (.*)$", changelog, flags=re.MULTILINE)
    texts = {heading.strip(): text.strip() for heading, text in zip(sections[1::2], sections[2::2], strict=True)}
    if texts.get("Unreleased"):
        raise NotReady(f"CHANGELOG.md has entries under Unreleased: move them to '## {version} - <date>'")
    for heading, text in texts.items():
        if re.fullmatch(rf"{re.escape(version)} - \d{{4}}-\d\d-\d\d", heading):
            if not text:
                raise NotReady(f"the section '{heading}' of CHANGELOG.md is empty: say what changed")
            return f"{text}\n"
    raise NotReady(f"CHANGELOG.md has no section '## {version} - <date>': say there what changed")


def require_committed(root: Path) -> None:
    """Raises NotReady unless the image is made of what is committed."""
    changed = _output("git", "-C", str(root), "status", "--porcelain").strip()
    if changed:
        raise NotReady(f"commit first; these files differ from the commit:\n{changed}")


def builder_platforms(wanted: Sequence[str]) -> Sequence[str]:
    """The wanted platforms that Docker's builder can build for; none if it can only build for its own."""
    if _run("docker", "buildx", "version").returncode != 0:
        return ()
    shown = _run("docker", "buildx", "inspect", "--bootstrap").stdout
    if "Driver:" not in shown or re.search(r"^Driver:\s+docker$", shown, re.MULTILINE):
        return ()  # the driver `docker` exports no OCI archives
    able = set(re.findall(r"linux/[\w/]+", shown))
    return tuple(platform for platform in wanted if platform in able)


def build(root: Path, version: str, platforms: Sequence[str], directory: Path) -> tuple[Path, bytes]:
    """Build the image into the directory; return the file and the bill of materials of what is in it."""
    labels = _labels(root, version)
    able = builder_platforms(platforms)
    if able:
        say(f"building for {', '.join(able)}")
        file = directory / f"tokenwire-{version}-image.oci.tar"
        _docker("buildx", "build", f"--platform={','.join(able)}", *labels, f"--output=type=oci,dest={file}", str(root))
    else:
        say("no builder for several platforms (docker buildx create --use): building for this machine's only")
        file = directory / f"tokenwire-{version}-image.tar"
    name = f"tokenwire:{version}"
    _docker("build", *labels, f"--tag={name}", str(root))
    if not able:
        _docker("save", f"--output={file}", name)
    return file, _output("docker", "run", "--rm", "--network=none", name, "cat", SBOM_IN_IMAGE).encode()


def _labels(root: Path, version: str) -> list[str]:
    commit = _output("git", "-C", str(root), "rev-parse", "HEAD").strip()
    facts = {"version": version, "revision": commit}
    return [f"--label=org.opencontainers.image.{name}={value}" for name, value in facts.items()]


def write_checksums(directory: Path) -> None:
    """SHA256SUMS has a line for each other file, as `sha256sum --check` reads them."""
    lines = []
    for file in sorted(directory.iterdir()):
        if file.name != CHECKSUMS:
            with file.open("rb") as content:
                lines.append(f"{hashlib.file_digest(content, 'sha256').hexdigest()}  {file.name}\n")
    (directory / CHECKSUMS).write_text("".join(lines), encoding="utf-8")


def make_release(root: Path, directory: Path, platforms: Sequence[str], version: str = VERSION) -> list[Path]:
    """The directory holds exactly the files of the release; they are returned. Raises NotReady."""
    notes = release_notes((root / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    require_committed(root)
    target = directory / version
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _, components = build(root, version, platforms, target)
    if not json.loads(components).get("components"):
        raise NotReady("the image has an empty bill of materials")
    (target / f"tokenwire-{version}-sbom.cdx.json").write_bytes(components)
    (target / f"tokenwire-{version}-notes.md").write_text(notes, encoding="utf-8")
    _output("git", "-C", str(root), "archive", f"--prefix=tokenwire-{version}/", "--output",
            str((target / f"tokenwire-{version}-source.tar.gz").resolve()), "HEAD")  # fmt: skip
    write_checksums(target)
    return sorted(target.iterdir())


def say(text: str) -> None:
    """Print one line at once."""
    sys.stdout.write(f"release: {text}\n")
    sys.stdout.flush()


def _docker(*arguments: str) -> None:
    """Run Docker with its output visible, because a build takes minutes. Raises NotReady."""
    try:
        done = subprocess.run(["docker", *arguments], check=False, stdin=subprocess.DEVNULL)  # noqa: S603, S607
    except FileNotFoundError:
        raise NotReady("Docker is missing: install it (Debian, Ubuntu: apt-get install docker.io)") from None
    if done.returncode != 0:
        raise NotReady(f"docker {arguments[0]} failed")


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
    except FileNotFoundError:
        return subprocess.CompletedProcess(command, 127, "", f"{command[0]} is missing")


def _output(*command: str) -> str:
    done = _run(*command)
    if done.returncode != 0:
        raise NotReady(f"{' '.join(command[:3])}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def main() -> None:
    """Exit with 0 if the release is made, else with 1 and a text that says what to do."""
    parser = argparse.ArgumentParser(prog="python -m deploy.release", description=__doc__.splitlines()[0])
    parser.add_argument("--platforms", default=",".join(PLATFORMS), help="default: %(default)s")
    parser.add_argument("--directory", type=Path, default=ROOT / "dist", help="default: %(default)s")
    options = parser.parse_args()
    try:
        files = make_release(ROOT, options.directory, options.platforms.split(","))
    except NotReady as reason:
        sys.exit(f"release: {reason}")
    for file in files:
        say(f"{file} ({file.stat().st_size:,} bytes)")


if __name__ == "__main__":
    main()
