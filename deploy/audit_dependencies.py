"""Look up every pinned package in OSV, the open vulnerability database.

    python -m deploy.audit_dependencies requirements/test.txt

Exits with 0 if no vulnerability is known, with 1 if one is. If the database cannot be reached, it prints one line and
exits with 0, so that a build without network access does not fail. Only package names and versions leave this machine.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

_UNREACHED = ("requests.exceptions.", "Could not connect")
"""What pip-audit prints when it gets no response, or one that is not from the database."""


class Unreachable(Exception):
    """The vulnerability database did not respond."""


def audit(requirements: list[str], database: str | None = None) -> list[dict[str, Any]]:
    """The packages and their known vulnerabilities. Raises Unreachable, or RuntimeError if pip-audit fails."""
    files = [argument for name in requirements for argument in ("--requirement", name)]
    elsewhere = ["--osv-url", database] if database else []
    # No pip needed: all packages are pinned with hashes, so nothing is resolved, downloaded or built.
    how = ["--require-hashes", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-m", "pip_audit", *files, *how, "--vulnerability-service", "osv", *elsewhere],
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        packages: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        last = (done.stderr.strip() or "no output").splitlines()[-1]
        if any(sign in done.stderr for sign in _UNREACHED):
            raise Unreachable(last) from None
        raise RuntimeError(last) from None
    return packages


def findings(packages: list[dict[str, Any]]) -> list[str]:
    """One line for each known vulnerability of a package."""
    return [
        f"{package['name']} {package['version']}: {known['id']}"
        f" ({'fixed in ' + ', '.join(known['fix_versions']) if known['fix_versions'] else 'not fixed yet'}):"
        f" {' '.join(known['description'].split())[:200]}"
        for package in packages
        for known in package.get("vulns", ())
    ]


def main() -> None:
    """Print a line for each finding, or one that says that none was found or that the database was unreachable."""
    parser = argparse.ArgumentParser(prog="python -m deploy.audit_dependencies", description=__doc__.splitlines()[0])
    parser.add_argument("requirements", nargs="+", help="a file of requirements with hashes")
    parser.add_argument("--database", metavar="URL", help="another address that answers as OSV does")
    arguments = parser.parse_args()
    try:
        packages = audit(arguments.requirements, arguments.database)
    except Unreachable:
        sys.stdout.write("not audited: the database of vulnerabilities cannot be reached from here\n")
        return
    except RuntimeError as error:
        sys.exit(f"{parser.prog}: {error}")
    known = findings(packages)
    if known:
        sys.exit("\n".join(known))
    sys.stdout.write(f"nothing is known against any of {len(packages)} packages\n")


if __name__ == "__main__":
    main()
