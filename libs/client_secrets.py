"""Client secrets: generated, compared, and stored as a keyed digest plus, if they may be shown again, encrypted."""

import secrets
from datetime import datetime

from contracts.clients import Client, ClientSecret
from libs.encryption import CannotDecrypt, KeyRing, dummy_comparison

LABEL = "client secret"
"""The purpose for which the key ring derives the keys of digests and encrypted copies."""
SECRET_BYTES = 32
ENOUGH_CHARACTERS = 24
"""A chosen secret with fewer might be guessed: secrets are stored as a keyed digest that is fast to compute."""
COMPARISONS = 2
"""Comparisons for each authentication, at least: a client has two secrets while one replaces the other."""


def new_secret() -> str:
    """A random secret of 256 bits that needs no escaping in a form, a header or a path."""
    return secrets.token_urlsafe(SECRET_BYTES)


def protect(keys: KeyRing, client_id: str, secret: str, now: datetime, *, retrievable: bool) -> ClientSecret:
    """The form in which a secret is stored: a digest and, if it is to be retrievable, an encrypted copy."""
    value = secret.encode()
    return ClientSecret(
        digest=keys.digest(LABEL, value),
        encrypted=keys.encrypt(LABEL, value, client_id) if retrievable else None,
        created_at=now,
        short=len(secret) < ENOUGH_CHARACTERS,
    )


def reencrypted(keys: KeyRing, client_id: str, secret: ClientSecret) -> ClientSecret:
    """The same secret under the current key. Raises CannotDecrypt if it was shown once, or its key is not in the ring.

    A secret without an encrypted copy cannot move to another key: the digest was made with the old one, and only the
    client knows what to make a new digest of.
    """
    if keys.is_current(secret.digest) and (secret.encrypted is None or keys.is_current(secret.encrypted)):
        return secret
    if secret.encrypted is None:
        raise CannotDecrypt("the secret was shown once")
    value = keys.decrypt(LABEL, secret.encrypted, client_id)
    encrypted = keys.encrypt(LABEL, value, client_id)
    return secret.model_copy(update={"digest": keys.digest(LABEL, value), "encrypted": encrypted})


def is_current(secret: ClientSecret, now: datetime) -> bool:
    """Whether the secret is still accepted: it was not replaced, or the overlap after its replacement is not over."""
    return secret.expires_at is None or now < secret.expires_at


def is_valid(keys: KeyRing, client: Client | None, presented: str, now: datetime) -> bool:
    """Whether this is a secret of the client. For an unknown client, takes as long as for a wrong secret."""
    value = presented.encode(errors="surrogatepass")
    digests = [secret.digest for secret in client.secrets if is_current(secret, now)] if client else []
    for _ in range(COMPARISONS - len(digests)):
        dummy_comparison(value)
    # Compared with all of them, even after a match: the time must not tell which one matched.
    matching = [digest for digest in digests if keys.matches(LABEL, digest, value)]
    return bool(matching)


def shown(keys: KeyRing, client: Client) -> str | None:
    """The newest secret; None for a public client, or if the secret was shown once. Raises CannotDecrypt."""
    newest = next((secret for secret in client.secrets if secret.expires_at is None), None)
    if newest is None or newest.encrypted is None:
        return None
    return keys.decrypt(LABEL, newest.encrypted, client.client_id).decode()
