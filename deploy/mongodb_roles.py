"""What each service may do in MongoDB: each has a user of its own, with one role that allows this and nothing else.

Users and roles have the names of the services. No role can create or drop an index, a collection, a role or a user:
`deploy.prepare_mongodb` does that. `tests/deployment/test_stack.py` runs a whole story with these users; it fails if
something is refused, and if something is allowed that no service does.

While an upgrade is rolled out, processes of the previous version work with these roles, too. So something that a
service no longer does stays allowed for one more release.
"""

from collections.abc import Mapping

READ, UPDATE, WRITE = "find", "find update", "find insert update"
UPSERT = "insert update"
EVERY = ""
"""Stands for every collection of the database, also those of later versions."""

ROLES: Mapping[str, Mapping[str, str]] = {
    "authorization": {
        "apis": READ,
        "clients": READ,
        "operators": READ,
        "policies": READ,
        "users": READ,
        "grants": WRITE,
        "checkpoints": "find insert update remove",
        "attempts": WRITE,
        "leases": UPSERT,
    },
    "token": {
        "apis": READ,
        "clients": READ,
        "resource_owners": READ,
        "users": READ,
        "grants": WRITE,
        "checkpoints": "find insert update remove",
        "attempts": WRITE,
        "leases": UPSERT,
    },
    "revocation": {
        "apis": READ,
        "operators": READ,
        "policies": READ,
        "resource_owners": READ,
        "counters": READ,
        "clients": UPDATE,
        "grants": UPDATE,
        "checkpoints": "find remove",
        "users": WRITE,
        "attempts": WRITE,
        "leases": UPSERT,
    },
    "notifier": {
        "apis": READ,
        "operators": READ,
        "grants": UPDATE,
        "deliveries": WRITE,
        "attempts": WRITE,
        "leases": UPSERT,
    },
    "management": {
        "grants": READ,
        "checkpoints": READ,
        "deliveries": READ,
        "users": READ,
        "refused_calls": READ,
        "apis": WRITE,
        "clients": WRITE,
        "policies": WRITE,
        "resource_owners": WRITE,
        "operators": WRITE,
        "events": "find insert",
        "audit_log": "find insert",
        "reconciliation": WRITE,
        "batches": "find insert update remove",
        "usage_hours": WRITE,
        "usage_days": WRITE,
        "usage_sums": WRITE,
        "usage": "find remove",
        "attempts": WRITE,
        "leases": UPSERT,
    },
    "gateway": {
        "apis": READ,
        "clients": READ,
        "policies": READ,
        "resource_owners": READ,
        "operators": READ,
        "grants": READ,
        "counters": WRITE,
        "refused_calls": UPSERT,
        "usage_hours": UPSERT,
        "usage_days": UPSERT,
        "usage_sums": UPSERT,
        "attempts": WRITE,
    },
    "upkeep": {
        "apis": UPDATE,
        "clients": UPDATE,
        "policies": READ,
        "resource_owners": READ,
        "operators": READ,
        "audit_log": READ,
    },
    "backup": {EVERY: "find listCollections"},
    "restore": {EVERY: "find insert listCollections"},
}
"""By user and collection, the allowed actions. `usage` is the collection of an earlier version, which is migrated."""


def privileges(user: str, database: str) -> list[dict[str, object]]:
    """The privileges of this user's role; besides those above, it may list the indexes of every collection."""
    allowed: list[dict[str, object]] = [
        {"resource": {"db": database, "collection": collection}, "actions": actions.split()}
        for collection, actions in ROLES[user].items()
    ]
    return [{"resource": {"db": database, "collection": ""}, "actions": ["listIndexes"]}, *allowed]
