"""Inserts many records directly into MongoDB, in exactly the form in which the store writes them."""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

import pymongo

from contracts.apis import Api, GrantType
from contracts.audit_log import AuditLogEntry
from contracts.clients import Client
from contracts.grants import AccessToken, Grant, GrantState, RefreshToken
from contracts.operators import Actor
from contracts.reconciliation import RecordedEvent
from contracts.webhooks import Attempt, Delivery, DeliveryState
from libs.event_encoding import new_event_id
from libs.oauth.token_formats import new_grant_id
from libs.store import deliveries, grants
from libs.store.mongo import Document
from libs.store.records import Records
from libs.store.store import Store

BATCH = 5000
WITHIN = 300.0
"""Seconds that one batch may take, even on a busy machine."""


async def insert(store: Store, collection: str, documents: Iterable[Document]) -> int:
    """Insert all documents in batches; return their number. Only the primary acknowledges: a seed need not survive
    it.
    """
    target, count, left = store.mongo[collection].database, 0, iter(documents)
    while batch := list(islice(left, BATCH)):
        command = {"insert": collection, "documents": batch, "ordered": False, "writeConcern": {"w": 1, "j": False}}
        with pymongo.timeout(WITHIN):
            response = await target.command(command)
        assert response["n"] == len(batch), response.get("writeErrors", [])[:1]
        count += len(batch)
    return count


def new_id() -> str:
    """An id in the form of a grant id."""
    return new_grant_id(os.urandom(16))


def grant_documents(
    client: Client, count: int, created_at: datetime, step: timedelta = timedelta(milliseconds=1), **changes: Any
) -> Iterator[Document]:
    """Active grants of the client, at even intervals, with access tokens valid for an hour. `changes` apply to the
    model.
    """
    given: dict[str, Any] = {
        "grant_id": new_id(),
        "version": 1,
        "sequence": 1,
        "state": GrantState.ACTIVE,
        "api_id": client.api_id,
        "client_id": client.client_id,
        "grant_type": GrantType.AUTHORIZATION_CODE,
        "subject": "somebody",
        "generation": 1,
        "access": AccessToken(digest=bytes(32), issued_at=created_at, expires_at=created_at + timedelta(hours=1)),
        "refresh": RefreshToken(digest=bytes(32), expires_at=created_at + timedelta(days=14)),
        "created_at": created_at,
        "expires_at": created_at + timedelta(days=90),
    }
    grant = Grant(**given | changes)
    document = grants._encode(grant, present_only=True)
    for number in range(count):
        later = number * step
        made = grant.created_at + later
        access = {**document["access"]}
        access |= {"issued_at": access["issued_at"] + later, "expires_at": access["expires_at"] + later}
        yield {
            **document,
            "_id": new_id(),
            "created_at": made,
            "access": access,
            "last_event": new_event_id(made),
        }


def delivery_documents(
    api_id: str, client_id: str, count: int, event_at: datetime, state: DeliveryState, step: timedelta = timedelta(0)
) -> Iterator[Document]:
    """Deliveries of events from this time on, at even intervals."""
    attempt = Attempt(at=event_at, latency_ms=3, status=200 if state is DeliveryState.DELIVERED else 503)
    pending = state is DeliveryState.PENDING
    delivery = Delivery(
        delivery_id="",
        state=state,
        api_id=api_id,
        client_id=client_id,
        grant_id=new_id(),
        event_type="token.new",
        event_at=event_at,
        sealed=os.urandom(300) if state in {DeliveryState.PENDING, DeliveryState.EXHAUSTED} else None,
        attempts=(attempt,),
        attempt_count=1,
        sequence=1,
        next_attempt_at=event_at + timedelta(days=2) if pending else None,
        give_up_at=event_at + timedelta(days=3),
        created_at=event_at,
        updated_at=event_at,
    )
    document = deliveries._encode(delivery)
    for number in range(count):
        at = event_at + number * step
        yield {**document, "_id": new_event_id(at), "event_at": at, "created_at": at, "updated_at": at}


def copies(records: Records[Any], record: Any, ids: Iterable[str], **fields: Any) -> Iterator[Document]:
    """Copies of the record with these ids; the given document fields differ."""
    document = {**records._encode(record), "last_event": new_event_id(record.created_at), **fields}
    for key in ids:
        yield {**document, "_id": key}


def api_copies(store: Store, api: Api, ids: Iterable[str], **fields: Any) -> Iterator[Document]:
    """Copies of the API with their own ids and listen paths. Their encrypted values cannot be decrypted there."""
    for document in copies(store.apis, api, ids, **fields):
        yield {**document, "places": [document["_id"]], "listen_path": f"/{document['_id']}/"}


def trail_documents(
    count: int, at: datetime, action: str, subject: str, actor: str, step: timedelta = timedelta(0)
) -> Iterator[Document]:
    """Audit log entries, at even intervals."""
    entry = AuditLogEntry(
        id="",
        at=at,
        action=action,
        subject=subject,
        version=1,
        source="urn:tokenwire:management",
        actor=Actor(operator_id=actor, name="an operator", address="192.0.2.1", request_id="r"),
    )
    document = entry.model_dump(exclude={"id"}, exclude_none=True)
    for number in range(count):
        moment = at + number * step
        yield {**document, "_id": new_event_id(moment), "at": moment}


def event_documents(records: Iterable[Document]) -> Iterator[Document]:
    """The first event of each grant, as the event recorder stores it."""
    for record in records:
        event = RecordedEvent(
            id=record["last_event"],
            type="token.new",
            collection="grants",
            subject=record["_id"],
            sequence=1,
            time=record["created_at"],
            api_id=record["api_id"],
            client_id=record["client_id"],
            grant_id=record["_id"],
        )
        yield {"_id": event.id, **event.model_dump(exclude={"id"}, exclude_none=True)}
