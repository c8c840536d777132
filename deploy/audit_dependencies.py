"""Ask OSV, the open database of vulnerabilities, about every pinned package.

    python -m deploy.audit_dependencies requirements/test.txt

Ends with 0 where nothing is known against any of them, with 1 where something is. Where the database cannot be reached
it says so in one line and ends with 0: what could not be asked is no finding, and a build without a way out is no fault
of the packages. Only names and versions leave this machine.
"""

import argparse
import json
import subprocess
import sys
from typing import Any

_UNREACHED = ("requests.exceptions.", "Could not connect")
"""In what pip-audit complains of, where it got no answer, or none that is the database's."""


class Unreachable(Exception):
    """The database did not answer."""


def audit(requirements: list[str], database: str | None = None) -> list[dict[str, Any]]:
    """The packages and what is known against each. Raises Unreachable, or RuntimeError where pip-audit cannot go on."""
    files = [argument for name in requirements for argument in ("--requirement", name)]
    elsewhere = ["--osv-url", database] if database else []
    # Without pip: everything is pinned with hashes, so there is nothing to resolve, download or build.
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
    """A line for each thing that is known against a package."""
    return [
        f"{package['name']} {package['version']}: {known['id']}"
        f" ({'fixed in ' + ', '.join(known['fix_versions']) if known['fix_versions'] else 'not fixed yet'}):"
        f" {' '.join(known['description'].split())[:200]}"
        for package in packages
        for known in package.get("vulns", ())
    ]


def main() -> None:
    """A line for each finding, or one that says that there is none or that nobody could be asked."""
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
