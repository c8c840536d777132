"""Client apps. Deleting one, or `revoke_all`, is one write here that takes effect everywhere at once."""

from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import datetime
from typing import ClassVar

from pymongo import IndexModel

from contracts.clients import Client, ClientDeletion, ClientSecret
from contracts.events import (
    ClientCreated,
    ClientData,
    ClientDeleted,
    ClientSecretRotated,
    ClientTokensRevoked,
    ClientUpdated,
    DeletedClientData,
)
from contracts.pages import PAGE_SIZE
from libs import client_secrets
from libs.encryption import CannotDecrypt, KeyRing
from libs.event_encoding import EventContext
from libs.store.mongo import Document, outage_is_unavailability
from libs.store.records import Page, Records, Reencryption, Tombstone


def _data(client: Client) -> ClientData:
    return ClientData(client_id=client.client_id, api_id=client.api_id)


class Clients(Records[Client]):
    """All registered client apps; client ids are unique over all APIs."""

    name = "clients"
    model = Client
    key = "client_id"
    as_json = frozenset({"meta_data"})
    secret: ClassVar[Mapping[str, object]] = {"secrets": []}
    indexes = (*Records.indexes, IndexModel([("api_id", 1), ("deleted", 1), ("_id", 1)], name="living_of_api"))
    retired = ("api",)

    def _word(self, record: Client) -> str:
        return record.api_id

    async def get(self, key: str) -> Client | None:
        """The client; None if there is none, or it was deleted. Takes the same time in each case."""
        return await self._get_constant_time(key)

    async def page_of_api(self, api_id: str, number: int | None, after: str | None = None) -> Page[Client]:
        """`page` of the clients of an API."""
        return await self._page({"api_id": api_id}, "living_of_api", number, after)

    async def of_api_until(self, api_id: str, until: datetime | None, after: str = "") -> Sequence[Client]:
        """Up to PAGE_SIZE clients of an API with ids after `after`, created up to `until` (None: at any time).

        Clients that were created later are skipped; an empty result means that there are no more.
        """
        while found := await self._list({"api_id": api_id, "_id": {"$gt": after}}, PAGE_SIZE, "living_of_api"):
            if wanted := [client for client in found if until is None or client.created_at <= until]:
                return wanted
            after = found[-1].client_id
        return ()

    async def register(self, client: Client, ctx: EventContext) -> Client:
        """Store a new client. Grants of a deleted client with the same id stay revoked. Raises Conflict."""
        return await self._add(client, ClientCreated, _data(client), ctx)

    async def note_response_sent(self, client: Client) -> None:
        """Note that the response to the registration was sent; it is not repeated. Raises TemporarilyUnavailable."""
        query = {"_id": client.client_id, "registration": client.registration}
        async with outage_is_unavailability():
            await self._mongo[self.name].update_one(query, {"$set": {"registration": None}})

    def _recreated(self, record: Client, tombstone: Tombstone) -> Client:
        return super()._recreated(record, tombstone).model_copy(update={"revoked_before": tombstone.deleted_at})

    async def edit(self, client: Client, changes: dict[str, object], ctx: EventContext) -> Client | None:
        """Change the client; None if another writer was first."""
        return await self._change(client, changes, ClientUpdated, _data(client), ctx)

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
        """Revoke all grants of the client up to now; None if another writer was first."""
        return await self._change(client, {"revoked_before": ctx.now}, ClientTokensRevoked, _data(client), ctx)

    async def delete(self, client: Client, reason: ClientDeletion, ctx: EventContext) -> bool:
        """Delete the client and revoke all its grants; False if another writer was first."""
        data = DeletedClientData(client_id=client.client_id, api_id=client.api_id, reason=reason)
        return await self._remove(client, ClientDeleted, data, ctx)
