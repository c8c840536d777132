"""The signing secret of an API: made at import, read and rotated by operators, and what receivers verify with it."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from contracts.operators import Permission
from libs.bus.local import LocalBroker, LocalBus
from tests.builders import Response, api_document, make_api, make_operator, settle
from tests.notifications import Notifier, Receiver, database_of_its_own, notifier
from tests.notifications import Webhook as Received
from tests.services.system import SCHEME, System, document, open_system

SHARED = "a-shared-secret-of-the-tests"


@dataclass(frozen=True)
class World:
    """Management and notifier on one database, and a receiver."""

    system: System
    sender: Notifier
    received: Receiver

    async def imported(self, **own: Any) -> str:
        """Import an API whose webhooks go to the receiver; return its id."""
        response = await self.system.operator("POST", "/api/apis/oas", json=self.definition(**own))
        assert response.status == 200, response.body
        return str(response.body["ID"])

    def definition(self, **own: Any) -> dict[str, Any]:
        webhook = {"onKeyChangeUrl": self.received.url(), "sharedSecret": SHARED}
        return document(**{f"{SCHEME}notifications": webhook}, **own)

    async def secret(self, api_id: str) -> str:
        response = await self.system.operator("GET", f"/api/apis/{api_id}/signing-secret")
        assert response.status == 200, response.body
        return str(response.body["secret"])

    async def rotate(self, api_id: str, **body: Any) -> Response:
        response = await self.system.operator("POST", f"/api/apis/{api_id}/signing-secret/rotate", json=body)
        await settle(self.system.deps)
        await settle(self.sender.deps)
        return response

    async def webhook(self, api_id: str) -> Received:
        """What arrives when a test webhook is sent."""
        await settle(self.system.deps)
        await settle(self.sender.deps)
        response = await self.sender.writer("POST", f"/api/apis/{api_id}/notifications/test")
        assert response.body["Status"] == "OK", response.body
        return self.received.webhooks[-1]


def verifies(secret: str, webhook: Received) -> bool:
    """Whether the library of Standard Webhooks accepts the webhook with this secret."""
    try:
        Webhook(secret).verify(webhook.body, dict(webhook.headers.items()))
    except WebhookVerificationError:
        return False
    return True


@asynccontextmanager
async def opened(mongodb_url: str, received: Receiver) -> AsyncIterator[World]:
    broker, database = LocalBroker(), database_of_its_own()
    async with (
        open_system(mongodb_url, database, bus=LocalBus(broker), notifier=False) as system,
        notifier(mongodb_url, database, broker=broker) as sender,
    ):
        yield World(system, sender, received)


@pytest.fixture(name="world")
async def _world(mongodb_url: str, endpoint: Receiver) -> AsyncIterator[World]:
    async with opened(mongodb_url, endpoint) as world:
        yield world


async def test_e5_the_official_library_verifies_with_the_signing_secret(world: World) -> None:
    """The secret is made at import, is not in the request, and signs what the library accepts; Tyk's header stays."""
    api_id = await world.imported()
    secret = await world.secret(api_id)
    webhook = await world.webhook(api_id)
    assert verifies(secret, webhook)
    assert not verifies(await world.secret(await world.imported()), webhook)
    assert secret not in str(webhook.headers)
    assert webhook.headers["X-Tyk-Shared-Secret"] == SHARED
    stored = await world.system.deps.store.mongo["apis"].find_one({"_id": api_id})
    assert secret not in str(stored)
    assert secret.encode() not in (await world.system.operator("GET", f"/api/apis/{api_id}")).raw


async def test_e5_receivers_that_verify_with_the_shared_secret_keep_working(world: World) -> None:
    """Beside the own signature there is one with the shared secret, as before APIs had signing secrets."""
    webhook = await world.webhook(await world.imported())
    assert len(webhook.headers["webhook-signature"].split(" ")) == 2
    assert verifies(b64(SHARED), webhook)


def b64(secret: str) -> str:
    """A secret of any text as the library wants it."""
    return base64.b64encode(secret.encode()).decode()


async def test_e5_tyks_header_can_be_switched_off(world: World) -> None:
    """`sharedSecretHeader: false`: neither the header nor a signature with the shared secret is sent."""
    api_id = await world.imported(sharedSecretHeader=False)
    webhook = await world.webhook(api_id)
    assert "X-Tyk-Shared-Secret" not in webhook.headers
    assert verifies(await world.secret(api_id), webhook)
    assert not verifies(b64(SHARED), webhook)


async def test_e5_a_rotation_signs_with_both_secrets_during_the_overlap(world: World) -> None:
    """Two signatures, then one; a receiver with either secret misses no webhook."""
    api_id = await world.imported(sharedSecretHeader=False)
    old = await world.secret(api_id)
    response = await world.rotate(api_id, overlap=3600)
    new = response.body["secret"]
    assert (response.status, new != old, "previous_expires_at" in response.body) == (200, True, True)
    assert await world.secret(api_id) == new
    webhook = await world.webhook(api_id)
    assert (verifies(old, webhook), verifies(new, webhook)) == (True, True)
    newest = (await world.rotate(api_id, overlap=0)).body["secret"]
    webhook = await world.webhook(api_id)
    assert [verifies(secret, webhook) for secret in (old, new, newest)] == [False, False, True]


async def test_e5_the_overlap_ends(world: World) -> None:
    """From then on the old secret signs nothing."""
    api_id = await world.imported(sharedSecretHeader=False)
    old = await world.secret(api_id)
    new = (await world.rotate(api_id, overlap=60)).body["secret"]
    store, ctx = world.system.deps.store.apis, world.system.deps.event_context("tests")
    api = await store.get(api_id)
    assert api is not None
    ended = api.signing_secrets[1].model_copy(update={"expires_at": world.system.clock() - timedelta(seconds=1)})
    assert await store.rotate_signing_secret(api, (api.signing_secrets[0], ended), ctx)
    webhook = await world.webhook(api_id)
    assert (verifies(old, webhook), verifies(new, webhook)) == (False, True)
    assert "previous_expires_at" not in (await world.system.operator("GET", f"/api/apis/{api_id}/signing-secret")).body


async def test_e5_replacing_a_definition_keeps_the_signing_secret(world: World) -> None:
    """PUT changes what a definition says, and the signing secret is not a part of it."""
    api_id = await world.imported()
    secret = await world.secret(api_id)
    definition = (await world.system.operator("GET", f"/api/apis/oas/{api_id}")).body
    assert (await world.system.operator("PUT", f"/api/apis/oas/{api_id}", json=definition)).status == 200
    assert await world.secret(api_id) == secret
    assert verifies(secret, await world.webhook(api_id))


async def test_e5_an_api_of_an_early_version_keeps_its_signature_until_it_is_rotated(world: World) -> None:
    """Signed with the shared secret alone, also after a PUT; a rotation gives it a secret of its own beside that."""
    webhook = {"onKeyChangeUrl": world.received.url(), "sharedSecret": SHARED}
    api = await make_api(world.system.deps, api_document(**{f"{SCHEME}notifications": webhook}))
    place = f"/api/apis/{api.api_id}"
    response = await world.system.operator("GET", f"{place}/signing-secret")
    assert (response.status, "signing-secret/rotate" in response.message) == (404, True)
    definition = (await world.system.operator("GET", place)).body
    assert (await world.system.operator("PUT", place, json=definition)).status == 200
    arrived = await world.webhook(api.api_id)
    assert len(arrived.headers["webhook-signature"].split(" ")) == 1
    assert verifies(b64(SHARED), arrived)
    own = (await world.rotate(api.api_id)).body["secret"]
    arrived = await world.webhook(api.api_id)
    assert (verifies(b64(SHARED), arrived), verifies(own, arrived)) == (True, True)


async def test_e5_only_writers_read_the_secret(world: World) -> None:
    """`read` is not enough; an unknown API is 404, one that sends no webhooks 400."""
    api_id = await world.imported()
    reader = world.system.call.with_key(await make_operator(world.system.deps, Permission.READ))
    assert (await reader("GET", f"/api/apis/{api_id}/signing-secret")).status == 403
    assert (await world.system.operator("GET", "/api/apis/nowhere/signing-secret")).status == 404
    assert (await world.rotate("nowhere")).status == 404
    assert (await world.rotate(api_id, overlap=-1)).status == 400
    events = await world.system.heard.about(api_id)
    await world.rotate(api_id)
    (rotated,) = (await world.system.heard.about(api_id))[len(events) :]
    assert rotated["type"] == "io.tokenwire.api.signing_secret_rotated"
    assert "whsec_" not in str(rotated)


async def test_e5_reencryption_covers_the_signing_secret(world: World) -> None:
    """It is in the box with what else may be a credential, and survives a new key."""
    api_id = await world.imported()
    secret = await world.secret(api_id)
    assert [outcome async for outcome in world.system.deps.store.apis.reencrypt()] == []
    assert await world.system.deps.store.apis.count_under_other_keys() == 0
    assert await world.secret(api_id) == secret
