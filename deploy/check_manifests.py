"""Check the manifests of `deploy/kubernetes` against the schemas of Kubernetes, as `make check` does.

    python -m deploy.check_manifests

Every kustomization is rendered, and each of its objects must be valid, with no unknown field, for the oldest and the
newest version of VERSIONS.
"""

import sys
from pathlib import Path

import kubernetes_validate

from deploy.kustomize import NotUnderstood, Object, render

MANIFESTS = Path(__file__).parent / "kubernetes"
VERSIONS = ("1.30", "1.37")
"""The oldest that has everything that is used (`preStop.sleep`), and the newest that has been checked."""


def kustomizations() -> list[Path]:
    """Their directories."""
    return sorted(file.parent for file in MANIFESTS.glob("*/kustomization.yaml"))


def objects() -> list[Object]:
    """The objects of all kustomizations, each once. Raises NotUnderstood."""
    found: list[Object] = []
    for directory in kustomizations():
        found += [each for each in render(directory) if each not in found]
    return found


def faults(each: Object) -> list[str]:
    """What is wrong with this object, a line for each version that does not accept it."""
    found = []
    for version in VERSIONS:
        try:
            kubernetes_validate.validate(each, version, strict=True)
        except kubernetes_validate.ValidationError as error:
            path = ".".join(str(part) for part in error.absolute_path)
            found.append(f"{each['kind']} {each['metadata']['name']}, Kubernetes {version}: {path}: {error.message}")
        except kubernetes_validate.SchemaNotFoundError as error:
            found.append(error.message)
    return found


def main() -> None:
    """Print what is wrong, if anything is, and exit."""
    try:
        found = [fault for each in objects() for fault in faults(each)]
    except NotUnderstood as reason:
        found = [str(reason)]
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
