"""Client apps. Deleting one, or `revoke_all`, is one write here that takes effect at once everywhere."""

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
from libs import client_secrets
from libs.events import Origin
from libs.sealing import CannotOpen, KeyRing
from libs.store.mongo import Document
from libs.store.records import PAGE_SIZE, Page, Records, Resealing, Tombstone


def _data(client: Client) -> ClientData:
    return ClientData(client_id=client.client_id, api_id=client.api_id)


class Clients(Records[Client]):
    """Every registered client app; client ids are unique over all APIs."""

    name = "clients"
    model = Client
    key = "client_id"
    as_json = frozenset({"meta_data"})
    secret: ClassVar[Mapping[str, object]] = {"secrets": []}
    indexes = (IndexModel([("api_id", 1), ("_id", 1)], name="api"),)

    def _word(self, record: Client) -> str:
        return record.api_id

    async def get(self, key: str) -> Client | None:
        """The client; None if there is none, or it was deleted. The time does not tell."""
        return await self._get_alike(key)

    async def page_of_api(self, api_id: str, number: int | None) -> Page[Client]:
        """One page of the clients of an API by id, counted from 1; None: all of them as one."""
        return await self._page({"api_id": api_id}, number)

    async def of_api_until(self, api_id: str, until: datetime | None) -> Sequence[Client]:
        """Up to PAGE_SIZE clients of an API, created up to a moment; None: whenever."""
        query = {"api_id": api_id} | ({"created_at": {"$lte": until}} if until else {})
        return await self._list(query, limit=PAGE_SIZE)

    async def register(self, client: Client, at: Origin) -> Client:
        """The client stored; grants of a deleted client of the same id stay dead. Raises Conflict."""
        return await self._add(client, ClientCreated, _data(client), at)

    def _made_again(self, record: Client, tombstone: Tombstone) -> Client:
        return super()._made_again(record, tombstone).model_copy(update={"revoked_before": tombstone.deleted_at})

    async def edit(self, client: Client, changes: dict[str, object], at: Origin) -> Client | None:
        """The client with the changes; None if it changed in between."""
        return await self._change(client, changes, ClientUpdated, _data(client), at)

    async def rotate(self, client: Client, secrets: tuple[ClientSecret, ...], at: Origin) -> Client | None:
        """The client with these secrets; None if it changed in between."""
        return await self._change(client, {"secrets": secrets}, ClientSecretRotated, _data(client), at)

    async def reseal(self, keys: KeyRing, now: datetime) -> AsyncIterator[Resealing]:
        """Every secret that counts and can be opened under the current key, client by client; twice does no more."""

        def renewed(document: Document) -> tuple[Document, str | None]:
            before, refusal = self._decode(document), None
            after = list(before.secrets)
            for place, secret in enumerate(before.secrets):
                try:
                    if client_secrets.is_current(secret, now):
                        after[place] = client_secrets.resealed(keys, before.client_id, secret)
                except CannotOpen as reason:
                    refusal = str(reason)
            unchanged = tuple(after) == before.secrets
            return {} if unchanged else {"secrets": [secret.model_dump() for secret in after]}, refusal

        async for outcome in self._resealed(renewed):
            yield outcome

    async def revoke_all(self, client: Client, at: Origin) -> Client | None:
        """Every grant up to now dead; None if the client changed in between."""
        return await self._change(client, {"revoked_before": at.now}, ClientTokensRevoked, _data(client), at)

    async def delete(self, client: Client, reason: ClientDeletion, at: Origin) -> bool:
        """The client gone and every grant of it dead; whether it was still as given."""
        data = DeletedClientData(client_id=client.client_id, api_id=client.api_id, reason=reason)
        return await self._remove(client, ClientDeleted, data, at)
