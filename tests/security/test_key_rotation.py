"""Rotation of the encryption keys and of the notifier's key, step by step as in docs/operations.md, while the system is
in use.
"""

import asyncio
import base64
import secrets

import pytest

from tests.acceptance.programs import run_python
from tests.acceptance.stack import INSTANCES, Stack, random_key
from tests.acceptance.tenants import SCHEME, Pair, Tenant, issued, new_tenant
from tests.acceptance.webhooks import Receiver
from tests.eventually import eventually
from tests.ports import free_port

LONG_CODE = {"x-tokenwire": {"codeLifetime": 600}}


def key_id(value: str) -> int:
    """The id of the key that made a code or token."""
    return base64.urlsafe_b64decode(value[len("tw_at_") :] + "==")[0]


class Rotation:
    """A tenant of the system, and what must hold during rotation."""

    def __init__(self, stack: Stack, receiver: Receiver, tenant: Tenant, path: str, shared_secret: str) -> None:
        self.stack = stack
        self.tenant = tenant
        self._receiver = receiver
        self.path = path
        self._shared_secret = shared_secret

    async def restarted(self, *names: str) -> None:
        """Restart these processes (by default all) with the keys that are in the files now."""
        await asyncio.gather(*(self.stack.restart(name) for name in names or INSTANCES))

    async def ring_is(self, *keys: str) -> None:
        """Every process runs with these keys."""
        self.stack.keys.ring.write_text(",".join(keys))
        await self.restarted()

    async def all_is_well(self, *living: Pair) -> Pair:
        """These tokens are accepted; client, user, definition, operator and webhooks work. Returns a new pair."""
        tenant = self.tenant
        for pair in living:
            assert (await tenant.verified(pair.access)).status == 200
        client = await tenant.operator("GET", f"/api/apis/oauth/{tenant.api_id}/{tenant.client_id}")
        assert (client.status, client.body["secret"]) == (200, tenant.secret)
        api = await tenant.operator("GET", f"/api/apis/{tenant.api_id}")
        assert (api.status, self._shared_secret in api.raw.decode()) == (200, True)
        issued(await tenant.client_credentials())
        assert (await tenant.client_credentials(secret="another")).status == 401
        wrong = await tenant.token(grant_type="password", username=tenant.username, password="another")
        assert (wrong.status, wrong.body["error"]) == (400, "invalid_grant")
        new = await tenant.pair()
        await self.told_of(new)
        return new

    async def told_of(self, pair: Pair) -> None:
        """Wait for the pair's webhook, signed with the shared secret."""
        webhook = await self._receiver.hears(self.path, new_oauth_token=pair.access)
        assert webhook.headers["x-tyk-shared-secret"] == self._shared_secret
        assert webhook.is_signed_with(self._shared_secret)


async def new_rotation(stack: Stack, receiver: Receiver, url: str = "") -> Rotation:
    """A tenant whose webhooks go to the receiver unless another URL is given."""
    path, shared_secret = f"/hooks/{secrets.token_hex(4)}", secrets.token_urlsafe(24)
    hooks = {"onKeyChangeUrl": url or receiver.url(path), "sharedSecret": shared_secret}
    tenant = await new_tenant(stack.anybody, stack.operator, **{f"{SCHEME}__notifications": hooks}, **LONG_CODE)
    return Rotation(stack, receiver, tenant, path, shared_secret)


@pytest.mark.timeout(400)
async def test_a_new_key_replaces_the_old_one(stack: Stack, receiver: Receiver) -> None:
    """Add the new key, make it current, re-encrypt, remove the old key: no token or record is lost at any step."""
    use = await new_rotation(stack, receiver)
    tenant, old = use.tenant, stack.keys.ring.read_text().strip()
    new = f"2:{random_key()}"

    first, code = await use.all_is_well(), await tenant.code()
    assert (key_id(first.access), key_id(code)) == (1, 1)

    # First every process can read with the new key, before any writes with it.
    await use.ring_is(old, new)
    second = await use.all_is_well(first)
    assert key_id(second.access) == 1

    # Then one service writes with it, while the others, which have it second, read.
    stack.keys.ring.write_text(f"{new},{old}")
    await use.restarted("token", "token-2")
    third = await use.all_is_well(first, second)
    assert key_id(third.access) == 2
    await use.restarted(*(name for name in INSTANCES if not name.startswith("token")))
    await use.all_is_well(first, second, third)

    # Old tokens stay valid until they expire; new ones use the new key.
    exchanged = issued(await tenant.exchanged(code))
    refreshed = issued(await tenant.refreshed(first.refresh))
    assert {key_id(value) for pair in (exchanged, refreshed) for value in (pair.access, pair.refresh)} == {2}
    assert (await tenant.verified(first.access)).status == 403
    await use.all_is_well(second, third, exchanged, refreshed)

    servers = stack.servers
    where = {"TOKENWIRE_MONGODB_URL": servers.mongodb_url, "TOKENWIRE_MONGODB_DATABASE": servers.database}
    done = await run_python("services", "reencrypt", settings=where | {"TOKENWIRE_KEYS_FILE": str(stack.keys.ring)})
    assert (done.status, done.complaints) == (0, "")
    assert "everything stored is encrypted with key 2" in done.out
    await use.all_is_well(second, third, exchanged, refreshed)

    # The old key is removed. Only what it alone had made is lost.
    await use.ring_is(new)
    await use.all_is_well(third, exchanged, refreshed)
    assert (await tenant.verified(second.access)).status == 403
    refused = await tenant.refreshed(second.refresh)
    assert (refused.status, refused.body["error"]) == (400, "invalid_grant")
    issued(await tenant.refreshed(refreshed.refresh))


async def test_the_notifiers_key_is_changed(stack: Stack, receiver: Receiver) -> None:
    """Add the new private key, then switch the public key, then remove the old one: no webhook is lost."""
    use = await new_rotation(stack, receiver)
    late = await new_rotation(stack, receiver, f"http://127.0.0.1:{free_port()}/")
    old, new = stack.keys.notifier_private.read_text().strip(), random_key()
    waiting = await late.tenant.pair()

    stack.keys.notifier_private.write_text(f"{new},{old}")
    await use.restarted("notifier")
    await use.all_is_well()
    stack.keys.seal_to(new)
    await use.restarted("token", "token-2")
    await use.all_is_well()

    # Commands encrypted to the old key that could not be delivered are still readable with it.
    await moved(late, receiver)
    await late.told_of(waiting)

    stack.keys.notifier_private.write_text(new)
    await use.restarted("notifier")
    await use.all_is_well()


async def moved(late: Rotation, receiver: Receiver) -> None:
    """Send the API's webhooks to the receiver from now on, and make the waiting ones due."""
    tenant = late.tenant
    definition = (await tenant.operator("GET", f"/api/apis/{tenant.api_id}")).body
    scheme = definition["x-tyk-api-gateway"]["server"]["authentication"]["securitySchemes"]["tykOAuth"]
    scheme["notifications"]["onKeyChangeUrl"] = receiver.url(late.path)
    assert (await tenant.operator("PUT", f"/api/apis/{tenant.api_id}", json=definition)).status == 200

    async def tried() -> str:
        listed = await tenant.operator("GET", f"/api/notifications/deliveries?api_id={tenant.api_id}")
        (delivery,) = listed.body["deliveries"]
        assert delivery["attempts"]
        return str(delivery["id"])

    delivery_id = await eventually(tried)
    assert (await tenant.operator("POST", f"/api/notifications/deliveries/{delivery_id}/redeliver")).status == 200
