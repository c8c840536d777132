"""The class of an event type is its only declaration: everything else that knows event types is made from it."""

import json
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from contracts.events import EVENTS, Event, InAuditLog
from contracts.generate.asyncapi import asyncapi_document
from libs.audit_log import audit_log_entry
from libs.event_encoding import EventContext, encode_event, new_event_id
from libs.event_log import recorded_event
from services.management.stream_subscribers import STEMS

ROOT = Path(__file__).parent.parent.parent
NOW = datetime(2026, 5, 4, tzinfo=UTC)
ACTOR = {"operator_id": "op", "name": "an operator"}

DECLARATION = '''

class ClientInspected(ClientEvent):
    """An operator looked at a client app."""

    type: Literal["io.tokenwire.client.inspected"] = "io.tokenwire.client.inspected"
    data: ClientData


EVENTS: tuple'''

USE = """
import json
from datetime import UTC, datetime
from contracts.events import AnyEvent, ClientInspected
from contracts.generate.asyncapi import asyncapi_document
from libs.audit_log import audit_log_entry
from libs.event_encoding import EventContext, encode_event, new_event_id
from libs.store.audit_log import ACTIONS
from pydantic import TypeAdapter
from services.management.stream_subscribers import STEMS
from libs.event_log import recorded_event

now = datetime(2026, 5, 4, tzinfo=UTC)
context = EventContext("urn:tokenwire:management", now)
data = {"client_id": "shop", "api_id": "orders"}
body = encode_event(ClientInspected, new_event_id(now), context, "shop", 1, data)
entry = audit_log_entry("client.inspected", body)
channel = asyncapi_document()["channels"]["clientInspected"]
print(json.dumps({
    "class": type(TypeAdapter(AnyEvent).validate_json(body)).__name__,
    "recorded": [recorded_event(body).type, recorded_event(body).collection],
    "audit log": [entry.action, entry.subject, "client.inspected" in ACTIONS],
    "stream": "client.inspected" in STEMS,
    "channel": channel["address"],
}))
"""


def encoded(event: type[Event], **data: object) -> bytes:
    """An event of this type with just enough data to be recorded and logged."""
    grant = {"grant_id": "g", "api_id": "orders", "client_id": "shop", "grant_type": "password", **data}
    return encode_event(event, new_event_id(NOW), EventContext("urn:tokenwire:test", NOW), "a subject", 1, grant)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.stem)
def test_everything_follows_the_declaration(event: type[Event]) -> None:
    """The recorder's collection, the audit log, the event stream and the AsyncAPI channel are those of the class."""
    assert recorded_event(encoded(event)).collection == event.collection
    logged = [audit_log_entry(event.stem, encoded(event, **data)) is not None for data in ({}, {"actor": ACTOR})]
    assert (
        logged
        == {
            InAuditLog.ALWAYS: [True, True],
            InAuditLog.BY_OPERATOR: [False, True],
            InAuditLog.NEVER: [False, False],
        }[event.in_audit_log]
    )
    assert event.stem in STEMS
    document = asyncapi_document()
    name = event.__name__[0].lower() + event.__name__[1:]
    assert document["channels"][name]["address"] == f"{event.stem}.{event.last_word}"
    assert document["components"]["messages"][event.__name__]["summary"] == event.__doc__


def test_a_new_event_type_is_declared_in_one_file(tmp_path: Path) -> None:
    """With one class more in contracts/events.py, it is recorded, logged, streamed and documented."""
    for room in ("contracts", "libs", "services"):
        shutil.copytree(ROOT / room, tmp_path / room, ignore=shutil.ignore_patterns("__pycache__"))
    declarations = tmp_path / "contracts" / "events.py"
    declarations.write_text(declarations.read_text().replace("\n\nEVENTS: tuple", DECLARATION, 1))

    done = subprocess.run([sys.executable, "-c", USE], cwd=tmp_path, capture_output=True, text=True, check=False)

    assert done.stderr == ""
    assert json.loads(done.stdout) == {
        "class": "ClientInspected",
        "recorded": ["client.inspected", "clients"],
        "audit log": ["client.inspected", "shop", True],
        "stream": True,
        "channel": "client.inspected.{api_id}",
    }
