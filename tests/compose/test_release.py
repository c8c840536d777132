"""`make release` with a real Docker engine."""

import json
import secrets
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.images.__main__ import require_engine
from tests.compose.containers import checkout

BUILD_WITHIN = 600


@pytest.fixture(name="version")
def _version() -> Iterator[str]:
    """A version of its own, whose image is removed afterwards."""
    require_engine()
    version = f"9.9.{secrets.randbelow(10**9)}"
    yield version
    subprocess.run(["docker", "image", "rm", f"tokenwire:{version}"], capture_output=True, check=False)


def git(directory: Path, *words: str) -> str:
    """Run git in the directory, as somebody."""
    somebody = ("-c", "user.name=test", "-c", "user.email=test@example.test")
    return subprocess.run(["git", *somebody, *words], cwd=directory, check=True, capture_output=True, text=True).stdout


def made(directory: Path) -> "subprocess.CompletedProcess[str]":
    """Run `make release`, with this project's virtual environment."""
    command = ["make", "release", f"VENV={Path(sys.prefix)}"]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False, timeout=BUILD_WITHIN)


def test_e10_a_release_is_made_of_a_commit(tmp_path: Path, version: str) -> None:
    """Stopped without a section in the changelog; with one, image, components, notes, source and checksums agree."""
    clone = tmp_path / "clone"
    checkout(clone)
    git(clone, "init", "--quiet")
    (clone / "libs" / "version.py").write_text(f'"""The version."""\n\nVERSION = "{version}"\n')
    (clone / "CHANGELOG.md").write_text("# Changelog\n\n## Unreleased\n")
    git(clone, "add", "--all")
    git(clone, "commit", "--quiet", "--message=Release")
    stopped = made(clone)
    assert f"CHANGELOG.md has no section '## {version} - <date>'" in stopped.stderr
    assert stopped.returncode != 0

    (clone / "CHANGELOG.md").write_text(f"# Changelog\n\n## Unreleased\n\n## {version} - 2027-01-02\n\n- Everything.\n")
    git(clone, "commit", "--quiet", "--all", "--message=Say what is new")
    done = made(clone)
    assert done.returncode == 0, done.stderr
    files = clone / "dist" / version
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=files, check=True)
    (image,) = files.glob("tokenwire-*-image*.tar")
    assert {file.name for file in files.iterdir()} == {
        image.name,
        f"tokenwire-{version}-sbom.cdx.json",
        f"tokenwire-{version}-notes.md",
        f"tokenwire-{version}-source.tar.gz",
        "SHA256SUMS",
    }
    assert (files / f"tokenwire-{version}-notes.md").read_text() == "- Everything.\n"
    components = json.loads((files / f"tokenwire-{version}-sbom.cdx.json").read_text())["components"]
    assert {"aiohttp", "motor", "aio-pika"} <= {component["name"] for component in components}
    with tarfile.open(files / f"tokenwire-{version}-source.tar.gz") as source:
        assert f"tokenwire-{version}/libs/version.py" in source.getnames()
    with tarfile.open(image) as archive:
        assert {"manifest.json", "index.json"} & set(archive.getnames())
    labels = ["docker", "image", "inspect", "--format", "{{json .Config.Labels}}", f"tokenwire:{version}"]
    found = json.loads(subprocess.run(labels, capture_output=True, text=True, check=True).stdout)
    assert found["org.opencontainers.image.version"] == version
    assert found["org.opencontainers.image.revision"] == git(clone, "rev-parse", "HEAD").strip()
