"""Client secrets: random, stored as digests, compared in one place."""

import base64
from datetime import UTC, datetime, timedelta

import pytest

from contracts.clients import Client, ClientSecret
from libs import client_secrets
from libs.encryption import KeyRing
from tests.builders import KEYS

NOW = datetime(2026, 5, 4, 12, tzinfo=UTC)
RING = KeyRing.parse(KEYS)


def client(*secrets: ClientSecret) -> Client:
    return Client(client_id="app", api_id="orders", secrets=secrets, created_at=NOW, updated_at=NOW)


def kept(secret: str, *, expires_at: datetime | None = None, retrievable: bool = True) -> ClientSecret:
    made = client_secrets.protect(RING, "app", secret, NOW, retrievable=retrievable)
    return made.model_copy(update={"expires_at": expires_at})


def test_a_new_secret_has_256_bits_and_needs_no_escaping() -> None:
    """A secret has 256 random bits, so a keyed digest suffices, and is URL-safe."""
    made = {client_secrets.new_secret() for _ in range(100)}
    assert len(made) == 100
    for secret in made:
        assert len(base64.urlsafe_b64decode(secret + "=")) == 32
        assert set(secret) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")


@pytest.mark.parametrize(
    ("holder", "presented", "valid"),
    [
        pytest.param(client(kept("new")), "new", True, id="the-secret"),
        pytest.param(client(kept("new")), "New", False, id="wrong"),
        pytest.param(client(kept("new")), "", False, id="empty"),
        pytest.param(client(kept("new")), "\ud800", False, id="half-a-surrogate-pair"),
        pytest.param(
            client(kept("new"), kept("old", expires_at=NOW + timedelta(seconds=1))), "old", True, id="overlap"
        ),
        pytest.param(client(kept("new"), kept("old", expires_at=NOW)), "old", False, id="overlap-just-over"),
        pytest.param(client(kept("old", expires_at=NOW)), "old", False, id="only-an-expired-one"),
        pytest.param(client(), "", False, id="public-and-nothing"),
        pytest.param(client(), "any", False, id="public"),
        pytest.param(None, "any", False, id="unknown-client"),
    ],
)
def test_a_secret_is_valid_until_it_expires(holder: Client | None, presented: str, valid: bool) -> None:
    """Any unexpired secret of the client is valid, and nothing else."""
    assert client_secrets.is_valid(RING, holder, presented, NOW) is valid


def test_every_current_secret_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    """All current secrets are compared even after a match, so the time does not show which one matched."""
    compared: list[str] = []
    matches = KeyRing.matches

    def counting(ring: KeyRing, label: str, digest: str, value: bytes) -> bool:
        compared.append(digest)
        return matches(ring, label, digest, value)

    monkeypatch.setattr(KeyRing, "matches", counting)
    secrets = (kept("new"), kept("old", expires_at=NOW + timedelta(hours=1)))
    assert client_secrets.is_valid(RING, client(*secrets), "new", NOW)
    assert compared == [secret.digest for secret in secrets]


def test_an_unknown_client_costs_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    """If there are fewer than two secrets, decoys are compared, so unknown clients take the same time."""
    decoys: list[bytes] = []
    monkeypatch.setattr(client_secrets, "dummy_comparison", decoys.append)
    assert not client_secrets.is_valid(RING, None, "presented", NOW)
    assert not client_secrets.is_valid(RING, client(), "presented", NOW)
    assert decoys == [b"presented"] * 4
    assert not client_secrets.is_valid(RING, client(kept("new")), "presented", NOW)
    assert len(decoys) == 5


def test_the_newest_secret_is_shown() -> None:
    """During an overlap the newest secret is shown."""
    old = kept("old", expires_at=NOW + timedelta(hours=1))
    assert client_secrets.shown(RING, client(kept("new"), old)) == "new"


@pytest.mark.parametrize(
    "holder",
    [pytest.param(client(), id="public"), pytest.param(client(kept("new", retrievable=False)), id="digest-only")],
)
def test_a_secret_that_is_not_stored_is_not_shown(holder: Client) -> None:
    """A public client's or show-once secret cannot be shown."""
    assert client_secrets.shown(RING, holder) is None


def test_neither_digest_nor_encrypted_copy_holds_the_secret() -> None:
    """Digest and encrypted copy reveal nothing without the key."""
    secret = client_secrets.new_secret()
    assert secret not in kept(secret).model_dump_json()
