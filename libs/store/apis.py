"""APIs: one listen path each; the definition and whatever in it may be a credential are encrypted with the key ring."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

import orjson
from pydantic import SecretStr
from pymongo import IndexModel

from contracts.apis import Api, DefinitionFormat, Notifications, SigningSecret
from contracts.events import ApiCreated, ApiData, ApiDeleted, ApiSigningSecretRotated, ApiUpdated
from contracts.pages import MOST_SEARCHED, PAGE_SIZE
from libs.encryption import KeyRing
from libs.event_encoding import EventContext
from libs.store.mongo import Document, Mongo, outage_is_unavailability
from libs.store.outbox_collection import Announce, announce_nothing
from libs.store.records import Page, Records, Reencryption

_LABEL = "api definition"
_BOX = "confidential"
"""The stored field that holds the _CONFIDENTIAL fields, encrypted together as JSON."""
_CONFIDENTIAL = ("upstream_url", "further_upstream_urls", "request_headers", "signing_secrets")
"""Fields that may carry credentials: for the upstream, in its URL or in headers, and for webhooks. Stored as None in
their own place."""


def _is_encrypted(value: str) -> bool:
    """Whether the value is encrypted; early versions stored the webhook URL in clear, and a URL has `://`."""
    return bool(value) and "://" not in value


class Apis(Records[Api]):
    """All registered APIs."""

    name = "apis"
    model = Api
    key = "api_id"
    secret: ClassVar[Mapping[str, object]] = {"definition": "", "oauth": None, _BOX: None}
    indexes = (
        *Records.indexes,
        IndexModel([("format", 1), ("deleted", 1), ("_id", 1)], name="living_of_format"),
        # Listen paths and ids are one namespace: an API is reached under both, and never under another's.
        IndexModel("places", name="places", unique=True, partialFilterExpression={"deleted": False}),
        IndexModel("listen_path", name="path"),
    )

    def __init__(self, mongo: Mongo, keys: KeyRing, announce: Announce = announce_nothing) -> None:
        super().__init__(mongo, announce)
        self._keys = keys

    def _encode(self, record: Api) -> Document:
        document = super()._encode(record)
        document["places"] = sorted({record.api_id, record.listen_path.strip("/")})
        document["definition"] = self._encrypted(record.definition, record.api_id)
        document["signing_secrets"] = [
            {**secret.model_dump(mode="json"), "secret": secret.secret.get_secret_value()}
            for secret in record.signing_secrets
        ]
        document |= self._encrypted_confidential(document, record.api_id)
        if record.oauth and record.oauth.notifications:
            # The URL is encrypted too: many receivers authenticate a caller by an unguessable URL alone.
            notifications = record.oauth.notifications
            document["oauth"]["notifications"] = {
                "on_key_change_url": self._encrypted(SecretStr(notifications.on_key_change_url), record.api_id),
                "shared_secret": self._encrypted(notifications.shared_secret, record.api_id),
                **({} if notifications.shared_secret_header else {"shared_secret_header": False}),
            }
        return document

    def _decode(self, document: Document) -> Api:
        api_id = document["_id"]
        decrypted = {"definition": self._decrypted(document["definition"], api_id)}
        if (box := document.get(_BOX)) is not None:
            decrypted |= orjson.loads(self._decrypted(box, api_id))
        # In its own place, a confidential field is None; what an earlier version did not have has its default.
        plain = {name: value for name, value in document.items() if value is not None or name not in _CONFIDENTIAL}
        api = super()._decode({**plain, **decrypted})
        if api.oauth is None or api.oauth.notifications is None:
            return api
        kept = api.oauth.notifications
        notifications = Notifications(
            on_key_change_url=self._plaintext(kept.on_key_change_url, api_id),
            shared_secret=SecretStr(self._decrypted(kept.shared_secret.get_secret_value(), api_id)),
            shared_secret_header=kept.shared_secret_header,
        )
        return api.model_copy(update={"oauth": api.oauth.model_copy(update={"notifications": notifications})})

    def _encrypted_confidential(self, document: Document, api_id: str) -> Document:
        """Fields for storage: what may carry credentials, encrypted together, and None in its own place."""
        present = [name for name in _CONFIDENTIAL if document.get(name) is not None]  # not all, in older ones
        values = orjson.dumps({name: document[name] for name in present})
        return {**dict.fromkeys(present), _BOX: self._keys.encrypt(_LABEL, values, api_id)}

    def _encrypted(self, value: SecretStr, api_id: str) -> str:
        return self._keys.encrypt(_LABEL, value.get_secret_value().encode(), api_id)

    def _decrypted(self, box: str, api_id: str) -> str:
        return self._keys.decrypt(_LABEL, box, api_id).decode()

    def _plaintext(self, value: str, api_id: str) -> str:
        return self._decrypted(value, api_id) if _is_encrypted(value) else value

    async def reencrypt(self) -> AsyncIterator[Reencryption]:
        """Encrypt with the current key every definition, and what of it may be a credential. Idempotent."""
        async for outcome in self._reencrypt(self._reencrypted_fields):
            yield outcome

    async def count_under_other_keys(self) -> int:
        """How many APIs have values that are not encrypted with the current key."""
        encrypted = {"$regex": f"^{self._keys.current}\\."}
        fields = ("definition", _BOX, "oauth.notifications.on_key_change_url", "oauth.notifications.shared_secret")
        others: list[Document] = [{name: {"$not": encrypted, "$type": "string"}} for name in fields]
        others.append({_BOX: None})
        async with outage_is_unavailability():
            return await self._mongo[self.name].count_documents({"deleted": False, "$or": others})

    def _reencrypted_fields(self, document: Document) -> tuple[Document, str | None]:
        """The values that are not encrypted with the current key, encrypted with it. Raises CannotDecrypt."""
        api_id, box = document["_id"], document.get(_BOX)
        values = {"definition": document["definition"]} | ({_BOX: box} if box is not None else {})
        notifications = (document["oauth"] or {}).get("notifications") or {}
        values |= {
            f"oauth.notifications.{name}": value for name, value in notifications.items() if isinstance(value, str)
        }
        old = {
            name: value for name, value in values.items() if not (_is_encrypted(value) and self._keys.is_current(value))
        }
        new = {name: self._encrypted(SecretStr(self._plaintext(value, api_id)), api_id) for name, value in old.items()}
        return new | ({} if box is not None else self._encrypted_confidential(document, api_id)), None

    async def at(self, api_ref: str) -> Api | None:
        """The API with this listen path (without outer slashes) or this id."""
        found = await self._list({"places": api_ref}, limit=1)
        return found[0] if found else None

    async def under(self, segment: str) -> Sequence[Api]:
        """The APIs with this id or a listen path that begins with this segment, or is `/`; the longest first."""
        begins = {"listen_path": {"$regex": f"^/{re.escape(segment)}/"}}
        found = await self._list({"$or": [begins, {"_id": segment}, {"listen_path": "/"}]})
        return sorted(found, key=lambda api: -len(api.listen_path))

    async def page_of_format(self, form: DefinitionFormat, number: int | None, after: str | None = None) -> Page[Api]:
        """`page` of the APIs that were imported in this format."""
        return await self._page({"format": form}, "living_of_format", number, after)

    async def search(self, text: str, after: str | None = None) -> Page[Api]:
        """The APIs after the id `after` whose id, name or listen path contains the text, in any letter case.

        Looks among MOST_SEARCHED APIs at most: a page may have fewer than PAGE_SIZE, and still a `next`.
        """
        last = await self._last_of(MOST_SEARCHED, after)
        contains = {"$regex": re.escape(text), "$options": "i"}
        among = {"$gt": after or ""} | ({} if last is None else {"$lte": last})
        places = [{name: contains} for name in ("_id", "name", "listen_path")]
        found = await self._part({"deleted": False, "_id": among, "$or": places}, "living", PAGE_SIZE)
        return found if found.next or last is None else replace(found, next=last)

    async def _last_of(self, number: int, after: str | None) -> str | None:
        """The id of the last of this many records after `after`; None if there are not that many."""
        async with outage_is_unavailability():
            query = {"deleted": False, "_id": {"$gt": after or ""}}
            cursor = self._mongo.indexed(self.name).find(query, {"_id": 1}, hint="living").sort("_id", 1)
            found = await cursor.skip(number - 1).limit(1).to_list(None)
        return str(found[0]["_id"]) if found else None

    async def register(self, api: Api, ctx: EventContext) -> Api:
        """Store a new API. Raises Conflict if its id or listen path is the id or listen path of another API."""
        return await self._add(api, ApiCreated, ApiData(api_id=api.api_id, listen_path=api.listen_path), ctx)

    async def replace(self, before: Api, after: Api, ctx: EventContext) -> Api | None:
        """Replace the definition; None if another writer was first. Raises Conflict for a taken listen path."""
        data = ApiData(api_id=before.api_id, listen_path=after.listen_path)
        kept = {"api_id", "version", "created_at", "updated_at"}
        changes = {name: getattr(after, name) for name in Api.model_fields if name not in kept}
        return await self._change(before, changes, ApiUpdated, data, ctx)

    async def rotate_signing_secret(
        self, before: Api, secrets: tuple[SigningSecret, ...], ctx: EventContext
    ) -> Api | None:
        """Replace what signs the API's webhooks; None if another writer was first."""
        data = ApiData(api_id=before.api_id, listen_path=before.listen_path)
        return await self._change(before, {"signing_secrets": secrets}, ApiSigningSecretRotated, data, ctx)

    async def delete(self, api: Api, ctx: EventContext) -> bool:
        """Delete the API; its clients are deleted in reaction to the event. False if another writer was first."""
        return await self._remove(api, ApiDeleted, ApiData(api_id=api.api_id, listen_path=api.listen_path), ctx)
