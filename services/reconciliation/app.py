"""The wiring of reconciliation, which runs inside the management process."""

from aiohttp import web

from libs.access import OperatorAuthenticator
from libs.http.operations import operations_of
from libs.runtime import Deps
from services.reconciliation.endpoint import ReconciliationEndpoint
from services.reconciliation.event_list import EventListEndpoint
from services.reconciliation.reconciler import Reconciler
from services.reconciliation.recorder import Recorder

OPERATIONS = (*operations_of(ReconciliationEndpoint), *operations_of(EventListEndpoint))


def install(app: web.Application, deps: Deps) -> None:
    """Add the recorder of events, the periodic comparison and its endpoint to the application."""
    access, store = OperatorAuthenticator(deps.catalog, deps.throttle, deps.now), deps.store
    reconciler = Reconciler(store, deps.bus, deps.now)
    ReconciliationEndpoint(access, reconciler, store.reconciliation_results, deps.now).add_to(app, deps.supervisor)
    EventListEndpoint(access, store.events).add_to(app)
    recorder = Recorder(store.events, store.audit_log)
    deps.bus.subscribe(recorder.subscription())
    recorder.add_to(app, deps.supervisor)
