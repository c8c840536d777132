"""What `make release` demands of version and changelog, what it makes of the builder, and its checksums."""

import os
import subprocess
from pathlib import Path

import pytest

from deploy.release import NotReady, builder_platforms, release_notes, require_committed, write_checksums

WHOLE = "# Changelog\n\n## Unreleased\n\n## 1.2.3 - 2027-01-02\n\n- More.\n- Less.\n\n## 1.2.2 - 2027-01-01\n\n- Old.\n"


def test_e10_the_notes_are_the_section_of_the_version() -> None:
    """Only the section of the version, without its heading."""
    assert release_notes(WHOLE, "1.2.3") == "- More.\n- Less.\n"


@pytest.mark.parametrize(
    ("changelog", "version", "reason"),
    [
        pytest.param(WHOLE, "1.2.4.dev0", "not the version of a release", id="development-version"),
        pytest.param(WHOLE, "1.2.4", "has no section '## 1.2.4 - <date>'", id="no-section"),
        pytest.param(WHOLE.replace(" - 2027-01-02", ""), "1.2.3", "has no section", id="no-date"),
        pytest.param(WHOLE.replace("- More.\n- Less.\n", ""), "1.2.3", "is empty", id="empty-section"),
        pytest.param(
            WHOLE.replace("Unreleased\n", "Unreleased\n\n- New.\n"), "1.2.3", "under Unreleased", id="unreleased"
        ),
    ],
)
def test_e10_a_changelog_without_the_version_stops_the_release(changelog: str, version: str, reason: str) -> None:
    """The text says what to change, and nothing is built."""
    with pytest.raises(NotReady, match=reason):
        release_notes(changelog, version)


def test_e10_uncommitted_files_stop_the_release(tmp_path: Path) -> None:
    """The image must be made of the commit that it names."""
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    require_committed(tmp_path)
    (tmp_path / "forgotten").touch()
    with pytest.raises(NotReady, match="forgotten"):
        require_committed(tmp_path)


CONTAINER = """\
Name:          several
Driver:        docker-container
Nodes:
Name:      several0
Status:    running
Platforms: linux/amd64, linux/amd64/v2, linux/arm64, linux/386
"""
WANTED = ("linux/amd64", "linux/arm64", "linux/riscv64")


@pytest.mark.parametrize(
    ("said", "status", "able"),
    [
        pytest.param(CONTAINER, 0, ("linux/amd64", "linux/arm64"), id="several-platforms"),
        pytest.param(CONTAINER.replace("docker-container", "docker"), 0, (), id="a-driver-without-archives"),
        pytest.param("", 1, (), id="no-buildx"),
    ],
)
def test_e10_the_image_is_for_the_platforms_that_the_builder_can(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str, status: int, able: tuple[str, ...]
) -> None:
    """Of the wanted platforms, those that `docker buildx inspect` names."""
    docker = tmp_path / "docker"
    docker.write_text(f"#!/bin/sh\ncat <<'END'\n{said}END\nexit {status}\n")
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert builder_platforms(WANTED) == able


def test_e10_the_checksums_are_those_of_sha256sum(tmp_path: Path) -> None:
    """`sha256sum --check` accepts the files, and refuses them after a change."""
    (tmp_path / "image.tar").write_bytes(b"image")
    (tmp_path / "notes.md").write_bytes(b"notes")
    write_checksums(tmp_path)
    check = ["sha256sum", "--check", "--strict", "SHA256SUMS"]
    good = subprocess.run(check, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert good.stdout == "image.tar: OK\nnotes.md: OK\n"
    (tmp_path / "notes.md").write_bytes(b"other")
    assert subprocess.run(check, cwd=tmp_path, capture_output=True, check=False).returncode == 1
