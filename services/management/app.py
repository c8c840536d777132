"""The wiring of the management service."""

from aiohttp import web

from libs.access import Access
from libs.events import Origin
from libs.passwords import PasswordHasher
from libs.runtime import Deps, new_application, new_deps
from services.management.analytics import Analytics
from services.management.apis import ApiEndpoints
from services.management.audit import Audit
from services.management.balance import Auditor
from services.management.bootstrap import Bootstrap
from services.management.clients import ClientEndpoints
from services.management.events import EventStream
from services.management.listeners import Listeners
from services.management.operators import OperatorEndpoints
from services.management.policies import PolicyEndpoints
from services.management.reactions import Reactions
from services.management.recorder import Recorder
from services.management.resource_owners import ResourceOwnerEndpoints
from services.management.settings import ClientSecrets, ManagementSettings
from services.management.trail import TrailEndpoint


def install(app: web.Application, settings: ManagementSettings, deps: Deps) -> None:
    """Put the management API on the application."""
    access, store = Access(deps.catalog, deps.throttle), deps.store
    passwords = PasswordHasher()
    listeners = Listeners()

    def origin() -> Origin:
        return deps.origin("management")

    async def close_passwords(_app: web.Application) -> None:
        passwords.close()

    seal_secrets = settings.client_secrets is ClientSecrets.STORED
    ApiEndpoints(access, store.apis, origin).add_to(app)
    ClientEndpoints(access, store, deps.keys, origin, seal_secrets).add_to(app)
    PolicyEndpoints(access, store.policies, store.apis, origin).add_to(app)
    ResourceOwnerEndpoints(access, store.resource_owners, store.policies, passwords, origin).add_to(app)
    OperatorEndpoints(access, store.operators, origin).add_to(app)
    events = EventStream(access, listeners)
    events.add_to(app)
    Audit(access, Auditor(store, deps.bus, deps.now), deps.now).add_to(app)
    Analytics(access, store.usage, deps.now).add_to(app)
    TrailEndpoint(access, store.trail).add_to(app)
    app.on_shutdown.append(events.stop)
    app.on_cleanup.append(close_passwords)
    bootstrap = Bootstrap(settings.bootstrap_operator_key, store.operators, origin)
    app.cleanup_ctx.append(bootstrap.running)
    deps.health.register("bootstrap operator", bootstrap.ping)
    deps.bus.subscribe(Reactions(store.apis, store.clients, deps.now).subscription())
    deps.bus.subscribe(listeners.subscription())
    recorder = Recorder(store.events, store.trail)
    deps.bus.subscribe(recorder.subscription())
    app.cleanup_ctx.append(recorder.running)
    for collection in (store.apis, store.clients, store.policies, store.resource_owners, store.operators):
        deps.outbox.watch(collection)


def create_app(settings: ManagementSettings, deps: Deps | None = None) -> web.Application:
    """The management service alone."""
    deps = deps or new_deps(settings, "management")
    app = new_application(settings, deps)
    install(app, settings, deps)
    return app
