"""pyproject.toml declares what requirements/*.txt pin, and the `tokenwire` command that the Makefile installs."""

import importlib
import re
import tomllib
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from libs.telemetry import exposition
from libs.version import VERSION
from tests.acceptance.programs import ROOT, run_python

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LISTS = {"run": PROJECT["dependencies"], "embedded": PROJECT["optional-dependencies"]["embedded"]}
BUILD_TOOLS = {"setuptools"}
"""Pinned for the editable install, and declared under `[build-system]`."""


def names(lines: list[str]) -> set[str]:
    """The canonical names of requirements; `-r` lines are skipped."""
    return {canonicalize_name(Requirement(line).name) for line in lines if line and not line.startswith(("-", "#"))}


def pins(name: str) -> dict[str, str]:
    """The pinned versions of requirements/<name>.txt by canonical name."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    return {canonicalize_name(pin[0]): pin[1] for pin in re.findall(r"^([\w.-]+)==(\S+)", text, re.MULTILINE)}


@pytest.mark.parametrize("name", ["run", "embedded"])
def test_the_declared_dependencies_are_those_that_are_pinned(name: str) -> None:
    """The same packages as in requirements/*.in, and each pinned version is in the declared range."""
    asked = (ROOT / "requirements" / f"{name}.in").read_text(encoding="utf-8").splitlines()
    assert names(LISTS[name]) == names(asked) - BUILD_TOOLS
    pinned = pins(name)
    for requirement in map(Requirement, LISTS[name]):
        assert pinned[canonicalize_name(requirement.name)] in requirement.specifier, requirement


def test_the_tokenwire_command_exists() -> None:
    """The entry point names a function."""
    module, _, function = PROJECT["scripts"]["tokenwire"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


async def test_the_version_is_in_one_place() -> None:
    """`--version`, the metric and pyproject.toml all take it from libs/version.py."""
    assert "version" in PROJECT["dynamic"]
    outcome = await run_python("services", "--version")
    assert (outcome.status, outcome.out) == (0, f"tokenwire {VERSION}\n")
    assert re.search(rf'^tokenwire_build_info{{.*version="{re.escape(VERSION)}".*}} 1\.0$', exposition().decode(), re.M)


def test_unreleased_code_does_not_have_the_version_of_a_release() -> None:
    """With something under Unreleased it is a development version of the next release; the example for Kubernetes
    names the latest release.
    """
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased = changelog.partition("## Unreleased\n")[2].partition("\n## ")[0].strip()
    released = Version(re.findall(r"^## (\d\S*) - ", changelog, re.MULTILINE)[0])
    version = Version(VERSION)
    assert str(version) == VERSION
    if unreleased:
        assert version.is_devrelease
        assert version > released
    else:
        assert version == released
    example = yaml.safe_load((ROOT / "deploy/kubernetes/example/kustomization.yaml").read_text(encoding="utf-8"))
    assert [image["newTag"] for image in example["images"]] == [str(released)]
