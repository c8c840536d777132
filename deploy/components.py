"""Print the bill of materials of the image: its pinned, installed packages as CycloneDX 1.6 JSON.

    python deploy/components.py requirements/run.txt > sbom.cdx.json

It needs only Python's standard library, so making it adds nothing to the image. The same packages give the same bytes.
"""

import importlib.metadata
import json
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PRODUCT = "tokenwire"
_PIN = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)\s*(;[^\\]*)?")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_EXPRESSION = re.compile(r"[A-Za-z0-9.+()-]+( (AND|OR|WITH) [A-Za-z0-9.+()-]+)*")


@dataclass(frozen=True)
class Pin:
    """A package as pinned in the requirements."""

    name: str
    version: str
    conditional: bool
    """True if the package is needed on some platforms only."""
    hashes: tuple[str, ...]
    """SHA-256 of every file that may be installed for this package."""


def pins(requirements: str) -> Iterator[Pin]:
    """The packages in a requirements file with hashes."""
    for requirement in requirements.replace("\\\n", " ").splitlines():
        if pin := _PIN.match(requirement):
            yield Pin(pin[1], pin[2], pin[3] is not None, tuple(_HASH.findall(requirement)))


def bill_of_materials(requirements: str) -> dict[str, Any]:
    """The installed packages of these requirements. Raises ValueError if they differ from what is pinned."""
    components = [_component(pin) for pin in pins(requirements) if _is_installed(pin)]
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {"component": {"type": "application", "bom-ref": PRODUCT, "name": PRODUCT}},
        "components": components,
        "dependencies": [{"ref": PRODUCT, "dependsOn": [component["bom-ref"] for component in components]}],
    }


def _is_installed(pin: Pin) -> bool:
    try:
        installed = importlib.metadata.version(pin.name)
    except importlib.metadata.PackageNotFoundError:
        if pin.conditional:
            return False
        raise ValueError(f"{pin.name} is not installed") from None
    if installed != pin.version:
        raise ValueError(f"{pin.name} {installed} is installed, {pin.version} is pinned")
    return True


def _component(pin: Pin) -> dict[str, Any]:
    url = f"pkg:pypi/{re.sub(r'[-_.]+', '-', pin.name).lower()}@{pin.version}"
    return {
        "type": "library",
        "bom-ref": url,
        "name": pin.name,
        "version": pin.version,
        "purl": url,
        "hashes": [{"alg": "SHA-256", "content": digest} for digest in pin.hashes],
        "licenses": _licenses(pin.name),
    }


def _licenses(name: str) -> list[dict[str, Any]]:
    metadata = importlib.metadata.metadata(name)
    (expression,) = metadata.get_all("License-Expression") or [""]
    if _EXPRESSION.fullmatch(expression):
        return [{"expression": expression}]
    text = (metadata.get_all("License") or [""])[0].strip()
    if text and "\n" not in text:
        return [{"license": {"name": text}}]
    classified = [
        line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier", []) if line.startswith("License")
    ]
    return [{"license": {"name": line}} for line in classified]


def main() -> None:
    """Print the bill of materials, or one line that says why there is none."""
    try:
        document = bill_of_materials(Path(sys.argv[1]).read_text(encoding="utf-8"))
    except (IndexError, OSError, ValueError) as error:
        sys.exit(f"{sys.argv[0]}: {error}" if len(sys.argv) > 1 else f"usage: {sys.argv[0]} REQUIREMENTS")
    sys.stdout.write(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
