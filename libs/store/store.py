"""All collections of the system over one connection."""

from dataclasses import dataclass

from libs.encryption import KEY_BYTES, KeyRing
from libs.store.apis import Apis
from libs.store.attempts import Attempts
from libs.store.audit_log import AuditLog
from libs.store.clients import Clients
from libs.store.counters import Counters
from libs.store.deliveries import Deliveries
from libs.store.grants import Grants
from libs.store.mongo import Mongo
from libs.store.operators import Operators
from libs.store.outbox_collection import Announce, OutboxCollection, announce_nothing
from libs.store.policies import Policies
from libs.store.reconciliation_results import ReconciliationResults
from libs.store.recorded_events import RecordedEvents
from libs.store.refused_calls import RefusedCalls
from libs.store.resource_owners import ResourceOwners
from libs.store.usage import Usage
from libs.store.users import Users


@dataclass(frozen=True, slots=True)
class Store:
    """The collections; each service writes only those it owns (docs/architecture.md)."""

    mongo: Mongo
    grants: Grants
    apis: Apis
    clients: Clients
    policies: Policies
    resource_owners: ResourceOwners
    users: Users
    operators: Operators
    deliveries: Deliveries
    events: RecordedEvents
    usage: Usage
    counters: Counters
    refused_calls: RefusedCalls
    audit_log: AuditLog
    reconciliation_results: ReconciliationResults
    attempts: Attempts

    @property
    def outbox_collections(self) -> tuple[OutboxCollection, ...]:
        """The collections whose records carry events."""
        return (
            self.grants,
            self.apis,
            self.clients,
            self.policies,
            self.resource_owners,
            self.users,
            self.operators,
            self.deliveries,
        )

    @classmethod
    def over(cls, mongo: Mongo, keys: KeyRing, announce: Announce) -> "Store":
        """The collections over this connection; `announce` is called with every committed event."""
        usage = Usage(mongo)
        return cls(
            mongo=mongo,
            grants=Grants(mongo, announce),
            apis=Apis(mongo, keys, announce),
            clients=Clients(mongo, announce),
            policies=Policies(mongo, announce),
            resource_owners=ResourceOwners(mongo, announce),
            users=Users(mongo, announce),
            operators=Operators(mongo, announce),
            deliveries=Deliveries(mongo, announce),
            events=RecordedEvents(mongo, usage),
            usage=usage,
            counters=Counters(mongo),
            refused_calls=RefusedCalls(mongo),
            audit_log=AuditLog(mongo),
            reconciliation_results=ReconciliationResults(mongo),
            attempts=Attempts(mongo),
        )


async def make_indexes(url: str, database: str) -> None:
    """Create the missing indexes of every collection, and drop those of earlier releases. Raises MongoError."""
    mongo = Mongo(url, database)
    Store.over(mongo, KeyRing({0: bytes(KEY_BYTES)}, 0), announce_nothing)  # nothing is encrypted here
    await mongo.open(prepare=False)
    try:
        await mongo.make_indexes()
    finally:
        await mongo.close()
