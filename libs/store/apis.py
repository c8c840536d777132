"""APIs: one listen path each, the definition and its shared secret encrypted under the key ring."""

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import ClassVar

from pydantic import SecretStr
from pymongo import IndexModel

from contracts.apis import Api, DefinitionFormat, Notifications
from contracts.events import ApiCreated, ApiData, ApiDeleted, ApiUpdated
from libs.events import Origin
from libs.sealing import KeyRing
from libs.store.ledger import Announce, nobody
from libs.store.mongo import Document, Mongo, outage_is_unavailability
from libs.store.records import Page, Records, Resealing

_LABEL = "api definition"


def _is_box(value: str) -> bool:
    """Whether the value is sealed; the first release kept the URL of notifications as it was."""
    return bool(value) and "://" not in value


class Apis(Records[Api]):
    """Every registered API."""

    name = "apis"
    model = Api
    key = "api_id"
    secret: ClassVar[Mapping[str, object]] = {"definition": "", "oauth": None}
    indexes = (
        # Listen paths and ids are one namespace: an API answers under both, and never under another's.
        IndexModel("places", name="places", unique=True, partialFilterExpression={"deleted": False}),
        IndexModel("listen_path", name="path"),
    )

    def __init__(self, mongo: Mongo, keys: KeyRing, announce: Announce = nobody) -> None:
        super().__init__(mongo, announce)
        self._keys = keys

    def _encode(self, record: Api) -> Document:
        document = super()._encode(record)
        document["places"] = sorted({record.api_id, record.listen_path.strip("/")})
        document["definition"] = self._sealed(record.definition, record.api_id)
        if record.oauth and record.oauth.notifications:
            # The URL, too: many a receiver is told apart from others by what it alone knows of it.
            notifications = record.oauth.notifications
            document["oauth"]["notifications"] = {
                "on_key_change_url": self._sealed(SecretStr(notifications.on_key_change_url), record.api_id),
                "shared_secret": self._sealed(notifications.shared_secret, record.api_id),
            }
        return document

    def _decode(self, document: Document) -> Api:
        api_id = document["_id"]
        api = super()._decode({**document, "definition": self._opened(document["definition"], api_id)})
        if api.oauth is None or api.oauth.notifications is None:
            return api
        kept = api.oauth.notifications
        notifications = Notifications(
            on_key_change_url=self._plain(kept.on_key_change_url, api_id),
            shared_secret=SecretStr(self._opened(kept.shared_secret.get_secret_value(), api_id)),
        )
        return api.model_copy(update={"oauth": api.oauth.model_copy(update={"notifications": notifications})})

    def _sealed(self, value: SecretStr, api_id: str) -> str:
        return self._keys.encrypt(_LABEL, value.get_secret_value().encode(), api_id)

    def _opened(self, box: str, api_id: str) -> str:
        return self._keys.decrypt(_LABEL, box, api_id).decode()

    def _plain(self, value: str, api_id: str) -> str:
        return self._opened(value, api_id) if _is_box(value) else value

    async def reseal(self) -> AsyncIterator[Resealing]:
        """Every definition and notification address under the current key, API by API; twice does no more."""
        async for outcome in self._resealed(self._renewed):
            yield outcome

    async def count_sealed_by_others(self) -> int:
        """How many APIs have values that the current key has not sealed."""
        sealed = {"$regex": f"^{self._keys.current}\\."}
        fields = ("definition", "oauth.notifications.on_key_change_url", "oauth.notifications.shared_secret")
        others = [{name: {"$not": sealed, "$type": "string"}} for name in fields]
        async with outage_is_unavailability():
            return await self._mongo[self.name].count_documents({"deleted": False, "$or": others})

    def _renewed(self, document: Document) -> tuple[Document, str | None]:
        """The values of this API that the current key has not sealed, sealed by it. Raises CannotOpen."""
        api_id, values = document["_id"], {"definition": document["definition"]}
        notifications = (document["oauth"] or {}).get("notifications") or {}
        values |= {f"oauth.notifications.{name}": value for name, value in notifications.items()}
        old = {name: value for name, value in values.items() if not (_is_box(value) and self._keys.is_current(value))}
        return {name: self._sealed(SecretStr(self._plain(value, api_id)), api_id) for name, value in old.items()}, None

    async def at(self, place: str) -> Api | None:
        """The API that answers on this path (without outer slashes): its listen path, or its id."""
        found = await self._list({"places": place}, limit=1)
        return found[0] if found else None

    async def under(self, segment: str) -> Sequence[Api] | None:
        """The APIs whose listen path begins with this segment, the longest first, and that of this id; None: no API."""
        begins = {"listen_path": {"$regex": f"^/{re.escape(segment)}/"}}
        found = await self._list({"$or": [begins, {"_id": segment}]})
        return sorted(found, key=lambda api: -len(api.listen_path)) or None

    async def page_of_format(self, form: DefinitionFormat, number: int | None) -> Page[Api]:
        """One page of the APIs imported in this language, counted from 1; None: all of them as one."""
        return await self._page({"format": form}, number)

    async def register(self, api: Api, at: Origin) -> Api:
        """The API stored. Raises Conflict where its id or listen path is another's id or listen path."""
        return await self._add(api, ApiCreated, ApiData(api_id=api.api_id, listen_path=api.listen_path), at)

    async def replace(self, before: Api, after: Api, at: Origin) -> Api | None:
        """The definition replaced; None if it changed in between. Raises Conflict for a taken listen path."""
        data = ApiData(api_id=before.api_id, listen_path=after.listen_path)
        kept = {"api_id", "version", "created_at", "updated_at"}
        changes = {name: getattr(after, name) for name in Api.model_fields if name not in kept}
        return await self._change(before, changes, ApiUpdated, data, at)

    async def delete(self, api: Api, at: Origin) -> bool:
        """The API gone, its clients to follow by reaction; whether it was still as given."""
        return await self._remove(api, ApiDeleted, ApiData(api_id=api.api_id, listen_path=api.listen_path), at)
