"""The image's bill of materials, and the vulnerability check of its packages."""

import importlib.metadata
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from deploy import components
from tests.acceptance.programs import Outcome, run_python
from tests.deployment import stack
from tests.ports import free_port

RUN = stack.ROOT / "requirements" / "run.txt"
HERE = {distribution.name.lower().replace("_", "-") for distribution in importlib.metadata.distributions()}
PINNED = [pin for pin in components.pins(RUN.read_text()) if not pin.conditional or pin.name in HERE]
"""Without the packages of other platforms."""
KNOWN = {
    "id": "GHSA-test-1",
    "summary": "anybody may\ndo anything",
    "affected": [
        {
            "package": {"name": "aiohttp", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


@asynccontextmanager
async def database(status: int = 200, **known: Any) -> AsyncIterator[tuple[str, list[dict[str, Any]]]]:
    """A server that responds like OSV with these vulnerabilities, and records the queries."""
    asked: list[dict[str, Any]] = []

    async def query(request: web.Request) -> web.Response:
        asked.append(json.loads(await request.text()))
        found = known.get(asked[-1]["package"]["name"])
        return web.json_response({"vulns": [found]} if found else {}, status=status)

    app = web.Application()
    app.router.add_post("/", query)
    async with TestServer(app) as server:
        yield str(server.make_url("/")), asked


async def audited(url: str, requirements: Path = RUN) -> Outcome:
    return await run_python("deploy.audit_dependencies", str(requirements), "--database", url)


async def test_a_known_vulnerability_fails_the_audit() -> None:
    """A known vulnerability fails the audit with one line: package, version, finding, fix. Every pinned package of this
    platform is queried.
    """
    async with database(aiohttp=KNOWN) as (url, asked):
        outcome = await audited(url)
    version = next(pin.version for pin in components.pins(RUN.read_text()) if pin.name == "aiohttp")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.complaint == f"aiohttp {version}: GHSA-test-1 (fixed in 99.1): anybody may do anything"
    assert {question["package"]["name"] for question in asked} == {pin.name for pin in PINNED}


async def test_nothing_known_is_said() -> None:
    """Without findings the audit prints the number of packages and exits with 0."""
    async with database() as (url, asked):
        outcome = await audited(url)
    assert outcome.status == 0
    assert outcome.out == f"nothing is known against any of {len(asked)} packages\n"
    assert outcome.complaints == ""


async def test_without_network_access_the_audit_says_so_and_passes() -> None:
    """If the database is unreachable or is something else, the audit prints one line and exits with 0."""
    async with database(status=503) as (url, _):
        outcomes = [await audited(url), await audited(f"http://127.0.0.1:{free_port()}/")]
    for outcome in outcomes:
        assert (outcome.status, outcome.complaints) == (0, "")
        assert outcome.out == "not audited: the database of vulnerabilities cannot be reached from here\n"


async def test_an_audit_of_nothing_is_no_success(tmp_path: Path) -> None:
    """Requirements without hashes cannot be audited, which is an error."""
    (tmp_path / "loose.txt").write_text("aiohttp\n")
    for requirements in (tmp_path / "loose.txt", tmp_path / "absent.txt"):
        outcome = await audited("http://127.0.0.1:1/", requirements)
        assert outcome.status == 1
        assert outcome.complaint.startswith("python -m deploy.audit_dependencies: ")


def test_the_bill_of_materials_is_what_is_installed() -> None:
    """Valid CycloneDX with name, version, hashes and licence of each pinned package; reproducible byte for byte."""
    document = components.bill_of_materials(RUN.read_text())
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(json.dumps(document)) is None
    assert document == components.bill_of_materials(RUN.read_text())
    named = {(component["name"], component["version"]) for component in document["components"]}
    assert named == {(pin.name, pin.version) for pin in PINNED}
    hashes = sum(len(pin.hashes) for pin in PINNED)
    assert sum(len(component["hashes"]) for component in document["components"]) == hashes
    assert all(component["licenses"] for component in document["components"])


@pytest.mark.parametrize(
    ("requirements", "fault"),
    [
        ("aiohttp==0.0.1 \\\n    --hash=sha256:" + "0" * 64, "is installed, 0.0.1 is pinned"),
        ("not-there-at-all==1.0 \\\n    --hash=sha256:" + "0" * 64, "not-there-at-all is not installed"),
    ],
)
def test_a_bill_that_would_be_wrong_is_not_written(requirements: str, fault: str) -> None:
    """If the installed packages differ from the requirements, the image build fails."""
    with pytest.raises(ValueError, match=fault):
        components.bill_of_materials(requirements)


def test_packages_for_other_platforms_are_left_out() -> None:
    """A package pinned for another platform only is left out."""
    requirements = "not-there-at-all==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:" + "0" * 64
    assert components.bill_of_materials(requirements)["components"] == []


def test_the_image_carries_its_bill_of_materials() -> None:
    """The build creates the bill of materials from the image's packages, at the documented path."""
    text = (stack.ROOT / "Dockerfile").read_text()
    assert "RUN /opt/venv/bin/python deploy/components.py /tmp/run.txt > /tmp/sbom.cdx.json" in text
    final = text.rsplit("\nFROM ", 1)[1]
    assert "WORKDIR /opt/tokenwire\n" in final
    assert "COPY --from=dependencies /tmp/sbom.cdx.json sbom.cdx.json" in final
    assert "/opt/tokenwire/sbom.cdx.json" in (stack.ROOT / "docs" / "security.md").read_text()
