"""Webhook authentication: the shared secret, as in Tyk, and the Standard Webhooks signature."""

import base64
import hashlib
import hmac
from datetime import UTC, datetime

import pytest
from pydantic import SecretStr

from libs.outbound.signing import WebhookSecrets, signature, signed_headers, signing_key

NOW = datetime(2026, 3, 1, 12, 0, 0, 999_000, tzinfo=UTC)


def test_the_signature_is_the_one_of_the_standard() -> None:
    """The Standard Webhooks 1.0.0 test vector gives its signature."""
    found = signature(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}'
    )
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


def test_the_signature_covers_id_timestamp_and_body() -> None:
    """A receiver can verify from headers and raw body alone."""
    headers = signed_headers(WebhookSecrets(SecretStr("a secret")), "evt_1", b'{"a":1}', NOW)
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + b'{"a":1}'
    tag = hmac.new(b"a secret", signed, hashlib.sha256).digest()
    assert headers["webhook-signature"] == "v1," + base64.b64encode(tag).decode()
    assert headers["webhook-timestamp"] == "1772366400"
    assert headers["X-Tyk-Shared-Secret"] == "a secret"


@pytest.mark.parametrize(
    ("secret", "key"),
    [
        pytest.param("whsec_" + base64.b64encode(bytes(range(32))).decode(), bytes(range(32)), id="whsec"),
        pytest.param("oauth-shared-secret", b"oauth-shared-secret", id="text"),
        pytest.param("schlüssel", "schlüssel".encode(), id="text-beyond-ascii"),
        pytest.param("whsec_not base64", b"whsec_not base64", id="whsec-without-base64"),
        pytest.param("whsec_ü", "whsec_ü".encode(), id="whsec-beyond-ascii"),
    ],
)
def test_the_key_is_the_secret_or_what_whsec_encodes(secret: str, key: bytes) -> None:
    """`whsec_` announces base64; any other secret is used as UTF-8."""
    assert signing_key(secret) == key


@pytest.mark.parametrize("secret", ["", "whsec_"])
def test_nothing_is_signed_with_an_empty_key(secret: str) -> None:
    """With an empty secret there is no signature, because anyone could make it."""
    headers = signed_headers(WebhookSecrets(SecretStr(secret)), "evt_1", b"{}", NOW)
    assert "webhook-signature" not in headers
    assert headers["X-Tyk-Shared-Secret"] == secret
