"""Generated documents: up to date, valid, and matching the services."""

import base64
import copy
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import schemathesis
import yaml
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from openapi_spec_validator import OpenAPIV31SpecValidator
from openapi_spec_validator.validation.exceptions import OpenAPIValidationError
from pydantic import BaseModel
from schemathesis.core.result import Ok

from contracts import VERSION
from contracts.apis import GrantType
from contracts.channels import EVENTS_EXCHANGE, NOTIFY_EXCHANGE, NOTIFY_KEY, WORDS, address
from contracts.error_bodies import OAuthErrorBody
from contracts.events import EVENTS, PendingEvent, TokenData, TokenNew
from contracts.generate import files
from contracts.generate.files import DIRECTORY, drifted, write
from contracts.operations import ANY_METHOD, PATH_PARAMETERS, Caller, Operation, Service
from libs.bus.local import LocalBus
from libs.bus.outbox import messages_of
from libs.bus.port import Exchange
from libs.event_encoding import pending
from libs.http.error_responses import ErrorRenderer
from libs.oauth.errors import InvalidGrant
from libs.runtime import Deps, new_deps
from services.authorization import app as authorization
from services.authorization.settings import AuthorizationSettings
from services.gateway import app as gateway
from services.gateway.settings import GatewaySettings
from services.management import __main__ as management
from services.management.settings import ManagementSettings
from services.notifier import app as notifier
from services.notifier.settings import NotifierSettings
from services.operation_catalog import OPERATIONS, operations_by
from services.revocation import app as revocation
from services.revocation.settings import RevocationSettings
from services.token import app as token
from services.token.settings import TokenSettings
from tests.builders import NOTIFIER_KEY, NOTIFIER_PUBLIC_KEY, settings

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)

OPENAPI = [*(f"openapi/{service}.yaml" for service in Service), "openapi/tyk-gateway-api.yaml"]
DOCUMENTS = [*(f"openapi/{service}.yaml" for service in Service), "asyncapi.yaml"]

Create = Callable[[Any, Deps], web.Application]
CREATED: dict[Service, tuple[Create, type[Any], dict[str, Any]]] = {
    Service.AUTHORIZATION: (authorization.create_app, AuthorizationSettings, {}),
    Service.TOKEN: (token.create_app, TokenSettings, {"notifier_public_key": NOTIFIER_PUBLIC_KEY}),
    Service.REVOCATION: (revocation.create_app, RevocationSettings, {}),
    Service.NOTIFIER: (
        notifier.create_app,
        NotifierSettings,
        {"notifier_private_keys": base64.b64encode(NOTIFIER_KEY).decode()},
    ),
    Service.MANAGEMENT: (management.create_app, ManagementSettings, {}),
    Service.GATEWAY: (gateway.create_app, GatewaySettings, {}),
}


def routed(service: Service) -> list[tuple[str, str]]:
    """Method and path of every route of the service, built but not opened."""
    create, kind, own = CREATED[service]
    configured = settings(kind, "mongodb://nowhere.invalid/", "none", **own)
    app = create(configured, new_deps(configured, service, bus=LocalBus()))
    routes = [(route.method, route.resource.canonical) for route in app.router.routes() if route.resource is not None]
    # HEAD comes with GET, and `/{path}` is the proxy to the upstreams, which has no operations of ours.
    return [(method, path) for method, path in routes if method != "HEAD" and path != "/{path}"]


@cache
def yaml_file(name: str) -> Any:
    return yaml.load((DIRECTORY / name).read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)


@cache
def schema_file(name: str) -> Any:
    return json.loads((DIRECTORY / "schemas" / f"{name}.json").read_text(encoding="utf-8"))


def openapi(service: Service) -> Any:
    return yaml_file(f"openapi/{service}.yaml")


# Operations and routes


@pytest.mark.parametrize("service", Service)
def test_the_table_of_operations_is_what_the_service_routes(service: Service) -> None:
    """Operations and routes are the same, with and without a trailing slash."""
    listed = {(operation.method, operation.path) for operation in operations_by(service)}
    routes = routed(service)
    assert {(method, path) for method, path in routes if not path.endswith("/")} == listed
    assert {(method, path) for method, path in routes if path.endswith("/")} == {
        (method, f"{path}/") for method, path in listed
    }
    assert len(routes) == 2 * len(listed)


def test_operations_are_distinguished() -> None:
    """Names, and pairs of method and path, are unique."""
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_says_what_may_happen(operation: Operation) -> None:
    """Each operation has a success response and describes its path parameters; operator ones name the permission."""
    assert any(status < 400 for status in operation.responses)
    assert set(re.findall(r"{(\w+)}", operation.path)) <= PATH_PARAMETERS.keys()
    for_operators = operation.caller in {Caller.OPERATOR, Caller.CLIENT_OR_OPERATOR}
    assert (operation.permission is not None) == for_operators
    for body in filter(None, [operation.body]):
        known = set(body.model.model_fields) if body.model else set()
        assert set(body.fields) <= known


def test_documents_are_of_the_version_of_the_contracts() -> None:
    """All seven documents have the version of the contracts, not of the program."""
    assert {yaml_file(name)["info"]["version"] for name in DOCUMENTS} == {VERSION}


# Committed files


def test_committed_documents_match_the_contracts() -> None:
    """The committed documents are those generated from the contracts (`make contracts`)."""
    assert drifted() is None


def changed_file(directory: Path) -> str:
    path = directory / "openapi/token.yaml"
    path.write_bytes(path.read_bytes() + b"\n")
    return "openapi/token.yaml"


def missing_file(directory: Path) -> str:
    (directory / "asyncapi.yaml").unlink()
    return "asyncapi.yaml"


def surplus_file(directory: Path) -> str:
    (directory / "schemas/token.forgotten.json").write_text("{}")
    return "schemas/token.forgotten.json"


@pytest.mark.parametrize("disturb", [changed_file, missing_file, surplus_file])
def test_a_drifted_file_is_named_and_put_right(tmp_path: Path, disturb: Callable[[Path], str]) -> None:
    """A changed, missing or extra file is named, and corrected by writing."""
    write(tmp_path)
    assert drifted(tmp_path) is None
    name = disturb(tmp_path)
    assert drifted(tmp_path) == name
    write(tmp_path)
    assert drifted(tmp_path) is None


def test_the_check_ends_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--check` writes nothing, and fails with one line that names file and remedy."""
    from contracts.generate import __main__ as command

    monkeypatch.setattr("sys.argv", ["contracts.generate", "--check"])
    command.main()
    monkeypatch.setattr(command, "drifted", lambda: "asyncapi.yaml")
    with pytest.raises(SystemExit) as ended:
        command.main()
    assert ended.value.code == "contracts/generated/asyncapi.yaml is not what the contracts say: run `make contracts`"


# Validity


def references(part: Any) -> Iterator[str]:
    """Every `$ref` in a document."""
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for value in part.values():
            yield from references(value)
    elif isinstance(part, list):
        for value in part:
            yield from references(value)


def resolved(document: Any, reference: str) -> Any:
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_reference_in_a_document_leads_somewhere(name: str) -> None:
    """Every `$ref` of a document resolves within it."""
    document = yaml_file(name)
    for reference in set(references(document)):
        assert resolved(document, reference), reference


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_schemas_of_a_document_are_schemas(name: str) -> None:
    """Each component is valid JSON Schema 2020-12 and is used."""
    document = yaml_file(name)
    used = set(references(document))
    for component, schema in document["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert f"#/components/schemas/{component}" in used, component


@pytest.mark.parametrize("path", sorted((DIRECTORY / "schemas").iterdir()), ids=lambda path: path.stem)
def test_a_schema_file_is_a_schema(path: Path) -> None:
    """Each schema file is valid JSON Schema 2020-12, has its own id, and is self-contained."""
    schema = json.loads(path.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:tokenwire:schema:{path.stem}"
    for reference in references(schema):
        assert resolved(schema, reference)


@pytest.mark.parametrize("service", Service)
def test_an_openapi_document_has_what_openapi_asks_for(service: Service) -> None:
    """Path parameters are declared, security schemes exist, statuses are strings, contents have schemas."""
    document = openapi(service)
    schemes = document["components"].get("securitySchemes", {})
    assert document["openapi"] == "3.1.0"
    for path, item in document["paths"].items():
        declared = {parameter["name"] for parameter in item.get("parameters", ())}
        assert declared == set(re.findall(r"{(\w+)}", path))
        for operation in (item[method] for method in ("get", "post", "put", "delete") if method in item):
            assert {name for option in operation["security"] for name in option} <= schemes.keys()
            assert all(isinstance(status, str) for status in operation["responses"])
            assert all(response["description"] for response in operation["responses"].values())
            contents = [operation.get("requestBody", {}), *operation["responses"].values()]
            assert all("schema" in media for content in contents for media in content.get("content", {}).values())


@pytest.mark.parametrize("name", OPENAPI)
def test_an_openapi_document_imports_into_other_tools(name: str) -> None:
    """openapi-spec-validator finds no error, and schemathesis finds every operation."""
    document = yaml_file(name)
    OpenAPIV31SpecValidator(document).validate()
    results = list(schemathesis.openapi.from_dict(document).get_all_operations())
    found = [result.ok() for result in results if isinstance(result, Ok)]
    assert len(found) == len(results)
    methods = {"get", "post", "put", "delete", "options"}
    described = {(method, path) for path, item in document["paths"].items() for method in methods & item.keys()}
    assert {(operation.method, operation.path) for operation in found} == described


def test_a_document_with_an_error_does_not_import() -> None:
    """What the parsers would say of a parameter that is not in the path."""
    document = copy.deepcopy(yaml_file("openapi/token.yaml"))
    (item, *_) = document["paths"].values()
    item["parameters"] = []
    with pytest.raises(OpenAPIValidationError):
        OpenAPIV31SpecValidator(document).validate()


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_an_operation_has_examples_that_match_its_schemas(operation: Operation) -> None:
    """Code samples and bodies that their schemas allow; tests/services/test_operation_examples.py sends them."""
    document = openapi(operation.service or Service.TOKEN)
    method = "get" if operation.method == ANY_METHOD else operation.method.lower()
    described = document["paths"][operation.path][method]
    assert re.match(r"curl -X |jq -n (?s:.*) \|\n  curl -X ", described["x-codeSamples"][0]["source"])
    bodies = [described.get("requestBody", {}), *described["responses"].values()]
    media = [each for body in bodies for each in body.get("content", {}).values() if "example" in each]
    for each in media:
        jsonschema.validate(each["example"], {**each["schema"], "components": document["components"]})
    with_body = any(response.media_type for status, response in operation.responses.items() if status < 300)
    assert len(media) >= (operation.body is not None) + with_body


def test_only_the_notifier_documents_the_webhook() -> None:
    """Only the notifier's document contains the webhook with its five keys."""
    assert [service for service in Service if "webhooks" in openapi(service)] == [Service.NOTIFIER]
    body = openapi(Service.NOTIFIER)["components"]["schemas"]["TokenNotification"]
    five = ["auth_code", "new_oauth_token", "refresh_token", "old_refresh_token", "notification_type"]
    assert list(body["properties"]) == five
    assert sorted(body["required"]) == sorted(five)


def test_a_table_of_permissions_is_in_the_management_document() -> None:
    """An operation names the operator's permission as a role of its security requirement."""
    paths = openapi(Service.MANAGEMENT)["paths"]
    assert paths["/api/apis"]["get"]["security"] == [{"operator": ["read"]}]
    assert paths["/api/apis"]["post"]["security"] == [{"operator": ["write"]}]
    assert paths["/api/operators"]["post"]["security"] == [{"operator": ["admin"]}]


# AsyncAPI


def test_every_event_has_a_channel_and_is_sent() -> None:
    """Each event type has one channel, on the topic exchange at its routing key, which the system sends."""
    document = yaml_file("asyncapi.yaml")
    channels = {channel["address"]: (name, channel) for name, channel in document["channels"].items()}
    assert channels.keys() == {address(event) for event in EVENTS} | {NOTIFY_KEY}
    for event in EVENTS:
        name, channel = channels[address(event)]
        exchange = channel["bindings"]["amqp"]["exchange"]
        assert (exchange["name"], exchange["type"], exchange["durable"]) == (EVENTS_EXCHANGE, "topic", True)
        assert set(re.findall(r"{(\w+)}", address(event))) == channel.get("parameters", {}).keys()
        message = resolved(document, channel["messages"][event.__name__]["$ref"])
        assert message["name"] == event.model_fields["type"].default
        sent = document["operations"][f"send{event.__name__}"]
        assert sent["action"] == "send"
        assert sent["channel"]["$ref"] == f"#/channels/{name}"


def test_the_notification_command_has_an_exchange_of_its_own() -> None:
    """The encrypted notification uses the direct exchange with the outbox's routing key."""
    channel = yaml_file("asyncapi.yaml")["channels"]["notify"]
    exchange = channel["bindings"]["amqp"]["exchange"]
    assert (exchange["name"], exchange["type"], exchange["durable"]) == (NOTIFY_EXCHANGE, "direct", True)
    assert channel["address"] == NOTIFY_KEY


def test_the_exchanges_are_those_of_the_bus() -> None:
    """Contracts and bus name the same exchanges, except internal ones."""
    own = {Exchange.POOLS, Exchange.TICKS}
    assert {EVENTS_EXCHANGE, NOTIFY_EXCHANGE} == {str(exchange) for exchange in Exchange if exchange not in own}


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.stem)
def test_an_event_class_names_its_type_once(event: Any) -> None:
    """Type, stem and routing key of an event class agree, and its last word is described."""
    assert event.model_fields["type"].default == f"io.tokenwire.{event.stem}"
    assert address(event).startswith(f"{event.stem}.")
    assert address(event).count(".") == event.stem.count(".") + 1
    assert set(re.findall(r"{(\w+)}", address(event))) <= WORDS.keys()


# Real messages


def committed_event() -> PendingEvent:
    """A token event as stored in its record."""
    data = TokenData(
        grant_id="g" * 22,
        api_id="orders",
        client_id="app",
        grant_type=GrantType.CLIENT_CREDENTIALS,
        token_id=f"{'g' * 22}.1",
        expires_at=NOW,
        notify=True,
    )
    event = TokenNew(
        id="evt_1", source="urn:tokenwire:token", time=NOW, subject="g" * 22, sequence="0000000001", data=data
    )
    return pending(event, "orders", "g" * 22, sealed=b"sealed")


def test_a_published_event_is_what_the_documents_say() -> None:
    """Body, headers and content type of a real message match the schema file, the AsyncAPI message and the channel."""
    public, command = messages_of(committed_event())
    document = yaml_file("asyncapi.yaml")
    message = document["components"]["messages"]["TokenNew"]
    jsonschema.validate(json.loads(public.body), schema_file("token.new"))
    jsonschema.validate(json.loads(command.body), schema_file("notification-command"))
    jsonschema.validate(dict(public.headers), resolved(document, message["headers"]["$ref"]))
    assert (public.content_type, public.type) == (message["contentType"], message["bindings"]["amqp"]["messageType"])
    assert public.key == address(TokenNew).format(api_id="orders")
    assert (command.exchange, command.key) == (NOTIFY_EXCHANGE, NOTIFY_KEY)


def test_an_event_that_lacks_what_was_promised_is_not_valid() -> None:
    """The schema requires the attributes that are always present, and refuses another type."""
    public, _ = messages_of(committed_event())
    body = json.loads(public.body)
    validator = jsonschema.Draft202012Validator(schema_file("token.new"))
    assert not validator.is_valid({**body, "type": "io.tokenwire.token.refresh"})
    assert not validator.is_valid({name: body[name] for name in body if name != "sequence"})


def test_a_rendered_error_is_what_the_documents_say() -> None:
    """A rendered OAuth error matches its documentation."""
    response = ErrorRenderer().render(make_mocked_request("POST", "/orders/oauth/token"), InvalidGrant("no"))
    assert isinstance(response, web.Response)
    assert isinstance(response.body, bytes)
    jsonschema.validate(json.loads(response.body), schema_file("oauth-error-body"))
    assert OAuthErrorBody.model_validate_json(response.body).error == "invalid_grant"


def test_every_public_body_has_a_schema_file() -> None:
    """Every request and response body has a schema file too."""
    models: set[type[BaseModel]] = {
        model for operation in OPERATIONS for response in operation.responses.values() for model in response.models
    } | {operation.body.model for operation in OPERATIONS if operation.body and operation.body.model}
    assert {files.kebab(model) for model in models} <= {path.stem for path in (DIRECTORY / "schemas").iterdir()}
