"""Every operation of every service, collected from the declarations at the handlers.

The OpenAPI documents (contracts/generate) and the tests of routes and permissions read this; no service does.
"""

from collections.abc import Mapping
from dataclasses import replace

from contracts.operations import Operation, Service
from libs.http.health_endpoints import Health
from libs.http.operations import operations_of
from services.authorization import app as authorization
from services.gateway import app as gateway
from services.management import app as management
from services.notifier import app as notifier
from services.reconciliation import app as reconciliation
from services.revocation import app as revocation
from services.token import app as token

_DECLARED: Mapping[Service, tuple[Operation, ...]] = {
    Service.AUTHORIZATION: authorization.OPERATIONS,
    Service.TOKEN: token.OPERATIONS,
    Service.REVOCATION: revocation.OPERATIONS,
    Service.NOTIFIER: notifier.OPERATIONS,
    Service.MANAGEMENT: (*management.OPERATIONS, *reconciliation.OPERATIONS),
    Service.GATEWAY: gateway.OPERATIONS,
}

OPERATIONS: tuple[Operation, ...] = (
    *(replace(each, service=service) for service, declared in _DECLARED.items() for each in declared),
    *operations_of(Health),
)
"""All of them. Every service has those with `service=None`."""

TYK_GATEWAY_OPERATIONS: tuple[Operation, ...] = tuple(
    replace(each, service=service)
    for service, declared in {
        Service.MANAGEMENT: management.TYK_GATEWAY_OPERATIONS,
        Service.REVOCATION: revocation.TYK_GATEWAY_OPERATIONS,
        Service.AUTHORIZATION: authorization.TYK_GATEWAY_OPERATIONS,
    }.items()
    for each in declared
)
"""The Tyk gateway's own API, which these services only offer if they are told to."""


def operations_by(service: Service) -> tuple[Operation, ...]:
    """The operations of this service."""
    return tuple(operation for operation in OPERATIONS if operation.service in {service, None})
