"""Client apps. Deleting one, or `revoke_all`, is one write here that takes effect everywhere at once."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

import orjson
from pymongo import IndexModel

from contracts.clients import Client, ClientDeletion, ClientSecret, Registration
from contracts.events import (
    ClientCreated,
    ClientData,
    ClientDeleted,
    ClientSecretRotated,
    ClientTokensRevoked,
    ClientUpdated,
    DeletedClientData,
    Event,
)
from contracts.pages import MOST_CLIENTS_SEARCHED, PAGE_SIZE
from libs import client_secrets
from libs.encryption import CannotDecrypt, KeyRing
from libs.event_encoding import EventContext
from libs.oauth.registrations import registered_on, registrations_of, with_registration, without_registration
from libs.store.mongo import Document, outage_is_unavailability
from libs.store.records import Page, Records, Reencryption, Tombstone

_SEARCHED = {
    f"{place}{name}": 1
    for place in ("", "others.")
    for name in ("api_id", "name", "description", "redirect_uris", "meta_data")
}


def _data(client: Client) -> ClientData:
    return ClientData(client_id=client.client_id, api_id=client.api_id, policy_ids=client.policy_ids)


class Clients(Records[Client]):
    """All client apps, one document for each client id.

    The document has the earliest registration at the top, as if there were no other, and the rest in `others`. `api_id`
    is then the list of all APIs, so one index finds the clients of an API in both forms.
    """

    name = "clients"
    model = Client
    key = "client_id"
    as_json = frozenset({"meta_data"})
    secret: ClassVar[Mapping[str, object]] = {"secrets": []}
    indexes = (
        *Records.indexes,
        IndexModel([("api_id", 1), ("deleted", 1), ("_id", 1)], name="living_of_api"),
        IndexModel([("policy_ids", 1), ("deleted", 1), ("_id", 1)], name="with_policy_ids"),
        IndexModel([("others.policy_ids", 1), ("deleted", 1), ("_id", 1)], name="with_others.policy_ids"),
    )
    retired = ("api",)

    def _word(self, record: Client) -> str:
        return record.api_id

    def _encode(self, record: Client) -> Document:
        first, *others = registrations_of(record).values()
        document = super()._encode(first)
        if others:
            document["api_id"] = [first.api_id, *(other.api_id for other in others)]
            document["others"] = [_encoded(registration) for registration in first.others]
        return document

    def _decode(self, document: Document) -> Client:
        if others := document.get("others"):
            decoded = [{**other, "meta_data": orjson.loads(other["meta_data"])} for other in others]
            document = {**document, "api_id": document["api_id"][0], "others": decoded}
        return super()._decode(document)

    async def get(self, key: str) -> Client | None:
        """The client, seen from the first API on which it was registered; None if there is none, or it was deleted.

        Takes the same time in each case.
        """
        return await self._get_constant_time(key)

    async def registered(self, client_id: str, api_id: str) -> Client | None:
        """The client, seen from this API; None if it is not registered there."""
        return registered_on(await self.get(client_id), api_id)

    async def page_of_api(self, api_id: str, number: int | None, after: str | None = None) -> Page[Client]:
        """`page` of the clients of an API, seen from it."""
        page = await self._page({"api_id": api_id}, "living_of_api", number, after)
        return Page(_all_on(api_id, page.records), page.pages, page.next)

    async def search(self, text: str, api_id: str | None, after: str | None = None) -> Page[Client]:
        """The clients after the id `after` that have the text in what people know of them, in any letter case.

        With `api_id`, only those of that API, seen from it. Looks among MOST_CLIENTS_SEARCHED at most: a page may have
        fewer than PAGE_SIZE, and still a `next`.
        """
        query: Document = {"deleted": False, "_id": {"$gt": after or ""}}
        index = "living" if api_id is None else "living_of_api"
        query |= {} if api_id is None else {"api_id": api_id}
        found: list[str] = []
        wanted, last, looked = text.casefold(), None, 0
        async with outage_is_unavailability():
            cursor = self._mongo.indexed(self.name).find(query, _SEARCHED, hint=index).sort("_id", 1)
            async for document in cursor.limit(MOST_CLIENTS_SEARCHED + 1):
                if len(found) == PAGE_SIZE or looked == MOST_CLIENTS_SEARCHED:
                    break
                looked, last = looked + 1, document["_id"]
                if wanted in _known_text(document, api_id).casefold():
                    found.append(last)
            else:
                last = None
        page = await self._part({"deleted": False, "_id": {"$in": found}}, "living", PAGE_SIZE)
        records = page.records if api_id is None else _all_on(api_id, page.records)
        return Page(records, page.pages, last)

    async def count_of_api(self, api_id: str, most: int) -> int:
        """How many client apps are registered on the API; up to `most`."""
        query = {"api_id": api_id, "deleted": False}
        async with outage_is_unavailability():
            return await self._mongo.indexed(self.name).count_documents(query, limit=most, hint="living_of_api")

    async def of_api_until(self, api_id: str, until: datetime | None, after: str = "") -> Sequence[Client]:
        """Up to PAGE_SIZE clients of an API with ids after `after`, created up to `until` (None: at any time).

        Clients that were created later are skipped; an empty result means that there are no more.
        """
        while found := await self._list({"api_id": api_id, "_id": {"$gt": after}}, PAGE_SIZE, "living_of_api"):
            there = _all_on(api_id, found)
            if wanted := [client for client in there if until is None or client.created_at <= until]:
                return wanted
            after = found[-1].client_id
        return ()

    async def ids_with_policy(self, policy_id: str, limit: int) -> Sequence[str]:
        """Up to `limit` ids of clients that have the policy on any of their APIs, sorted."""
        first = await self.ids_with("policy_ids", policy_id, limit)
        other = await self.ids_with("others.policy_ids", policy_id, limit)
        return sorted({*first, *other})[:limit]

    async def register(self, client: Client, ctx: EventContext) -> Client:
        """Store a new client. Grants of a deleted client with the same id stay revoked. Raises Conflict."""
        return await self._add(client, ClientCreated, _data(client), ctx)

    async def register_also(self, client: Client, added: Client, ctx: EventContext) -> Client | None:
        """Register the client on the API of `added` as well, with the secrets it has; None if another writer was first.

        Grants of an earlier registration there stay revoked.
        """
        after = with_registration(client, added)
        if not await self._advance_to(after, after, ClientCreated, _data(after), ctx):
            return None
        return after.model_copy(update={"version": after.version + 1})

    async def note_response_sent(self, client: Client) -> None:
        """Note that the response to the registration was sent; it is not repeated. Raises TemporarilyUnavailable."""
        async with outage_is_unavailability():
            for query, field in (("registration", "registration"), ("others.registration", "others.$.registration")):
                found = {"_id": client.client_id, query: client.registration}
                if (await self._mongo[self.name].update_one(found, {"$set": {field: None}})).matched_count:
                    return

    def _recreated(self, record: Client, tombstone: Tombstone) -> Client:
        return super()._recreated(record, tombstone).model_copy(update={"revoked_before": tombstone.deleted_at})

    async def edit(self, client: Client, changes: dict[str, object], ctx: EventContext) -> Client | None:
        """Change the client; None if another writer was first."""
        return await self._change(client, changes, ClientUpdated, _data(client.model_copy(update=changes)), ctx)

    async def rotate(self, client: Client, secrets: tuple[ClientSecret, ...], ctx: EventContext) -> Client | None:
        """Replace the client's secrets; None if another writer was first."""
        return await self._change(client, {"secrets": secrets}, ClientSecretRotated, _data(client), ctx)

    async def reencrypt(self, keys: KeyRing, now: datetime) -> AsyncIterator[Reencryption]:
        """Encrypt with the current key every valid secret that can be decrypted, client by client. Idempotent."""

        def reencrypted_fields(document: Document) -> tuple[Document, str | None]:
            before, refusal = self._decode(document), None
            after = list(before.secrets)
            for place, secret in enumerate(before.secrets):
                try:
                    if client_secrets.is_current(secret, now):
                        after[place] = client_secrets.reencrypted(keys, before.client_id, secret)
                except CannotDecrypt as reason:
                    refusal = str(reason)
            unchanged = tuple(after) == before.secrets
            return {} if unchanged else {"secrets": [secret.model_dump() for secret in after]}, refusal

        async for outcome in self._reencrypt(reencrypted_fields):
            yield outcome

    async def revoke_all(self, client: Client, ctx: EventContext) -> Client | None:
        """Revoke all grants that the client has had so far on this API; None if another writer was first."""
        return await self._change(client, {"revoked_before": ctx.now}, ClientTokensRevoked, _data(client), ctx)

    async def delete(self, client: Client, reason: ClientDeletion, ctx: EventContext) -> bool:
        """Delete the client from the API from which it is seen, and revoke its grants there.

        Without another API, the client is gone. False if another writer was first.
        """
        data = DeletedClientData(client_id=client.client_id, api_id=client.api_id, reason=reason)
        remaining = without_registration(client, ctx.now)
        if remaining is None:
            return await self._remove(client, ClientDeleted, data, ctx)
        return await self._advance_to(remaining, client, ClientDeleted, data, ctx)

    async def _advance_to(
        self, after: Client, about: Client, event: type[Event], data: ClientData, ctx: EventContext
    ) -> bool:
        """Write the client with its next version and an event about one of its registrations; False as above."""
        before, version = after.version, {"version": after.version + 1}
        pending_event = self._event(event, data, about.model_copy(update=version), ctx)
        document = {**self._encode(after), **version, "last_event": pending_event.id}
        return await self._advance(after.client_id, before, document, pending_event)


def _encoded(registration: Registration) -> Document:
    document: dict[str, Any] = registration.model_dump()
    return {**document, "meta_data": orjson.dumps(registration.meta_data)}


def _all_on(api_id: str, clients: Sequence[Client]) -> Sequence[Client]:
    return [there for client in clients if (there := registered_on(client, api_id)) is not None]


def _known_text(document: Document, api_id: str | None) -> str:
    """What a search looks at, of all registrations or of the one on this API."""
    first = {**document, "api_id": document["api_id"][0]} if document.get("others") else document
    registrations = [each for each in (first, *document.get("others", ())) if api_id in {None, each["api_id"]}]
    texts = [document["_id"]]
    for each in registrations:
        meta_data = each["meta_data"].decode() if each["meta_data"] != b"{}" else ""
        texts += [each["name"], each["description"], *each["redirect_uris"], meta_data]
    return "\n".join(texts)
