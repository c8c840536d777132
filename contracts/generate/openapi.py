"""One OpenAPI 3.1 document a service, from the table of operations."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import BaseModel

from contracts import VERSION
from contracts.generate.schemas import Components, Mode, Schema, of_model, of_type
from contracts.http import ANY_METHOD, JSON, Answer, Body, Caller, Operation, Parameters, Service
from contracts.operations import PATH_PARAMETERS, WEBHOOK, operations_of

_TITLES = {
    Service.AUTHORIZATION: "the way to a code",
    Service.TOKEN: "tokens for codes, credentials, passwords and refresh tokens",
    Service.REVOCATION: "the end of tokens",
    Service.NOTIFIER: "webhooks and their deliveries",
    Service.MANAGEMENT: "the Dashboard API",
    Service.GATEWAY: "the token check",
}
_ABOUT = """\
Every path answers with and without a slash at its end. A path that is not here is answered with 404, another method \
with 405 and `Allow`, in the shape of the other errors: that of RFC 6749 §5.2, or under `/api/` the Dashboard's \
envelope. Where `oauth_error_status` is set, it takes the place of 400, 401 and 403 in the former. An OAuth request's \
unknown parameters are ignored, repeated ones refused; the schema of another body says whether it may have others."""

_SECURITY_SCHEMES = {
    "client": {
        "type": "http",
        "scheme": "basic",
        "description": "Id and secret of a client app, form-encoded each (RFC 6749 §2.3.1). Or `client_id` and "
        "`client_secret` in the body, which is all that a client without a secret has to send.",
    },
    "operator": {
        "type": "apiKey",
        "in": "header",
        "name": "Authorization",
        "description": "An operator key, a `Bearer ` before it is accepted. The roles named are the permission needed; "
        "`admin` includes all.",
    },
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "An access token, in a header, query parameter or cookie, as the API's definition says.",
    },
}
_WEBHOOK_HEADERS = {
    "webhook-id": (True, "The id of the event, the same on every attempt."),
    "webhook-timestamp": (True, "Unix seconds of this attempt."),
    "X-Tyk-Shared-Secret": (True, "The shared secret of the API's definition; empty where there is none."),
    "webhook-signature": (
        False,
        "`v1,` and the base64 of HMAC-SHA-256 over `<webhook-id>.<webhook-timestamp>.<body>` under the shared secret "
        "(Standard Webhooks); absent where there is none.",
    ),
}


def openapi_document(service: Service) -> dict[str, Any]:
    """What the service answers, and for the notifier what it sends."""
    operations = operations_of(service)
    bodies = [operation.body for operation in operations if operation.body]
    webhooks = [WEBHOOK] if service is Service.NOTIFIER else []
    models = [*_read(bodies), *_written(operations), *((body.model, "serialization") for body in webhooks)]
    components = Components((model, mode) for model, mode in models if model is not None)
    writer = _Writer(components)
    document: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": f"Tokenwire {service}: {_TITLES[service]}", "version": VERSION, "description": _ABOUT},
        "servers": [{"url": "http://127.0.0.1:8080", "description": "The edge, or all services in one process."}],
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


def _read(bodies: Iterable[Body]) -> Iterator[tuple[type[BaseModel] | None, Mode]]:
    for body in bodies:
        yield body.model, "validation"


def _written(operations: Iterable[Operation]) -> Iterator[tuple[type[BaseModel] | None, Mode]]:
    for operation in operations:
        for answer in operation.answers.values():
            for model in answer.models:
                yield model, "serialization"


def _security(operation: Operation) -> list[dict[str, list[str]]]:
    roles = {"operator": [str(operation.permission)]}
    ways = [{name: roles.get(name, [])} for name in _SCHEMES.get(operation.caller, ())]
    # Or in none of the standard ways: in the body, in the query, in a cookie.
    return ways if operation.caller in {Caller.ANYBODY, Caller.OPERATOR} else [*ways, {}]


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": PATH_PARAMETERS[name][1],
            "schema": of_type(PATH_PARAMETERS[name][0]),
        }
        for name in re.findall(r"{(\w+)}", path)
    ]


def _parameters(parameters: Parameters) -> list[dict[str, Any]]:
    schema = of_model(parameters.model, "validation")
    properties = {name: _inlined(described, schema) for name, described in schema["properties"].items()}
    return [
        {"name": name, "in": parameters.place, "required": name in parameters.required}
        | ({"description": description} if (description := described.pop("description", "")) else {})
        | {"schema": _never_null(described)}
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


class _Writer:
    """Writes operations with references into the components."""

    def __init__(self, components: Components) -> None:
        self._components = components

    def paths(self, operations: Iterable[Operation]) -> dict[str, Any]:
        """By path and method."""
        paths: dict[str, Any] = {}
        for operation in operations:
            item = paths.setdefault(operation.path, {})
            if parameters := _path_parameters(operation.path):
                item.setdefault("parameters", parameters)
            if operation.method == ANY_METHOD:
                item["description"] = "Every method is answered like GET."
            item["get" if operation.method == ANY_METHOD else operation.method.lower()] = self._operation(operation)
        return paths

    def webhook(self, body: Body) -> dict[str, Any]:
        """What we post, and what is to be answered."""
        return {
            "summary": "A resource owner's tokens are new.",
            "operationId": "tokenNotification",
            "parameters": [
                {"name": name, "in": "header", "required": required, "description": text, "schema": {"type": "string"}}
                for name, (required, text) in _WEBHOOK_HEADERS.items()
            ],
            "requestBody": self._body(body, "serialization"),
            "responses": {
                "2XX": {"description": "Taken."},
                "410": {"description": "Gone: the notifier stops here."},
                "default": {
                    "description": "Failed, redirects too: it comes again, after `Retry-After` if there is one."
                },
            },
        }

    def _operation(self, operation: Operation) -> dict[str, Any]:
        written: dict[str, Any] = {
            "tags": [operation.tag],
            "summary": operation.summary,
            "operationId": operation.name,
            "security": _security(operation),
        }
        if operation.parameters:
            written["parameters"] = _parameters(operation.parameters)
        if operation.body:
            written["requestBody"] = self._body(operation.body, "validation")
        written["responses"] = {str(status): self._answer(answer) for status, answer in operation.answers.items()}
        return written

    def _body(self, body: Body, mode: Mode) -> dict[str, Any]:
        schema: Schema = {"type": "object"} if body.model is None else self._components.reference(body.model, mode)
        if body.fields:
            schema = {"allOf": [schema, {"required": list(body.fields)}]}
        return ({"description": body.about} if body.about else {}) | {
            "required": not body.optional,
            "content": {media_type: {"schema": schema} for media_type in body.media_types},
        }

    def _answer(self, answer: Answer) -> dict[str, Any]:
        written: dict[str, Any] = {"description": answer.about}
        if answer.headers:
            written["headers"] = {
                name: {"description": text, "schema": {"type": "string"}} for name, text in answer.headers.items()
            }
        if answer.media_type:
            written["content"] = {answer.media_type: {"schema": self._answer_schema(answer)}}
        return written

    def _answer_schema(self, answer: Answer) -> Schema:
        options = [self._components.reference(model, "serialization") for model in answer.models]
        if not options:
            return {"type": "object" if answer.media_type == JSON else "string"}
        return options[0] if len(options) == 1 else {"anyOf": options}
