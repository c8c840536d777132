"""One OpenAPI 3.1 document per service, from the operations that its handlers declare."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from contracts import VERSION
from contracts.generate.examples import examples, path_values
from contracts.generate.samples import code_samples
from contracts.generate.samples.requests import BASE_URL
from contracts.generate.schemas import Components, Mode, Schema, of_model, of_type
from contracts.operations import (
    ANY_METHOD,
    JSON,
    PATH_PARAMETERS,
    Caller,
    Operation,
    Parameters,
    RequestBody,
    ResponseSpec,
    Service,
)
from contracts.webhooks import TokenNotification
from services.operation_catalog import TYK_GATEWAY_OPERATIONS, operations_by

_TITLES = {
    Service.AUTHORIZATION: "authorization codes",
    Service.TOKEN: "token endpoint",
    Service.REVOCATION: "token revocation",
    Service.NOTIFIER: "webhook deliveries",
    Service.MANAGEMENT: "management API",
    Service.GATEWAY: "token check and introspection",
}
_ABOUT = """\
Every path also works with a slash at its end. Errors have the format of RFC 6749 §5.2; under `/api/` they have the \
Dashboard's envelope (`Status`, `Message`, `Meta`). Unknown paths return 404, unsupported methods 405 \
and `Allow`. If the setting `oauth_error_status` is set, OAuth errors have that status instead of 400, 401 and 403. \
OAuth requests: unknown parameters are ignored, repeated ones are refused. Other bodies: the schema says whether \
unknown fields are allowed. Code samples read secrets from environment variables, such as `OPERATOR_KEY`; put the \
listen path and the id of your API in place of `orders`."""
_ABOUT_TYK = """\
The part of the open-source Tyk gateway's own API that belongs to OAuth, translated to the operations of the \
management API; available if `TOKENWIRE_TYK_GATEWAY_API` is true. The operator key is in `X-Tyk-Authorization` or \
`Authorization`. Every path also works with a slash at its end. Errors have the gateway's envelope (`status`, \
`message`), those of `/tyk/oauth/authorize-client` the format of RFC 6749 §5.2."""

_SECURITY_SCHEMES = {
    "client": {
        "type": "http",
        "scheme": "basic",
        "description": "Client id and secret, each form-encoded first (RFC 6749 §2.3.1). Alternatively `client_id` and "
        "`client_secret` in the body; public clients send only `client_id`.",
    },
    "operator": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "An operator key, with or without `Bearer ` before it; `X-Tyk-Authorization` is read, too, "
        "and wins. The role named by an operation is the "
        "permission that the operator needs; `admin` includes all others.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "An access token in a header, query parameter or cookie, as configured in the API's definition.",
    },
}
_WEBHOOK_HEADERS = {
    "webhook-id": (True, "The id of the event; the same on every attempt. Use it to ignore duplicates."),
    "webhook-timestamp": (True, "Time of this attempt, in Unix seconds."),
    "X-Tyk-Shared-Secret": (True, "The shared secret of the API's definition; empty if it has none."),
    "webhook-signature": (
        False,
        "`v1,` and the base64 of HMAC-SHA-256 over `<webhook-id>.<webhook-timestamp>.<body>` under the shared secret "
        "(Standard Webhooks); absent if the API has none.",
    ),
}


WEBHOOK = RequestBody(
    model=TokenNotification,
    description="Always these five keys; empty if not applicable. Any 2xx response is a success.",
)
"""The body that the notifier sends to an API's `onKeyChangeUrl`."""


def openapi_document(service: Service) -> dict[str, Any]:
    """The operations of the service, and for the notifier the requests it sends."""
    title = f"Tokenwire {service}: {_TITLES[service]}"
    return _document(title, _ABOUT, operations_by(service), [WEBHOOK] if service is Service.NOTIFIER else [])


def tyk_gateway_api_document() -> dict[str, Any]:
    """The Tyk gateway's own API, which three services offer together."""
    return _document("Tokenwire: the Tyk gateway's own API", _ABOUT_TYK, TYK_GATEWAY_OPERATIONS, [])


def _document(
    title: str, about: str, operations: Sequence[Operation], webhooks: Sequence[RequestBody]
) -> dict[str, Any]:
    bodies = [operation.body for operation in operations if operation.body]
    models = [*_read(bodies), *_written(operations), *((body.model, "serialization") for body in webhooks)]
    components = Components((model, mode) for model, mode in models if model is not None)
    writer = _Writer(components)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": VERSION, "description": about},
        "servers": [{"url": BASE_URL, "description": "The edge, or all services in one process."}],
        "tags": [{"name": tag} for tag in dict.fromkeys(operation.tag for operation in operations)],
        "paths": writer.paths(operations),
    }
    if webhooks:
        document["webhooks"] = {"tokenNotification": {"post": writer.webhook(WEBHOOK)}}
    callers = {operation.caller for operation in operations}
    used = {name for caller in callers for name in _SCHEMES.get(caller, ())}
    schemes = {name: scheme for name, scheme in _SECURITY_SCHEMES.items() if name in used}
    document["components"] = {"schemas": components.definitions} | ({"securitySchemes": schemes} if schemes else {})
    return document


_SCHEMES = {
    Caller.CLIENT: ("client",),
    Caller.OPERATOR: ("operator",),
    Caller.CLIENT_OR_OPERATOR: ("client", "operator"),
    Caller.TOKEN_HOLDER: ("token",),
}


def _read(bodies: Iterable[RequestBody]) -> Iterator[tuple[type[BaseModel] | None, Mode]]:
    for body in bodies:
        yield body.model, "validation"


def _written(operations: Iterable[Operation]) -> Iterator[tuple[type[BaseModel] | None, Mode]]:
    for operation in operations:
        for response in operation.responses.values():
            for model in response.models:
                yield model, "serialization"


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    roles = {"operator": [str(operation.permission)]}
    ways = [{name: roles.get(name, [])} for name in _SCHEMES.get(operation.caller, ())]
    # Or in none of the standard ways: in the body, in the query, in a cookie.
    return ways if operation.caller in {Caller.ANYBODY, Caller.OPERATOR} else [*ways, {}]


def _path_parameters(operation: Operation) -> list[dict[str, Any]]:
    values = path_values(operation, examples()[operation.name]["request"]["target"])
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARAMETERS[name][1],
            "schema": of_type(PATH_PARAMETERS[name][0]),
            **({"example": values[name]} if name in values else {}),
        }
        for name in re.findall(r"{(\w+)}", operation.path)
    ]


def _parameters(parameters: Parameters, values: Mapping[str, Any]) -> list[dict[str, Any]]:
    schema = of_model(parameters.model, "validation")
    properties = {name: _inlined(described, schema) for name, described in schema["properties"].items()}
    return [
        {"name": name, "in": parameters.location, "required": name in parameters.required}
        | ({"description": description} if (description := described.pop("description", "")) else {})
        | {"schema": _never_null(described)}
        | ({"example": values[name]} if name in values else {})
        for name, described in properties.items()
        if not parameters.names or name in parameters.names
    ]


def _inlined(described: Schema, whole: Schema) -> Schema:
    """Without references into the model, of which a parameter knows nothing."""
    if "$ref" in described:
        return {**whole["$defs"][described["$ref"].removeprefix("#/$defs/")]}
    if "anyOf" in described:
        return {**described, "anyOf": [_inlined(option, whole) for option in described["anyOf"]]}
    return dict(described)


def _never_null(described: Schema) -> Schema:
    """A parameter is text, or absent."""
    if described.get("default", 0) in {None, ""}:
        del described["default"]
    options = [option for option in described.pop("anyOf", ()) if option != {"type": "null"}]
    return {**described, **options[0]} if options else described


def _add_example(described: dict[str, Any], media_type: str | None, example: Any) -> None:
    """Add a recorded body to the schema of its media type."""
    if media_type is not None and example is not None:
        described["content"][media_type]["example"] = example


class _Writer:
    """Writes operations with references into the components."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def paths(self, operations: Iterable[Operation]) -> dict[str, Any]:
        """By path and method."""
        paths: dict[str, Any] = {}
        for operation in operations:
            item = paths.setdefault(operation.path, {})
            if parameters := _path_parameters(operation):
                item.setdefault("parameters", parameters)
            if operation.method == ANY_METHOD:
                item["description"] = "Every method is handled like GET."
            item["get" if operation.method == ANY_METHOD else operation.method.lower()] = self._operation(operation)
        return paths

    def webhook(self, body: RequestBody) -> dict[str, Any]:
        """The webhook that is posted, and the expected response."""
        return {
            "summary": "Notify of new tokens",
            "description": "Sent after tokens were issued or refreshed for an API with a webhook URL.",
            "operationId": "tokenNotification",
            "parameters": [
                {"name": name, "in": "header", "required": required, "description": text, "schema": {"type": "string"}}
                for name, (required, text) in _WEBHOOK_HEADERS.items()
            ],
            "requestBody": self._body(body, "serialization"),
            "responses": {
                "2XX": {"description": "Delivered."},
                "410": {"description": "Endpoint is gone: the notification is not retried."},
                "default": {
                    "description": "Failed; a redirect, too. The notification is retried, after `Retry-After` if sent."
                },
            },
        }

    def _operation(self, operation: Operation) -> dict[str, Any]:
        request, response = (examples()[operation.name][part] for part in ("request", "response"))
        written: dict[str, Any] = {
            "tags": [operation.tag],
            "summary": operation.summary,
            **({"description": operation.description} if operation.description else {}),
            "operationId": operation.name,
            "security": _security(operation),
        }
        if operation.parameters:
            sent = request.get("query" if operation.parameters.location == "query" else "headers", {})
            written["parameters"] = _parameters(operation.parameters, sent)
        if operation.body:
            written["requestBody"] = self._body(operation.body, "validation")
            _add_example(written["requestBody"], request.get("media_type"), request.get("body"))
        written["responses"] = {str(status): self._response(each) for status, each in operation.responses.items()}
        recorded = written["responses"][str(response["status"])]
        for name, value in response.get("headers", {}).items():
            recorded["headers"][name]["example"] = value
        _add_example(recorded, operation.responses[response["status"]].media_type, response.get("body"))
        written["x-codeSamples"] = code_samples(examples()[operation.name])
        return written

    def _body(self, body: RequestBody, mode: Mode) -> dict[str, Any]:
        schema: Schema = {"type": "object"} if body.model is None else self._components.reference(body.model, mode)
        if body.fields:
            schema = {"allOf": [schema, {"required": list(body.fields)}]}
        return ({"description": body.description} if body.description else {}) | {
            "required": not body.optional,
            "content": {media_type: {"schema": schema} for media_type in body.media_types},
        }

    def _response(self, response: ResponseSpec) -> dict[str, Any]:
        written: dict[str, Any] = {"description": response.description}
        if response.headers:
            written["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in response.headers.items()
            }
        if response.media_type:
            written["content"] = {response.media_type: {"schema": self._response_schema(response)}}
        return written

    def _response_schema(self, response: ResponseSpec) -> Schema:
        options = [self._components.reference(model, "serialization") for model in response.models]
        if not options:
            return {"type": "object" if response.media_type == JSON else "string"}
        return options[0] if len(options) == 1 else {"anyOf": options}
