"""Client secrets: made here, kept as a keyed digest and, unless they are shown once, sealed; compared here only."""

import secrets
from datetime import datetime

from contracts.clients import Client, ClientSecret
from libs.sealing import CannotOpen, KeyRing, decoy_comparison

LABEL = "client secret"
"""What the key ring derives the keys of digests and sealed copies for."""
SECRET_BYTES = 32
COMPARISONS = 2
"""At the least, whoever asks: a client has two secrets while one takes the other's place."""


def new_secret() -> str:
    """A random secret of 256 bits that needs no escaping in a form, a header or a path."""
    return secrets.token_urlsafe(SECRET_BYTES)


def digested(keys: KeyRing, client_id: str, secret: str, now: datetime, *, sealed: bool) -> ClientSecret:
    """What is kept of a secret; with `sealed` it can be shown again."""
    value = secret.encode()
    return ClientSecret(
        digest=keys.digest(LABEL, value),
        sealed=keys.encrypt(LABEL, value, client_id) if sealed else None,
        created_at=now,
    )


def resealed(keys: KeyRing, client_id: str, secret: ClientSecret) -> ClientSecret:
    """The same secret under the current key. Raises CannotOpen: it was shown once, or its key is not here."""
    if keys.is_current(secret.digest) and (secret.sealed is None or keys.is_current(secret.sealed)):
        return secret
    if secret.sealed is None:
        raise CannotOpen("the secret was shown once")
    value = keys.decrypt(LABEL, secret.sealed, client_id)
    sealed = keys.encrypt(LABEL, value, client_id)
    return secret.model_copy(update={"digest": keys.digest(LABEL, value), "sealed": sealed})


def is_current(secret: ClientSecret, now: datetime) -> bool:
    """Whether the secret still counts: it was not replaced, or the overlap after its replacement lasts."""
    return secret.expires_at is None or now < secret.expires_at


def is_valid(keys: KeyRing, client: Client | None, presented: str, now: datetime) -> bool:
    """Whether this is a secret of the client; an unknown client costs what a wrong secret costs."""
    value = presented.encode(errors="surrogatepass")
    digests = [secret.digest for secret in client.secrets if is_current(secret, now)] if client else []
    for _ in range(COMPARISONS - len(digests)):
        decoy_comparison(value)
    # All of them, whichever matches: the time must not tell which one did.
    matching = [digest for digest in digests if keys.matches(LABEL, digest, value)]
    return bool(matching)


def shown(keys: KeyRing, client: Client) -> str | None:
    """The newest secret; None where the client is public, or its secret was shown once. Raises CannotOpen."""
    newest = next((secret for secret in client.secrets if secret.expires_at is None), None)
    if newest is None or newest.sealed is None:
        return None
    return keys.decrypt(LABEL, newest.sealed, client.client_id).decode()
