"""Every collection of the system over one connection."""

from dataclasses import dataclass

from libs.sealing import KeyRing
from libs.store.apis import Apis
from libs.store.attempts import Attempts
from libs.store.clients import Clients
from libs.store.counters import Counters
from libs.store.deliveries import Deliveries
from libs.store.events import RecordedEvents
from libs.store.grants import Grants
from libs.store.ledger import Announce, Ledger
from libs.store.mongo import Mongo
from libs.store.operators import Operators
from libs.store.policies import Policies
from libs.store.resource_owners import ResourceOwners
from libs.store.trail import Trail
from libs.store.usage import Usage


@dataclass(frozen=True, slots=True)
class Store:
    """The collections; each service writes only those it owns (docs/architecture.md)."""

    mongo: Mongo
    grants: Grants
    apis: Apis
    clients: Clients
    policies: Policies
    resource_owners: ResourceOwners
    operators: Operators
    deliveries: Deliveries
    events: RecordedEvents
    usage: Usage
    counters: Counters
    trail: Trail
    attempts: Attempts

    @property
    def ledgers(self) -> tuple[Ledger, ...]:
        """Every collection whose records carry events."""
        return (
            self.grants,
            self.apis,
            self.clients,
            self.policies,
            self.resource_owners,
            self.operators,
            self.deliveries,
        )

    @classmethod
    def over(cls, mongo: Mongo, keys: KeyRing, announce: Announce) -> "Store":
        """The collections over this connection; `announce` hears of every committed event."""
        usage = Usage(mongo)
        return cls(
            mongo=mongo,
            grants=Grants(mongo, announce),
            apis=Apis(mongo, keys, announce),
            clients=Clients(mongo, announce),
            policies=Policies(mongo, announce),
            resource_owners=ResourceOwners(mongo, announce),
            operators=Operators(mongo, announce),
            deliveries=Deliveries(mongo, announce),
            events=RecordedEvents(mongo, usage),
            usage=usage,
            counters=Counters(mongo),
            trail=Trail(mongo),
            attempts=Attempts(mongo),
        )
