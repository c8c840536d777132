"""One module name means one thing: a search for it finds one file."""

from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROLES = {"__init__", "__main__", "app", "endpoint", "settings"}
"""Modules that have the same job in each service."""
LAYERS = {
    "apis": {"libs/store", "services/management"},
    "audit_log": {"libs", "libs/store", "services/management"},
    "clients": {"libs/store", "services/management"},
    "grants": {"libs/oauth", "libs/store"},
    "operators": {"libs/store", "services/management"},
    "policies": {"libs", "libs/store", "services/management"},
    "resource_owners": {"libs/store", "services/management"},
}
"""Records whose rules, collection and endpoints have the record's name, each in its layer."""


def test_no_two_modules_of_one_name_mean_different_things() -> None:
    """Apart from the listed ones, each name in `libs` and `services` is used once."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in [*ROOT.glob("libs/**/*.py"), *ROOT.glob("services/**/*.py")]:
        places[path.stem].add(str(path.parent.relative_to(ROOT)))
    shared = {name: found for name, found in places.items() if len(found) > 1 and name not in ROLES}
    assert shared == LAYERS
