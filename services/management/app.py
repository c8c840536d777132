"""The wiring of the management API; the process (services/management/__main__.py) adds reconciliation."""

from aiohttp import web

from libs.access import OperatorAuthenticator
from libs.event_encoding import EventContext
from libs.http.operations import add_operations, operations_of
from libs.passwords import PasswordHasher
from libs.runtime import Deps
from libs.settings import Environment
from services.management.analytics import Analytics
from services.management.api_deletion import ApiDeletionEndpoint
from services.management.api_reports import ApiReports
from services.management.apis import ApiEndpoints
from services.management.audit_log import AuditLogEndpoint
from services.management.bootstrap_operator import BootstrapOperator
from services.management.client_cleanup import ClientCleanup
from services.management.clients import ClientEndpoints
from services.management.config_lint import ConfigLintEndpoint
from services.management.event_stream import EventStream
from services.management.grant_search import GrantSearch
from services.management.grant_timeline import TimelineEndpoint
from services.management.operators import OperatorEndpoints
from services.management.policies import PolicyEndpoints
from services.management.policy_preview import PolicyPreviews
from services.management.registration_retries import RegistrationRetries
from services.management.resource_owners import ResourceOwnerEndpoints
from services.management.settings import ClientSecrets, ManagementSettings
from services.management.signing_secrets import SigningSecrets
from services.management.stream_subscribers import StreamSubscribers
from services.management.summary_endpoint import SummaryEndpoint
from services.management.tyk_clients import TykClientEndpoints
from services.management.tyk_definitions import TykApiEndpoints, TykPolicyEndpoints
from services.management.tyk_keys import TykKeyEndpoints
from services.management.tyk_process import TykProcessEndpoints

OPERATIONS = operations_of(
    ApiEndpoints,
    ClientEndpoints,
    PolicyEndpoints,
    PolicyPreviews,
    ResourceOwnerEndpoints,
    OperatorEndpoints,
    EventStream,
    Analytics,
    AuditLogEndpoint,
    SigningSecrets,
    ApiReports,
    GrantSearch,
    TimelineEndpoint,
    ConfigLintEndpoint,
    SummaryEndpoint,
    ApiDeletionEndpoint,
)
TYK_GATEWAY_OPERATIONS = operations_of(
    TykClientEndpoints,
    TykApiEndpoints,
    TykPolicyEndpoints,
    TykKeyEndpoints,
    TykProcessEndpoints,
)


def install(app: web.Application, settings: ManagementSettings, deps: Deps) -> None:
    """Put the management API on the application."""
    access, store = OperatorAuthenticator(deps.catalog, deps.throttle, deps.now), deps.store
    passwords = PasswordHasher(workers=settings.workers)
    subscribers = StreamSubscribers()

    def event_context() -> EventContext:
        return deps.event_context("management")

    async def close_passwords(_app: web.Application) -> None:
        passwords.close()

    retrievable_secrets = settings.client_secrets is ClientSecrets.STORED
    retries = RegistrationRetries(store.clients, deps.keys)
    events = EventStream(access, subscribers, store.events, deps.now)
    apis = ApiEndpoints(store.apis, event_context)
    chosen = settings.min_client_secret_length, settings.redirect_uri_separator
    clients = ClientEndpoints(store, deps.keys, event_context, retrievable_secrets, *chosen, retries)
    policies = PolicyEndpoints(store.policies, store.apis, event_context)
    users = ResourceOwnerEndpoints(store.resource_owners, store.policies, passwords, event_context)
    translations = (
        TykClientEndpoints(clients),
        TykApiEndpoints(apis),
        TykPolicyEndpoints(policies),
        TykKeyEndpoints(users),
        TykProcessEndpoints(deps.health),
    )
    lint = ConfigLintEndpoint(store, deps.keys, settings.environment is Environment.PRODUCTION, deps.now)
    search = GrantSearch(store.grants, deps.catalog, deps.token_format, deps.now)
    for endpoint in (
        apis,
        clients,
        policies,
        PolicyPreviews(store),
        users,
        OperatorEndpoints(store.operators, store.audit_log, event_context),
        events,
        Analytics(store.usage, deps.now),
        SummaryEndpoint(store.usage, store.audit_log, lint, deps.now),
        lint,
        AuditLogEndpoint(store.audit_log),
        SigningSecrets(store.apis, event_context),
        ApiReports(store.apis),
        search,
        TimelineEndpoint(search, store),
        ApiDeletionEndpoint(store),
        *(translations if settings.tyk_gateway_api else ()),
    ):
        add_operations(app, endpoint, access.require)
    app.on_shutdown.append(events.stop)
    app.on_cleanup.append(close_passwords)
    bootstrap = BootstrapOperator(settings.bootstrap_operator_key, store.operators, event_context)
    bootstrap.add_to(app, deps.supervisor)
    deps.health.register("bootstrap operator", bootstrap.ping)
    deps.bus.subscribe(ClientCleanup(store.apis, store.clients, deps.now).subscription())
    deps.bus.subscribe(subscribers.subscription())
    for collection in (store.apis, store.clients, store.policies, store.resource_owners, store.operators):
        deps.outbox.watch(collection)
