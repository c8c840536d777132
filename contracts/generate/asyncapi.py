"""The AsyncAPI 3.0 document: every message that Tokenwire publishes on the bus."""

import re
from typing import Any

from pydantic import BaseModel

from contracts import VERSION
from contracts.channels import (
    EVENTS_EXCHANGE,
    NOTIFY_EXCHANGE,
    NOTIFY_KEY,
    WORDS,
    address,
)
from contracts.events import EVENTS, Event, NotificationCommand
from contracts.generate.schemas import Components, FactSchema, Schema

_ABOUT = f"""\
Events are CloudEvents 1.0 in structured mode, with the attributes mirrored in headers. An event is published after \
the change that it reports is committed, at least once and with publisher confirms: ignore an `id` that you have \
handled before. `sequence` numbers the changes of one `subject`, so a missing number means a missing event. Events \
carry ids, never a token or a secret.

A downstream system binds a queue of its own to `{EVENTS_EXCHANGE}`. The routing key is the type without its vendor \
prefix and one word more, mostly the id of the API: `token.#` matches everything about tokens, `#.orders` everything \
about the API `orders`. Only the notifier may read from `{NOTIFY_EXCHANGE}`."""
_BINDING = "0.3.0"
_CLOUD_EVENT = "application/cloudevents+json; charset=utf-8"
_BODY = "application/json"


def asyncapi_document() -> dict[str, Any]:
    """The document, with a channel for every event type and one for the notification command."""
    models: list[type[BaseModel]] = [*EVENTS, NotificationCommand]
    components = Components([(model, "serialization") for model in models], FactSchema)
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "Tokenwire events", "version": VERSION, "description": _ABOUT},
        "defaultContentType": _CLOUD_EVENT,
        "servers": {
            "broker": {
                "host": "rabbitmq:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "RabbitMQ 3.10 or newer.",
            }
        },
        "channels": {_name(event): _event_channel(event) for event in EVENTS} | {"notify": _NOTIFY_CHANNEL},
        "operations": {f"send{event.__name__}": _sent(_name(event), event.__name__) for event in EVENTS}
        | {"sendNotificationCommand": _sent("notify", NotificationCommand.__name__)},
        "components": {
            "messages": {event.__name__: _event_message(event, components) for event in EVENTS}
            | {NotificationCommand.__name__: _command_message(components)},
            "schemas": {**components.definitions, "CloudEventHeaders": _HEADERS},
        },
    }


def _name(event: type[Event]) -> str:
    return event.__name__[0].lower() + event.__name__[1:]


def _exchange(name: str, kind: str) -> dict[str, Any]:
    return {"name": name, "type": kind, "durable": True, "autoDelete": False, "vhost": "/"}


def _channel_binding(exchange: dict[str, Any]) -> dict[str, Any]:
    return {"amqp": {"is": "routingKey", "exchange": exchange, "bindingVersion": _BINDING}}


def _messages(name: str) -> dict[str, Any]:
    return {name: {"$ref": f"#/components/messages/{name}"}}


def _event_channel(event: type[Event]) -> dict[str, Any]:
    words = re.findall(r"{(\w+)}", address(event))
    return (
        {"address": address(event), "messages": _messages(event.__name__)}
        | ({"parameters": {word: {"description": WORDS[word][1]} for word in words}} if words else {})
        | {"bindings": _channel_binding(_exchange(EVENTS_EXCHANGE, "topic"))}
    )


_NOTIFY_CHANNEL = {
    "address": NOTIFY_KEY,
    "description": "From the services that issue tokens to the notifier. Only the notifier can decrypt the content.",
    "messages": _messages(NotificationCommand.__name__),
    "bindings": _channel_binding(_exchange(NOTIFY_EXCHANGE, "direct")),
}


def _sent(channel: str, message: str) -> dict[str, Any]:
    return {
        "action": "send",
        "channel": {"$ref": f"#/channels/{channel}"},
        "messages": [{"$ref": f"#/channels/{channel}/messages/{message}"}],
        "bindings": {"amqp": {"deliveryMode": 2, "bindingVersion": _BINDING}},
    }


def _event_message(event: type[Event], components: Components) -> dict[str, Any]:
    kind = event.model_fields["type"].default
    return {
        "name": kind,
        "title": event.__name__,
        "summary": event.__doc__,
        "contentType": _CLOUD_EVENT,
        "headers": {"$ref": "#/components/schemas/CloudEventHeaders"},
        "payload": components.reference(event, "serialization"),
        "bindings": {"amqp": {"messageType": kind, "bindingVersion": _BINDING}},
    }


def _command_message(components: Components) -> dict[str, Any]:
    return {
        "name": "notification",
        "title": NotificationCommand.__name__,
        "summary": "A token event, and the webhook's body sealed to the notifier's public key.",
        "contentType": _BODY,
        "payload": components.reference(NotificationCommand, "serialization"),
        "bindings": {"amqp": {"bindingVersion": _BINDING}},
    }


def _headers() -> Schema:
    always = {name: field.is_required() or field.default is not None for name, field in Event.model_fields.items()}
    names = [*(f"cloudEvents_{name}" for name in always if name != "data"), "traceparent"]
    return {
        "type": "object",
        "description": "The attributes of the event as in its body, and the trace of the request that caused it.",
        "properties": {name: {"type": "string"} for name in names},
        "required": [f"cloudEvents_{name}" for name in always if always[name]],
    }


_HEADERS = _headers()
