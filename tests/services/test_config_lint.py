"""`python -m services config-lint` reports each weakness once, at its place, and nothing else."""

import ast
import base64
import json
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import libs.config_lint
import services.config_lint
from contracts.apis import Api, DefinitionFormat, GrantType, Notifications, OAuthSettings, TokenLocation
from contracts.clients import Client, ClientSecret
from contracts.config_lint import Severity
from contracts.guards import Unsupported
from contracts.operators import Operator
from contracts.policies import AccessRight, AllowedUrl, Policy
from libs import client_secrets, demo_credentials
from libs.bus.local import LocalBus
from libs.config_lint.findings import Finding, is_this_machine
from libs.config_lint.record_checks import (
    check_api,
    check_client,
    check_guards,
    check_key_ring,
    check_operators,
    check_policy,
    check_scope,
)
from libs.encryption import KeyRing
from libs.runtime import new_deps, utc_now
from libs.settings import PREFIX, Settings, load
from libs.tyk.classic import read_classic
from services import demo_data
from services.config_lint.setting_checks import LintSettings, check_settings
from tests.acceptance.programs import ROOT, Outcome, run_python
from tests.builders import api_document, make_resource_owner, settings

NOW = utc_now()
STRONG_KEY = base64.b64encode(secrets.token_bytes(32)).decode()
WEAK_KEY = base64.b64encode(bytes(range(32))).decode()
SOUND_SETTINGS = {
    "public_url": "https://auth.example.test",
    "client_secrets": "show_once",
    "limits_on_failure": "deny",
    "keys": f"1:{STRONG_KEY}",
    "notifier_private_keys": STRONG_KEY,
    "mongodb_url": "mongodb://user:password@db.example.test/?replicaSet=rs0&tls=true",
    "amqp_url": "amqps://token:password@mq.example.test/",
}


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the settings of the test, ignoring the environment."""
    for variable in [variable for variable in os.environ if variable.startswith(PREFIX)]:
        monkeypatch.delenv(variable)


def rules(findings: Iterable[Finding]) -> set[str]:
    return {finding.rule for finding in findings}


# Settings

SETTINGS = [
    pytest.param("development", {"environment": "development"}, {"environment": "production"}, id="development"),
    pytest.param("public-url-http", {"public_url": "http://auth.example.test"}, {}, id="public-url"),
    pytest.param(
        "public-url-http", {"public_url": "http://10.0.0.1"}, {"public_url": "http://127.0.0.1:8080"}, id="ip"
    ),
    pytest.param("oauth-error-status", {"oauth_error_status": 403}, {}, id="error-status"),
    pytest.param("private-destinations", {"allow_private_destinations": True}, {}, id="private-destinations"),
    pytest.param("client-secrets-stored", {"client_secrets": "stored"}, {}, id="client-secrets"),
    pytest.param(
        "short-client-secrets", {"min_client_secret_length": 8}, {"min_client_secret_length": 24}, id="c7-short-secrets"
    ),
    pytest.param("limits-on-failure", {"limits_on_failure": "allow"}, {"limits_on_failure": "deny"}, id="limits"),
    pytest.param("bootstrap-key", {"bootstrap_operator_key": f"tw_ok_{STRONG_KEY}"}, {}, id="bootstrap"),
    pytest.param(
        "guessable-key",
        {"bootstrap_operator_key": "change-me-before-production"},
        {"bootstrap_operator_key": f"tw_ok_{STRONG_KEY}"},
        id="bootstrap-words",
    ),
    pytest.param("guessable-key", {"bootstrap_operator_key": "x" * 24}, {}, id="bootstrap-repeats"),
    pytest.param("guessable-key", {"keys": f"1:{WEAK_KEY}"}, {}, id="counted-key"),
    pytest.param("guessable-key", {"keys": f"2:{STRONG_KEY},1:{'A' * 43}="}, {}, id="old-key-of-zeros"),
    pytest.param("guessable-key", {"notifier_private_keys": WEAK_KEY}, {}, id="notifier-key"),
    pytest.param("old-notifier-key", {"notifier_private_keys": f"{STRONG_KEY},{STRONG_KEY}"}, {}, id="notifier-keys"),
    pytest.param("rabbitmq-guest", {"amqp_url": "amqps://guest:guest@mq.example.test/"}, {}, id="guest"),
    pytest.param("rabbitmq-guest", {"amqp_url": "amqps://mq.example.test/"}, {}, id="guest-unsaid"),
    pytest.param("rabbitmq-guest", {"amqp_url": "amqp://g%75est:x@127.0.0.1/"}, {}, id="guest-encoded"),
    pytest.param(
        "rabbitmq-without-tls",
        {"amqp_url": "amqp://token:password@mq.example.test/"},
        {"amqp_url": "amqp://token:password@127.0.0.1/"},
        id="amqp",
    ),
    pytest.param(
        "rabbitmq-without-tls",
        {"amqp_url": "amqps://token:password@mq1.example.test/,amqp://token:password@mq2.example.test/"},
        {"amqp_url": "amqps://token:password@mq1.example.test/,amqps://token:password@mq2.example.test/"},
        id="amqp-cluster",
    ),
    pytest.param(
        "mongodb-without-user",
        {"mongodb_url": "mongodb://127.0.0.1,db.example.test:27018/?tls=true"},
        {"mongodb_url": "mongodb://127.0.0.1:27017,[::1]:27018,localhost/?replicaSet=rs0"},
        id="mongodb-user",
    ),
    pytest.param(
        "mongodb-without-user",
        {"mongodb_url": "mongodb+srv://db.example.test/"},
        {"mongodb_url": "mongodb://db.example.test/?tls=true&authMechanism=MONGODB-X509"},
        id="mongodb-certificate",
    ),
    pytest.param(
        "mongodb-without-tls",
        {"mongodb_url": "mongodb://user:password@db.example.test/"},
        {"mongodb_url": "mongodb+srv://user:password@db.example.test/"},
        id="mongodb-tls",
    ),
    pytest.param(
        "mongodb-without-tls",
        {"mongodb_url": "mongodb://user:password@10.0.0.1/?ssl=false"},
        {"mongodb_url": "mongodb://user:password@10.0.0.1/?ssl=true"},
        id="mongodb-ssl",
    ),
]


@pytest.mark.parametrize(("rule", "weak", "sound"), SETTINGS)
def test_a_weak_setting_is_found(rule: str, weak: dict[str, Any], sound: dict[str, Any]) -> None:
    """A weak setting is reported with name, consequence and remedy; the remedied one is not."""
    assert rule not in rules(check_settings(load(LintSettings, **SOUND_SETTINGS | sound)))
    found = [each for each in check_settings(load(LintSettings, **SOUND_SETTINGS | weak)) if each.rule == rule]
    (setting,) = weak
    assert [each.place for each in found] == [f"TOKENWIRE_{setting.upper()}"]
    assert_whole(found[0])


def assert_whole(finding: Finding) -> None:
    """The finding has all three, in one line."""
    assert finding.weakness
    assert finding.consequence
    assert finding.remedy.endswith(".")
    assert "\n" not in finding.line


def test_sound_settings_are_silent() -> None:
    """Sound settings give no finding."""
    assert list(check_settings(load(LintSettings, **SOUND_SETTINGS))) == []


@pytest.mark.parametrize(
    ("weak", "severity"),
    [
        ({"amqp_url": "amqp://u:p@mq.example.test/"}, Severity.MEDIUM),
        ({"amqp_url": "amqp://u:p@rabbitmq/"}, Severity.LOW),
        ({"mongodb_url": "mongodb://u:p@mongodb/"}, Severity.LOW),
        ({"mongodb_url": "mongodb://u:p@mongodb,db.example.test/"}, Severity.MEDIUM),
        ({"allow_private_destinations": True}, Severity.HIGH),
    ],
)
def test_how_bad_it_is(weak: dict[str, Any], severity: Severity) -> None:
    """The severity depends on exposure: a container network on one machine is not the internet."""
    (finding,) = check_settings(load(LintSettings, **SOUND_SETTINGS | weak))
    assert finding.severity is severity


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "", "/tmp/mongodb.sock"])
def test_this_machine_is_recognised(host: str) -> None:
    """Loopback addresses, localhost and sockets are this machine."""
    assert is_this_machine(host)


@pytest.mark.parametrize("host", ["10.0.0.1", "127.0.0.1.example.test", "localhost.example.test", "db", "::2"])
def test_other_machines_are_recognised(host: str) -> None:
    """Private addresses and containers are other machines."""
    assert not is_this_machine(host)


# Records

SOUND_OAUTH = OAuthSettings(
    grant_types=(GrantType.AUTHORIZATION_CODE, GrantType.CLIENT_CREDENTIALS),
    refresh_token=True,
    login_url="https://login.example.test/",
    notifications=Notifications(
        on_key_change_url="https://hooks.example.test/",
        shared_secret=secrets.token_urlsafe(24),
    ),
    pkce_required=True,
    scopes=("read", "write"),
)
KEYS = KeyRing.parse(f"1:{STRONG_KEY}")


def api(**changes: Any) -> Iterator[Finding]:
    """Findings for a sound API with these changes, the OAuth ones in its OAuth settings."""
    oauth = {name: value for name, value in changes.items() if name in OAuthSettings.model_fields}
    given = {
        "api_id": "orders",
        "name": "Orders",
        "listen_path": "/orders/",
        "upstream_url": "https://upstream.example.test/",
        "oauth": SOUND_OAUTH.model_copy(update=oauth),
        "format": DefinitionFormat.OAS,
        "definition": "{}",
        "created_at": NOW,
        "updated_at": NOW,
    }
    return check_api(Api.model_validate(given | {name: value for name, value in changes.items() if name not in oauth}))


def imported(**changes: Any) -> Api:
    """An API imported from its Tyk Classic definition."""
    document = api_document("orders-classic.json", **changes)
    return read_classic(document, api_id="orders", now=NOW, accept_unsupported=True)


def short_secret() -> tuple[ClientSecret, ...]:
    return (client_secrets.protect(KEYS, "app", "twenty-three-characters", NOW, retrievable=False),)


def client(**changes: Any) -> Iterator[Finding]:
    """Findings for a sound client with these changes."""
    given = {
        "client_id": "app",
        "api_id": "orders",
        "redirect_uris": ("https://app.example.test/cb",),
        "policy_ids": ("gold",),
        "scope": "read",
        "secrets": (client_secrets.protect(KEYS, "app", secrets.token_urlsafe(32), NOW, retrievable=False),),
        "created_at": NOW,
        "updated_at": NOW,
    }
    made = Client.model_validate(given | changes)
    yield from check_client(made, KEYS, NOW, production=True)
    yield from check_scope(made, SOUND_OAUTH.scopes)


def policy(**changes: Any) -> Iterator[Finding]:
    """Findings for a sound policy with these changes."""
    rights = {"orders": AccessRight(api_id="orders", allowed_urls=(AllowedUrl(url="/things/.*"),))}
    given = {"policy_id": "gold", "access_rights": rights, "rate": 10, "per": 1, "created_at": NOW, "updated_at": NOW}
    return check_policy(Policy.model_validate(given | changes))


def endpoint(rate: int) -> dict[str, Any]:
    """Access rights with a rate of one endpoint."""
    methods = [{"name": "GET", "limit": {"rate": rate, "per": 60}}]
    return {"orders": {"api_id": "orders", "endpoints": [{"path": "/things", "methods": methods}]}}


def operator(
    *permissions: str, idle: int = 0, changed: int | None = None, count: int = 1, **more: Any
) -> Iterator[Finding]:
    """Findings for this many operators, created and last seen this many days ago."""
    made = NOW - timedelta(days=idle)
    given = {"operator_id": "one", "name": "One", "key_digest": "", "created_at": made, "updated_at": made, **more}
    last = None if changed is None else NOW - timedelta(days=changed)
    each = Operator.model_validate(given | {"permissions": permissions})
    return check_operators([(each, last)] * count, NOW)


def hooks(url: str = "https://hooks.example.test/", secret: str = STRONG_KEY) -> Notifications:
    return Notifications(on_key_change_url=url, shared_secret=secret)


def urls(pattern: str) -> dict[str, AccessRight]:
    return {"orders": AccessRight(api_id="orders", allowed_urls=(AllowedUrl(url=pattern),))}


def demo_secret() -> Any:
    return (client_secrets.protect(KEYS, "app", demo_credentials.CLIENT_SECRET, NOW, retrievable=False),)


def of_another_key() -> Any:
    return (client_secrets.protect(KeyRing.parse(f"9:{STRONG_KEY}"), "app", "x", NOW, retrievable=False),)


ALL_GRANTS = (GrantType.AUTHORIZATION_CODE, GrantType.PASSWORD)
LONG = timedelta(days=400)
RECORDS: list[Any] = [
    pytest.param("password-grant", lambda: api(grant_types=ALL_GRANTS), api, id="password-grant"),
    pytest.param(
        "pkce-not-required",
        lambda: api(pkce_required=False),
        lambda: api(pkce_required=False, grant_types=(GrantType.CLIENT_CREDENTIALS,)),
        id="pkce",
    ),
    pytest.param("login-http", lambda: api(login_url="http://login.example.test/"), api, id="login"),
    *(
        pytest.param("long-lifetime", lambda name=name: api(**{name: LONG}), api, id=name)
        for name in ("access_token_lifetime", "refresh_token_lifetime", "grant_lifetime", "code_lifetime")
    ),
    pytest.param(
        "webhook-http",
        lambda: api(notifications=hooks("http://hooks.example.test/")),
        lambda: api(notifications=hooks("http://127.0.0.1:9002/")),
        id="webhook-http",
    ),
    pytest.param(
        "webhook-without-secret",
        lambda: api(notifications=hooks(secret="")),
        lambda: api(notifications=hooks(url="", secret="")),
        id="webhook-secret",
    ),
    pytest.param(
        "weak-shared-secret", lambda: api(notifications=hooks(secret="oauth-shared-secret")), api, id="example"
    ),
    pytest.param("weak-shared-secret", lambda: api(notifications=hooks(secret="x" * 15)), api, id="short-secret"),
    pytest.param(
        "guards-not-read",
        lambda: check_guards(imported(internal=True).model_copy(update={"guards": None})),
        lambda: check_guards(imported(internal=True)),
        id="a8-imported-by-an-earlier-version",
    ),
    pytest.param(
        "guards-not-read",
        lambda: check_guards(imported(use_mutual_tls_auth=True).model_copy(update={"unsupported": ()})),
        lambda: check_guards(imported(use_mutual_tls_auth=True)),
        id="a8-accepted-by-nobody",
    ),
    pytest.param(
        "accepted-unsupported",
        lambda: api(unsupported=(Unsupported(path="enable_jwt", reason="a second method"),)),
        api,
        id="a8-accepted",
    ),
    pytest.param("open-api", lambda: api(oauth=None), lambda: api(oauth=None, auth_token=True), id="open-api"),
    pytest.param("open-api", lambda: api(oauth=None), lambda: api(oauth=None, active=False), id="closed-api"),
    pytest.param(
        "token-in-query",
        lambda: api(token_location=TokenLocation(query="token")),
        lambda: api(token_location=TokenLocation(cookie="token")),
        id="query",
    ),
    pytest.param(
        "upstream-http",
        lambda: api(upstream_url="http://upstream.example.test/"),
        lambda: api(upstream_url="http://localhost:9003/"),
        id="upstream",
    ),
    pytest.param(
        "redirect-http",
        lambda: client(redirect_uris=("https://app.example.test/", "http://app.example.test/?a=b")),
        lambda: client(redirect_uris=("http://127.0.0.1/cb", "http://[::1]/cb", "com.example.app:/cb")),
        id="redirect-http",
    ),
    pytest.param(
        "redirect-wildcard", lambda: client(redirect_uris=("https://*.example.test/",)), client, id="wildcard"
    ),
    pytest.param("api-without-scopes", lambda: api(scopes=()), api, id="a19-api-without-scopes"),
    pytest.param("client-without-scope", lambda: client(scope=None), client, id="a19-client-without-scope"),
    pytest.param(
        "undeclared-scope",
        lambda: client(scope="read admin"),
        lambda: client(scope="read write"),
        id="a19-undeclared-scope",
    ),
    pytest.param("client-without-policy", lambda: client(policy_ids=()), client, id="no-policy"),
    pytest.param("demo-client", lambda: client(client_id=demo_credentials.CLIENT_ID), client, id="demo-client"),
    pytest.param("demo-client", lambda: client(secrets=demo_secret()), lambda: client(secrets=()), id="demo-secret"),
    pytest.param("short-client-secret", lambda: client(secrets=short_secret()), client, id="c7-short-secret"),
    pytest.param("key-not-in-ring", lambda: client(secrets=of_another_key()), client, id="lost-key"),
    pytest.param(
        "policy-without-rights",
        lambda: policy(access_rights={}),
        lambda: policy(access_rights={}, is_inactive=True),
        id="no-rights",
    ),
    pytest.param(
        "policy-without-limits", lambda: policy(rate=0), lambda: policy(rate=0, quota_max=1), id="no-rate-no-quota"
    ),
    pytest.param(
        "policy-endpoint-unlimited",
        lambda: policy(access_rights=endpoint(-1)),
        lambda: policy(access_rights=endpoint(5)),
        id="c1-endpoint-without-limit",
    ),
    *(
        pytest.param("policy-wildcard", lambda url=url: policy(access_rights=urls(url)), policy, id=f"wildcard-{url}")
        for url in (".*", "/.*", "^/(.*)$", "/.+")
    ),
    pytest.param("many-admins", lambda: operator("admin", count=4), lambda: operator("admin", count=3), id="admins"),
    pytest.param(
        "bootstrap-operator",
        lambda: operator("admin", operator_id="bootstrap"),
        lambda: operator("admin"),
        id="bootstrap",
    ),
    pytest.param(
        "more-than-authorize",
        lambda: operator("authorize", "read"),
        lambda: operator("authorize"),
        id="authorize-and-read",
    ),
    pytest.param(
        "unused-operator",
        lambda: operator("write", idle=91),
        lambda: operator("write", idle=91, changed=3),
        id="unused",
    ),
    pytest.param(
        "unused-operator",
        lambda: operator("admin", idle=300, changed=91),
        lambda: operator("admin", idle=89),
        id="idle",
    ),
    pytest.param(
        "unused-operator",
        lambda: operator("revoke", idle=91),
        lambda: operator("read", "authorize", idle=91),
        id="reader",
    ),
    pytest.param(
        "old-keys",
        lambda: check_key_ring(KeyRing.parse(f"2:{STRONG_KEY},1:{STRONG_KEY}"), 3),
        lambda: check_key_ring(KEYS, 0),
        id="old-keys",
    ),
]
Look = Callable[[], Iterator[Finding]]


@pytest.mark.parametrize(("rule", "weak", "sound"), RECORDS)
def test_a_weak_record_is_found(rule: str, weak: Look, sound: Look) -> None:
    """A weak record is reported with id, consequence and remedy; the remedied one is not."""
    found = [finding for finding in weak() if finding.rule == rule]
    assert len(found) == 1, found
    assert_whole(found[0])
    assert rule not in rules(sound())


@pytest.mark.parametrize("look", [api, client, policy, lambda: operator("read", "write")])
def test_sound_records_are_silent(look: Look) -> None:
    """Sound records give no finding."""
    assert list(look()) == []


def test_every_rule_is_in_the_tables() -> None:
    """Every rule occurs in the tables above, except those about whole systems below."""
    tables = {row.values[0] for row in (*SETTINGS, *RECORDS)} | {"demo-user"}
    directories = [Path(package.__file__ or "").parent for package in (services.config_lint, libs.config_lint)]
    calls = [
        node
        for directory in directories
        for file in directory.glob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"Finding", "_finding"}
    ]
    arguments = [argument for call in calls for argument in call.args[1:2]]
    named = {str(argument.value) for argument in arguments if isinstance(argument, ast.Constant)}
    assert named == tables
    manual = (ROOT / "docs" / "security.md").read_text()
    assert {rule for rule in named if f"`{rule}`" not in manual} == set()


# The command


async def lint(mongodb_url: str, database: str, *arguments: str, **more: str) -> Outcome:
    """Run the command on this database, with otherwise sound settings."""
    own = {
        **{f"TOKENWIRE_{name.upper()}": value for name, value in SOUND_SETTINGS.items()},
        "TOKENWIRE_MONGODB_URL": mongodb_url,
        "TOKENWIRE_MONGODB_DATABASE": database,
    }
    return await run_python("services", "config-lint", *arguments, settings={**own, **more})


async def test_the_command_looks_at_what_is_registered(mongodb_url: str, database_name: str) -> None:
    """Demo data gives one line each, most severe first, with a total; JSON is the same; a level filters."""
    configured = settings(Settings, mongodb_url, database_name, keys=SOUND_SETTINGS["keys"])
    deps = new_deps(configured, "tests", bus=LocalBus())
    await deps.store.mongo.open()
    await deps.store.mongo.prepared()
    await demo_data.load_demo_data(deps, 8080)
    await deps.store.mongo.close()

    done = await lint(mongodb_url, database_name)
    *lines, total = done.out.splitlines()
    assert (done.status, done.complaints) == (1, "")
    severities = [line.split()[0] for line in lines]
    assert severities == sorted(severities, key=[str(severity) for severity in Severity].index)
    assert total.endswith(" in the settings, 1 APIs, 1 clients, 1 policies, 0 operators")

    told = await lint(mongodb_url, database_name, "--json")
    document = json.loads(told.out)
    assert [f"{each['severity']:<6}  {each['place']}: {each['weakness']}" for each in document["findings"]] == [
        line.partition(";")[0] for line in lines
    ]
    assert {"demo-client", "demo-user", "password-grant"} <= {each["rule"] for each in document["findings"]}
    assert document["counts"] == {str(severity): severities.count(severity) for severity in Severity}

    high = await lint(mongodb_url, database_name, "--level", "high")
    assert [line.split()[0] for line in high.out.splitlines()[:-1]] == ["high"] * severities.count("high")
    assert (await lint(mongodb_url, f"{database_name[:-1]}_", "--level", "low")).status == 0


async def test_an_api_that_cannot_be_opened_hides_no_other(mongodb_url: str, database_name: str) -> None:
    """An API whose key was removed too early is reported, and all others are still checked."""
    configured = settings(Settings, mongodb_url, database_name, keys=f"7:{WEAK_KEY}")
    deps = new_deps(configured, "tests", bus=LocalBus())
    await deps.store.mongo.open()
    await deps.store.mongo.prepared()
    await demo_data.load_demo_data(deps, 8080)
    await make_resource_owner(deps, "another password")
    await deps.store.mongo.close()
    done = await lint(mongodb_url, database_name, "--json")
    found = {(each["rule"], each["place"]) for each in json.loads(done.out)["findings"]}
    assert ("key-not-in-ring", "API demo-api") in found
    assert ("key-not-in-ring", "client demo-client") in found
    assert ("demo-user", "resource owner alice") in found


async def test_nothing_found_is_status_0(mongodb_url: str, database_name: str) -> None:
    """No findings: exit status 0, a line says what was checked, and an empty database stays empty."""
    done = await lint(mongodb_url, database_name)
    assert (done.status, done.complaints) == (0, "")
    assert done.out == "no findings in the settings, 0 APIs, 0 clients, 0 policies, 0 operators\n"
    deps = new_deps(settings(Settings, mongodb_url, database_name), "tests", bus=LocalBus())
    await deps.store.mongo.open(prepare=False)
    assert await deps.store.mongo["apis"].database.list_collection_names() == []
    await deps.store.mongo.close()


async def test_what_was_not_checked_is_said() -> None:
    """Without MongoDB and RabbitMQ in the settings, only the settings are checked, which is said."""
    sound = {"TOKENWIRE_CLIENT_SECRETS": "show_once", "TOKENWIRE_LIMITS_ON_FAILURE": "deny"}
    done = await run_python("services", "config-lint", settings=sound)
    assert (done.status, done.complaints) == (0, "")
    assert [line.partition(":")[0] for line in done.out.splitlines()] == [
        "no findings in the settings",
        "records were not checked",
        "the connection to RabbitMQ was not checked",
    ]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        pytest.param({"TOKENWIRE_KEYS": "1"}, "python -m services: TOKENWIRE_KEYS: ", id="wrong-setting"),
        pytest.param(
            {"TOKENWIRE_MONGODB_URL": "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100"},
            "python -m services config-lint: MongoDB: ",
            id="no-mongodb",
        ),
    ],
)
async def test_an_unreadable_database_is_status_2(more: dict[str, str], complaint: str) -> None:
    """If the database cannot be read, one line says so with status 2."""
    done = await lint("mongodb://127.0.0.1/", "none", **more)
    assert (done.status, done.out) == (2, "")
    assert done.complaint.startswith(complaint)


def test_no_secret_is_in_a_finding() -> None:
    """A finding names the setting, never its value."""
    weak: dict[str, Any] = {
        "bootstrap_operator_key": "change-me-before-production",
        "keys": f"1:{WEAK_KEY}",
        "amqp_url": "amqp://guest:the-word@mq.example.test/",
        "mongodb_url": "mongodb://user:the-word@db.example.test/",
    }
    lines = "\n".join(finding.line for finding in check_settings(load(LintSettings, **SOUND_SETTINGS | weak)))
    assert not [value for value in ("change-me", WEAK_KEY, "the-word", STRONG_KEY) if value in lines]
