"""`python -m services reseal`: what older keys have sealed in MongoDB, under the current one."""

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
from libs.runtime import Deps, new_deps
from libs.sealing import CannotOpen
from libs.settings import Settings
from tests.acceptance.programs import Outcome, run_python
from tests.acceptance.tenants import SCHEME
from tests.builders import api_document, make_api, make_client, settings

OLD, NEW, THIRD = (f"{number}:{base64.b64encode(bytes([number]) * 32).decode()}" for number in (1, 2, 3))
ROTATED = f"{NEW},{OLD}"
NOTIFICATIONS = {"onKeyChangeUrl": "https://hooks.example.test/T1/known-to-few", "sharedSecret": "a-secret-of-it"}


@dataclass(frozen=True)
class Place:
    """One database, as processes with different rings see it."""

    mongodb_url: str
    database_name: str

    async def reseal(self, ring: str = ROTATED, **more: str) -> Outcome:
        """The command with this ring has ended."""
        environment = {
            "TOKENWIRE_MONGODB_URL": self.mongodb_url,
            "TOKENWIRE_MONGODB_DATABASE": self.database_name,
            "TOKENWIRE_KEYS": ring,
        }
        return await run_python("services", "reseal", settings=environment | more)

    @asynccontextmanager
    async def process(self, ring: str) -> AsyncIterator[Deps]:
        """A process with this ring."""
        configured = settings(Settings, self.mongodb_url, self.database_name, keys=ring)
        deps = new_deps(configured, "tests", bus=LocalBus())
        await deps.store.mongo.open()
        await deps.store.mongo.prepared()
        yield deps
        await deps.store.mongo.close()

    async def documents(self) -> dict[str, list[dict[str, Any]]]:
        """Every API and client as it is stored."""
        async with self.process(NEW) as deps:
            return {
                name: await deps.store.mongo[name].find().sort("_id", 1).to_list(None) for name in ("apis", "clients")
            }


@pytest.fixture(name="place")
def _place(mongodb_url: str, database_name: str) -> Place:
    return Place(mongodb_url, database_name)


async def provided(place: Place) -> tuple[Api, Client, str]:
    """An API with notifications and a client, stored under the old key, and the client's secret."""
    async with place.process(OLD) as deps:
        api = await make_api(deps, api_document(**{f"{SCHEME}__notifications": NOTIFICATIONS}))
        client, secret = await make_client(deps, api)
    return api, client, secret


async def test_the_old_key_may_go(place: Place) -> None:
    """Definition, shared secret, address and client secret are as before, for processes without the old key."""
    api, client, secret = await provided(place)
    done = await place.reseal()
    lines = done.out.splitlines()
    assert (done.status, done.complaints) == (0, "")
    assert lines[:2] == ["1 API resealed under key 2", "1 client resealed under key 2"]
    assert lines[2].startswith("everything stored is under key 2; tokens of older keys end within 14 days")
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


async def test_without_it_they_are_lost_with_the_key(place: Place) -> None:
    """What the command is for: without the old key nothing that it sealed can be read."""
    api, client, secret = await provided(place)
    async with place.process(NEW) as deps:
        with pytest.raises(CannotOpen):
            await deps.store.apis.get(api.api_id)
        found = await deps.store.clients.get(client.client_id)
        assert found is not None
        assert not client_secrets.is_valid(deps.keys, found, secret, deps.now())


async def test_twice_does_no_more_than_once(place: Place) -> None:
    """Nothing is written where there is nothing to do."""
    await provided(place)
    await place.reseal()
    before = await place.documents()
    done = await place.reseal()
    assert done.status == 0
    assert done.out.startswith("0 APIs resealed under key 2\n0 clients resealed under key 2\neverything stored")
    assert await place.documents() == before


async def test_one_that_is_cut_short_is_simply_given_again(place: Place) -> None:
    """Each record is whole at every moment: half of them done, both keys still open all, and the rest follows."""
    pairs = [await provided(place) for _ in range(4)]
    async with place.process(ROTATED) as deps:
        done = deps.store.apis.reseal()
        for _ in range(2):
            await anext(done)
        for api, client, secret in pairs:
            assert await deps.store.apis.get(api.api_id) == api
            found = await deps.store.clients.get(client.client_id)
            assert client_secrets.is_valid(deps.keys, found, secret, deps.now())
    done_again = await place.reseal()
    assert done_again.out.startswith("2 APIs resealed under key 2\n4 clients resealed under key 2\n")


async def test_several_at_once_and_an_edit_between_them(place: Place) -> None:
    """Two commands and an operator at the same time: the operator's change stays, and nothing is under the old key."""
    pairs = [await provided(place) for _ in range(20)]
    async with place.process(ROTATED) as deps:

        async def edit(client: Client) -> Client | None:
            return await deps.store.clients.edit(client, {"description": "edited meanwhile"}, deps.origin("tests"))

        *edited, first, second = await asyncio.gather(
            *(edit(client) for _, client, _ in pairs), place.reseal(), place.reseal()
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
    """Only its holder knows it: it goes on under the old key, and whoever retires that hears which to rotate first."""
    async with place.process(OLD) as deps:
        api, at = await make_api(deps), deps.origin("tests")
        secret = secrets.token_urlsafe(32)
        kept = client_secrets.digested(deps.keys, "app", secret, at.now, sealed=False)
        client, _ = await make_client(deps, api, secrets=(kept,))
        past = at.now - timedelta(seconds=1)
        replaced = client_secrets.digested(deps.keys, "app", "replaced", at.now, sealed=False)
        over, _ = await make_client(deps, api, secrets=(replaced.model_copy(update={"expires_at": past}),))
    done = await place.reseal()
    assert done.status == 1
    assert done.out.splitlines()[2:] == [
        f"client {client.client_id} left: the secret was shown once; rotate its secret "
        "(PUT /api/apis/oauth/{api_id}/{client_id}/rotate) before the old key goes"
    ]
    assert over.client_id not in done.out
    async with place.process(ROTATED) as deps:
        found = await deps.store.clients.get(client.client_id)
        assert client_secrets.is_valid(deps.keys, found, secret, deps.now())


async def test_what_no_key_opens_is_named_and_left(place: Place) -> None:
    """A key that went too early: the record is as it was, so that the key may come back."""
    api, client, _ = await provided(place)
    before = await place.documents()
    done = await place.reseal(f"{THIRD},{NEW}")
    assert done.status == 1
    assert f"API {api.api_id} left: key 1 is not in the ring" in done.out
    assert f"client {client.client_id} left: key 1 is not in the ring" in done.out
    assert await place.documents() == before


async def test_an_address_that_was_stored_as_it_was(place: Place) -> None:
    """What the first release left in clear is read, and sealed by the way."""
    api, _, _ = await provided(place)
    async with place.process(OLD) as deps:
        plain = {"$set": {"oauth.notifications.on_key_change_url": NOTIFICATIONS["onKeyChangeUrl"]}}
        await deps.store.mongo["apis"].update_one({"_id": api.api_id}, plain)
        assert await deps.store.apis.get(api.api_id) == api
    assert (await place.reseal(OLD)).out.startswith("1 API resealed under key 1\n0 clients resealed")
    assert "known-to-few" not in str(await place.documents())


@pytest.mark.parametrize(
    ("setting", "value", "complaint"),
    [
        pytest.param("TOKENWIRE_KEYS", "", "python -m services: TOKENWIRE_KEYS: ", id="no-keys"),
        pytest.param(
            "TOKENWIRE_MONGODB_URL",
            "mongodb://127.0.0.1:9/?serverSelectionTimeoutMS=100",
            "python -m services reseal: MongoDB: ",
            id="no-mongodb",
        ),
    ],
)
async def test_what_is_missing_is_said_in_one_line(place: Place, setting: str, value: str, complaint: str) -> None:
    """With another status than for what was left."""
    done = await place.reseal(**{setting: value})
    assert (done.status, done.out) == (2, "")
    assert done.complaint.startswith(complaint)
