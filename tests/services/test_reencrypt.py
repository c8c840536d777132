"""`python -m services reencrypt`: what older keys have encrypted is encrypted with the current one."""

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from contracts.apis import Api
from contracts.clients import Client
from libs import client_secrets
from libs.bus.local import LocalBus
from libs.encryption import CannotDecrypt
from libs.runtime import Deps, new_deps
from libs.settings import Settings
from tests.acceptance.programs import Outcome, run_python
from tests.acceptance.tenants import SCHEME
from tests.builders import api_document, make_api, make_client, settings

OLD, NEW, THIRD = (f"{number}:{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2, 3))
ROTATED = f"{NEW},{OLD}"
NOTIFICATIONS = {"onKeyChangeUrl": "https://hooks.example.test/T1/known-to-few", "sharedSecret": "a-secret-of-it"}


@dataclass(frozen=True)
class Place:
    """One database, used by processes with different key rings."""

    mongodb_url: str
    database_name: str

    async def reencrypt(self, ring: str = ROTATED, **more: str) -> Outcome:
        """Run the command with this key ring."""
        environment = {
            "TOKENWIRE_MONGODB_URL": self.mongodb_url,
            "TOKENWIRE_MONGODB_DATABASE": self.database_name,
            "TOKENWIRE_KEYS": ring,
        }
        return await run_python("services", "reencrypt", settings=environment | more)

    @asynccontextmanager
    async def process(self, ring: str) -> AsyncIterator[Deps]:
        """A process with this key ring."""
        configured = settings(Settings, self.mongodb_url, self.database_name, keys=ring)
        deps = new_deps(configured, "tests", bus=LocalBus())
        await deps.store.mongo.open()
        await deps.store.mongo.prepared()
        yield deps
        await deps.store.mongo.close()

    async def documents(self) -> dict[str, list[dict[str, Any]]]:
        """All APIs and clients as they are stored."""
        async with self.process(NEW) as deps:
            return {
                name: await deps.store.mongo[name].find().sort("_id", 1).to_list(None) for name in ("apis", "clients")
            }


@pytest.fixture(name="place")
def _place(mongodb_url: str, database_name: str) -> Place:
    return Place(mongodb_url, database_name)


UPSTREAM = "https://upstream.example.test/?key=known-to-fewer"
HEADERS = {"enabled": True, "add": [{"name": "X-Key", "value": "known-to-the-upstream"}]}


async def provided(place: Place) -> tuple[Api, Client, str]:
    """An API with notifications and a client, encrypted with the old key, and the client's secret."""
    async with place.process(OLD) as deps:
        more = {
            f"{SCHEME}__notifications": NOTIFICATIONS,
            "x-tyk-api-gateway__upstream__url": UPSTREAM,
            "x-tyk-api-gateway__middleware__global__transformRequestHeaders": HEADERS,
        }
        api = await make_api(deps, api_document(**more))
        client, secret = await make_client(deps, api)
    return api, client, secret


async def test_the_old_key_may_go(place: Place) -> None:
    """Processes without the old key read the same definition, shared secret, URL and client secret."""
    api, client, secret = await provided(place)
    done = await place.reencrypt()
    lines = done.out.splitlines()
    assert (done.status, done.complaints) == (0, "")
    assert lines[:2] == ["1 API reencrypted with key 2", "1 client reencrypted with key 2"]
    assert lines[2].startswith("everything stored is encrypted with key 2; tokens of older keys end within 14 days")
    async with place.process(NEW) as deps:
        assert await deps.store.apis.get(api.api_id) == api
        assert api.oauth is not None
        assert api.oauth.notifications is not None
        assert api.oauth.notifications.on_key_change_url == NOTIFICATIONS["onKeyChangeUrl"]
        found = await deps.store.clients.get(client.client_id)
        assert found is not None
        assert client_secrets.is_valid(deps.keys, found, secret, deps.now())
        assert client_secrets.shown(deps.keys, found) == secret
        assert found.version == client.version


async def test_without_reencryption_they_are_lost_with_the_key(place: Place) -> None:
    """What the command is for: without the old key, nothing that it has encrypted can be read."""
    api, client, secret = await provided(place)
    async with place.process(NEW) as deps:
        with pytest.raises(CannotDecrypt):
            await deps.store.apis.get(api.api_id)
        found = await deps.store.clients.get(client.client_id)
        assert found is not None
        assert not client_secrets.is_valid(deps.keys, found, secret, deps.now())


async def test_twice_does_no_more_than_once(place: Place) -> None:
    """Nothing is written if there is nothing to do."""
    await provided(place)
    await place.reencrypt()
    before = await place.documents()
    done = await place.reencrypt()
    assert done.status == 0
    assert done.out.startswith("0 APIs reencrypted with key 2\n0 clients reencrypted with key 2\neverything stored")
    assert await place.documents() == before


async def test_one_that_is_cut_short_is_simply_given_again(place: Place) -> None:
    """Interrupted halfway, every record can be read with both keys, and a second run does the rest."""
    pairs = [await provided(place) for _ in range(4)]
    async with place.process(ROTATED) as deps:
        done = deps.store.apis.reencrypt()
        for _ in range(2):
            await anext(done)
        for api, client, secret in pairs:
            assert await deps.store.apis.get(api.api_id) == api
            found = await deps.store.clients.get(client.client_id)
            assert client_secrets.is_valid(deps.keys, found, secret, deps.now())
    done_again = await place.reencrypt()
    assert done_again.out.startswith("2 APIs reencrypted with key 2\n4 clients reencrypted with key 2\n")


async def test_several_at_once_and_an_edit_between_them(place: Place) -> None:
    """Two commands and an operator's change at the same time: the change stays, and nothing keeps the old key."""
    pairs = [await provided(place) for _ in range(20)]
    async with place.process(ROTATED) as deps:

        async def edit(client: Client) -> Client | None:
            return await deps.store.clients.edit(
                client, {"description": "edited meanwhile"}, deps.event_context("tests")
            )

        edited, first, second = await asyncio.gather(
            asyncio.gather(*(edit(client) for _, client, _ in pairs)), place.reencrypt(), place.reencrypt()
        )
        assert (first.status, second.status) == (0, 0)
        assert all(edited)
    async with place.process(NEW) as deps:
        for _, client, secret in pairs:
            found = await deps.store.clients.get(client.client_id)
            assert found is not None
            assert found.description == "edited meanwhile"
            assert client_secrets.is_valid(deps.keys, found, secret, deps.now())


async def test_a_secret_that_was_shown_once_is_named(place: Place) -> None:
    """Only the client knows it, so it stays with the old key, and the command names the client to rotate."""
    async with place.process(OLD) as deps:
        api, ctx = await make_api(deps), deps.event_context("tests")
        secret = secrets.token_urlsafe(32)
        kept = client_secrets.protect(deps.keys, "app", secret, ctx.now, retrievable=False)
        client, _ = await make_client(deps, api, secrets=(kept,))
        past = ctx.now - timedelta(seconds=1)
        replaced = client_secrets.protect(deps.keys, "app", "replaced", ctx.now, retrievable=False)
        over, _ = await make_client(deps, api, secrets=(replaced.model_copy(update={"expires_at": past}),))
    done = await place.reencrypt()
    assert done.status == 1
    assert done.out.splitlines()[2:] == [
        f"client {client.client_id} left: the secret was shown once; rotate its secret "
        "(PUT /api/apis/oauth/{api_id}/{client_id}/rotate) before the old key goes"
    ]
    assert over.client_id not in done.out
    async with place.process(ROTATED) as deps:
        found = await deps.store.clients.get(client.client_id)
        assert client_secrets.is_valid(deps.keys, found, secret, deps.now())


async def test_undecryptable_records_are_named_and_left(place: Place) -> None:
    """A key that was removed too early: the record does not change, so the key can be put back."""
    api, client, _ = await provided(place)
    before = await place.documents()
    done = await place.reencrypt(f"{THIRD},{NEW}")
    assert done.status == 1
    assert f"API {api.api_id} left: key 1 is not in the ring" in done.out
    assert f"client {client.client_id} left: key 1 is not in the ring" in done.out
    assert await place.documents() == before


async def test_an_address_that_was_stored_as_it_was(place: Place) -> None:
    """A URL that an early version stored in clear is read, and encrypted."""
    api, _, _ = await provided(place)
    async with place.process(OLD) as deps:
        plain = {"$set": {"oauth.notifications.on_key_change_url": NOTIFICATIONS["onKeyChangeUrl"]}}
        await deps.store.mongo["apis"].update_one({"_id": api.api_id}, plain)
        assert await deps.store.apis.get(api.api_id) == api
    assert (await place.reencrypt(OLD)).out.startswith("1 API reencrypted with key 1\n0 clients reencrypted")
    assert "known-to-few" not in str(await place.documents())


async def test_a10_credentials_of_the_upstream_that_were_stored_as_they_were(place: Place) -> None:
    """Fields that an earlier version stored in clear are read and encrypted, and then follow the next rotation."""
    api, _, _ = await provided(place)
    async with place.process(OLD) as deps:
        plain = {
            "upstream_url": UPSTREAM,
            "request_headers": [{"name": "X-Key", "value": "known-to-the-upstream"}],
        }
        update = {"$set": plain, "$unset": {"confidential": ""}}
        await deps.store.mongo["apis"].update_one({"_id": api.api_id}, update)
        assert await deps.store.apis.get(api.api_id) == api
        assert await deps.store.apis.count_under_other_keys() == 1
    assert (await place.reencrypt(OLD)).out.startswith("1 API reencrypted with key 1\n")
    assert "known-to" not in str(await place.documents())
    assert (await place.reencrypt()).out.startswith("1 API reencrypted with key 2\n")
    async with place.process(NEW) as deps:
        found = await deps.store.apis.get(api.api_id)
        assert found == api
        assert found is not None
        assert (found.upstream_url, found.request_headers[0].value) == (UPSTREAM, "known-to-the-upstream")
        assert await deps.store.apis.count_under_other_keys() == 0


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        pytest.param("TOKENWIRE_KEYS", "", "python -m services: TOKENWIRE_KEYS: ", id="no-keys"),
        pytest.param(
            "TOKENWIRE_MONGODB_URL",
            "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100",
            "python -m services reencrypt: MongoDB: ",
            id="no-mongodb",
        ),
    ],
)
async def test_missing_settings_are_reported_in_one_line(
    place: Place, setting: str, value: str, complaint: str
) -> None:
    """With another status than for records that could not be re-encrypted."""
    done = await place.reencrypt(**{setting: value})
    assert (done.status, done.out) == (2, "")
    assert done.complaint.startswith(complaint)
